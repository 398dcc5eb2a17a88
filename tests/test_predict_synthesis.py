"""`python -m jaxfuse.predict` on runs that synthesize a modality: volumes out of cases that lack it."""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from jaxfuse import predict
from jaxfuse.io.nifti import read_volume
from jaxfuse.io.tables import read_json
from tests.commands import call_here
from tests.made_cases import head, read_like, write_case
from tests.refusals import refused
from tests.untrained_run import SCANNED, labeling_run, synthesis_run

SHAPE = (30, 26, 4)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return synthesis_run(tmp_path_factory.mktemp("made") / "run", "tiny,row=mmsyns")


def command(runs: list[Path], cases: Path, output: Path, **options) -> None:
    call_here(predict, *runs[1:], workdir=runs[0], input=cases, output=output, **options)


@pytest.fixture
def cases(tmp_path) -> Path:
    """One head as it was taken, and stored along other axes; both without FLAIR and without contrast-enhanced T1."""
    images = head(SHAPE, 0)
    for axes in ("RAS", "ASR"):
        write_case(tmp_path / "in", axes, {name: images[name] for name in ("t1", "t2")}, axes=axes, **SCANNED)
    return tmp_path / "in"


@pytest.mark.parametrize("whole", [False, True], ids=["patches", "whole"])
def test_volumes_lie_on_the_grid_of_their_first_source(run, cases, tmp_path, whole):
    output = tmp_path / "out"
    command([run], cases, output, whole_slices=whole)
    names = sorted(path.name for path in output.glob("[!.]*"))
    assert names == [f"{case}_flair{end}" for case in ("ASR", "RAS") for end in (".json", ".nii.gz")]
    made = {axes: output / f"{axes}_flair.nii.gz" for axes in ("RAS", "ASR")}
    assert {nib.load(path).header["descrip"].item() for path in made.values()} == {b"synthesized by jaxfuse"}
    array, other = (read_like(path, cases / a / f"{a}_t1.nii.gz", np.float32) for a, path in made.items())
    np.testing.assert_array_equal(array, other)
    brain = (head(SHAPE, 0)["t1"] != 0) | (head(SHAPE, 0)["t2"] != 0)
    assert not array[~brain].any()
    assert 0 <= array.min() < array.max() <= 800
    assert array[brain].std() > 1


def test_what_a_volume_is_stands_beside_it(run, cases, tmp_path):
    other = synthesis_run(tmp_path / "other", "tiny,row=mmsyns", seed=1)
    given = {"one": [run], "two": [other], "both": [run, other]}
    for name, runs in given.items():
        command(runs, cases / "RAS", tmp_path / name)
    said = read_json(tmp_path / "both" / "RAS_flair.json")
    assert said["synthesized"] is True
    assert (said["case"], said["target"], said["range"], said["normalization"]) == ("RAS", "flair", [0, 800], "minmax")
    assert said["sources"] == {"t1": "RAS_t1.nii.gz", "t2": "RAS_t2.nii.gz"}
    assert said["runs"] == ["run:synthesis", "other:synthesis"]
    assert said["patches"] == [[40, 40], [40, 40]]
    one, two, both = (read_volume(output / "RAS_flair.nii.gz").array for output in map(tmp_path.joinpath, given))
    np.testing.assert_allclose(both, (one + two) / 2, atol=1e-3)
    assert np.abs(one - two).max() > 1


def test_the_target_is_not_read(run, cases, tmp_path):
    """Not even where it is damaged."""
    bare = cases / "RAS"
    whole = shutil.copytree(bare, tmp_path / "whole" / "RAS")
    (whole / "RAS_flair.nii.gz").write_bytes(b"nothing of the kind")
    for folder in (bare, whole):
        command([run], folder, tmp_path / folder.parent.name / "out")
    made = [read_volume(tmp_path / name / "out" / "RAS_flair.nii.gz").array for name in ("in", "whole")]
    np.testing.assert_array_equal(*made)


def test_what_does_not_go_together_is_refused(run, cases, tmp_path):
    labels = labeling_run(tmp_path / "labels")
    for runs, options, said in (
        ([labels], {"whole_slices": True}, "--whole_slices is an option of runs that synthesize a modality, and these"),
        ([run], {"whole_slices": True, "overlap": 0.5}, "for which --overlap means nothing; leave it out"),
        ([run], {"memory_mb": 100}, "memory_mb is 100, but no network of run:synthesis has valid convolutions"),
        ([run], {"mirror": "0,2"}, "mirror is 0,2, but all slices of run:synthesis lie across axis 2"),
        ([run], {"save_entropy": True}, "--save_entropy is for networks that label, and these runs synthesize"),
    ):
        refused(said, command, runs, cases, tmp_path / "out", **options)
    write_case(tmp_path / "poor", "a", {"t1": head(SHAPE, 0)["t1"]}, **SCANNED)
    refused("case a has no t2 image: a_t2.nii.gz is not in", command, [run], tmp_path / "poor", tmp_path / "out")
