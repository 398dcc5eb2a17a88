"""Each network is opened by one call, and makes of an image what its docstring says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse import networks
from jaxfuse.arrays import Shown
from jaxfuse.errors import UserError
from jaxfuse.models.cmft import UNetForm

KEY = jax.random.key(0)
UNET = UNetForm(base=2, levels=2)


def seen(*shape):
    return jnp.asarray(np.random.default_rng(0).uniform(0, 1, shape), jnp.float32)


def shown(*shape):
    return Shown(seen(*shape), jnp.array([[True, False]]))


VOLUME = (1, 8, 8, 8)
FORMER = {"base": 2, "levels": 2, "width": 4, "hidden": 4, "heads": 2, "grid": (4, 4, 4)}
SEGMENTATION = {"stem": 8, "widths": (8, 8, 8), "units": (1, 1, 1), "vit_width": 8, "vit_depth": 1, "vit_heads": 2}
SEGMENTATION |= {"vit_hidden": 8, "decoder_widths": (8, 8, 8, 8), "train_side": 32}
# Network, its inputs, keywords of both functions, and what comes out.
NETWORKS = {
    "cmff": (networks.cmff(4, unet=UNET, fusion_width=2), (seen(*VOLUME, 2), seen(*VOLUME, 2)), {}, (*VOLUME, 4)),
    "cmft": (networks.cmft(2, base=2, levels=2), (seen(1, 8, 8, 3),), {}, (1, 8, 8, 2)),
    "infinet": (networks.infinet(("t1", "t2"), 4, width=2, blocks=2), (seen(1, 8, 8, 2),), {}, (1, 8, 8, 4)),
    "hyperfusion": (
        networks.hyperfusion(2, 4, width=3, head=(4,), ndim=2),
        (seen(1, 21, 23, 2),),
        {"train": False},
        (1, 3, 5, 4),
    ),
    "hyperdense": (
        networks.hyperdense(2, 4, width=3, head=(4,), ndim=2),
        (seen(1, 21, 23, 2),),
        {"train": False},
        (1, 3, 5, 4),
    ),
    "hinet": (networks.hinet(("t1", "t2"), width=2), (seen(1, 16, 8, 2),), {}, (1, 16, 8, 3)),
    "fuse4seg": (
        networks.fuse4seg(dim=4, front=1, decoder_blocks=1, heads=2, high_nodes=1),
        (seen(1, 16, 16, 2),),
        {},
        (1, 16, 16, 1),
    ),
    "fuse4seg_segmentation": (
        networks.fuse4seg_segmentation(4, **SEGMENTATION),
        (seen(1, 32, 32, 1),),
        {},
        (1, 32, 32, 4),
    ),
    "mmformer": (networks.mmformer(4, **FORMER), (shown(*VOLUME, 2),), {"train": False}, (*VOLUME, 4)),
    "uhved": (networks.uhved(4, base=2, levels=2), (shown(*VOLUME, 2),), {"train": False}, (*VOLUME, 4)),
    "pix2pix": (networks.pix2pix(width=2, downs=2), (seen(1, 8, 8, 1),), {}, (1, 8, 8, 1)),
}
# Those that every call of the tests opens.
PAPERS = ("cmff", "infinet", "hyperfusion", "hinet", "fuse4seg")
MAIN = {"cmff": "S_F", "fuse4seg": "fused"}


def result(name, made):
    return made[MAIN[name]] if name in MAIN else made


@pytest.mark.parametrize(
    "name", [name if name in PAPERS else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]
)
def test_a_network_opens_with_the_shapes_that_it_tells(name):
    net, inputs, how, shape = NETWORKS[name]
    variables = jax.eval_shape(lambda key, *given: net.init(key, *given, **how), KEY, *inputs)
    made = result(name, jax.eval_shape(lambda own, *given: net.apply(own, *given, **how), variables, *inputs))
    assert (made.shape, made.dtype) == (shape, jnp.float32)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_makes_numbers(name):
    net, inputs, how, shape = NETWORKS[name]
    variables = jax.jit(lambda key, *given: net.init(key, *given, **how))(KEY, *inputs)
    made = np.asarray(result(name, jax.jit(lambda own, *given: net.apply(own, *given, **how))(variables, *inputs)))
    assert made.shape == shape
    assert np.isfinite(made).all()
    assert made.std() > 0


def test_the_smallest_network_makes_numbers():
    net, inputs, _, shape = NETWORKS["cmft"]
    made = np.asarray(net.apply(net.init(KEY, *inputs), *inputs))
    assert made.shape == shape
    assert made.std() > 0


def test_a_form_that_there_is_not_is_refused():
    with pytest.raises(TypeError, match="depth"):
        networks.infinet(("t1",), 4, depth=3)
    with pytest.raises(UserError, match="kind is 'x'"):
        networks.hinet(("t1", "t2"), kind="x")
