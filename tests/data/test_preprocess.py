"""Crop, normalization, the cache and the facts of a split."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from jaxfuse.data.cache import prepare, read_prepared
from jaxfuse.data.cases import Case, CaseFiles
from jaxfuse.data.dataset import dataset_facts
from jaxfuse.data.facts import DatasetFacts
from jaxfuse.data.intensities import NORMALIZATIONS, normalization
from jaxfuse.data.preprocess import prepare_case, uncrop
from jaxfuse.errors import UserError
from jaxfuse.labels import label_scheme
from tests.made_cases import case_files, save_volume

SCHEME = label_scheme("brats")
SHAPE = (8, 9, 10)
BOX = (slice(2, 6), slice(3, 5), slice(1, 9))


def intensities(seed: int = 0) -> np.ndarray:
    """Two modalities, zero outside BOX; within it, modality 0 misses one voxel that modality 1 has."""
    image = np.zeros((*SHAPE, 2), np.float32)
    image[BOX] = np.random.default_rng(seed).uniform(50, 150, (4, 2, 8, 2))
    image[2, 3, 1] = [0, 70]
    image[3, 4, 5] = 0
    return image


def class_map() -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[3, 3, 3:6] = [1, 2, 3]
    label[4, 4, 4] = 2
    return label


def case_in_memory(**changes) -> Case:
    case = Case("c", ("t1", "flair"), intensities(), class_map(), np.diag([1.0, 1, 2, 1]), (1.0, 1.0, 2.0))
    return replace(case, **changes)


def files_on_disk(folder: Path, name: str = "c", seed: int = 0) -> CaseFiles:
    image, label = intensities(seed), np.choose(class_map(), [0, 1, 2, 4]).astype(np.uint8)
    arrays = {"t1": image[..., 0], "flair": image[..., 1], "seg": label}
    return case_files(folder, name, arrays, group="HGG", spacing_mm=(1, 1, 2))


def run(folder: Path, *files: CaseFiles, **changes):
    fresh: list[bool] = []
    options = dict(changes)
    cases = prepare(
        files,
        options.pop("modalities", ("t1", "flair")),
        options.pop("scheme", SCHEME),
        cache=folder / "cache",
        on_case=lambda _, new: fresh.append(new),
        **options,
    )
    return cases, fresh


def test_crop_is_the_box_of_the_brain():
    prepared = prepare_case(case_in_memory())
    assert prepared.facts.crop_start == (2, 3, 1)
    assert prepared.facts.shape == prepared.image.shape[:3] == (4, 2, 8)
    assert prepared.facts.original_shape == SHAPE
    assert prepared.image.dtype == np.float32
    assert prepared.image.flags.c_contiguous


def test_brain_normalization_is_over_voxels_that_any_modality_has():
    prepared = prepare_case(case_in_memory())
    brain = np.any(intensities() != 0, axis=-1)
    assert brain.sum() == 4 * 2 * 8 - 1
    np.testing.assert_array_equal(prepared.brain, np.flatnonzero(brain[BOX]))
    for m in range(2):
        inside = prepared.image.reshape(-1, 2)[prepared.brain, m]
        assert inside.mean(dtype=float) == pytest.approx(0, abs=1e-6)
        assert inside.std(dtype=float) == pytest.approx(1, abs=1e-6)
        values = intensities()[..., m][brain].astype(float)
        assert prepared.facts.mean[m] == pytest.approx(values.mean())
        assert prepared.facts.std[m] == pytest.approx(values.std())
    # Background within the box stays 0; a brain voxel that one modality lacks does not.
    np.testing.assert_array_equal(prepared.image[1, 1, 4], [0, 0])
    assert prepared.image[0, 0, 0, 0] == pytest.approx(-prepared.facts.mean[0] / prepared.facts.std[0])


def test_volume_normalization_counts_the_background():
    prepared = prepare_case(case_in_memory(), normalize=NORMALIZATIONS["volume"])
    whole = intensities().astype(float)
    mean, std = whole.mean((0, 1, 2)), whole.std((0, 1, 2))
    assert prepared.facts.crop_start == (0, 0, 0)
    np.testing.assert_allclose(prepared.image, (whole - mean) / std, atol=1e-5)


def test_tumor_indices_and_class_counts():
    prepared = prepare_case(case_in_memory(), classes=5)
    at = np.unravel_index(prepared.tumor, prepared.facts.shape)
    assert list(zip(*(a.tolist() for a in at), strict=True)) == [(1, 0, 2), (1, 0, 3), (1, 0, 4), (2, 1, 3)]
    assert prepared.facts.voxels_per_class == (60, 1, 2, 1, 0)


def test_unlabeled_case_has_no_tumor():
    prepared = prepare_case(case_in_memory(label=None))
    assert prepared.label is None
    assert prepared.tumor.size == 0
    assert prepared.facts.voxels_per_class == ()


def test_uncrop_puts_every_voxel_back():
    prepared = prepare_case(case_in_memory())
    np.testing.assert_array_equal(uncrop(prepared.label, prepared, 0), class_map())
    whole = uncrop(prepared.image, prepared, -9)
    np.testing.assert_array_equal(whole[BOX], prepared.image)
    assert np.count_nonzero(whole == -9) == (np.prod(SHAPE) - 64) * 2
    with pytest.raises(UserError, match=r"\(4, 2, 7\)"):
        uncrop(np.zeros((4, 2, 7)), prepared, 0)


def test_empty_and_constant_images_are_refused():
    with pytest.raises(UserError, match="case c: every voxel of t1, flair is 0"):
        prepare_case(case_in_memory(image=np.zeros((*SHAPE, 2), np.float32)))
    constant = intensities()
    constant[..., 1][np.any(constant != 0, axis=-1)] = 7
    with pytest.raises(UserError, match="case c: modality flair is 7 everywhere"):
        prepare_case(case_in_memory(image=constant))
    with pytest.raises(UserError, match="choose brain or volume"):
        normalization("head")


def test_cached_arrays_are_those_in_memory(tmp_path):
    ((case,), _) = run(tmp_path, files_on_disk(tmp_path))
    expected = prepare_case(case_in_memory(), group="HGG", classes=4)
    assert case.facts == expected.facts
    for name in ("image", "label", "tumor", "brain"):
        stored, wanted = getattr(case, name), getattr(expected, name)
        assert isinstance(stored, np.memmap)
        assert stored.dtype == wanted.dtype
        np.testing.assert_array_equal(stored, wanted)
    assert read_prepared(case.folder) == case


def test_prepared_case_is_small_when_pickled_and_reads_afterwards(tmp_path):
    ((case,), _) = run(tmp_path, files_on_disk(tmp_path))
    assert case.image.shape == (4, 2, 8, 2)
    pickled = pickle.dumps(case)
    assert len(pickled) < 2000
    np.testing.assert_array_equal(pickle.loads(pickled).image, case.image)


def test_unlabeled_cached_case(tmp_path):
    ((case,), _) = run(tmp_path, replace(files_on_disk(tmp_path), label=None))
    assert not case.labeled
    assert case.label is None
    assert case.tumor.size == 0


def test_second_run_makes_nothing_and_reads_no_image(tmp_path, monkeypatch):
    files = files_on_disk(tmp_path)
    first, fresh = run(tmp_path, files)
    assert fresh == [True]
    monkeypatch.setattr("hashlib.file_digest", lambda *_: pytest.fail("an unchanged file was read again"))
    second, fresh = run(tmp_path, files)
    assert fresh == [False]
    assert second == first


@pytest.mark.parametrize(
    "changes",
    [
        {"normalize": NORMALIZATIONS["volume"]},
        {"modalities": ("flair", "t1")},
        {"scheme": label_scheme("brats2024")},
        {"scheme": None},
    ],
)
def test_other_settings_make_another_entry(tmp_path, changes):
    files = files_on_disk(tmp_path)
    ((first,), _) = run(tmp_path, files)
    ((second,), fresh) = run(tmp_path, files, **changes)
    assert fresh == [True]
    assert second.key != first.key


@pytest.mark.parametrize("changed", ["t1", "seg"])
def test_changed_content_makes_another_entry_and_a_copy_elsewhere_does_not(tmp_path, changed):
    ((first,), _) = run(tmp_path, files_on_disk(tmp_path / "a"))
    copied = files_on_disk(tmp_path / "b")
    assert run(tmp_path, copied)[1] == [False]
    path = copied.images["t1"].path if changed == "t1" else copied.label
    image = nib.load(path)
    array = np.asarray(image.dataobj).copy()
    array[3, 3, 3] = 2
    save_volume(path, array, affine=image.affine)
    os.utime(path, ns=(1, 1))  # a clock too coarse to tell two writes apart must not decide this test
    ((second,), fresh) = run(tmp_path, copied)
    assert fresh == [True]
    assert second.key != first.key


def test_a_failed_case_leaves_the_finished_ones_and_nothing_half_made(tmp_path):
    good, bad = files_on_disk(tmp_path, "a"), files_on_disk(tmp_path, "b")
    save_volume(bad.images["t1"].path, np.zeros(SHAPE, np.int16), spacing_mm=(1, 1, 2))
    with pytest.raises(UserError, match="case b: modality t1 is 0 everywhere"):
        run(tmp_path, good, bad)
    left = sorted(p.name.split("-")[0] for p in (tmp_path / "cache").iterdir())
    assert left == ["a", "digests.json"]
    assert run(tmp_path, good)[1] == [False]


def test_two_processes_share_a_cache(tmp_path):
    names = [f"c{i}" for i in range(6)]
    for i, name in enumerate(names):
        files_on_disk(tmp_path, name, seed=i)
    code = f"""
