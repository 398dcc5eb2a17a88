"""Phases that label as lesion what is brighter than the mean of the brain, their cases, and folders for their runs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from configs import cmff
from jaxfuse.config import parse
from jaxfuse.labels import label_scheme
from jaxfuse.learning.system import Geometry
from tests.engine.valid_phases import TINY
from tests.made_cases import write_case
from tests.untrained_run import HeldPhase, fixed_system, held, state_of

SHAPE = (12, 11, 10)
BRAIN = (slice(1, -1),) * 3
DATA = parse(cmff.get_config("tiny")).data
LESION = (slice(2, 7), slice(2, 7), slice(2, 7))
ISLAND = (slice(9, 11), slice(8, 10), slice(6, 8))  # 8 voxels


def marked(*places: tuple[slice, ...]) -> np.ndarray:
    """Marks boxes in a volume."""
    label = np.zeros(SHAPE, np.uint8)
    for place in places:
        label[place] = 1
    return label


def write_lesion(root: Path, name: str, bright: np.ndarray, truth: np.ndarray | None, **geometry: Any) -> None:
    """Writes a case that is bright there, and its label; each has a brain of its own, of values from 100 to 150."""
    rng = np.random.default_rng(list(name.encode()))
    image = np.zeros(SHAPE, np.int16)
    image[BRAIN] = rng.integers(100, 151, SHAPE)[BRAIN]
    image[bright > 0] = 1000
    write_case(root, name, {"flair": image, "seg": truth}, **geometry)


def _bright(image: Any) -> Any:
    return jnp.concatenate([jnp.zeros_like(image), image], -1)


def _dark(image: Any) -> Any:
    return -_bright(image)


def _timid(image: Any) -> Any:
    lesion = jnp.where(image > 0, 0.3, 0.01)
    return jnp.log(jnp.concatenate([1 - lesion, lesion], -1))


def bright_phase(
    run: Path, root: Path, sides: Mapping[str, Sequence[str]], *, weight: float = 0.0, kind: str = "bright", **data: Any
) -> HeldPhase:
    """A phase of a run in the folder `run`, trained on the cases below `root` by this split.

    `weight`: its one weight, which changes nothing but the digest. `kind`: "dark" labels the rest of the brain; "timid"
    gives a lesion a probability of 0.3, and so labels nothing.
    """
    system = fixed_system(Geometry(3, 1), "S", {"bright": _bright, "dark": _dark, "timid": _timid}[kind])
    phase = replace(TINY, name="S", patch=(8, 8, 8))
    given = replace(DATA, modalities=("flair",), root=str(root), **data)
    made = held(f"{run.name}:S", system, phase, given, state_of({"net": {"weight": jnp.float32(weight)}}))
    sides = {"train": (), "val": (), "test": (), **{side: tuple(ids) for side, ids in sides.items()}}
    facts = replace(made.facts, scheme="lesion", classes=label_scheme("lesion").classes, **sides)
    return replace(made, facts=facts, folder=run / "checkpoints" / "S")
