"""Commands that share their cases among three devices: they write what they write on one.

`predict` is in `tests/test_predict_together.py`.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from configs import fuse4seg
from jaxfuse.data.phantom.brats import write_brats_phantoms
from jaxfuse.io.png import write_png
from tests.commands import ROOT
from tests.made_cases import head, write_case
from tests.untrained_run import SCANNED, labeling_run, synthesis_run, write_untrained_run

# What cannot be equal: it holds a time, the folder's name, or the command.
_OWN = {"report.html", ".jaxfuse-written", "builder.json"}


def fusing_run(folder: Path, *combos: str) -> Path:
    """A run of Fuse4Seg whose weights are drawn."""
    config = fuse4seg.get_config("tiny")
    config.network.combos = combos
    config.data.cache = str(folder / "cache")
    return write_untrained_run(folder / "run", config, "cooperative", train={"OTHER_z007": "key"}, seed=1)


def pairs(folder: Path) -> list[str]:
    """A folder of eleven pairs of pictures: chunks for all devices, and a rest."""
    rng = np.random.default_rng(0)
    for number in range(11):
        for modality in ("MRI", "CT"):
            write_png(folder / "root" / "MRI_CT" / modality / f"{number}.png", rng.integers(0, 256, (30, 28), np.uint8))
    return [f"--run={fusing_run(folder, 'all')}", f"--pairs={folder / 'root'}", "--output"]


def lacking(folder: Path) -> list[str]:
    """Five cases, some of which lack FLAIR."""
    for number in range(5):
        images = head((30, 26, 4), number)
        given = {name: images[name] for name in ("t1", "t2", "flair")[: 2 + number % 2]}
        write_case(folder / "in", f"case{number}", given, **SCANNED)
    synthesis = synthesis_run(folder / "synthesis", "tiny,row=mmsyns")
    labels = labeling_run(folder / "labels", ("t1", "t2", "flair"))
    return [f"--synthesis={synthesis}", f"--segmentation={labels}", f"--input={folder / 'in'}", "--output"]


def patients(folder: Path) -> list[str]:
    """Three phantoms, of whose slices a data set is made."""
    write_brats_phantoms(folder / "root", cases=3, seed=3, shape=(30, 28, 18), spacing_mm=8.0)
    run = fusing_run(folder, "all")
    return [f"--root={folder / 'root'}", f"--run={run}", "--combos=t1+t2", "--one_per_case", "--batch=2", "--out"]


@pytest.mark.slow
@pytest.mark.parametrize(("command", "made"), [("fuse", pairs), ("impute", lacking), ("brats_fuse", patients)])
def test_three_devices_write_what_one_writes(tmp_path, command, made):
    options, found = made(tmp_path), []
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "3", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    for devices in ("1", "all"):
        words = [*options[:-1], f"{options[-1]}={tmp_path / devices}", f"--devices={devices}"]
        call = [sys.executable, "-m", f"jaxfuse.{command}", *words]
        done = subprocess.run(call, capture_output=True, text=True, env=environment, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        files = (path for path in (tmp_path / devices).rglob("*") if path.is_file() and path.name not in _OWN)
        found.append({str(path.relative_to(tmp_path / devices)): path.read_bytes() for path in files})
    one, three = found
    assert one.keys() == three.keys()
    assert [name for name in one if one[name] != three[name]] == []
    assert len(one) > 2
