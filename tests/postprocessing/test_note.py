"""Notes in headers: what was applied, and whether it was chosen on the case itself."""

import numpy as np
import pytest

from jaxfuse.io.nifti import write_like
from jaxfuse.postprocessing.note import chosen_on_it, note_of
from jaxfuse.postprocessing.plan import Plan
from jaxfuse.postprocessing.steps import KeepLargest, RemoveSmall
from tests.made_cases import save_pair, save_volume

LONG = Plan("brats", tuple(RemoveSmall(name, "background", 50.0) for name in ("WT", "TC", "ET")))


@pytest.mark.parametrize("plan", [Plan("brats", (KeepLargest("WT", "background"),)), LONG])
def test_a_note_fits_a_header_and_is_read_back(tmp_path, plan):
    labels = np.zeros((4, 3, 2), np.uint8)
    image = save_volume(tmp_path / "image.nii.gz", labels)
    for on_it in (True, False):
        write_like(tmp_path / "out.nii.gz", labels, image, description=note_of(plan, on_it=on_it))
        assert chosen_on_it(tmp_path / "out.nii.gz") == on_it
        assert plan.digest in note_of(plan, on_it=on_it)


def test_names_of_other_letters_are_written_as_far_as_ascii_goes():
    note_of(Plan("Ödem=1", (KeepLargest("Ödem", "background"),)), on_it=False).encode("ascii")


def test_files_of_other_programs_say_nothing(tmp_path):
    given = {"a": b"chosen on this case", "b": b"", "c": b"jaxfuse plan 1234abcd: chosen on this case"}
    for name, text in given.items():
        path = save_volume(tmp_path / f"{name}.nii.gz", np.zeros((2, 2, 2), np.uint8), description=text)
        assert not chosen_on_it(path)
    assert not chosen_on_it(save_pair(tmp_path / "d.hdr", np.zeros((2, 2, 2), np.uint8)))
