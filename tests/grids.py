"""Volumes that a command has written, compared with the volumes that it was given."""

from pathlib import Path

import nibabel as nib
import numpy as np

from jaxfuse.io.nifti import read_volume


def read_like(made: Path, like: Path, dtype: type = np.uint8) -> np.ndarray:
    """Asserts that a file has the geometry of another and this type; returns its values on the canonical axes."""
    found, given = nib.load(made), nib.load(like)
    np.testing.assert_array_equal(found.affine, given.affine)
    assert (found.shape, found.header.get_zooms()) == (given.shape, given.header.get_zooms())
    for code in ("qform_code", "sform_code"):
        assert found.header[code] == given.header[code]
    assert found.get_data_dtype() == dtype
    return read_volume(made).array
