"""The stream of batches: prepared cases -> draws -> batches, by Grain.

The stream is a pure function of (seed, step): every example is drawn from a generator that its index seeds, and a
resumed run slices the stream at its next step. So one integer resumes it, and any number of workers or threads
gives the same batches. What chance decides of an example is drawn first, and read by whoever makes the batch.

A training that holds subjects out has two streams of cases, whose examples take turns in every batch: those at odd
places are of the lower stream, the others of the upper one. So each device has both where a batch is parted evenly.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import grain
import numpy as np
from absl import flags

from jaxfuse.data.assembly import Assembly, Buffers
from jaxfuse.data.prepared import PreparedCase
from jaxfuse.data.sampling import Center, Draw
from jaxfuse.data.streams import Streams, check_halves
from jaxfuse.errors import UserError
from jaxfuse.patches import output_sides, window_around

# The draw of an example, or of both sides of an unpaired one.
Drawn = Draw | dict[str, Draw]


@dataclass(frozen=True)
class Loader:
    """The making of batches: by `workers` processes (0: none) and `threads`, `prefetch` batches ahead.

    With `on_device` "on" they are cut on the device from cases that lie there, with "auto" on an accelerator where the
    cases fit. Then `steps_per_call` steps are one call of a program; 0: as many as is of use.
    """

    workers: int = 0
    threads: int = 2
    prefetch: int = 4
    on_device: str = "auto"
    steps_per_call: int = 0


@dataclass(frozen=True)
class Share:
    """The rows of each batch that one of several processes makes: part `number`, from 0, of `count` equal ones.

    All together make, bit by bit, the batches of a process alone.
    """

    number: int = 0
    count: int = 1

    def of(self, draws: grain.MapDataset, batch: int, make: Any, *, start: int, stop: int) -> grain.MapDataset:
        """Parts draws into the rows of batches `start` to `stop` - 1, made by `make`."""
        rows = draws.batch(batch // self.count, drop_remainder=True, batch_fn=make)
        return rows.slice(slice(start * self.count + self.number, stop * self.count, self.count))


ALL_ROWS = Share()


@dataclass(frozen=True)
class PatchSampler:
    """Draws examples of cases, and makes batches of them.

    With `unpaired`, an example is {"a": ..., "b": ...} from two different cases; without `labels`, images only.
    Patches are mirrored along each axis with the probability `flip`. `margin` is what the network loses on each side:
    labels are smaller than the patch by it, unless they are `whole_labels`, which a step cuts. `streams` part the cases
    where half of every batch is held out. With `unlabeled`, cases may lack a label; then no voxel of theirs counts.
    """

    cases: Sequence[PreparedCase]
    patch: tuple[int, ...]
    center: Center
    flip: float
    unpaired: bool
    labels: bool = True
    margin: int = 0
    streams: Streams | None = None
    whole_labels: bool = False
    unlabeled: bool = False

    def draw(self, index: int, rng: np.random.Generator) -> Drawn:
        """Draws all that chance decides of one example of case number `index`; no image is read."""
        if not self.unpaired:
            return self._one(index, rng)
        other = (index + int(rng.integers(1, len(self.cases)))) % len(self.cases)
        return {"a": self._one(index, rng), "b": self._one(other, rng)}

    def batch(self, draws: Sequence[Any], buffers: Buffers | None = None) -> dict[str, Any]:
        """Makes the batch of these draws: `Assembly.batch`, or with `unpaired` that of each side."""
        sizes = (self.patch, self.margin, self.label_margin)
        told = (self.labels, buffers or Buffers(), self.incomplete, self.unlabeled)
        assembly = Assembly(self.cases, *sizes, *told)
        if self.unpaired:
            return {side: assembly.batch([one[side] for one in draws]) for side in ("a", "b")}
        return assembly.batch(draws)

    @cached_property
    def incomplete(self) -> bool:
        """Whether a case lacks modalities, so that batches tell the presence of their examples."""
        return any(case.facts.presence for case in self.cases)

    @property
    def label_margin(self) -> int:
        """The voxels that a label lacks of its patch on each side."""
        return 0 if self.whole_labels else self.margin

    def _one(self, index: int, rng: np.random.Generator) -> Draw:
        case, window = self.cases[index], output_sides(self.patch, self.margin)
        start = window_around(self.center(case, window, rng), window, case.facts.shape)
        if not self.flip:
            return Draw(index, start)
        return Draw(index, start, tuple(np.flatnonzero(rng.random(len(start)) < self.flip).tolist()))


def draws(
    sampler: PatchSampler, *, batch: int, seed: int, start: int, stop: int, share: Share = ALL_ROWS
) -> Iterator[Sequence[Any]]:
    """Yields the draws of the examples of each batch of `batches`, for batches that are made elsewhere.

    Close the iterator when done.
    """
    drawn = share.of(_draws(sampler, batch=batch, seed=seed), batch, tuple, start=start, stop=stop)
    # Grain shuffles few cases slowly, 3 ms each for 9, and leaves the interpreter to others meanwhile.
    options = grain.ReadOptions(num_threads=8, prefetch_buffer_size=8)
    return iter(drawn.to_iter_dataset(options))


def batches(
    sampler: PatchSampler,
    *,
    batch: int,
    seed: int,
    start: int,
    stop: int,
    loader: Loader,
    share: Share = ALL_ROWS,
) -> Iterator[Mapping[str, Any]]:
    """Yields the batches of steps `start` to `stop` - 1; each pass over the cases is shuffled anew.

    Leaves are NumPy arrays (b *space m) float32 and (b *space) uint8, of a `share` its rows only. Close the iterator
    when done.

    Raises:
        UserError: the sampler is unpaired and there is one case only, or half of a batch of one is to be held out.

    Example:
        >>> import tempfile
        >>> from jaxfuse.data.dataset import open_dataset
        >>> from jaxfuse.data.pipeline import Loader, PatchSampler, batches
        >>> from jaxfuse.data.sampling import sampling_rule
        >>> from jaxfuse.data.settings import read_data
        >>> from jaxfuse.recipes import brats_data
        >>> options = brats_data(modalities=("t1", "flair"), shape=(32, 32, 24), cases=3, spacing_mm=6.0)
        >>> options.cache = tempfile.mkdtemp()  # phantoms are written here; set options.root for data of your own
        >>> cases = open_dataset(read_data("data", options), lambda *_: None).train
        >>> sampler = PatchSampler(cases, (16, 16, 16), sampling_rule("mixed").center, flip=0.0, unpaired=False)
        >>> stream = batches(sampler, batch=2, seed=0, start=0, stop=5, loader=Loader())
        >>> {name: array.shape for name, array in next(stream).items()}
        {'image': (2, 16, 16, 16, 2), 'label': (2, 16, 16, 16)}
        >>> stream.close()
    """
    make = partial(sampler.batch, buffers=Buffers())
    rows = share.of(_draws(sampler, batch=batch, seed=seed), batch, make, start=start, stop=stop)
    options = grain.ReadOptions(num_threads=loader.threads, prefetch_buffer_size=loader.prefetch)
    dataset = rows.to_iter_dataset(options)
    if loader.workers:
        options = grain.MultiprocessingOptions(num_workers=loader.workers, per_worker_buffer_size=loader.prefetch)
        return Workers(iter(dataset.mp_prefetch(options, worker_init_fn=_begin_worker)))
    return iter(dataset)


class Workers:
    """Batches from processes of the loader, which may die; closing it ends them."""

    def __init__(self, batches: Iterator[Mapping[str, Any]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return self

    def __next__(self) -> Mapping[str, Any]:
        try:
            return next(self._batches)
        except RuntimeError as error:
            if "terminated unexpectedly" not in str(error):
                raise
            reason = str(error).partition(". ")[0]
            raise UserError(
                f"a process of the loader died ({reason}), as they do where memory or /dev/shm is too small; set "
                "loader.workers to 0, or a smaller loader.prefetch, and call again"
            ) from error

    def close(self) -> None:
        self._batches.close()  # pyright: ignore[reportAttributeAccessIssue]  (an iterator of Grain)


def _draws(sampler: PatchSampler, *, batch: int, seed: int) -> grain.MapDataset:
    """The draw of each example, without end."""
    if sampler.unpaired and len(sampler.cases) < 2:
        raise UserError("unpaired training needs at least two training cases, and there is one; set unpaired=False")
    if not flags.FLAGS.is_parsed():  # Grain reads its own flags, which a notebook or a test never parses
        flags.FLAGS.mark_as_parsed()
    drawn = _places(sampler, batch=batch, seed=seed).random_map(sampler.draw)
    return drawn if sampler.streams is None else grain.MapDataset.source(Interleaved(drawn, batch=batch))


def _places(sampler: PatchSampler, *, batch: int, seed: int) -> grain.MapDataset:
    """The place among the sampler's cases of each example, without end."""
    if sampler.streams is None:
        return grain.MapDataset.range(len(sampler.cases)).seed(seed).shuffle().repeat()
    return grain.MapDataset.source(HalvesHeldOut(sampler.streams, batch=batch, seed=seed)).seed(seed)


