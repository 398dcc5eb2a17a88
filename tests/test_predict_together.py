"""`python -m jaxfuse.predict` by several devices or calls: the files are those of one call on one device."""

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from jaxfuse import predict
from jaxfuse.engine.trained import labeled_cases
from jaxfuse.errors import CasesLeftOut
from jaxfuse.io.nifti import read_channels, read_volume
from jaxfuse.io.tables import read_json
from jaxfuse.labels import label_scheme
from jaxfuse.prediction.probability_maps import entropy_nats
from jaxfuse.scoring.pairing import find_volumes
from tests.commands import ROOT, call_here
from tests.made_cases import head, write_case
from tests.refusals import refused
from tests.untrained_run import SCANNED, labeling_run, synthesis_run

# Cases of several sizes, so that devices meet several canvases in another order than one device does.
SHAPES = {"a": (30, 26, 4), "b": (40, 30, 3), "c": (30, 26, 4), "d": (22, 20, 5), "e": (40, 30, 3)}
RECORDS = [".jaxfuse-shared.json", ".jaxfuse-written"]


@dataclass(frozen=True)
class Given:
    """A run that labels, one that synthesizes, and cases of which the last one lacks an image."""

    folder: Path
    labeling: Path
    synthesis: Path

    @property
    def cases(self) -> Path:
        return self.folder / "cases"


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> Given:
    folder = tmp_path_factory.mktemp("together")
    for number, (name, shape) in enumerate(SHAPES.items()):
        write_case(folder / "cases", name, head(shape, number), **SCANNED)
    labeling = labeling_run(folder / "labeling", ("t1", "t2", "flair"))
    return Given(folder, labeling, synthesis_run(folder / "synthesis", "tiny,row=mmsyns"))


def contents(folder: Path) -> dict[str, bytes]:
    """Content by name of all files in a folder and below it, but records."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.name not in RECORDS}


def test_calls_that_share_a_folder_write_what_one_writes_alone(given, tmp_path, monkeypatch, capsys):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    call_here(predict, workdir=given.labeling, input=given.cases, output=alone, zip=tmp_path / "alone.zip")
    options = {"workdir": given.labeling, "input": given.cases, "output": shared, "zip": tmp_path / "shared.zip"}
    call_here(predict, shared=True, **options)
    assert contents(shared) == contents(alone)
    assert sorted(path.name for path in shared.iterdir() if path.name[0] == ".") == RECORDS
    assert (tmp_path / "shared.zip").read_bytes() == (tmp_path / "alone.zip").read_bytes()
    # A call that comes later has nothing left to do.
    capsys.readouterr()
    monkeypatch.setattr(labeled_cases, "write_labels", None)
    call_here(predict, shared=True, **options)
    assert "5 of 5 cases are done already" in capsys.readouterr().out


def test_maps_of_probabilities_agree_with_label_maps_and_are_not_taken_for_them(given, tmp_path):
    cases, plain, out = tmp_path / "in", tmp_path / "plain", tmp_path / "out"
    for name in ("a", "d"):
        shutil.copytree(given.cases / name, cases / name)
    options = {"workdir": given.labeling, "input": cases, "weighting": "gaussian", "mirror": "0"}
    call_here(predict, output=plain, **options)
    maps = {"save_probabilities": True, "save_entropy": True}
    call_here(predict, output=out, zip=tmp_path / "all.zip", shared=True, **maps, **options)
    call_here(predict, output=out, **maps, **options)  # over its own files
    assert {name: one for name, one in contents(out).items() if "/" not in name} == contents(plain)
    assert sorted(zipfile.ZipFile(tmp_path / "all.zip").namelist()) == ["a.nii.gz", "d.nii.gz"]
    assert find_volumes(out).keys() == {"a", "d"}
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"probabilities", "entropy"}
    decode = np.array(label_scheme("brats").decode)
    for name in ("a", "d"):
        volumes = read_channels(out / "probabilities" / f"{name}.nii.gz", range(len(decode)))
        probs, labels = np.stack([one.array for one in volumes], -1), read_volume(out / f"{name}.nii.gz")
        brain = read_volume(cases / name / f"{name}_t1.nii.gz").array > 0
        np.testing.assert_array_equal(decode[probs.argmax(-1)][brain], labels.array[brain])
        np.testing.assert_allclose(probs.sum(-1), 1, atol=1e-5)
        assert (volumes[0].affine.tolist(), probs.dtype) == (labels.affine.tolist(), np.float32)
        entropy = read_volume(out / "entropy" / f"{name}.nii.gz").array
        np.testing.assert_array_equal(entropy, entropy_nats(probs))
        assert entropy[brain].min() > 0
    shutil.rmtree(out)
    (out / "entropy").mkdir(parents=True)
    (out / "entropy" / "d.nii.gz").write_bytes(b"mine")
    refused("d.nii.gz is there and was not written by jaxfuse", call_here, predict, output=out, **maps, **options)


@pytest.mark.slow
def test_a_case_that_one_call_refuses_is_listed_by_all(given, tmp_path, capsys):
    cases, out = shutil.copytree(given.cases, tmp_path / "in"), tmp_path / "out"
    (cases / "b" / "b_t1.nii.gz").write_bytes(b"")
    options = {"workdir": given.labeling, "input": cases, "output": out, "zip": tmp_path / "all.zip", "shared": True}
    with pytest.raises(CasesLeftOut, match="left out 1 of 5 cases:\n  .*b_t1.nii.gz"):
        call_here(predict, **options)
    assert f"{tmp_path / 'all.zip'} is not written, for cases were left out" in capsys.readouterr().out
    assert contents(out).keys() == {f"{case}.nii.gz" for case in "acde"}
    # Mended, it is the only one that is left to do.
    shutil.copy(given.cases / "b" / "b_t1.nii.gz", cases / "b" / "b_t1.nii.gz")
    call_here(predict, **options)
    assert "4 of 5 cases are done already" in capsys.readouterr().out
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        assert archive.namelist() == [f"{case}.nii.gz" for case in SHAPES]


def test_more_devices_than_there_are_are_refused(given, tmp_path):
    options = {"workdir": given.labeling, "input": given.cases, "output": tmp_path / "out"}
    refused("devices is 9, and this machine has 1; choose all", call_here, predict, devices="9", **options)


# The first call of those that share the cases stops in the middle of writing one, and says so by a file.
STUCK = """
import pathlib, sys, time
from jaxfuse import cli, predict
from jaxfuse.engine.trained import labeled_cases
write = labeled_cases.write_labels
def stuck(path, *rest, **more):
    write(path, *rest, **more)
    pathlib.Path(sys.argv[-1]).touch()
    time.sleep(600)
