"""Networks of two modalities that learn by several terms, with a batch that they learn from."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.tiny_systems import KEY, close, drawn, in_float32

# (batch, names of terms) -> the gradient of their sum, and all terms.
Slope = Callable[..., tuple[Any, Any]]


def trained_on(system: Any, terms: Sequence[str]) -> tuple[Slope, dict[str, jax.Array]]:
    """The slope at weights as after training, and a batch of two examples that have all."""
    rng = np.random.default_rng(0)
    batch = {
        "image": jnp.asarray(rng.normal(size=(2, 4, 4, 4, 2)), jnp.float32),
        "label": jnp.asarray(rng.integers(0, 3, (2, 4, 4, 4)), jnp.int32),
        "presence": jnp.ones((2, 2), bool),
    }
    params = drawn(jax.eval_shape(system.init, KEY, batch).params["net"], 0.5)

    @jax.jit
    def slope(batch, weights):
        def loss(params):
            _, found = system.objective(params, batch)
            return sum(weights[name] * found[name] for name in terms), found

        return jax.grad(loss, has_aux=True)(params)

    return lambda batch, *chosen: slope(batch, {name: jnp.float32(name in chosen) for name in terms}), batch


def lacking_the_second(batch: dict[str, jax.Array]) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """The batch without its second modality, and the same with numbers in its place that are none."""
    batch = {**batch, "presence": jnp.asarray([[True, False], [True, False]])}
    return batch, {**batch, "image": batch["image"].at[..., 1].set(jnp.nan)}


def mixed_equals_the_mean(of: Slope, batch: dict[str, jax.Array], terms: Sequence[str]) -> list[Any]:
    """Checks a batch of which each example has one modality, and returns the gradients of batches of one of both."""
    batch = {**batch, "presence": jnp.asarray([[True, False], [False, True]])}
    twice = [jax.tree.map(lambda leaf, n=n: jnp.stack([leaf[n], leaf[n]]), batch) for n in (0, 1)]
    first, second = (of(one, *terms) for one in twice)
    close(of(batch, *terms), jax.tree.map(lambda a, b: (a + b) / 2, first, second))
    return [first[0], second[0]]


def drawing(system: Any, shapes: Any) -> set[str]:
    """The functions of a System that draw random numbers."""
    state = jax.eval_shape(system.init, KEY, shapes)
    names = ("train_step", "eval_step", "predict")
    return {name for name in names if "random_bits" in str(jax.make_jaxpr(getattr(system, name))(state, shapes))}


def convolved_in_bfloat16(system: Any, shapes: Any) -> tuple[int, int]:
    """How many convolutions are in bfloat16, and how many there are, where all else is in float32."""
    convolved = in_float32(system, jax.eval_shape(system.init, KEY, shapes), shapes)
    return len([made for made in convolved if made.startswith("bf16")]), len(convolved)
