"""Folders of phantom data sets: written once for the same settings, found again afterwards."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jaxfuse.data.phantom.looks import PLAIN
from jaxfuse.data.phantom.pairs2d import write_pair_phantoms
from jaxfuse.data.settings import Data
from jaxfuse.data.sources import pairs2d
from jaxfuse.data.sources.volumes import source_of
from jaxfuse.errors import UserError


@runtime_checkable
class Report(Protocol):
    """A place to tell how far work is: what is being done, how many are done, of how many, and how many took time."""

    def __call__(self, what: str, done: int, total: int, worked: int | None = None, /) -> None: ...


def phantom_root(data: Data, report: Report) -> Path:
    """The phantom data set of these settings, written if it is not there."""
    phantom, source = data.phantom, source_of(data.source)
    if source.write_phantoms is None:
        raise UserError(f"data.source {data.source!r} has no phantoms; set data.root to the folder of your data")
    root = _folder(data, source.name)
    source.write_phantoms(
        root,
        cases=phantom.cases,
        seed=phantom.seed,
        shape=phantom.shape,
        spacing_mm=phantom.spacing_mm,
        **({"looks": phantom.looks} if phantom.looks != PLAIN else {}),
        on_case=lambda done, total: report("writing phantoms", done, total),
    )
    return root


def pair_phantom_root(data: Data, report: Report) -> Path:
    """The phantom pairs of these settings, written if they are not there; `phantom.shape` is (columns, rows, 1)."""
    phantom = data.phantom
    columns, rows, slices = phantom.shape
    if slices != 1:
        raise UserError(
            f"data.phantom.shape is {phantom.shape}; pairs are single slices: give (columns, rows, 1) for a phantom"
        )
    partner = pairs2d.partner_of(data.modalities)
    root = _folder(data, "pairs2d", partner)
    write_pair_phantoms(
        root,
        pairs=phantom.cases,
        seed=phantom.seed,
        partners=(partner,),
        shape=(rows, columns),
        spacing_mm=phantom.spacing_mm,
        on_pair=lambda done, total: report("writing phantoms", done, total),
    )
    return root


def _folder(data: Data, kind: str, *further: Any) -> Path:
    """A folder of the cache for these phantoms, named by what decides them."""
    phantom = data.phantom
    departing = [phantom.looks.told] if phantom.looks != PLAIN else []
    settings = json.dumps([phantom.cases, phantom.seed, phantom.shape, phantom.spacing_mm, *further, *departing])
    return data.cache_dir / "phantoms" / f"{kind}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}"
