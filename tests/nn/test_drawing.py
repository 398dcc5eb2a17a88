import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.nn import drawing
from jaxfuse.nn.conv import Conv
from jaxfuse.nn.drawing import carried_out, drawn_normal
from jaxfuse.nn.initializers import fan_in_uniform, glorot_uniform, he_normal, lecun_normal, near_one, normal

IMAGE = jax.ShapeDtypeStruct((1, 4, 4, 40), jnp.float32)


class Every(nn.Module):
    """Parameters drawn by every initializer, of more values than a block and of fewer."""

    @nn.compact
    def __call__(self, x):
        for number, init in enumerate((normal(0.3), he_normal(), lecun_normal(), fan_in_uniform(), glorot_uniform())):
            x = Conv(40, 3, kernel_init=init, name=f"conv_{number}")(x)
        scale = self.param("scale", near_one, (40,), jnp.float32)
        turned = self.param("turned", nn.initializers.orthogonal(), (40, 40), jnp.float32)
        return (nn.LayerNorm()(x) * scale) @ turned


def drawn(key):
    params = nn.remat(Every)().lazy_init(key, IMAGE)["params"]
    return {
        "params": params,
        "momentum": jax.tree.map(jnp.zeros_like, params),
        "rng": key,
        "twice": params["scale"] * 2,
    }


def test_values_are_those_that_are_drawn_one_by_one():
    key = jax.random.key(3, impl="rbg")
    here, there = carried_out(drawn)(key), jax.jit(drawn)(key)
    assert jax.tree.structure(here) == jax.tree.structure(there)
    assert here.pop("rng") == there.pop("rng") == key
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=3e-7, atol=1e-7, strict=True), here, there)
    assert float(jnp.abs(here["params"]["turned"]).max()) > 0.1  # not left out


def test_the_counter_of_a_key_is_carried_over_to_its_second_word():
    words = jnp.array([5, 6, 2**32 - 1030, 7], jnp.uint32)
    key = jax.random.wrap_key_data(words, impl="rbg")
    values = carried_out(lambda key: drawn_normal(key, 2.0, 1.0, (9001,)))(key)
    np.testing.assert_allclose(values, drawn_normal(key, 2.0, 1.0, (9001,)), rtol=3e-7, atol=1e-7)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_keys_of_other_generators_and_other_dtypes_are_served_too(dtype):
    key, init = jax.random.key(3), normal(1.0)
    values = carried_out(lambda key: init(key, (7, 5), dtype))(key)
    assert values.dtype == dtype
    np.testing.assert_array_equal(values, init(key, (7, 5), dtype))


def test_one_program_draws_for_all_networks():
    for features in (3, 5):
        carried_out(lambda key, n=features: Conv(n, 3).lazy_init(key, IMAGE))(jax.random.key(0, impl="rbg"))
    assert drawing._made._cache_size() == 1
