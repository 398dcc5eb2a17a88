"""python -m experiments.throughput.loader [--ours] [--rounds 4] [--tasks 0 1 2 3] [--folder DIR]

Counts the examples a second that a loader makes, ours beside MONAI's: random crops of cached volumes and slices, from
the same made files (four images and a label, 240 x 240 x 155). MONAI's `CacheDataset` holds what
`RandCropByPosNegLabeld` then cuts, with the indices of foreground and background. `--ours` needs no MONAI.

MONAI is taken at its best: of no, one and two workers and of `ThreadDataLoader`, as its documents have it (each cached
volume is copied before a crop is cut from it), and with `copy_cache=False`, which its documents allow where transforms
leave the cache alone. A first, short round of all finds the fastest way of each; these then take turns in one process,
`--rounds` times, and the best round of each counts. A row is printed as that of the table in `loader.md`. With
`--folder` the made files are kept, and used again.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from jaxfuse.data.cache import prepare
from jaxfuse.data.cases import CaseFiles, Image
from jaxfuse.data.pipeline import Loader, PatchSampler, batches
from jaxfuse.data.prepared import PreparedCase
from jaxfuse.data.sampling import sampling_rule
from jaxfuse.data.slices import prepare_slices
from jaxfuse.labels import label_scheme

MODALITIES = ("t1", "t1ce", "t2", "flair")
SHAPE, BRAIN = (240, 240, 155), (75, 95, 75)  # voxels; half axes of the ellipsoid that is not 0
CASES = 4
AGAIN = 72  # how often ours lists each volume: as many cases as in BraTS, since Grain takes longer to shuffle a few
WARM = 8  # batches before the clock starts: threads and processes begin, and what they made ahead is taken


@dataclass(frozen=True)
class Task:
    """Crops of one size in batches, `count` batches in a round; with `flips`, along each axis with probability 1/2."""

    name: str
    sides: tuple[int, ...]
    batch: int
    count: int
    flips: bool = False


TASKS = (
    Task("128^3, batch 1", (128,) * 3, 1, 24),
    Task("128^3, batch 2", (128,) * 3, 2, 12),
    Task("128^3, batch 1, flips", (128,) * 3, 1, 24, flips=True),
    Task("128^2, batch 64", (128,) * 2, 64, 24),
)


@dataclass
class Way:
    """One way to make batches: `stream` begins anew, and gives as many as it is told. `rates` are examples a second."""

    name: str
    stream: Callable[[int], Iterator[Any]]
    rates: list[float] = field(default_factory=list)

    @property
    def best(self) -> float:
        return max(self.rates)

    def take_turn(self, task: Task, count: int) -> None:
        stream = self.stream(WARM + count)
        for _ in range(WARM):
            check(next(stream), task)
        started = time.perf_counter()
        made = sum(len(batch["image"]) for batch in stream)
        self.rates.append(made / (time.perf_counter() - started))
        if made != task.batch * count:
            raise ValueError(f"{self.name} made {made} examples of {task}")


def check(batch: Any, task: Task) -> None:
    """Refuses to compare anything but equal crops: float32 images of four channels, labels of one byte."""
    image, label = batch["image"], batch["label"]
    size = (image.dtype.itemsize * np.prod(image.shape), label.dtype.itemsize * np.prod(label.shape))
    voxels = task.batch * np.prod(task.sides)
    if size != (16 * voxels, voxels):
        raise ValueError(f"{image.shape} {image.dtype}, {label.shape} {label.dtype} is no batch of {task}")


def made_files(root: Path) -> list[CaseFiles]:
    """The made files; writes them where they are not there yet."""
    if not root.is_dir():
        make_files(root)
    return [
        CaseFiles(one.name, {m: Image(one / f"{m}.nii") for m in MODALITIES}, one / "seg.nii")
        for one in sorted(root.iterdir())
    ]


def make_files(root: Path) -> None:
    """Writes volumes of noise within an ellipsoid, and a label of three nested balls in each."""
    grid = np.stack(np.indices(SHAPE), -1).astype(np.float32)
    middle = np.array(SHAPE) // 2
    brain = np.square((grid - middle) / BRAIN).sum(-1) < 1
    for number in range(CASES):
        rng = np.random.default_rng(number)
        radius = np.sqrt(np.square(grid - middle - rng.integers(-30, 30, 3)).sum(-1))
        label = np.select([radius < 8, radius < 14, radius < 22], [1, 4, 2], 0) * brain
        images = {m: (brain * rng.integers(100, 1000, SHAPE)).astype(np.int16) for m in MODALITIES}
        folder = root / f"case{number}"
        folder.mkdir(parents=True)
        for name, volume in {**images, "seg": label.astype(np.uint8)}.items():
            nib.save(nib.Nifti1Image(volume, np.eye(4)), folder / f"{name}.nii")


def our_cases(files: Sequence[CaseFiles], cache: Path, task: Task) -> tuple[PreparedCase, ...]:
    """Prepares volumes, or their slices, and reads them once, as the first pass of a training would."""
    if len(task.sides) == 3:
        cases: tuple[PreparedCase, ...] = prepare(files, MODALITIES, label_scheme("brats"), cache=cache)
        cases *= AGAIN
    else:
        slices = prepare_slices(files, MODALITIES, label_scheme("brats"), cache=cache)
        cases = tuple(one for case in slices.values() for one in case)
    for case in cases[: len(cases) // (AGAIN if len(task.sides) == 3 else 1)]:
        case.image.sum()
    return cases


def ours(cases: tuple[PreparedCase, ...], task: Task, threads: int) -> Way:
    """Our loader, whose centers are in the tumor or anywhere in the brain, each with probability one half."""
    sampler = PatchSampler(cases, task.sides, sampling_rule("mixed").center, 0.5 * task.flips, unpaired=False)

    def stream(count: int) -> Iterator[Any]:
        made = batches(sampler, batch=task.batch, seed=0, start=0, stop=count, loader=Loader(threads=threads))
        yield from made
        made.close()  # pyright: ignore[reportAttributeAccessIssue]  (an iterator of Grain)

    return Way(f"{threads} thread{'s' * (threads > 1)}", stream)


def theirs(cached: Any, task: Task, *, workers: int, threaded: bool, named: str) -> Way:
    """MONAI's loader of a cached data set, whose examples are drawn with replacement, so that an epoch is long."""
    from monai.data import DataLoader, ThreadDataLoader
    from torch.utils.data import RandomSampler

    def stream(count: int) -> Iterator[Any]:
        sampler = RandomSampler(cached, replacement=True, num_samples=count * task.batch)
        options = {"batch_size": task.batch, "sampler": sampler, "num_workers": workers}
        yield from (ThreadDataLoader if threaded else DataLoader)(cached, **options)

    return Way(f"{'ThreadDataLoader' if threaded else f'{workers} workers'}{named}", stream)


