"""Shares of classes among voxels."""

import pytest

from jaxfuse.data.frequencies import class_frequencies
from jaxfuse.errors import UserError

TISSUES = ("background", "CSF", "GM", "WM")


def test_shares_of_counted_voxels():
    assert class_frequencies(TISSUES, (50, 10, 25, 15), asked_by="a loss") == (0.5, 0.1, 0.25, 0.15)


def test_equal_shares_stand_in_where_nothing_was_counted():
    assert class_frequencies(TISSUES, (), asked_by="a loss") == (0.25, 0.25, 0.25, 0.25)


def test_a_class_that_never_occurs_is_refused():
    with pytest.raises(
        UserError, match="a loss weighs classes by frequency, but no training case holds a voxel of CSF, WM; "
    ):
        class_frequencies(TISSUES, (50, 0, 25, 0), asked_by="a loss")
