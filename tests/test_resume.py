"""A run that is killed and called again ends where an uninterrupted one does, bit by bit.

Runs are processes of `python -m jaxfuse.train configs/cmff.py:tiny` on a small data set in the layout of BraTS.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxfuse.engine.devices.placement import one_device
from jaxfuse.engine.run_folder.checkpoints import Checkpoints, read_weights
from jaxfuse.engine.run_folder.metric_writer import read_metrics
from jaxfuse.engine.run_folder.workdir import read_config
from jaxfuse.io.tables import read_json
from tests.made_cases import MODALITIES, nested_cubes, write_case
from tests.runs import bits, run_of

# Two minutes of runs; `engine/test_training.py` resumes a killed run bit by bit in every run of the tests.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
PHASES = {"transition": 10, "fusion": 30}
PATIENCE_S = 400.0
# What a clock decides, not the run.
TIMED = ("steps_per_s", "wait_share")


def write_cases(root: Path) -> Path:
    """Noise heads of 20 x 18 x 16 voxels with a tumor of three classes."""
    for number in range(4):
        noise = np.random.default_rng(number).integers(50, 150, (4, 18, 16, 16))
        label = nested_cubes((20, 18, 16), center=(8 + number, 8 + number, 8))
        image = (np.pad(noise, ((0, 0), (1, 1), (1, 1), (0, 0))) + 40 * label).astype(np.int16)
        write_case(root, f"case_{number}", dict(zip(MODALITIES, image, strict=True)) | {"seg": label})
    return root


class Place:
    """A folder with data, compiled programs and runs."""

    def __init__(self, folder: Path, *, optimize: bool) -> None:
        self.folder, self.data = folder, write_cases(folder / "data")
        self.environment = {**os.environ, "JAXFUSE_CACHE": str(folder / "cache"), "COLUMNS": "200"}
        if optimize:  # as users' programs are compiled
            del self.environment["JAX_DISABLE_MOST_OPTIMIZATIONS"], self.environment["XLA_FLAGS"]

    def start(self, name: str, *options: str) -> subprocess.Popen[str]:
        steps = [f"--config.{phase}.steps={count}" for phase, count in PHASES.items()]
        checks = [f"--config.{phase}.validation.every={count * 2 // 5}" for phase, count in PHASES.items()]
        command = [sys.executable, "-m", "jaxfuse.train", f"--config={ROOT / 'configs' / 'cmff.py'}:tiny"]
        command += [f"--workdir={self.folder / name}", f"--config.data.root={self.data}", "--config.log_every=1"]
        # A session of its own: the loader's processes can be looked for when the run is gone.
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
        return subprocess.Popen([*command, *steps, *checks, *options], env=self.environment, cwd=self.folder, **pipes)

    def finish(self, name: str, *options: str) -> tuple[int, str, str]:
        process = self.start(name, *options)
        out, err = process.communicate(timeout=PATIENCE_S)
        return process.returncode, out, err

    def interrupt(self, name: str, phase: str, step: int, number: signal.Signals) -> tuple[int, str, str]:
        """Sends a signal to a run that has passed this step and saved an earlier one."""
        process = self.start(name)
        try:
            wait_until(lambda: passed(self.folder / name, phase, step), process)
            process.send_signal(number)
            out, err = process.communicate(timeout=PATIENCE_S)
        finally:
            if process.poll() is None:
                process.kill()
        return process.returncode, out, err


def passed(workdir: Path, phase: str, step: int) -> bool:
    last = workdir / "checkpoints" / phase / "last"
    saved = last.is_dir() and any(path.name.isdigit() for path in last.iterdir())
    return saved and any(row["phase"] == phase and row["step"] >= step for row in read_metrics(workdir))


def wait_until(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not happened():
        assert process.poll() is None, f"the run ended early: {process.communicate()}"
        assert time.monotonic() < end, "the run takes too long"
        time.sleep(0.005)


def everything(place: Place, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Per run: every leaf of the final states and of the best weights, progress, metric rows and scores."""
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    config = read_config(place.folder / names[0])
    config.data.cache = str(place.folder / "cache")
    config.seed = 1  # other first weights than the runs': what is compared was read
    run = run_of(config, place.folder / names[0], new=False)
    for phase in map(run.phase, PHASES):
        like = phase.initial_state()
        for name in names:
            folder = place.folder / name / "checkpoints" / phase.name
            checkpoints = Checkpoints(folder)
            state, progress = checkpoints.restore(like)
            checkpoints.close()
            assert int(state.step) == PHASES[phase.name]
            best = read_weights(folder, like, one_device(), best=True)
            summary = read_json(place.folder / name / "results" / phase.name / "summary.json")
            del summary["seconds_per_subject"], summary["seconds_of_training"]
            kept = {"state": bits(state), "best": bits((best.step, best.params, best.stats))}
            found[name][phase.name] = {**kept, "progress": progress, "summary": summary}
    for name in names:
        rows = read_metrics(place.folder / name)
        found[name]["rows"] = [{k: v for k, v in row.items() if k not in TIMED} for row in rows]
    return found


def assert_equal(resumed: Mapping[str, Any], whole: Mapping[str, Any]) -> None:
    for phase in PHASES:
        for part in ("state", "best"):
            assert resumed[phase][part].keys() == whole[phase][part].keys()
            differ = [leaf for leaf, value in whole[phase][part].items() if resumed[phase][part][leaf] != value]
            assert not differ, f"{part} of {phase} differs in {differ}"
        for part in ("progress", "summary"):
            assert resumed[phase][part] == whole[phase][part]
    assert resumed["rows"] == whole["rows"]


