"""Copies among files, told by comparing every voxel."""

import numpy as np

from jaxfuse.data.cases import Image
from jaxfuse.data.copies import Held, copy_problems
from tests.made_cases import head, save_volume

T1 = head((12, 12, 12), 0)["t1"]


def held(folder, case: str, part: str, array: np.ndarray, *, print_: str = "same") -> Held:
    path = save_volume(folder / f"{case}_{part}.nii.gz", array)
    return Held(case, Image(path), part == "seg", print_)


def test_equal_fingerprints_are_not_enough(tmp_path):
    other = T1.copy()
    other[6, 6, 6] += 1
    files = [held(tmp_path, "a", "t1", T1), held(tmp_path, "b", "t1", other)]
    assert copy_problems(files, {"a": ("a",), "b": ("b",)}) == []


def test_a_copy_of_a_copy_is_said_of_the_first(tmp_path):
    files = [held(tmp_path, case, "t1", T1) for case in "abc"]
    problems = copy_problems(files, {"s": ("a", "b"), "c": ("c",)})
    assert [(p.case, p.severity) for p in problems] == [("b", "warning"), ("c", "fatal")]
    assert all("a_t1.nii.gz of case a" in p.message for p in problems)


def test_a_channel_is_named(tmp_path):
    path = save_volume(tmp_path / "four.nii.gz", np.stack([T1, T1], axis=-1))
    files = [Held("a", Image(path, channel), False, "same") for channel in (0, 1)]
    (problem,) = copy_problems(files, {"a": ("a",)})
    assert problem.message.startswith("channel 1 of four.nii.gz: equal in every voxel to channel 0 of four.nii.gz")
