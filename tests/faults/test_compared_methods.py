"""Predictions of several methods are compared that are not of one set of cases, or are no predictions."""

from jaxfuse.scoring.methods import names_of_folders, read_methods
from tests.faults.catalogue import given, table
from tests.refusals import refused
from tests.scoring.test_methods import compared, written


@given("`evaluate`: one folder of predictions named twice", "refused: each once")
def test_a_folder_named_twice(tmp_path):
    refused("is given twice; give each folder of predictions once", names_of_folders, [tmp_path, tmp_path])


@given("`evaluate`: a word behind its options that is no folder", "refused: a folder for each method")
def test_a_word_that_is_no_folder(tmp_path):
    (first,) = written(tmp_path, "same", cases=1)
    refused("brats is not a folder; give a folder of predictions for each", compared, tmp_path, first, "brats")
    assert not (tmp_path / "out").exists()


@given("`evaluate`: two methods that have no case in common", "refused, by name")
def test_methods_of_other_cases(tmp_path):
    first, second = written(tmp_path, "same", "shifted", cases=2)
    (first / "c0.nii.gz").unlink()
    (second / "c1.nii.gz").unlink()
    refused("no case was scored for all of same, shifted", compared, tmp_path, first, second, allow_missing=True)


@table(
    "words, told",
    ("`evaluate`: seeds of a method without its name", "refused", ["=a,b"], "--pred =a,b names no method; write NAME="),
    ("`evaluate`: a method whose name is a path", "refused", ["../x=a,b"], "names no method; write NAME="),
    ("`evaluate`: two methods of one name", "refused", ["m=a,b", "m=c"], "the method m is named twice"),
    ("`evaluate`: one folder as a seed of two methods", "refused", ["m=a,b", "n=b,c"], "b is given twice"),
    ("`evaluate`: one folder twice among the seeds of a method", "refused", ["m=a,a"], "a is given twice"),
)
def test_seeds_that_are_no_method(words, told):
    refused(told, read_methods, words)
