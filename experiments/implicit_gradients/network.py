"""The inner problem for questions of cost: a tanh network with a log weight decay as outer variable, float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def network(samples: int = 1000) -> tuple[Callable, Callable, Any, Any]:
    """upper, lower, x, y of a network 23-32-10 with hidden biases, 1,088 weights, on made data.

    Upper: cross-entropy of held-out samples; lower: that of the training samples and weight decay exp(x).
    """
    rng = np.random.default_rng(7)

    def data(count: int) -> tuple[Any, Any]:
        return jnp.asarray(rng.normal(size=(count, 23)), jnp.float32), jnp.asarray(rng.integers(0, 10, count))

    train, held = data(samples), data(samples // 2)
    y = {
        "hidden": jnp.asarray(rng.normal(size=(23, 32)) * 0.2, jnp.float32),
        "hidden_bias": jnp.zeros(32, jnp.float32),
        "out": jnp.asarray(rng.normal(size=(32, 10)) * 0.2, jnp.float32),
    }

    def entropy(y: Any, batch: tuple[Any, Any]) -> Any:
        images, labels = batch
        logits = jnp.tanh(images @ y["hidden"] + y["hidden_bias"]) @ y["out"]
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1))

    def lower(x: Any, y: Any) -> Any:
        return entropy(y, train) + 0.5 * jnp.exp(x) * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(y))

    return lambda x, y: entropy(y, held), lower, jnp.float32(-1.0), y


def descend(lower: Callable, x: Any, y: Any, steps: int, rate: float) -> Any:
    """y after gradient steps on lower(x, .), as one scan."""

    def step(y: Any, _: None) -> tuple[Any, None]:
        slope = jax.grad(lower, 1)(x, y)
        return jax.tree.map(lambda leaf, part: leaf - rate * part, y, slope), None

    return jax.lax.scan(step, y, None, length=steps)[0]