def monai_items(files: Sequence[CaseFiles], cases: Sequence[PreparedCase], task: Task) -> tuple[list[Any], list[Any]]:
    """The items of MONAI's data set, and the transforms whose outcome it caches: of files, or of slices in memory."""
    from monai import transforms as made

    both = ["image", "label"]
    indices = made.FgBgToIndicesd("label", image_key="image")
    if len(task.sides) == 2:
        arrays = [(np.moveaxis(case.image, -1, 0), np.asarray(case.label)[None]) for case in cases]
        items = [{"image": np.ascontiguousarray(image), "label": label} for image, label in arrays]
        return items, [made.EnsureTyped(both), made.SpatialPadd(both, task.sides), indices]
    items = [{"image": [str(one.images[m].path) for m in MODALITIES], "label": str(one.label)} for one in files]
    return items, [
        made.LoadImaged(both),
        made.EnsureChannelFirstd(both),
        made.CropForegroundd(both, source_key="image", allow_smaller=True),
        made.NormalizeIntensityd("image", nonzero=True, channel_wise=True),
        made.CastToTyped("label", dtype=np.uint8),
        indices,
    ]


def monai_ways(files: Sequence[CaseFiles], cases: Sequence[PreparedCase], task: Task) -> list[Way]:
    """All ways of MONAI; positive and negative centers with probability one half each, as ours."""
    from monai import transforms as made
    from monai.data import CacheDataset

    items, kept = monai_items(files, cases, task)
    both = ["image", "label"]
    drawn: list[Any] = [
        made.RandCropByPosNegLabeld(
            both,
            label_key="label",
            spatial_size=task.sides,
            num_samples=1,
            fg_indices_key="label_fg_indices",
            bg_indices_key="label_bg_indices",
        )
    ]
    drawn += [made.RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(len(task.sides) * task.flips)]
    cached = CacheDataset(items, made.Compose([*kept, *drawn]), progress=False, num_workers=os.cpu_count())
    ways = []
    for copied in (True, False):
        shared = CacheDataset(items, cached.transform, cache_num=0, progress=False, copy_cache=copied)
        shared.cache_num, shared._cache = cached.cache_num, cached._cache  # the cache is filled once
        forms = [(workers, False) for workers in (0, 1, 2)] + [(0, True)]
        named = "" if copied else ", no copy"
        ways += [theirs(shared, task, workers=w, threaded=t, named=named) for w, t in forms]
    return ways


def fastest(ways: Sequence[Way]) -> Way:
    return max(ways, key=lambda way: way.best)


def row(task: Task, files: Sequence[CaseFiles], cache: Path, rounds: int, alone: bool) -> list[str]:
    """Measures a task; returns the cells of its row: name, our rate, of each group of MONAI its rate and the ratio."""
    cases = our_cases(files, cache, task)
    others = [] if alone else monai_ways(files, cases, task)
    groups = [[ours(cases, task, threads) for threads in (1, 2)]]
    groups += [[way for way in others if ("copy" in way.name) == copies] for copies in (False, True) if others]
    leaders = []
    for group in groups:
        for way in group:
            way.take_turn(task, max(1, task.count // 4))
        leaders.append(fastest(group))
    for _, way in itertools.product(range(rounds), leaders):
        way.take_turn(task, task.count)
    first = leaders[0].best
    cells = [task.name, f"{first:.1f} ({leaders[0].name})"]
    for rival in leaders[1:]:
        cells += [f"{rival.best:.1f} ({rival.name})", f"{first / rival.best:.1f}"]
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", action="store_true", help="without MONAI")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--tasks", type=int, nargs="+", choices=range(len(TASKS)), default=range(len(TASKS)))
    parser.add_argument("--folder", type=Path, help="where made files and our cache are kept; a new one if not given")
    given = parser.parse_args()
    warnings.filterwarnings("ignore", module="monai|torch")
    with tempfile.TemporaryDirectory() as new:
        folder = given.folder or Path(new)
        files = made_files(folder / "files")
        for number in given.tasks:
            print(
                f"| {' | '.join(row(TASKS[number], files, folder / 'cache', given.rounds, given.ours))} |", flush=True
            )


if __name__ == "__main__":
    main()
