"""Runs and phases whose weights were drawn and never trained, for tests of what reads runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs import cmff, hinet
from jaxfuse.config import Phase, parse
from jaxfuse.data.cases import Case
from jaxfuse.data.facts import DatasetFacts
from jaxfuse.data.settings import Data
from jaxfuse.engine.build import abstract_state, build_system
from jaxfuse.engine.run_folder.checkpoints import Checkpoints
from jaxfuse.engine.run_folder.workdir import open_workdir
from jaxfuse.engine.trained.phases import TrainedPhase, preparation_of
from jaxfuse.labels import label_scheme
from jaxfuse.learning.networks import Stateless
from jaxfuse.learning.state import State
from jaxfuse.learning.system import Geometry, Segmentation, System
from jaxfuse.recipes import volume_data
from tests.made_cases import MODALITIES, channels_of, head

RANGES = {"t1": (0.0, 500.0), "t1ce": (0.0, 600.0), "t2": (0.0, 700.0), "flair": (0.0, 800.0)}
# The geometry of cases to be synthesized from, for `made_cases.write_case`.
SCANNED = {"spacing_mm": (1.0, 1.5, 2.0), "origin_mm": (-7.0, 12.5, 3.25), "description": b"as the scanner wrote it"}
TRAIN = {"Brats18_0_1_z010": "k"}


@dataclass(frozen=True)
class Fixed:
    """A network without weights."""

    answer: Callable[[Any], Any]

    def init(self, rng, image):
        return {}

    def __call__(self, params, image):
        return self.answer(image)


def fixed_system(
    geometry: Geometry, name: str, answer: Any = None, *, channels: Any = (0,), kind: Any = Segmentation, **more: Any
) -> Any:
    """A System around a network without weights, which is never trained."""
    network = Stateless(Fixed(answer or (lambda image: image)))
    return kind(network, channels, lambda logits, label: logits.sum(), {}, geometry, name, **more)


def sum_of_picture(image: Any) -> Any:
    """Answers logits 0 and, everywhere in a picture, the sum of all of its pixels."""
    total = image.sum((1, 2, 3), keepdims=True) * jnp.ones_like(image[..., :1])
    return jnp.concatenate([0 * total, total], -1)


def state_of(params: Any = None) -> State:
    """The state of a player without weights, or of these weights."""
    return State(jnp.int32(0), jax.random.key(0), params or {"net": {}}, {"net": {}}, {}, {})


@dataclass(frozen=True)
class HeldPhase(TrainedPhase):
    """A trained phase whose weights lie in memory."""

    state: State

    def weights(self) -> State:
        return self.state


def held(
    name: str,
    system: System,
    phase: Phase,
    data: Data,
    state: State,
    *,
    pairs: tuple[str, ...] = (),
    reads: Sequence[str] = (),
    landmarks: Mapping[str, tuple[float, ...]] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> HeldPhase:
    """A phase that was trained on such data; it reads all of its modalities, or only `reads`."""
    known = ("brats", label_scheme("brats").classes, (), (), (), {}, (), dict(ranges or {}), dict(landmarks or {}))
    facts = DatasetFacts(data.modalities, *known)
    preparation = preparation_of(data, facts, reads or data.modalities)
    folder = Path("run", "checkpoints", phase.name)
    return HeldPhase(name, system, phase, data, facts, preparation, pairs, folder, False, state)


def write_untrained_run(
    folder: Path,
    config: Any,
    phase_name: str,
    *,
    train: dict[str, str],
    seed: int = 0,
    scheme_name: str = "brats",
    ranges: dict[str, tuple[float, float]] | None = None,
) -> Path:
    """A run of `config` with a checkpoint of one phase, running statistics 1; `train`: training case -> its key."""
    run = open_workdir(folder, config)
    experiment = parse(config)
    phase = experiment.phases[phase_name]
    data, scheme = experiment.data_of(phase), label_scheme(scheme_name)
    cases, counts = tuple(train), (4, 3, 2, 1)[: len(scheme.classes)]
    named = (data.modalities, scheme.name, scheme.classes)
    facts = DatasetFacts(*named, (1.0, 1.0), cases, cases, train, counts, ranges or {})
    (run / "dataset.json").write_text(facts.to_json())
    system = build_system(phase, facts.modalities, facts.classes, phase.total_steps(len(train)))
    shapes = abstract_state(system, phase, facts.modalities)
    params, stats = drawn(shapes.params, seed), drawn(shapes.stats, seed)
    checkpoints = Checkpoints(run / "checkpoints" / phase_name)
    checkpoints.save(1, State(jnp.int32(1), jax.random.key(0), params, stats, {}, {}), {})
    checkpoints.close()
    return run


def drawn(shapes: Any, seed: int) -> Any:
    """Normal numbers in the form of `shapes`, drawn without compiling; biases and gains are 1.

    Kernels keep the scale of what they read; a small last one of the decoder keeps fused images from black and white.
    """
    rng = np.random.default_rng(seed)

    def fill(path: Any, leaf: Any) -> Any:
        if leaf.ndim < 2:
            return jnp.ones(leaf.shape, leaf.dtype)
        scale = np.prod(leaf.shape[:-1]) ** -0.5 * (0.1 if "['decoder']['image']" in jax.tree_util.keystr(path) else 1)
        return jnp.asarray(rng.normal(0, scale, leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def case_of(shape: tuple[int, int, int]) -> Case:
    """A head of which T1 and T2 were taken."""
    images = head(shape, 0)
    image = np.stack([images["t1"], images["t2"]], axis=-1).astype(np.float32)
    return Case("a", ("t1", "t2"), channels_of(image), None, np.eye(4), (1.0, 1.0, 1.0))


def synthesis_run(folder: Path, text: str = "tiny", *, seed: int = 0, **data: Any) -> Path:
    """A run of `configs/hinet.py`."""
    config = hinet.get_config(text)
    config.data.cache = str(folder / "cache")
    config.data.update(data)
    return write_untrained_run(folder, config, "synthesis", train=TRAIN, seed=seed, ranges=RANGES)


def labeling_run(
    folder: Path,
    modalities: Sequence[str] = MODALITIES,
    source: str = "slices",
    *,
    scheme_name: str = "brats",
    seed: int = 0,
    **data: Any,
) -> Path:
    """A run of a small 2D network that labels what BraTS labels, or in another scheme."""
    config = cmff.get_config("tiny,row=voc")
    config.schedule = config.result = ("voc",)
    config.network.unet.base = config.network.unet.levels = 2
    config.voc.patch, config.voc.validation.tile_batch = (16, 16), 8
    config.voc.data = volume_data(source=source, modalities=tuple(modalities), cases=1, shape=(8, 8, 8), spacing_mm=1)
    config.voc.data.update({"cache": str(folder / "cache"), **data})
    return write_untrained_run(folder, config, "voc", train=TRAIN, scheme_name=scheme_name, seed=seed)
