"""Broken files that any layout can hold."""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from jaxfuse.data.cases import CaseFiles, load_case
from jaxfuse.data.sources.volumes import volume_root
from jaxfuse.labels import label_scheme
from tests.faults.catalogue import given
from tests.made_cases import save_volume
from tests.made_layouts import EVERY, made_case
from tests.refusals import refused

READ = ("t1", "t2")
NAMES = [name for name in EVERY if name not in ("brats2021", "brats2023", "nnunet_1", "bids_sessions")]


@pytest.fixture(scope="module", params=NAMES)
def sound(request, tmp_path_factory):
    """Returns the name of a layout, the folder in which a case of it lies, and the root within."""
    folder = tmp_path_factory.mktemp("sound")
    root = EVERY[request.param].keep(folder / "set", [made_case(0, (12, 12, 10))])
    return request.param, folder / "set", root.relative_to(folder / "set")


@pytest.fixture
def kept(sound, tmp_path):
    name, folder, root = sound
    return name, shutil.copytree(folder, tmp_path / "set") / root


def found(root: Path) -> CaseFiles:
    (one,) = volume_root(root, source="brats").find(READ, labels_required=True)
    return one


@given(
    "a label value that the data set does not name, in each layout", "refused, with the case, the file and the value"
)
def test_a_label_that_is_not_listed(kept):
    name, root = kept
    files, there = found(root), volume_root(root, source="brats")
    assert files.label
    label = np.array(nib.load(files.label).dataobj)
    label[5, 5, 5] = 9
    save_volume(files.label, label)
    scheme = label_scheme(EVERY[name].labels or there.scheme)
    refused(rf"case {files.id}: .*{files.label.name}.* 9\b", load_case, files, READ, scheme)


@given("a link to itself in place of an image, in each layout", "refused: the image is missing")
def test_an_image_that_is_a_link_to_itself(kept):
    name, root = kept
    path = found(root).images["t1"].path
    path.unlink()
    path.symlink_to(path.name)
    # By BIDS the files alone tell what there is.
    refused("choose from t1ce, t2, flair" if name == "bids" else "has no t1 image", found, root)


@given("links in a circle beside the cases, in each layout", "passed over")
def test_links_in_a_circle_beside_the_cases(kept):
    _, root = kept
    expected, folder = found(root).id, root if root.is_dir() else root.parent
    (folder / "around").symlink_to("around")
    (folder / "again").symlink_to(".")
    assert found(root).id == expected


@given("an image of a fourth axis too many, or of a channel too few, in each layout", "refused, with its shape")
def test_wrong_numbers_of_channels(kept):
    _, root = kept
    files = found(root)
    image = files.images["t2"]
    stored = np.array(nib.load(image.path).dataobj)  # not a map of the file that is written over
    wrong = np.stack([stored, stored], -1) if image.channel is None else stored[..., : image.channel]
    expected = "one three-dimensional volume" if image.channel is None else f"channel {image.channel} of a four-dim"
    save_volume(image.path, wrong)
    refused(rf"{image.path.name} has shape \(12, 12, 10, \d\).*{expected}", load_case, files, ("t2",), None)