def contents(workdir: Path) -> dict[str, bytes]:
    """Every file of a run but its report."""
    files = [path for path in workdir.rglob("*") if path.is_file() and path.name != "report.html"]
    return {str(path.relative_to(workdir)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    return Place(tmp_path_factory.mktemp("resume"), optimize=False)


@pytest.fixture(scope="module")
def calls(place) -> dict[str, Any]:
    """One run without interruption, and one that is stopped, killed in either phase, and called twice more."""
    calls: dict[str, Any] = {
        "whole": place.finish("whole"),
        "stopped": place.interrupt("broken", "transition", 2, signal.SIGTERM),
        "killed": place.interrupt("broken", "transition", 6, signal.SIGKILL),
        "killed again": place.interrupt("broken", "fusion", 4, signal.SIGKILL),
        "resumed": place.finish("broken"),
    }
    before = contents(place.folder / "broken")
    calls["called again"] = place.finish("broken")
    return {**calls, "before": before, "after": contents(place.folder / "broken")}


def test_exit_codes(calls):
    codes = dict.fromkeys(("whole", "resumed", "called again"), 0)
    codes |= {"stopped": 128 + signal.SIGTERM, "killed": -signal.SIGKILL, "killed again": -signal.SIGKILL}
    assert {call: calls[call][0] for call in codes} == codes, [calls[call][2] for call in codes]


def test_stopped_run_says_where_it_stopped_and_how_to_go_on(calls):
    _, _, err = calls["stopped"]
    noted, stopped = err.splitlines()
    assert noted == "stopping at the next safe point; once more stops at once, without saving"
    assert stopped.startswith("SIGTERM: stopped after step ")
    assert stopped.endswith("of 10 of phase transition, and saved; the same command goes on from here")


def test_each_call_went_on_from_a_saved_step(calls):
    for name, phase in (("killed", "transition"), ("killed again", "transition"), ("resumed", "fusion")):
        assert f"{phase}: {PHASES[phase]} steps from step " in calls[name][1]
    assert "transition: all 10 steps are there already" in calls["resumed"][1]


def test_resumed_run_equals_the_uninterrupted_one_bit_by_bit(place, calls):
    found = everything(place, ["whole", "broken"])
    for phase, part in (("fusion", "opt_state"), ("transition", "memory")):
        assert any(part in leaf for leaf in found["whole"][phase]["state"])
    assert len(found["whole"]["fusion"]["state"]) > 50
    assert_equal(found["broken"], found["whole"])
    steps = [(row["phase"], row["step"]) for row in found["broken"]["rows"] if row["split"] == "train"]
    assert steps == [(phase, step) for phase, steps in PHASES.items() for step in range(1, steps + 1)]


def test_finished_run_says_so_and_rewrites_only_its_report(place, calls):
    _, out, err = calls["called again"]
    assert "This run was finished already; its report is written anew: " in out
    assert err == ""
    assert calls["before"].keys() == calls["after"].keys()
    assert [path for path, content in calls["before"].items() if calls["after"][path] != content] == []


@pytest.fixture(scope="module")
def optimized(tmp_path_factory) -> tuple[Place, dict[str, Any]]:
    """A place whose programs are compiled as users' are, and what its uninterrupted run left."""
    place = Place(tmp_path_factory.mktemp("random"), optimize=True)
    code, _, err = place.finish("whole")
    assert code == 0, err
    return place, everything(place, ["whole"])["whole"]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("moment", range(5))
def test_kills_at_random_moments_of_either_phase(optimized, moment, workers):
    place, whole = optimized
    draw, name = random.Random(moment), f"killed_{moment}_{workers}"
    loader = f"--config.loader.workers={workers}"
    for phase, steps in PHASES.items():
        step, delay_s = draw.randint(1, steps - 2), draw.uniform(0, 0.3)
        killed = place.start(name, loader)
        wait_until(lambda phase=phase, step=step: passed(place.folder / name, phase, step), killed)
        time.sleep(delay_s)
        killed.kill()
        killed.wait()
        assert no_survivor(killed.pid), f"processes of the run killed in {phase} are still there"
        killed.communicate()
    assert "from step " in ends_alike(place, name, loader, whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_every_process_of_a_run_saves_it_too(optimized, number):
    """Control-C on a terminal and a scheduler's stop reach the loader's processes as well."""
    place, whole = optimized
    name, loader = f"stopped_{number.name}", "--config.loader.workers=2"
    process = place.start(name, loader)
    wait_until(lambda: passed(place.folder / name, "transition", 3), process)
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 128 + number, err
    assert f"{number.name}: stopped after step " in err
    assert no_survivor(process.pid)
    ends_alike(place, name, loader, whole)


def ends_alike(place: Place, name: str, loader: str, whole: Mapping[str, Any]) -> str:
    """Calls a run again, which comes to what the whole one did; returns what it says."""
    code, out, err = place.finish(name, loader)
    assert code == 0, err
    assert_equal(everything(place, [name])[name], whole)
    return out


def no_survivor(group: int) -> bool:
    """Whether all processes of a process group end within some seconds; zombies do not count."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        listed = subprocess.run(["ps", "-e", "-o", "pgid=,stat="], capture_output=True, text=True, check=True).stdout
        rows = [line.split() for line in listed.splitlines()]
        if not any(int(of) == group and not state.startswith("Z") for of, state in rows):
            return True
        time.sleep(0.2)
    return False
