"""Trainings in several processes: equal to one process's, resumed by any number, stopped and lost together.

Runs are processes of `python -m jaxfuse.train configs/hyperfusion.py:tiny,row=baseline_2d` on this machine, or of CMFF,
each with a CPU device or more.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxfuse.engine.run_folder.checkpoints import Checkpoints, read_weights
from jaxfuse.engine.run_folder.metric_writer import read_metrics
from jaxfuse.engine.run_folder.workdir import read_config
from jaxfuse.io.tables import read_json
from tests.engine.devices.ports import free_port
from tests.runs import bits, run_of
from tests.test_resume import TIMED

ROOT = Path(__file__).resolve().parents[1]
# Recipe, and phase; of CMFF devices can share the volumes, and the kernels are large enough to be split.
SLICES, VOLUMES = ("hyperfusion.py:tiny,row=baseline_2d", "segmentation"), ("cmff.py:tiny,row=random", "fusion")
STEPS, BATCH = 12, 4
PATIENCE_S = 500.0


class Site:
    """A folder with phantoms, compiled programs and runs."""

    def __init__(self, folder: Path, recipe: tuple[str, str] = SLICES) -> None:
        self.folder, (self.recipe, self.phase) = folder, recipe
        self.environment = {**os.environ, "JAXFUSE_CACHE": str(folder / "cache"), "COLUMNS": "200"}
        self.environment.pop("TF_CPP_MIN_LOG_LEVEL", None)  # JAX has set it in this process

    def command(self, name: str, *options: str) -> list[str]:
        plain = {"steps": STEPS, "batch": BATCH, "validation.every": 4, "checkpoint_every": 3, "checkpoint_minutes": 0}
        command = [
            sys.executable,
            "-m",
            "jaxfuse.train",
            f"--config={ROOT / 'configs' / self.recipe}",
        ]
        # Half of the subjects validate, so that there are some to be judged by each process.
        command += [f"--workdir={self.folder / name}", "--config.log_every=1", "--config.data.val_fraction=0.5"]
        return [*command, *(f"--config.{self.phase}.{key}={value}" for key, value in plain.items()), *options]

    def start(
        self, name: str, count: int, *options: str, devices: int = 1, own: Sequence[str] = (), wait: float = 300.0
    ) -> list[Any]:
        """Starts so many processes of a run, each with so many devices; `own`: an option of the last one alone."""
        address, started = f"localhost:{free_port()}", []
        environment = {**self.environment, "JAX_NUM_CPU_DEVICES": str(devices)}
        for number in range(count):
            seat = [f"--distributed={address},{count},{number}"] if count > 1 else ["--config.devices=all"]
            seat.append(f"--distributed_wait={wait}")
            command = self.command(name, *options, *seat, *(own if number == count - 1 else ()))
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            started.append(subprocess.Popen(command, env=environment, cwd=self.folder, **pipes))
        return started

    def finish(self, name: str, count: int, *options: str, **how: Any) -> list[tuple[int, str, str]]:
        return ended(self.start(name, count, *options, **how))

    def after(
        self, step: int, name: str, count: int, *options: str, victim: int, number: signal.Signals, **how: Any
    ) -> list[tuple[int, str, str]]:
        """Sends a signal to one process of a run that has passed a step."""
        started = self.start(name, count, *options, **how)
        try:
            wait_until(lambda: passed(self.folder / name, step), started)
            started[victim].send_signal(number)
        finally:
            found = ended(started)
        return found


def ended(started: Sequence[Any]) -> list[tuple[int, str, str]]:
    """Waits for processes; returns code, output and errors of each."""
    found, deadline = [], time.monotonic() + PATIENCE_S
    try:
        for process in started:
            out, err = process.communicate(timeout=max(1.0, deadline - time.monotonic()))
            found.append((process.returncode, out, err))
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
    return found


def passed(workdir: Path, step: int) -> bool:
    return any(row["step"] >= step for row in read_metrics(workdir) if row["split"] == "train")


def wait_until(condition: Callable[[], bool], started: Sequence[Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in started), ended(started)
        time.sleep(0.05)


def rows(workdir: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in TIMED} for row in read_metrics(workdir)]


def judgment(workdir: Path) -> dict[str, Any]:
    """Returns the files of all results of a run, but for the seconds that they took."""
    found: dict[str, Any] = {}
    for path in sorted((workdir / "results").rglob("*.*")):
        found[path.relative_to(workdir).as_posix()] = path.read_bytes()
        if path.name == "summary.json":
            document = read_json(path)
            untimed = {key: value for key, value in document.items() if not key.startswith("seconds")}
            assert len(document) == len(untimed) + 2
            found[path.relative_to(workdir).as_posix()] = repr(untimed)
    return found


def last_state(workdir: Path) -> dict[str, Any]:
    """Returns the bits of the last state of a run, and of its best weights."""
    run = run_of(read_config(workdir), workdir, new=False)
    phase = run.phase(run.experiment.schedule[-1])
    state, progress = Checkpoints(phase.checkpoint_folder).restore(phase.initial_state())
    best = read_weights(phase.checkpoint_folder, phase.initial_state(), run.placement, best=True)
    return {"state": bits(state), "best": bits(best), "progress": progress}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return Site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def alone(site):
    """Runs of one process, uninterrupted, by their devices; each is made when it is asked for."""

    def made(devices: int) -> Path:
        if not (site.folder / f"alone{devices}").is_dir():
            assert [code for code, *_ in site.finish(f"alone{devices}", 1, devices=devices)] == [0]
        return site.folder / f"alone{devices}"

    return made


@pytest.mark.slow
@pytest.mark.parametrize(("count", "devices"), [(2, 1), (4, 1), (2, 2)])
def test_processes_train_as_one_with_as_many_devices(site, alone, count, devices):
    name, wanted = f"several{count}{devices}", alone(count * devices)
    (first, out, err), *others = site.finish(name, count, devices=devices)
    assert (first, err) == (0, "")
    assert others == [(0, "", "")] * (count - 1), "process 0 alone speaks"
    assert f"jaxfuse hyperfusion: {count * devices} x cpu; workdir {site.folder / name}" in out
    assert (site.folder / name / "dataset.json").read_bytes() == (wanted / "dataset.json").read_bytes()
    if count * devices == 2:  # two numbers have one sum; of more, processes add in another order than devices do
        assert rows(site.folder / name) == rows(wanted)
        assert last_state(site.folder / name) == last_state(wanted)
        assert judgment(site.folder / name) == judgment(wanted)
    ours, theirs = ([row["net/loss"] for row in rows(folder)] for folder in (site.folder / name, wanted))
    assert np.allclose(ours[:5], theirs[:5], rtol=1e-6, atol=0)
    assert np.allclose(ours, theirs, rtol=1e-5, atol=0), "Adam enlarges what sums in another order round"
    here, there = (
        {path.name.partition(".tfevents")[0] for path in folder.iterdir()} for folder in (site.folder / name, wanted)
    )
    assert here == there


@pytest.mark.slow
def test_a_signal_to_one_of_two_stops_both_after_one_step_and_one_process_goes_on(site, alone):
    wanted, workdir = alone(2), site.folder / "stopped"
    (first, _, told), (second, out, err) = site.after(4, "stopped", 2, victim=1, number=signal.SIGTERM)
    assert (first, second) == (143, 143)
    stopped = re.search(r"SIGTERM: stopped after step (\d+) of 12 of phase segmentation, and saved", told)
    assert stopped, told
    assert (out, err.count("\n")) == ("", 1), "the one that was signaled says that it heard"
    assert Checkpoints(workdir / "checkpoints" / "segmentation").latest_step() == int(stopped[1]) >= 4
    ((code, out, err),) = site.finish("stopped", 1, devices=2)
    assert (code, err) == (0, "")
    assert f"12 steps from step {stopped[1]}" in out
    assert rows(workdir) == rows(wanted)
    assert last_state(workdir) == last_state(wanted)


# How far losses and weights may lie apart after twelve steps: sums in another order round differently, and Adam's first
# steps take a gradient's sign rather than its size.
SHARES = {"shard_state=True": (1e-4, 5e-3), "space=2": (1e-3, 5e-2)}


@pytest.mark.slow
@pytest.mark.parametrize("shared", SHARES)
def test_what_devices_of_two_processes_share_is_saved_whole_and_one_goes_on(tmp_path, shared):
    site, option = Site(tmp_path, VOLUMES), f"--config.{shared}"
    assert [code for code, *_ in site.finish("wanted", 1, option, devices=4)] == [0]
    found = site.after(4, "grown", 2, option, devices=2, victim=1, number=signal.SIGTERM)
    assert [code for code, *_ in found] == [143, 143], found
    assert [code for code, *_ in site.finish("grown", 1, option, devices=4)] == [0]
    ours, theirs = (rows(site.folder / name) for name in ("grown", "wanted"))
    assert [(row["step"], row["split"]) for row in ours] == [(row["step"], row["split"]) for row in theirs]
    losses = np.array([[row["net/loss"] for row in found] for found in (ours, theirs)])
    assert np.allclose(*losses[:, :2], rtol=1e-6, atol=0)
    assert np.allclose(*losses, rtol=SHARES[shared][0], atol=0)
    here, there = (weights(site.folder / name) for name in ("grown", "wanted"))
    assert np.linalg.norm(here - there) <= SHARES[shared][1] * np.linalg.norm(there)


def weights(workdir: Path) -> np.ndarray:
    """All parameters of the last state, one behind the other."""
    state = last_state(workdir)["state"]
    return np.concatenate([np.frombuffer(state[name][2], state[name][0]) for name in sorted(state) if "params" in name])


@pytest.mark.slow
def test_a_run_of_one_device_goes_on_in_four_processes(site, alone):
    wanted, workdir = alone(4), site.folder / "grown"
    ((code, *_),) = site.after(4, "grown", 1, victim=0, number=signal.SIGINT)
    assert code == 130
    assert [code for code, *_ in site.finish("grown", 4)] == [0] * 4
    ours, theirs = (rows(folder) for folder in (workdir, wanted))
    assert [(row["step"], row["split"]) for row in ours] == [(row["step"], row["split"]) for row in theirs]
    losses = [[row["net/loss"] for row in found] for found in (ours, theirs)]
    assert np.allclose(*losses, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_where_one_is_killed_the_other_says_so_and_nothing_is_lost(site, alone, victim):
    wanted, name = alone(2), f"killed{victim}"
    found = site.after(4, name, 2, victim=victim, number=signal.SIGKILL)
    code, _, err = found[1 - victim]
    assert found[victim][0] == -signal.SIGKILL
    assert code == 75
    assert err.splitlines()[-1] == (
        f"process {victim} is gone: killed, or its machine or network failed; the same command goes on from the last "
        "checkpoint"
    )
    assert [code for code, *_ in site.finish(name, 2)] == [0, 0]
    assert rows(site.folder / name) == rows(wanted)
    assert last_state(site.folder / name) == last_state(wanted)


@pytest.mark.slow
def test_what_one_process_cannot_do_ends_all(site):
    own = ["--config.seed=7"]
    for code, out, err in site.finish("differs", 2, own=own):
        assert (code, out) == (2, "")
        assert re.fullmatch(
            r"error: process 1 differs from process 0: config.seed is 0 in process 0 and 7 there.*\n", err
        )
    for code, _, err in site.finish("missing", 1, f"--distributed=localhost:{free_port()},3,0", wait=2):
        assert code == 2
        assert err.startswith("error: processes 1, 2 have not come to localhost:")
    odd = site.finish("odd", 2, "--config.segmentation.batch=3")
    assert [code for code, *_ in odd] == [2, 2]
    assert odd[0][2].startswith("error: phase segmentation: a batch of 3 cannot be parted evenly among 2 devices")
    assert odd[1][1:] == ("", "")
