"""python -m experiments.throughput.preparation [--cases 4] [--rounds 5] [--train float32 float16] [--memory]
    [--folder DIR]

Measures the preparation of made cases (four images and a label as BraTS has them: 240 x 240 x 155, int16, a brain of
1.4 M voxels, gzip) beside nibabel's decoding of the same files: processor seconds of one process each, in turns, the
best of `--rounds`. Reading a file for its digest, and writing the entry, are part of the preparation.

With `--train` it trains a tiny CMFF for a few steps on the cases, with nothing prepared before, once for each precision
of the cache, and tells the greatest memory of the run with all its processes: what is resident (pages that several
share counted in each), and the proportional share (counted once). Pages of the cache that are mapped are part of both.

With `--memory` it prepares one case in a process of its own, as it is and filled with noise around the brain, of int16
and of float32, and tells the most that was resident beside what is predicted from the headers.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

MODALITIES = {"t1": 400, "t1ce": 500, "t2": 300, "flair": 350}  # and their levels
SHAPE, HALF_AXES = (240, 240, 155), (66, 84, 62)
_DECODE = """
import sys, time, nibabel, numpy
files = sys.argv[1:]
nibabel.load(files[0]).get_fdata()
start = time.process_time()
for file in files: {read}
print(time.process_time() - start)
"""
_READ = {"get_fdata": "nibabel.load(file).get_fdata()", "dataobj": "numpy.asanyarray(nibabel.load(file).dataobj)"}
_PREPARE = """
import sys, time
from pathlib import Path
from jaxfuse.data.cache import prepare
from jaxfuse.data.sources.volumes import volume_root
from jaxfuse.labels import label_scheme
names, count = ("t1", "t1ce", "t2", "flair"), int(sys.argv[3])
files = volume_root(Path(sys.argv[1]), source="brats", layout="").find(names, labels_required=True)[:count]
start = time.process_time()
prepare(files, names, label_scheme("brats"), cache=sys.argv[2])
print(time.process_time() - start)
"""


_HELD = r"""
import re, sys
from pathlib import Path
from jaxfuse.data.brain import TOLD
from jaxfuse.data.cache import VolumePreparation
from jaxfuse.data.entries import write_entry
from jaxfuse.data.intensities import NORMALIZATIONS
from jaxfuse.data.memory import PROCESS_BYTES
from jaxfuse.data.sources.volumes import volume_root
from jaxfuse.labels import label_scheme
names = ("t1", "t1ce", "t2", "flair")
(one,) = volume_root(Path(sys.argv[1]), source="brats", layout="").find(names, labels_required=True)
make = VolumePreparation(names, label_scheme("brats"), NORMALIZATIONS["brain"], None, TOLD, ())
write_entry(Path(sys.argv[1], "entry"), "key", make(one), "float32")
held = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]
print(1024 * int(held), PROCESS_BYTES + make.forecast(one, "float32").peak_bytes)
"""


def write_case(folder: Path, seed: int) -> None:
    """Writes one case; a label of three parts lies in it."""
    rng, grid = np.random.default_rng(seed), np.ogrid[tuple(map(slice, SHAPE))]
    center = np.array([120, 125, 72]) + rng.integers(-3, 4, 3)

    def distance(at: Sequence[float], half_axes: Sequence[float]) -> np.ndarray:
        return sum(((g - a) / h) ** 2 for g, a, h in zip(grid, at, half_axes, strict=True))

    waves = np.sin(grid[0] / 5) * np.sin(grid[1] / 6) * np.sin(grid[2] / 7)
    brain = distance(center, HALF_AXES + rng.integers(-3, 4, 3)) + 0.06 * waves < 1
    tumor = np.where(brain, distance(center + np.array((20, 20, 5)), (26, 24, 22)), 9)
    label = np.select([tumor < 0.2, tumor < 0.5, tumor < 1], [1, 4, 2]).astype(np.uint8)
    smooth = ndimage.zoom(rng.normal(size=(31, 31, 20)), np.array(SHAPE) / (31, 31, 20), order=1)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[1, 3] = 239
    folder.mkdir(parents=True)
    for number, (name, level) in enumerate(MODALITIES.items()):
        pattern = 1 + 0.25 * smooth + 0.3 * np.sin(grid[0] / (9 + number)) * np.cos(grid[1] / 11)
        image = level * pattern + 20 * rng.standard_normal(SHAPE, np.float32) + 120.0 * label * (number - 1)
        stored = np.where(brain, np.clip(image, 1, 4000), 0).astype(np.int16)
        nib.save(nib.Nifti1Image(stored, affine), folder / f"{folder.name}_{name}.nii.gz")
    nib.save(nib.Nifti1Image(label, affine), folder / f"{folder.name}_seg.nii.gz")


def made_cases(root: Path, count: int) -> list[Path]:
    """Returns the folders of the cases; writes those that are not there yet."""
    folders = [root / f"BraTS20_Training_{number + 1:03d}" for number in range(count)]
    for seed, folder in enumerate(folders):
        if not folder.is_dir():
            write_case(folder, seed)
    return folders


def seconds(code: str, *arguments: object) -> float:
    """Runs code in a process of its own, which prints its processor seconds."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def compare(folders: Sequence[Path], rounds: int) -> None:
    """Prints the seconds of a case, ours and nibabel's, and their ratios."""
    files = sorted(path for folder in folders for path in folder.glob("*.nii.gz"))
    taken: dict[str, list[float]] = {name: [] for name in (*_READ, "prepared")}
    for _ in range(rounds):
        for name, read in _READ.items():
            taken[name].append(seconds(_DECODE.format(read=read), *files))
        with tempfile.TemporaryDirectory(dir=folders[0].parents[1]) as cache:
            taken["prepared"].append(seconds(_PREPARE, folders[0].parent, cache, len(folders)))
    best = {name: min(found) / len(folders) for name, found in taken.items()}
    print(", ".join(f"{name} {value:.3f} s" for name, value in best.items()), "a case")
    print(", ".join(f"prepared / {name} {best['prepared'] / best[name]:.2f}" for name in _READ))


