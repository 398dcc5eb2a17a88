"""Attention between channels, head by head and by one matrix of all: equal, in every order of differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.nn.restormer import attended, channel_attention
from tests.tiny_systems import KEY

QKV, U, PROJECTION = (
    jax.random.normal(key, shape)
    for key, shape in zip(jax.random.split(KEY, 3), [(2, 7, 12), (2, 7, 12), (4, 5)], strict=True)
)
TEMPERATURE = jnp.array([0.5, 3.0])


def _by_head(qkv, temperature, projection):
    return channel_attention(*jnp.split(qkv, 3, axis=-1), temperature)[0] @ projection


def _total(form):
    return lambda *given: jnp.sum(jnp.sin(form(*given)))


DERIVATIVES = {
    "value": lambda form: form(QKV, TEMPERATURE, PROJECTION),
    "grad": lambda form: jax.grad(_total(form), (0, 1, 2))(QKV, TEMPERATURE, PROJECTION),
    "forward over reverse": lambda form: jax.jvp(
        jax.grad(lambda x: _total(form)(x, TEMPERATURE, PROJECTION)), (QKV,), (U,)
    )[1],
    "vmap": lambda form: jax.vmap(form, (0, None, None))(QKV, TEMPERATURE, PROJECTION),
    "no signal": lambda form: jax.grad(_total(form))(QKV.at[..., :4].set(0.0), TEMPERATURE, PROJECTION),
}


@pytest.mark.parametrize("derive", DERIVATIVES.values(), ids=DERIVATIVES.keys())
def test_one_matrix_of_all_heads_gives_what_the_heads_give(derive):
    whole, by_head = (jax.jit(lambda f=form: derive(f))() for form in (attended, _by_head))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5), whole, by_head)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(whole))


def test_in_bfloat16_the_maps_are_float32():
    half = [x.astype(jnp.bfloat16) for x in (QKV, PROJECTION)]
    out = attended(half[0], TEMPERATURE, half[1])
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), _by_head(QKV, TEMPERATURE, PROJECTION), atol=0.05)
    program = str(jax.make_jaxpr(attended)(half[0], TEMPERATURE, half[1]))
    assert not [line for line in program.splitlines() if "bf16" in line.partition("=")[0] and " exp " in line]
