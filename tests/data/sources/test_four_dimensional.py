"""A source whose cases are one file of four axes each: what a data set such as the Medical Decathlon needs."""

from pathlib import Path

import numpy as np
import pytest

from jaxfuse.data.cache import prepare
from jaxfuse.data.cases import CaseFiles, Image, load_case
from jaxfuse.data.digests import Digests
from jaxfuse.data.sources import volumes
from jaxfuse.data.sources.case_folders import Finding, VolumeSource
from jaxfuse.data.verify import verify
from jaxfuse.io.nifti import read_volume, write_like
from jaxfuse.labels import label_scheme
from tests.made_cases import save_volume
from tests.refusals import refused

MODALITIES = ("flair", "t1", "t1ce", "t2")
SHAPE = (5, 4, 6)
LPS = np.diag([-1.0, -1, 2, 1])


def survey(root, modalities, layout=None):
    def finding(path):
        images, label = {m: Image(path, MODALITIES.index(m)) for m in modalities}, root / "labelsTr" / path.name
        return Finding(path.name.removesuffix(".nii.gz"), path.parent, "", images, {}, label)

    return tuple(finding(path) for path in sorted(root.glob("imagesTr/*.nii.gz")))


SOURCE = VolumeSource(
    name="decathlon",
    modalities=MODALITIES,
    layouts={"task01": "decathlon"},
    example="imagesTr/BRATS_001.nii.gz",
    layout_of=lambda folder: "task01" if (folder / "imagesTr").is_dir() else "",
    survey=survey,
    place=lambda case, modality, layout: Path(f"{case}_{modality}.nii.gz"),
    write_phantoms=lambda root, **asked: None,
)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Two cases of four channels; the source stands among the others."""
    for number in (1, 2):
        label = np.zeros(SHAPE, np.uint8)
        label[1:4, 2, 3] = (1, 2, 3)
        label[1, 1, 1] = number
        name = f"BRATS_{number:03d}.nii.gz"
        save_volume(tmp_path / "imagesTr" / name, stored(number), affine=LPS)
        save_volume(tmp_path / "labelsTr" / name, label, affine=LPS)
    monkeypatch.setitem(volumes.LAYOUTS, "task01", SOURCE)
    return tmp_path


def stored(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(1, 200, (*SHAPE, 4)).astype(np.int16)


def test_every_channel_is_an_image_on_the_canonical_axes(root):
    (first, _) = SOURCE.find(root, ("t2", "flair"), labels_required=True)
    case = load_case(first, ("t2", "flair"), label_scheme("decathlon"))
    np.testing.assert_array_equal(case.image, stored(1)[::-1, ::-1][..., [3, 0]])
    assert case.label[1:4, 1, 3].tolist() == [3, 1, 2]  # enhancing, core, edema
    assert (case.spacing_mm, SOURCE.detect("anywhere"), SOURCE.scheme_of()) == ((1, 1, 2), "task01", "decathlon")


def test_a_channel_counts_in_what_names_a_case_in_the_cache(root):
    files = SOURCE.find(root, MODALITIES, labels_required=True)
    digests, images = Digests(root / "digests.json"), files[0].images
    whole = digests.of(images["t1"].path)
    assert [digests.of_image(images[m]) for m in MODALITIES] == [f"{whole}#{channel}" for channel in range(4)]
    assert digests.of_image(Image(images["t1"].path)) == whole
    (one, _) = prepare(files, ("t1",), None, cache=root / "cache")
    swapped = [CaseFiles(file.id, {"t1": file.images["t2"]}) for file in files]
    (other, _) = prepare(swapped, ("t1",), None, cache=root / "cache")
    assert one.key != other.key
    assert not np.array_equal(one.image, other.image)


def test_a_data_set_of_four_axes_is_verified(root):
    verdict = verify(root, layout="task01")
    assert (verdict.cases, verdict.scheme, verdict.modalities) == (("BRATS_001", "BRATS_002"), "decathlon", MODALITIES)
    # The drawn intensities have no background.
    told = {p.message.split(" has no background that can be told")[0] for p in verdict.problems}
    assert told == {f"channel {c} of BRATS_00{n}.nii.gz" for n in (1, 2) for c in range(4)}


def test_labels_are_written_on_the_grid_of_a_channel(root):
    (files, _) = SOURCE.find(root, ("t1ce",), labels_required=True)
    image, label = files.images["t1ce"], np.arange(np.prod(SHAPE), dtype=np.uint8).reshape(SHAPE)
    write_like(root / "out.nii.gz", label, image.path, channel=image.channel)
    written = read_volume(root / "out.nii.gz")
    np.testing.assert_array_equal(written.array, label)
    assert (written.stored_shape, written.affine.tolist()) == (SHAPE, image.read().affine.tolist())


@pytest.mark.parametrize(
    ("array", "channel", "message"),
    [
        (np.ones((*SHAPE, 4), np.int16), None, "one three-dimensional volume is expected"),
        (np.ones((*SHAPE, 2), np.int16), 2, r"has shape \(5, 4, 6, 2\), and channel 2 of a four-dimensional file"),
        (np.ones(SHAPE, np.int16), 0, r"has shape \(5, 4, 6\), and channel 0 of a four-dimensional file"),
    ],
)
def test_files_without_that_channel_are_refused(tmp_path, array, channel, message):
    refused(message, Image(save_volume(tmp_path / "a.nii.gz", array), channel).read)
