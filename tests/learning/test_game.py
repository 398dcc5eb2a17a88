import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.learning.game import remembered

AT = {"a": jnp.array([0.5, -2.0]), "b": jnp.array(3.0)}


def test_a_function_that_is_remembered_is_not_computed_again_for_its_derivative():
    calls = []

    def function(x):
        calls.append(1)
        return {"image": jnp.sin(x["a"]) * x["b"], "bands": x["a"] ** 2, "attention": None}

    def loss(made):
        return jnp.sum(made["image"] ** 3) + jnp.sum(made["bands"])

    @jax.jit
    def both(at):
        value, known = remembered(function, at)
        return value, jax.value_and_grad(lambda x: (loss(known(x)), known(x)), has_aux=True)(at)

    value, ((total, made), gradient) = both(AT)
    assert len(calls) == 1
    expected, slope = jax.value_and_grad(lambda x: loss(function(x)))(AT)
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), gradient, slope)
    jax.tree.map(np.testing.assert_array_equal, value, made)
