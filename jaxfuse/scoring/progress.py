"""A bar over the cases that are scored, on a terminal and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.progress import Progress


def tracked(cases: Sequence[str]) -> Iterator[str]:
    """The cases one after the other, counted on the error stream."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        counted: Iterable[str] = progress.track(cases, description="Scoring cases")
        yield from counted
