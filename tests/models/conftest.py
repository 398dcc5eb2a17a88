"""Options of networks with a few hundred weights, and one batch."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.losses.overlap import dice_and_cross_entropy
from jaxfuse.models import cmff, cmft
from jaxfuse.nn.initializers import he_normal
from tests.tiny_systems import gradient_descent, made

MODALITIES = ("t1", "t1ce", "t2", "flair")
SIDE = 8  # two levels halve it once, two critic layers leave 8 // 4 - 1 = 1 score


def _shapes(*sides, batch=1, modalities=4):
    return {
        "image": jax.ShapeDtypeStruct((batch, *sides, modalities), np.float32),
        "label": jax.ShapeDtypeStruct((batch, *sides), np.int32),
    }


@pytest.fixture(scope="session")
def tiny():
    """Options of the smallest networks, and helpers, as attributes."""
    rng = np.random.default_rng(0)
    form = {"base": 2, "levels": 2, "kernel_init": he_normal()}
    data = {"modalities": MODALITIES, "pairs": ("t1+t1ce", "t2+flair")}
    return SimpleNamespace(
        translation={**data, **form, "critic_base": 2, "critic_layers": 2, "pool_size": 2},
        reconstruction={**data, **form},
        branch={**data, **form, "classes": 4, "loss": dice_and_cross_entropy},
        fusion={**data, **form, "classes": 4, "loss": dice_and_cross_entropy, "fusion_width": 2},
        batch={
            "image": jnp.asarray(rng.normal(size=(1, SIDE, SIDE, SIDE, 4)), jnp.float32),
            "label": jnp.asarray(rng.integers(0, 4, (1, SIDE, SIDE, SIDE)), jnp.int32),
        },
        key=jax.random.key(0),
        shapes=_shapes,
    )


@pytest.fixture(scope="session")
def fusion(tiny):
    """The system, its first state and its first step."""
    system = made(cmff.make_system, optimizers=gradient_descent("net"), **tiny.fusion)
    state = jax.jit(system.init)(tiny.key, tiny.batch)
    return system, state, *jax.jit(system.train_step)(state, tiny.batch)


@pytest.fixture(scope="session")
def translation(tiny, fusion):
    """CMFT from the trunks of `fusion`: its first state and its first step."""
    system = made(cmft.make_system, optimizers=gradient_descent("generators", "discriminators"), **tiny.translation)
    state = jax.jit(system.init)(tiny.key, tiny.batch)
    net = fusion[1].params["net"]
    tied = dict(state.params["generators"])
    for generator, branch in (("ab", "branch_a"), ("ba", "branch_b")):
        tied[generator] = {**tied[generator], "trunk": net[branch]["trunk"]}
    state = state.replace(params={**state.params, "generators": tied})
    return state, *jax.jit(system.train_step)(state, tiny.batch)