import sys
from pathlib import Path
from jaxfuse.data.cases import CaseFiles, Image
from jaxfuse.data.cache import prepare
from jaxfuse.labels import label_scheme
d = Path({str(tmp_path)!r})
modalities = ("t1", "flair")
def files(n):
    return CaseFiles(n, {{m: Image(d / f"{{n}}_{{m}}.nii.gz") for m in modalities}}, d / f"{{n}}_seg.nii.gz", "HGG")
for c in prepare([files(n) for n in {names}], modalities, label_scheme("brats"), cache=d / "cache"):
    c.image.sum()
assert "jax" not in sys.modules
"""
    both = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(2)]
    assert [(p.communicate()[1], p.returncode) for p in both] == [(b"", 0), (b"", 0)]
    assert len(list((tmp_path / "cache").iterdir())) == len(names) + 1


def test_losing_the_race_keeps_the_winners_entry(tmp_path, monkeypatch):
    files = files_on_disk(tmp_path)
    rename = os.rename

    def win_first(source, target):
        rename(source, target)
        Path(source).mkdir()  # the loser's folder, which now finds the target taken
        (Path(source) / "image.npy").touch()
        rename(source, target)

    monkeypatch.setattr("os.rename", win_first)
    ((case,), _) = run(tmp_path, files)
    assert case.image.shape == (4, 2, 8, 2)
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == sorted([case.folder.name, "digests.json"])


def test_missing_modality_and_damaged_memo_are_refused(tmp_path):
    files = files_on_disk(tmp_path)
    with pytest.raises(UserError, match="case c has no t2 image"):
        run(tmp_path, files, modalities=("t1", "t2"))
    (tmp_path / "cache" / "digests.json").write_text("{")
    with pytest.raises(UserError, match="delete it"):
        run(tmp_path, files)


def test_dataset_facts_count_the_training_cases_only_and_survive_json(tmp_path):
    files = [files_on_disk(tmp_path, name, seed) for seed, name in enumerate("abc")]
    cases, _ = run(tmp_path, *files)
    facts = dataset_facts(cases, ("t1", "flair"), SCHEME, {"train": ("b", "c"), "val": ("a",)})
    assert facts.voxels_per_class == (120, 2, 4, 2)
    assert facts.spacing_mm == (1, 1, 2)
    assert (facts.train, facts.val) == (("b", "c"), ("a",))
    assert facts.classes == SCHEME.classes
    assert facts.keys == {c.id: c.key for c in cases}
    assert DatasetFacts.from_json(facts.to_json()) == facts
    assert json.loads(facts.to_json())["scheme"] == "brats"


def test_dataset_facts_need_every_training_case(tmp_path):
    cases, _ = run(tmp_path, files_on_disk(tmp_path, "a"))
    with pytest.raises(UserError, match="training case b has not been prepared"):
        dataset_facts(cases, ("t1", "flair"), SCHEME, {"train": ("a", "b"), "val": ("a",)})
