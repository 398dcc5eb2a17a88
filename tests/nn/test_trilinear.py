"""Products with a form for each platform: derivatives, mapping, and which form a program holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from jaxfuse.nn.trilinear import Forms, trilinear

A, B = jnp.arange(6.0).reshape(2, 3), jnp.arange(12.0).reshape(3, 4) / 7


def _times(a, b, *, scale):
    return scale * (a @ b)


def _forms(plain):
    """A form for CPUs beside one that gives twice as much, to be told apart."""
    return Forms(plain, lambda a, b, *, scale: 2 * plain(a, b, scale=scale))


PRODUCT = trilinear(
    "scaled_product",
    ("scale",),
    _forms(_times),
    _forms(lambda ct, b, *, scale: scale * (ct @ b.T)),
    _forms(lambda a, ct, *, scale: scale * (a.T @ ct)),
)


def _agree(ours, plain, *args):
    for a, b in zip(jax.tree.leaves(ours(*args)), jax.tree.leaves(plain(*args)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def _product(a, b):
    return PRODUCT(a, b, scale=3)


def _plain(a, b):
    return _times(a, b, scale=3)


def test_every_order_of_differentiation_in_both_directions():
    def derivatives(product):
        loss = lambda a, b: jnp.sum(jnp.sin(product(a, b)))
        gradient = jax.grad(loss, (0, 1))
        forward = lambda a, b: jax.jvp(gradient, (a, b), (jnp.cos(a), b))
        return lambda a, b: (forward(a, b), jax.grad(lambda *x: jnp.sum(forward(*x)[1][0] ** 2), (0, 1))(a, b))

    _agree(jax.jit(derivatives(_product)), derivatives(_plain), A, B)


@pytest.mark.parametrize("axes", [(0, None), (None, 1), (0, 0)])
def test_it_maps_over_either_argument(axes):
    a, b = (x if axis is None else jnp.stack([x, x + 1, x - 2], axis) for x, axis in zip((A, B), axes, strict=True))
    _agree(jax.vmap(_product, axes), jax.vmap(_plain, axes), a, b)
    summed = lambda product: jax.grad(lambda *x: jnp.sum(jax.vmap(product, axes)(*x) ** 2), (0, 1))
    _agree(summed(_product), summed(_plain), a, b)


def test_a_program_for_one_device_holds_its_form_alone_and_an_exported_one_both():
    alone = jax.jit(_product).trace(A, B)
    counts = {platform: alone.lower(lowering_platforms=(platform,)).as_text() for platform in ("cpu", "cuda")}
    assert {platform: text.count("stablehlo.multiply") for platform, text in counts.items()} == {"cpu": 1, "cuda": 2}
    assert not any("stablehlo.case" in text for text in counts.values())
    both = export.export(jax.jit(_product), platforms=("cpu", "cuda"))(A, B)
    assert both.mlir_module().count("stablehlo.multiply") == 3
    np.testing.assert_array_equal(both.call(A, B), _plain(A, B))


def test_a_program_of_one_device_has_a_form_of_its_own():
    thrice = lambda a, b, *, scale: 3 * _times(a, b, scale=scale)
    forms = Forms(_times, _times, alone=thrice)
    product = trilinear("lonely_product", ("scale",), forms, _forms(_times), _forms(_times))
    one = jax.jit(lambda a, b: product(a, b, scale=1))
    np.testing.assert_allclose(one(A, B), 3 * (A @ B), rtol=1e-6)
    np.testing.assert_allclose(export.export(one)(A, B).call(A, B), A @ B, rtol=1e-6)
    halves = NamedSharding(AbstractMesh((2,), ("data",)), PartitionSpec("data"))
    divided = jax.ShapeDtypeStruct(A.shape, A.dtype, sharding=halves)
    texts = [one.trace(a, B).lower(lowering_platforms=("cpu",)).as_text() for a in (A, divided)]
    assert ["3.0" in text for text in texts] == [True, False]
