"""Options of slices: those that a source would ignore are refused."""

import pytest

from configs import cmff
from jaxfuse.data.settings import Data, read_data
from tests.refusals import refused


def read(source: str, **changes) -> Data:
    """The data section of a recipe, read with these changes."""
    group = cmff.get_config("tiny").data
    with group.unlocked():
        group.update({"source": source, **changes})
    return read_data("data", group)


def test_slices_may_have_an_axis_a_window_and_blank_ones():
    for axis in ("axial", "coronal", "sagittal"):
        assert read("iseg_slices", axis=axis).axis == axis
    found = read("isles_slices", window=((35, 195), (25, 205)), blank_slices=True)
    assert (found.window, found.blank_slices) == (((35, 195), (25, 205)), True)
    assert read("isles", window=(), blank_slices=False).window == ()
    assert read("voc", axis="axial").axis == "axial"


@pytest.mark.parametrize(
    ("source", "changes", "message"),
    [
        ("iseg", {"axis": "coronal"}, "data.axis is 'coronal' and data.source 'iseg'; only slices have another"),
        ("slices", {"axis": "z"}, "data.axis is 'z' and data.source 'slices'; choose one of axial, coronal, sag"),
        ("isles", {"window": ((0, 4), (0, 4))}, "data.window is given and data.source is 'isles'; only slices have it"),
        ("voc", {"blank_slices": True}, "data.blank_slices is given and data.source is 'voc'; only slices have it"),
        (
            "one_slice",
            {"blank_slices": True},
            "data.blank_slices is True, but data.source 'one_slice' keeps one slice of each case",
        ),
        ("slices", {"window": (0, 4)}, r"data.window is \(0, 4\); two ranges are expected"),
        ("slices", {"window": ((0, 4),)}, "two ranges are expected"),
        ("slices", {"window": ((4, 4), (0, 4))}, "two ranges are expected"),
        ("slices", {"window": ((-1, 4), (0, 4))}, "two ranges are expected"),
        ("slices", {"window": ((0, 4.0), (0, 4))}, "two ranges are expected"),
    ],
)
def test_options_that_are_none_or_would_be_ignored_are_refused(source, changes, message):
    refused(message, read, source, **changes)
