"""The networks of jaxfuse at the sizes of `sizes`, with the parts of the tables that name their weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from jaxfuse.models.baselines import cyclegan, pix2pix
from jaxfuse.models.fuse4seg.fusion import FusionForm
from jaxfuse.models.fuse4seg.segmentation import Encoder, SegmentationForm
from jaxfuse.models.hinet.critic import Critic
from jaxfuse.models.hinet.form import HiNetForm
from jaxfuse.models.hinet.networks import Hybrid
from jaxfuse.models.hyperfusion.make import HyperForm
from jaxfuse.nn.vision_transformer import VisionTransformer
from jaxfuse.weights import cddfuse, hinet, hyperdense, transformer, translation
from jaxfuse.weights.lines import Ours, Part
from tests.weights import sizes

_HINET = HiNetForm(width=sizes.HINET, critic_width=sizes.HINET)
_PIX2PIX = pix2pix.Pix2PixForm(
    **sizes.PIX2PIX, critic_width=sizes.CRITIC["width"], critic_layers=sizes.CRITIC["layers"]
)
_CYCLEGAN = cyclegan.CycleGanForm(
    **sizes.CYCLEGAN, critic_width=sizes.CRITIC["width"], critic_layers=sizes.CRITIC["layers"]
)
_CDDFUSE = FusionForm(
    dim=sizes.CDDFUSE["dim"],
    heads=sizes.CDDFUSE["heads"],
    front=sizes.CDDFUSE["blocks"],
    decoder_blocks=sizes.CDDFUSE["blocks"],
    high_nodes=sizes.CDDFUSE["nodes"],
    cross_attention="none",
)
# Not in the order of the alphabet, as sources need not be.
SOURCES = ("t2", "flair")


class Tokens(nn.Module):
    """Encoder and transformer of the segmentation network, without adapters."""

    form: SegmentationForm

    @nn.compact
    def __call__(self, image: Any) -> Any:
        side = self.form.train_side // 16
        return VisionTransformer(**sizes.VIT, grid=(side, side), adapter="none", dropout=0.0, name="transformer")(
            Encoder(self.form, name="encoder")(image)[0]
        )


@dataclass(frozen=True)
class Case:
    """A network here, the part that names its weights, and how it is called."""

    part: Part
    module: nn.Module
    options: Mapping[str, Any]
    answer: Callable[[Any], Any] = lambda made: made


def _hyper(streams: int) -> Case:
    form = HyperForm(filters="stepped", width=sizes.FILTERS[0], resfuse=False, head=sizes.HEAD)
    return Case(hyperdense.NET, form.module(streams, sizes.CLASSES), {"train": False})


def cases() -> dict[str, Case]:
    """Returns all cases by their names."""
    segmentation = SegmentationForm(**sizes.TRANSUNET, train_side=sizes.SIDE, adapter="none")
    generator = Hybrid(_HINET, SOURCES)
    return {
        "hinet": Case(hinet.GENERATOR, generator, {}),
        "hinet_apart": Case(hinet.APART, generator, {}),
        "hinet_critic": Case(hinet.CRITIC, Critic(_HINET), {}),
        "hyperdense_2": _hyper(2),
        "hyperdense_3": _hyper(3),
        "cddfuse": Case(cddfuse.FUSION, _CDDFUSE.network(), {}, lambda made: made["fused"]),
        "pix2pix": Case(translation.PIX2PIX[0], pix2pix.Generator(_PIX2PIX), {}),
        "pix2pix_critic": Case(translation.PIX2PIX[1], _PIX2PIX.critic(), {}),
        "cyclegan": Case(translation.CYCLEGAN[0], cyclegan.Generator(_CYCLEGAN), {}),
        "cyclegan_critic": Case(translation.CYCLEGAN[2], _CYCLEGAN.critic(), {}),
        "transunet": Case(transformer.TRANSUNET, Tokens(segmentation), {}),
    }


def ours(case: Case, image: tuple[int, ...]) -> Ours:
    """Returns the sides of all arrays of a network for images of these sides."""
    return Ours(_shapes(case.module, tuple(case.options.items()), image), SOURCES)


@cache
def _shapes(
    module: nn.Module, options: tuple[tuple[str, Any], ...], image: tuple[int, ...]
) -> Mapping[str, tuple[int, ...]]:
    given = jax.ShapeDtypeStruct(image, np.float32)
    made = jax.eval_shape(lambda key: module.lazy_init(key, given, **dict(options)), jax.random.key(0))
    leaves = [leaf for name in made for leaf in jax.tree_util.tree_leaves_with_path(made[name])]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}


def applied(case: Case, arrays: Mapping[str, np.ndarray], image: np.ndarray) -> np.ndarray:
    """Returns what a network makes of an image by these arrays."""
    running = ("mean", "var", "variance")
    statistics = {path: array for path, array in arrays.items() if path.rpartition("/")[2] in running}
    variables = {
        "params": unflatten_dict({path: array for path, array in arrays.items() if path not in statistics}, "/")
    }
    variables |= {"batch_stats": unflatten_dict(statistics, "/")} if statistics else {}
    apply = jax.jit(lambda variables, image: case.module.apply(variables, image, **case.options))
    # Compiled once and run once: what an optimizer saves is less than it takes.
    quickly = apply.lower(variables, image).compile(compiler_options={"xla_backend_optimization_level": 0})
    return np.asarray(case.answer(quickly(variables, image)))