labeled_cases.write_labels = stuck
predict.define_flags()
cli.run(lambda argv: predict.main(argv[:-1]))
"""


def started(given: Given, out: Path, *more: str, script: str = "") -> subprocess.Popen[str]:
    """A process of its own that shares the cases."""
    options = [f"--workdir={given.labeling}", f"--input={given.cases}", f"--output={out}", "--shared", *more]
    command = [sys.executable, *(["-c", script] if script else ["-m", "jaxfuse.predict"]), *options]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, text=True, env=environment, **pipes)


@pytest.mark.slow
def test_the_cases_of_a_call_that_is_killed_are_done_by_another(given, tmp_path):
    alone, out, marker = tmp_path / "alone", tmp_path / "shared", tmp_path / "writes"
    call_here(predict, workdir=given.labeling, input=given.cases, output=alone)
    with started(given, out, str(marker), script=STUCK) as lost:
        while not marker.exists():
            assert lost.poll() is None
            time.sleep(0.05)
        with started(given, out) as other:
            while len(list(out.glob("*.nii.gz"))) < 1:
                assert other.poll() is None
                time.sleep(0.05)
            time.sleep(1)
            assert other.poll() is None  # what the first has claimed is not there
            lost.send_signal(signal.SIGKILL)
            said, _ = other.communicate()
    assert other.returncode == 0, said
    assert contents(out) == contents(alone)
    assert sorted(path.name for path in out.iterdir() if path.name[0] == ".") == RECORDS
    assert read_json(out / RECORDS[0])["cases"].keys() == SHAPES.keys()


# On as many devices of the host; counts how often XLA compiles what goes over a canvas.
ON_DEVICES = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 3)
from jaxfuse import cli, predict
predict.define_flags()
cli.run(predict.main)
"""


@pytest.mark.slow
@pytest.mark.parametrize("run", ["labeling", "synthesis"])
def test_devices_share_the_cases(given, tmp_path, run):
    one, three = tmp_path / "one", tmp_path / "three"
    workdir = getattr(given, run)
    call_here(predict, workdir=workdir, input=given.cases, output=one)
    options = [f"--workdir={workdir}", f"--input={given.cases}", f"--output={three}", "--devices=all"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", ON_DEVICES, *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert contents(three) == contents(one)
    assert len(np.unique(np.frombuffer(contents(one)[next(iter(contents(one)))], np.uint8))) > 2


@pytest.mark.slow
def test_folds_that_a_pattern_names_are_averaged(given, tmp_path):
    cases, out, runs = tmp_path / "in", tmp_path / "out", tmp_path / "runs"
    shutil.copytree(given.cases / "a", cases / "a")
    for number in range(3):
        labeling_run(runs / f"fold{number}", ("t1", "t2", "flair"), seed=number)
    means = []
    for number in range(3):
        call_here(predict, workdir=runs / f"fold{number}", input=cases, output=tmp_path / f"{number}", **MAPS)
        means.append(probabilities(tmp_path / f"{number}"))
    call_here(predict, workdir=f"{runs}/fold*", input=cases, output=out, **MAPS)
    np.testing.assert_allclose(probabilities(out), np.mean(means, axis=0), atol=1e-6)
    assert np.abs(means[0] - means[1]).max() > 0.01


MAPS = {"save_probabilities": True}


def probabilities(folder):
    return np.stack([one.array for one in read_channels(folder / "probabilities" / "a.nii.gz", range(4))], -1)
