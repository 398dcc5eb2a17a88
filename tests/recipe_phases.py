"""Every phase of every row of every preset of every recipe in `configs/`, for the tests of contracts."""

import importlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.config import Phase, parse
from jaxfuse.data.settings import declared_facts
from jaxfuse.engine.build import abstract_state, build_system, example_batch
from jaxfuse.learning.state import State
from jaxfuse.learning.system import System

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
RECIPES = {
    path.stem: importlib.import_module(f"configs.{path.stem}")
    for path in sorted(CONFIGS.glob("*.py"))
    if path.stem != "__init__"
}
# What changes neither a network nor a step.
_IRRELEVANT = {"init", "steps", "epochs", "validation", "assess", "sampling", "augment", "pad"}
_IRRELEVANT |= {"checkpoint_every", "checkpoint_minutes"}


@dataclass(frozen=True)
class Built:
    """A phase with its System, a batch of zeros and the shapes of its state."""

    phase: Phase
    system: System
    modalities: tuple[str, ...]
    classes: tuple[str, ...]

    @property
    def batch(self) -> dict[str, Any]:
        return example_batch(self.phase, self.modalities, margin=self.system.geometry.margin)

    @property
    def state(self) -> State:
        return abstract_state(self.system, self.phase, self.modalities)


# Of these recipes the rows whose networks differ most; the others are traced by tests marked slow.
_TELLING = {
    # All but mmFormer, whose trace is long, U-HVED being of the same kind, and rows that differ from others in a rate
    # or in the number of groups.
    "cmff": tuple(
        row
        for row in RECIPES["cmff"].ROWS
        if row not in ("mmformer", "denoising", "slow", "frozen", "three_groups", "four_groups")
    ),
    "hyperfusion": ("full", "baseline", "full_2d"),
    "infinet": ("aggregated", "unet_double"),
    "fusion": ("fuse4seg", "maximum"),
    "hinet": ("full", "pix2pix", "cyclegan", "mmsyns"),
    # Of those that segment alone one that reads one image, and one that reads two channels.
    "fuse4seg": tuple(
        row
        for row in RECIPES["fuse4seg"].ROWS
        if row not in ("t1", "t1ce", "t2", "flair", "maximum", *RECIPES["fuse4seg"].RIVALS)
        and row not in (*RECIPES["fuse4seg"].COLORS, *RECIPES["fuse4seg"].TOGETHER)
    ),
}


@cache
def config_of(recipe: str, text: str) -> Any:
    """The config of a call, to be read only."""
    return RECIPES[recipe].get_config(text)


def is_telling(recipe: str, text: str) -> bool:
    """Whether a call is among those that are traced in every run of the tests."""
    config = config_of(recipe, text)
    return config.row in _TELLING.get(recipe, (config.row,))


def argument(preset: str, row: str, variant: str = "") -> str:
    """The text after a recipe's name."""
    parts = (preset, row and f"row={row}", variant and f"data={variant}")
    return ",".join(filter(None, parts))


def arguments(recipe: str) -> Iterator[str]:
    """One text per preset, row and data variant of a recipe."""
    module = RECIPES[recipe]
    for preset in module.PRESETS:
        for row in module.ROWS:
            for variant in ("", *module.VARIANTS):
                yield argument(preset, row, variant)


@cache
def phases(recipe: str, text: str) -> dict[str, Built]:
    """The phases of one call, in order."""
    experiment = parse(RECIPES[recipe].get_config(text))
    built = {}
    for name, phase in experiment.phases.items():
        facts = declared_facts(experiment.data_of(phase))
        built[name] = Built(phase, build_system(phase, *facts, 4), *facts)
    return built


@cache
def fingerprint(recipe: str, text: str, name: str, *, forward: bool = False) -> str:
    """Equal for phases that build the same System for the same batches, or one with the same forward pass."""
    config = config_of(recipe, text)
    group = {key: value for key, value in config[name].to_dict().items() if key not in _IRRELEVANT}
    if forward and "scheme" in group.get("args", {}):
        group["args"] = {key: value for key, value in group["args"].items() if key != "scheme"}
    # Which modalities form a pair changes no shape.
    pairs = [len(pair.split("+")) for pair in config.pairs]
    return json.dumps([recipe, config.network.to_dict(), pairs, len(config.data.modalities), group], sort_keys=True)


def distinct(texts: list[tuple[str, str]]) -> dict[str, tuple[str, str, str]]:
    """One (recipe, text, phase) for each fingerprint among the phases of these calls, under a readable name."""
    found: dict[str, tuple[str, str, str]] = {}
    for recipe, text in texts:
        for name in config_of(recipe, text).schedule:
            found.setdefault(fingerprint(recipe, text, name), (recipe, text, name))
    return {f"{recipe}:{text}:{name}": (recipe, text, name) for recipe, text, name in found.values()}


def has_implicit_scheme(recipe: str, text: str, name: str) -> bool:
    """Whether a phase's step differentiates through an inner problem: its trace takes many seconds."""
    scheme = config_of(recipe, text)[name].to_dict().get("args", {}).get("scheme", {})
    return scheme.get("bilevel", "joint") not in ("joint", "detached")


_traced: dict[str, tuple[Any, Any]] = {}


def traced(recipe: str, text: str, name: str) -> tuple[State, dict[str, Any]]:
    """Shapes of a phase's state and of its evaluation: every network and loss, forward. Equal phases: traced once.

    Phases that differ in their bi-level scheme alone count as equal: it is no part of the forward pass.
    """
    key = fingerprint(recipe, text, name, forward=True)
    if key not in _traced:
        built = phases(recipe, text)[name]
        state = built.state
        _traced[key] = state, jax.eval_shape(built.system.eval_step, state, built.batch)
    return _traced[key]


def concrete_state(shapes: State) -> State:
    """Zeros in place of shapes."""

    def fill(leaf: Any) -> Any:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        return jnp.zeros(leaf.shape, leaf.dtype)

    return jax.tree.map(fill, shapes)


def random_batch(built: Built, seed: int) -> dict[str, Any]:
    """Noise for images and any class for labels, in the shapes of the phase's batches."""
    rng = np.random.default_rng(seed)

    def fill(leaf: np.ndarray) -> np.ndarray:
        if leaf.dtype.kind == "f":
            return rng.normal(size=leaf.shape).astype(leaf.dtype)
        # Data without labels have no classes.
        return rng.integers(0, max(1, len(built.classes)), leaf.shape).astype(leaf.dtype)

    return jax.tree.map(fill, built.batch)
