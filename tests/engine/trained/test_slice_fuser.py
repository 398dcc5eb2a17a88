"""Pictures of any size are fused as the network would alone, all combinations by one compiled program."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import jax.numpy as jnp
import numpy as np
import pytest

from configs import fuse4seg
from jaxfuse.config import parse
from jaxfuse.engine.trained.slice_fuser import slice_fuser
from jaxfuse.learning.state import State
from jaxfuse.learning.system import Geometry, Segmentation
from tests.refusals import refused
from tests.untrained_run import HeldPhase, fixed_system, held, state_of

MODALITIES = ("t1", "t2", "flair")
FLAT = Geometry(2, 4)


@dataclass(frozen=True)
class Averager(Segmentation):
    """Fuses by the mean over the sources that are present, times a weight; notes the shapes that it is traced for."""

    lacks: tuple[str, ...] = ("attention",)
    traced: list[tuple[int, ...]] = field(default_factory=list)

    @property
    def fusing_divisor(self) -> int:
        return self.geometry.divisor // 2

    trained_combos = (("t1", "t2"),)

    def fuse(self, state: State, inputs: Mapping) -> dict:
        image, presence = inputs["image"], inputs["presence"]
        self.traced.append(image.shape)
        weights = presence[:, None, None, :]
        mean = (image * weights).sum(-1, keepdims=True) / weights.sum(-1, keepdims=True)
        made = {"fused": state.params["net"] * mean, "attention": image * weights}
        return {name: values for name, values in made.items() if name not in self.lacks}


def averager(*lacks: str, geometry: Geometry = FLAT) -> Averager:
    return fixed_system(geometry, "S", kind=Averager, lacks=lacks)


def fuses(system: Averager, normalize: str = "percentiles") -> HeldPhase:
    experiment = parse(fuse4seg.get_config("tiny"))
    phase = replace(experiment.phases["cooperative"], patch=(8, 8))
    data = replace(experiment.data, modalities=MODALITIES, normalize=normalize)
    return held("run:phase", system, phase, data, state_of({"net": jnp.float32(0.5)}))


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(0, 1, (5, 6, 9, 3)).astype(np.float32)


def test_pictures_of_any_number_and_size_are_fused_in_any_combination(images):
    system = averager("attention")
    fuse = slice_fuser(fuses(system), batch=2)
    np.testing.assert_allclose(fuse(images, np.array([1, 0, 1]))["fused"][..., 0], images[..., [0, 2]].mean(-1) / 2)
    each = np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 1], [1, 1, 0]])
    made = fuse(images, each)["fused"]
    assert (made.shape, made.dtype) == ((5, 6, 9, 1), np.float32)
    for picture, mask, fused in zip(images, each, made, strict=True):
        np.testing.assert_allclose(fused[..., 0], picture[..., mask > 0].mean(-1) / 2, rtol=1e-6)
    # Once to see its outputs, once to be compiled: pictures are filled up for the fusion alone.
    assert system.traced == [(1, 8, 8, 3), (2, 6, 10, 3)]
    assert set(fuse(images, np.ones(3))) == {"fused"}
    made = slice_fuser(fuses(averager()), outputs=("fused", "attention"))(images, np.array([0, 1, 1]))
    np.testing.assert_array_equal(made["attention"], images * np.array([0, 1, 1], np.float32))


def test_runs_that_cannot_fuse_and_pictures_that_cannot_be_fused_are_refused(images):
    for phase, outputs, told in (
        (fuses(averager("fused")), ("fused",), "run:phase has no decoder"),
        (fuses(averager("attention")), ("fused", "attention"), "run:phase gives no attention"),
        (fuses(averager(), normalize="brain"), ("fused",), "normalized by 'brain'"),
        (fuses(averager(geometry=Geometry(3, 4))), ("fused",), "makes no fused images of slices"),
        (fuses(averager(geometry=Geometry(2, 4, margin=2))), ("fused",), "makes no fused images of slices"),
    ):
        refused(told, slice_fuser, phase, outputs=outputs)
    fuse = slice_fuser(fuses(averager("attention")))
    count = "modalities t1, t2, flair: at least one picture of 3 channels"
    for pictures, mask, told in (
        (images + (images == images.max()) * (2 - images), [1, 1, 1], "run from 0.* to 2"),
        (images * np.float32(np.nan), [1, 1, 1], "run from nan"),
        (images, [0, 1, 0], "fewer than two modalities"),
        (images[..., :2], [1, 1], count),
        (images, [1, 1], count),
        (images[:0], [1, 1, 1], count),
    ):
        refused(told, fuse, pictures, np.array(mask))
