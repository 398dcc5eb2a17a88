"""Pictures of any size are fused as the network would alone, all combinations by one compiled program."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import jax.numpy as jnp
import numpy as np
import pytest

from configs import fuse4seg
from jaxfuse.config import parse
from jaxfuse.engine.trained.slice_fuser import slice_fuser
from jaxfuse.errors import UserError
from jaxfuse.learning.state import State
from jaxfuse.learning.system import Geometry, Segmentation
from tests.untrained_run import HeldPhase, fixed_system, held, state_of

MODALITIES = ("t1", "t2", "flair")
FLAT = Geometry(2, 4)


@dataclass(frozen=True)
class Averager(Segmentation):
    """Fuses by the mean over the sources that are present, times a weight; notes the shapes that it is traced for."""

    lacks: tuple[str, ...] = ("attention",)
    traced: list[tuple[int, ...]] = field(default_factory=list)

    def predict(self, state: State, inputs: Mapping) -> dict:
        image, presence = inputs["image"], inputs["presence"]
        self.traced.append(image.shape)
        weights = presence[:, None, None, :]
        mean = (image * weights).sum(-1, keepdims=True) / weights.sum(-1, keepdims=True)
        made = {"fused": state.params["net"] * mean, "attention": image * weights, "S": image}
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
    assert made.shape == (5, 6, 9, 1)
    assert made.dtype == np.float32
    for picture, mask, fused in zip(images, each, made, strict=True):
        np.testing.assert_allclose(fused[..., 0], picture[..., mask > 0].mean(-1) / 2, rtol=1e-6)
    # Once to see its outputs, once to be compiled: pictures are filled up to multiples of the divisor.
    assert system.traced == [(1, 8, 8, 3), (2, 8, 12, 3)]


def test_only_what_is_asked_for_is_returned(images):
    assert set(slice_fuser(fuses(averager()))(images, np.ones(3))) == {"fused"}
    made = slice_fuser(fuses(averager()), outputs=("fused", "attention"))(images, np.array([0, 1, 1]))
    np.testing.assert_array_equal(made["attention"], images * np.array([0, 1, 1], np.float32))


def test_runs_that_cannot_fuse_are_refused():
    with pytest.raises(UserError, match="run:phase makes S, attention, no fused image"):
        slice_fuser(fuses(averager("fused")))
    with pytest.raises(UserError, match="run:phase gives no attention"):
        slice_fuser(fuses(averager("attention")), outputs=("fused", "attention"))
    with pytest.raises(UserError, match="normalized by 'brain'"):
        slice_fuser(fuses(averager(), normalize="brain"))
    for geometry in (Geometry(3, 4), Geometry(2, 4, margin=2)):
        with pytest.raises(UserError, match="makes no fused images of slices"):
            slice_fuser(fuses(averager(geometry=geometry)))


def test_pictures_that_cannot_be_fused_are_refused(images):
    fuse = slice_fuser(fuses(averager("attention")))
    with pytest.raises(UserError, match="run from 0.* to 2"):
        fuse(images + (images == images.max()) * (2 - images), np.ones(3))
    with pytest.raises(UserError, match="run from nan"):
        fuse(images * np.float32(np.nan), np.ones(3))
    with pytest.raises(UserError, match="fewer than two modalities"):
        fuse(images, np.array([0, 1, 0]))
    for pictures, mask in ((images[..., :2], np.ones(2)), (images, np.ones(2)), (images[:0], np.ones(3))):
        with pytest.raises(UserError, match="modalities t1, t2, flair: at least one picture of 3 channels"):
            fuse(pictures, mask)
