"""Figures inside a page: PNG files as data URIs, curves drawn for light and for dark pages."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxfuse.report.curves import curves
from jaxfuse.report.learning_curve import learning_curves


def data_uri(path: Path) -> str:
    """The content of a PNG file as an address that needs no file."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def curve_images(workdir: Path, metrics: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """All curves of a run by step, as figures/curves.png too; empty where it has no metric rows yet."""

    def draw(path: Path, dark: bool) -> bool:
        if metrics:
            curves(metrics, path, dark=dark)
        return bool(metrics)

    return light_and_dark(workdir / "figures" / "curves.png", draw)


def learning_images(workdir: Path, related: Sequence[Path]) -> dict[str, str]:
    """The scores of this run and of related ones by step, as figures/learning_curve.png too; else empty."""

    def draw(path: Path, dark: bool) -> bool:
        return learning_curves(workdir, related, path, dark=dark)

    return light_and_dark(workdir / "figures" / "learning_curve.png", draw)


def light_and_dark(path: Path, draw: Callable[[Path, bool], bool]) -> dict[str, str]:
    """A figure in its light and its dark form; empty where `draw` (path, dark or not) says that nothing was drawn."""
    forms = {"light": (path, False), "dark": (path.with_stem(f"{path.stem}_dark"), True)}
    return {name: data_uri(place) for name, (place, dark) in forms.items() if draw(place, dark)}
