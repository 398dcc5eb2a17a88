"""The form of a volume's file is told by its header alone."""

import nibabel as nib
import numpy as np

from jaxfuse.io.analyze import write_analyze
from jaxfuse.io.forms import Form, form_of
from tests.made_cases import save_volume

ARRAY = np.zeros((3, 4, 5), np.int16)


def test_forms_of_files_packed_or_not_scaled_or_not(tmp_path):
    for name in ("a.nii", "a.nii.gz"):
        path = save_volume(tmp_path / name, ARRAY, spacing_mm=(1, 1, 2))
        assert form_of(path) == Form((3, 4, 5), np.dtype(np.int16), False, (1, 1, 2))
    image = nib.Nifti2Image(np.zeros((3, 4, 5, 2), np.uint8), np.eye(4))
    image.header.set_slope_inter(2, 0)
    nib.save(image, tmp_path / "b.nii.gz")
    assert form_of(tmp_path / "b.nii.gz") == Form((3, 4, 5, 2), np.dtype(np.uint8), True, (1, 1, 1))
    write_analyze(tmp_path / "c.hdr", ARRAY, (1, 2, 3))
    found = form_of(tmp_path / "c.hdr")
    assert found is not None
    assert (found.shape, found.dtype, found.sides_mm) == ((3, 4, 5, 1), np.int16, (1, 2, 3))


def test_a_file_that_is_none_has_no_form(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"\x1f\x8bno volume")
    (tmp_path / "b.nii").write_bytes(b"no volume")
    assert form_of(tmp_path / "a.nii.gz") is form_of(tmp_path / "b.nii") is form_of(tmp_path / "none.nii") is None
