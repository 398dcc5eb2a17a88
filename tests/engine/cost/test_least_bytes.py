"""The least bytes of programs small enough to count by hand, and the memory between their arguments and results."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from jaxfuse.engine.cost.least_bytes import least_bytes, temporary_bytes
from jaxfuse.nn.conv import conv, instance_norm
from jaxfuse.nn.grouped_conv import grouped_conv

# A map of 1,024 voxels and 32 channels; weights and statistics are small beside it.
MAP, WEIGHTS = jax.ShapeDtypeStruct((1, 32, 32, 32), jnp.float32), jax.ShapeDtypeStruct((32, 32), jnp.float32)
BYTES = 4 * 32**3


def _maps(function, *shapes):
    """Least bytes in maps."""
    return least_bytes(jax.make_jaxpr(function)(*shapes)) / BYTES


def _squared(function, x, weights):
    return jnp.square(function(x, weights)).sum()


def _layer(x, w, v):
    z = jax.nn.leaky_relu(instance_norm(x @ w))
    return jnp.square(z @ v).sum()


@pytest.mark.parametrize("again", [False, True])
def test_a_normalization_moves_eight_maps_in_training_and_rematerialization_none(again):
    function = jax.checkpoint(_layer) if again else _layer
    found = _maps(jax.grad(function, (1, 2)), MAP, WEIGHTS, WEIGHTS)
    # Of products: x w, and its two gradients, x and dy -> dw; z v, dz and dv. Of the loss and its gradient: two maps.
    products, loss, norm = (2 + 2) + (2 + 2 + 2), 2, 8
    assert found == pytest.approx(products + loss + norm, rel=0.02)


def test_casts_and_chains_fuse_and_a_product_reads_and_writes():
    chain = lambda x: jnp.tanh(jnp.sin(x) + 1).astype(jnp.bfloat16)
    assert _maps(chain, MAP) == pytest.approx(1.5, rel=1e-3)
    found = _maps(lambda x, w: jnp.tanh(x @ w), MAP, WEIGHTS)
    assert found == pytest.approx(4, rel=0.04)
    assert found > 4


def test_convolutions_and_their_gradients_read_and_write_maps():
    kernel, channelwise = (jax.ShapeDtypeStruct((3, 3, group, 32), jnp.float32) for group in (32, 1))
    dense = partial(conv, strides=1, padding=1)
    for function, weights in ((dense, kernel), (partial(grouped_conv, padding=1), channelwise)):
        assert _maps(function, MAP, weights) == pytest.approx(2, rel=0.15)
        found = _maps(jax.grad(partial(_squared, function), (0, 1)), MAP, weights)
        # x and y; y for loss and gradient, which is written; it and the gradient of x; it and x for that of the kernel.
        assert found == pytest.approx(2 + 1 + 1 + 2 + 2, rel=0.15)


def test_a_part_is_read_as_a_part():
    assert _maps(lambda x: x[:, :8] * x[:, 8:16], MAP) == 0.75
    assert _maps(lambda x: jnp.concatenate([x[:, :16], x[:, 16:]], 1), MAP) == 2


def test_of_forms_by_platform_that_for_cuda_counts():
    def forms(x, w):
        product, sine = (lambda x: x @ w @ w), jnp.sin
        return jax.lax.platform_dependent(x, cpu=product, cuda=sine, default=product)

    assert _maps(forms, MAP, WEIGHTS) == 2


def test_a_loop_counts_as_often_as_it_runs_and_changes_its_array_in_place():
    def store(pool, x):
        body = lambda pool, i: (jax.lax.dynamic_update_index_in_dim(pool, jnp.sin(x), i, 0), None)
        return jax.lax.scan(body, pool, jnp.arange(3))[0]

    pool = jax.ShapeDtypeStruct((50, *MAP.shape), jnp.float32)
    # Each turn reads x and writes its sine, which is read and written into the pool.
    assert _maps(store, pool, MAP) == pytest.approx(3 * 4, rel=1e-3)


def test_a_sum_that_many_layers_read_is_written():
    def stream(x, w):
        total, joined = 0.0, x
        for _ in range(30):
            x = jnp.tanh(x @ w)
            joined = joined + x
            total = total + joined.max()
        return total

    # A layer: its product reads and writes, its activation too; the sum before is read, and this one written.
    assert _maps(stream, MAP, WEIGHTS) == pytest.approx(30 * (2 + 2 + 2), rel=0.1)


def test_memory_is_that_of_the_worst_moment():
    def chain(x, w):
        for _ in range(5):
            x = x @ w
        return x @ w

    assert temporary_bytes(jax.make_jaxpr(chain)(MAP, WEIGHTS)) == 2 * BYTES
    # For its gradient each product but the last is kept.
    loss = lambda w, x: jnp.square(chain(x, w)).sum()
    kept = temporary_bytes(jax.make_jaxpr(jax.grad(loss))(WEIGHTS, MAP)) / BYTES
    assert 6 <= kept <= 8
