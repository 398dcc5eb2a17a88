"""Memory and disk that the preparation of a data set takes, told beforehand from the headers of its files alone.

What JAX and a network take in the process of a training is not part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxfuse.data.cache import VolumePreparation
from jaxfuse.data.cases import CaseFiles
from jaxfuse.data.facts import counted
from jaxfuse.data.memory import PROCESS_BYTES, Forecast, available_bytes, processes_for, size_told
from jaxfuse.data.presence import ZERO
from jaxfuse.data.settings import Data
from jaxfuse.data.shelf import FLOAT16, FLOAT32
from jaxfuse.data.slices import StackPreparation
from jaxfuse.data.sources.case_folders import HELD_OUT
from jaxfuse.data.sources.volumes import CUTS, VOLUMES, check_entities, volume_root
from jaxfuse.labels import label_scheme

# The files of a case, the precision of the cache -> what its preparation takes.
Forecasting = Callable[[CaseFiles, str], Forecast]


@dataclass(frozen=True)
class Needs:
    """The most that the preparation of cases takes, where none of them is prepared yet.

    Attributes:
        cases: how many there are.
        processes: that prepare them at once.
        process_bytes: of memory, in each of these.
        memory_bytes: in all of them.
        cache_dtype: precision of the cache.
        cache_bytes: on disk.
        half_bytes: on disk in half precision.
        free_bytes: memory that is free on this machine, within the limits of the control group; None: unknown.
    """

    cases: int
    processes: int
    process_bytes: int
    memory_bytes: int
    cache_dtype: str
    cache_bytes: int
    half_bytes: int
    free_bytes: int | None

    def told(self) -> str:
        """Says it in one sentence, with the options by which it shrinks."""
        memory = f"{size_told(self.memory_bytes)} of memory"
        if self.free_bytes is not None:
            memory += f" ({size_told(self.free_bytes)} are free)"
        if self.processes > 1:
            one = size_told(self.process_bytes)
            memory += f" in {self.processes} processes, {one} with data.prepare_workers=1"
        cache = f"{size_told(self.cache_bytes)} of disk"
        if self.cache_dtype == FLOAT32:
            cache += f" ({size_told(self.half_bytes)} with data.cache_dtype=float16)"
        return f"preparing {counted(self.cases, 'case')} takes at most {memory}, and a cache of at most {cache}"


def needs_of(files: Sequence[CaseFiles], forecast: Forecasting, precision: str = FLOAT32, workers: int = 0) -> Needs:
    """Predicts the needs of cases of which there is at least one; `workers` as of `jaxfuse.data.shelf.Shelf`."""
    forecasts = [forecast(one, precision) for one in files]
    room = available_bytes()
    processes = processes_for(forecasts, workers, room)
    each = PROCESS_BYTES + max(one.peak_bytes for one in forecasts)
    return Needs(
        cases=len(files),
        processes=processes,
        process_bytes=each,
        memory_bytes=processes * each,
        cache_dtype=precision,
        cache_bytes=sum(one.disk_bytes for one in forecasts),
        half_bytes=sum(forecast(one, FLOAT16).disk_bytes for one in files),
        free_bytes=room,
    )


def preparation_needs(data: Data) -> Needs | None:
    """Predicts the needs of a config's data; None for phantoms, for pictures, and where no case trains or validates.

    Counted are all cases but those that the data set itself holds out.

    Raises:
        UserError: that of finding the cases.
    """
    if not data.root or data.source not in (*VOLUMES, *CUTS):
        return None
    root = volume_root(Path(data.root).expanduser(), source=data.source, layout=data.layout, entities=data.entities)
    check_entities(root, data.entities)
    incomplete = data.incomplete == ZERO
    found = root.find(data.modalities, labels_required=False, incomplete=incomplete)
    files = [one for one in found if one.side != HELD_OUT]
    if not files:
        return None
    scheme, rules = label_scheme(data.labels or root.scheme), (data.normalization, None, data.background_rule)
    if data.source in CUTS:
        make = StackPreparation(data.modalities, scheme, data.view, *rules)
    else:
        make = VolumePreparation(data.modalities, scheme, *rules, data.resample_mm, incomplete)
    return needs_of(files, make.forecast, data.cache_dtype, data.prepare_workers)
