"""Phases around networks of valid convolutions, and prepared cases in memory and on disk, for tests of the engine."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from configs import cmff
from jaxfuse.augment.settings import Augment
from jaxfuse.config import parse
from jaxfuse.data.facts import CaseFacts
from jaxfuse.data.prepared import CachedCase, Prepared, PreparedCase
from jaxfuse.data.sampling import sampling_rule
from jaxfuse.engine.build import build_system, example_batch
from jaxfuse.engine.run_folder.checkpoints import Checkpoints
from jaxfuse.learning.state import State
from tests.tiny_systems import valid_system

MODALITIES, CLASSES = ("t1", "t2"), ("background", "tissue")
(TINY, *_) = parse(cmff.get_config("tiny")).phases.values()


def case(number: int) -> PreparedCase:
    empty = {"affine": (), "voxels_per_class": (), "mean": (), "std": ()}
    place = {"spacing_mm": (1.0, 1.0), "original_shape": (4, 4), "crop_start": (0, 0), "shape": (4, 4)}
    return CachedCase(Path("nowhere"), "", CaseFacts(id=str(number), group="", modalities=("t1",), **empty, **place))


def valid_phase(layers=2, *, patch=(9, 9, 9), memory_mb=0, **changes):
    """A phase that builds a network of margin `layers`."""
    system = valid_system(layers, ndim=len(patch), channels=(0, 1))
    options = {"overlap": 0.0, "tile_batch": 3, "memory_mb": memory_mb, **changes.pop("validation", {})}
    plain = {"batch": 2, "unpaired": False, "augment": Augment(), "pad": False, "labeled": True}
    plain |= {"sampling": sampling_rule("brain"), "validation": replace(TINY.validation, **options), **changes}
    return replace(TINY, build=lambda modalities, classes, total, voxels=(): system, patch=patch, **plain)


def drawn(phase):
    """The System of a phase, and weights of it."""
    system = build_system(phase, MODALITIES, CLASSES, 4)
    batch = example_batch(phase, MODALITIES, margin=system.geometry.margin)
    return system, system.init(jax.random.key(3), jax.tree.map(jnp.asarray, batch)).replace(opt_state={}, memory={})


def volume(shape=(20, 3, 11), seed=0):
    """A prepared volume in memory, one side of it shorter than any window."""
    image = np.random.default_rng(seed).normal(size=(*shape, 2)).astype(np.float32)
    facts = replace(case(0).facts, modalities=MODALITIES, original_shape=shape, crop_start=(0,) * 3, shape=shape)
    brain = np.arange(image[..., 0].size, dtype=np.int32)
    return Prepared(facts, image, None, np.zeros(0, np.int32), brain)


def on_disk(folder, name, label):
    """A prepared case of this label, as it lies in a cache."""
    (folder / name).mkdir()
    facts = replace(volume(label.shape).facts, id=name, voxels_per_class=tuple(np.bincount(label.ravel()).tolist()))
    arrays = {"image": volume(label.shape).image, "label": label}
    arrays |= {"tumor": np.flatnonzero(label), "brain": np.arange(label.size)}
    for kind, array in arrays.items():
        np.save(folder / name / f"{kind}.npy", array)
    return CachedCase(folder / name, name, facts)


class Kept(Checkpoints):
    """Checkpoints that note the best steps, and write nothing."""

    def __init__(self) -> None:
        self.best: list[int] = []
        self.waited = 0

    def save_best(self, step: int, state: State, *, keep: Collection[int] = ()) -> None:
        self.best.append(step)

    def has_best(self, step: int) -> bool:
        return True

    def wait_for_best(self) -> None:
        self.waited += 1