def train(root: Path, precision: str) -> None:
    """Trains on the cases in a fresh cache, and prints the greatest memory of all processes."""
    with tempfile.TemporaryDirectory(dir=root.parent) as folder:
        data = {"root": root, "cache": f"{folder}/cache", "cache_dtype": precision}
        options = [f"--config.data.{name}={value}" for name, value in data.items()]
        options += ["--config.transition.steps=5", "--config.fusion.steps=5", f"--workdir={folder}/run"]
        command = [sys.executable, "-m", "jaxfuse.train", "--config", "configs/cmff.py:tiny", *options]
        with Path(folder, "told").open("wb") as told:
            run = subprocess.Popen(command, start_new_session=True, stdout=told, stderr=told)
            most = {"Rss": 0, "Pss": 0}
            while run.poll() is None:
                now = memory_of(run.pid)
                most = {kind: max(value, now[kind]) for kind, value in most.items()}
                time.sleep(0.1)
        if run.returncode:
            raise SystemExit(Path(folder, "told").read_text())
        size = sum(path.stat().st_size for path in Path(folder, "cache").rglob("*") if path.is_file())
        print(f"{precision}: resident {most['Rss'] / 1e9:.2f} GB, shares {most['Pss'] / 1e9:.2f} GB, ", end="")
        print(f"cache {size / 1e9:.2f} GB")


def compare_memory(case: Path) -> None:
    """Prints what the preparation of a case holds in memory and what is predicted, of heads of both kinds."""
    rng = np.random.default_rng(0)
    for kind in (np.int16, np.float32):
        for head in ("stripped", "whole"):
            with tempfile.TemporaryDirectory(dir=case.parents[1]) as made:
                folder = Path(made, case.name)
                folder.mkdir()
                for path in case.glob("*.nii.gz"):
                    stored = nib.load(path)
                    array = np.asarray(stored.dataobj)
                    if not path.name.endswith("_seg.nii.gz"):
                        array = array + (rng.integers(50, 200, SHAPE, np.int16) if head == "whole" else np.int16(0))
                        array[[0, -1]] = 0  # a background, in one plane at each end
                        array = array.astype(kind)
                    nib.save(nib.Nifti1Image(array, stored.affine), folder / path.name.removesuffix(".gz"))
                told = subprocess.run([sys.executable, "-c", _HELD, made], check=True, capture_output=True, text=True)
                held, predicted = map(int, told.stdout.split())
            ratio = f"predicted / held {predicted / held:.2f}"
            print(f"{np.dtype(kind)} {head}: held {held / 1e6:.0f} MB, predicted {predicted / 1e6:.0f} MB, {ratio}")


def memory_of(session: int) -> dict[str, int]:
    """Sums what the processes of a session hold in memory, in bytes."""
    found = {"Rss": 0, "Pss": 0}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(folder.name)) != session:
                continue
            for line in (folder / "smaps_rollup").read_text().splitlines():
                kind = line.partition(":")[0]
                if kind in found:
                    found[kind] += 1024 * int(line.split()[1])
        except OSError:  # it has ended meanwhile
            continue
    return found


def main() -> None:
    """Writes cases, compares or trains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--train", nargs="*", default=[], help="precisions of the cache")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        root = (asked.folder or Path(made)) / "brats"
        folders = made_cases(root, 1 if asked.memory else asked.cases)
        if asked.memory:
            compare_memory(folders[0])
        elif not asked.train:
            compare(folders, asked.rounds)
        for precision in asked.train:
            train(root, precision)


if __name__ == "__main__":
    main()
