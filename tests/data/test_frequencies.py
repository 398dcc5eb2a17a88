"""Shares of classes among voxels."""

from jaxfuse.data.frequencies import class_frequencies
from tests.refusals import refused

TISSUES = ("background", "CSF", "GM", "WM")


def test_shares_of_counted_voxels_or_equal_ones_and_every_class_occurs():
    assert class_frequencies(TISSUES, (50, 10, 25, 15), asked_by="a loss") == (0.5, 0.1, 0.25, 0.15)
    assert class_frequencies(TISSUES, (), asked_by="a loss") == (0.25, 0.25, 0.25, 0.25)
    message = "a loss weighs classes by frequency, but no training case holds a voxel of CSF, WM; "
    refused(message, class_frequencies, TISSUES, (50, 0, 25, 0), asked_by="a loss")