class HalvesHeldOut:
    """The case of each example of a run in whose batches lower cases come first, `batch // 2` of them, then upper ones.

    A random-access source for Grain, without end. Each stream is shuffled anew in each of its passes. `Interleaved`
    makes them take turns.

    Raises:
        UserError: a batch of one has no two halves.
    """

    def __init__(self, streams: Streams, *, batch: int, seed: int):
        check_halves(batch)
        self._batch, self._lower = batch, batch // 2
        words = np.random.SeedSequence(seed).generate_state(2).tolist()
        self._streams = [
            grain.MapDataset.source(stream.places).seed(word).shuffle().repeat()
            for stream, word in zip((streams.lower, streams.upper), words, strict=True)
        ]

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> int:
        step, place = divmod(int(index), self._batch)
        if place < self._lower:
            return int(self._streams[0][step * self._lower + place])  # pyright: ignore[reportArgumentType]
        upper = step * (self._batch - self._lower) + place - self._lower
        return int(self._streams[1][upper])  # pyright: ignore[reportArgumentType]


class Interleaved:
    """The draws of a run with the halves of each batch taking turns: upper, lower, upper, ...

    Args:
        drawn: the lower draws of a batch first, `batch // 2` of them, then its upper ones. What chance decided of an
            example does not depend on its place in the batch.
    """

    def __init__(self, drawn: grain.MapDataset, *, batch: int):
        self._drawn, self._batch = drawn, batch

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> Any:
        first, place = int(index) // self._batch * self._batch, int(index) % self._batch
        half = place // 2
        return self._drawn[first + (half if place % 2 else self._batch // 2 + half)]


def _begin_worker(worker: int, workers: int) -> None:
    """A loader process takes no accelerator memory, and ends when its run does: neither before nor after."""
    del worker, workers
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # Control-C and a scheduler's stop reach every process; the run still needs its batches for the step it is at.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A run that is killed cannot tell its loader processes, which would wait for it forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
