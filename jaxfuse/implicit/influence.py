"""Influence functions: what each training example does to another loss, as a hypergradient in their weights.

With y(w) the minimum of sum_i w_i loss(y, i) / n + penalty(y), leaving out example i is w_i from 1 to 0. To first order
it changes another loss by -d loss / d w_i = <grad loss, H^-1 grad loss(y, i)> / n (Cook 1977; Koh and Liang 2017).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxfuse.implicit import trees
from jaxfuse.implicit.hypergradient import hypergradient
from jaxfuse.implicit.info import Info


def influence(
    loss: Callable[[Any, Any], Array],
    train: Any,
    test: Any,
    y: Any,
    *,
    penalty: Callable[[Any], Array] | None = None,
    test_loss: Callable[[Any, Any], Array] | None = None,
    chunk: int | None = None,
    at_once: int = 16,
    **options: Any,
) -> tuple[Array, Info]:
    """Predicts by how much each test loss would change if each training example were left out, without retraining.

    Positive: the loss would rise, so the example helps. First order in 1 / n; the effect of a few left out is the sum
    of theirs. The divisor n stays, so that a penalty keeps its weight. One linear solve for each test example, none for
    the training examples. Pure and jittable.

    Args:
        loss: (y, example) -> real scalar, of one example.
        train: the examples that y was fitted to: a pytree of arrays whose first axes count them.
        test: likewise, of the examples to be judged.
        y: the minimum of mean loss + penalty, any pytree.
        penalty: y -> real scalar, such as weight decay; none if None.
        test_loss: (y, test example) -> real scalar; `loss` if None. For a loss over a whole set in one solve, let
            `test` have one example that holds the set.
        chunk: training examples whose intermediate values are held together; all of them if None.
        at_once: test examples solved together; a matrix of `dense` is made once for them.
        options: estimator, curvature, policy and inner_tolerance of `hypergradient`, whose x are the weights of the
            training examples: a curvature's functions are called as f(weights, y), with weights (n,) of 1. Networks
            that are not at a strict minimum want `gauss_newton`, or damping.

    Returns:
        The predicted changes (test, train), and `Info` with a first axis over test examples.

    Raises:
        ValueError: leaves that disagree on the number of examples, chunk or at_once below 1, or the policy "fallback".

    Example:
        The mean of four numbers, judged by its squared distance from 8:

        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> train, test = jnp.array([1.0, 2.0, 6.0, 7.0]), jnp.array([8.0])
        >>> loss = lambda y, example: 0.5 * (y - example) ** 2
        >>> changes, info = implicit.influence(loss, train, test, train.mean())
        >>> print(changes)  # without 1 the mean comes nearer, without 7 it goes away
        [[-3. -2.  2.  3.]]
        >>> bool(info.converged.all())
        True
    """
    if options.get("policy") == "fallback":
        raise ValueError(
            "policy 'fallback' was asked of an influence, which has no direct part to fall back on: use nan"
        )
    for name, value in (("chunk", chunk), ("at_once", at_once)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; at least 1 was expected")
    count = _count(train, "train")
    _count(test, "test")
    weights = jnp.ones(count, trees.scalar_type(trees.split(y, "y")[0]))

    def lower(weights: Array, y: Any) -> Array:
        losses = _losses(loss, y, train, chunk)
        total = jnp.sum(weights.astype(losses.dtype) * losses) / count
        return total if penalty is None else total + penalty(y).astype(total.dtype)

    def of_one(example: Any) -> tuple[Array, Info]:
        judge = test_loss or loss
        gradient, info = hypergradient(lambda weights, y: judge(y, example), lower, weights, y, **options)
        return -gradient, info

    return lax.map(of_one, test, batch_size=at_once)


def _losses(loss: Callable[[Any, Any], Array], y: Any, examples: Any, chunk: int | None) -> Array:
    """The loss of each example; in chunks, only the examples themselves are kept for derivatives."""
    if chunk is None:
        return jax.vmap(lambda example: loss(y, example))(examples)
    kept = jax.checkpoint(lambda y, example: loss(y, example))
    return lax.map(lambda example: kept(y, example), examples, batch_size=chunk)


def _count(examples: Any, name: str) -> int:
    counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(examples)}
    if len(counts) != 1 or counts == {()} or counts == {(0,)}:
        came = sorted(shape[0] if shape else "no axis" for shape in counts)
        raise ValueError(
            f"{name} has leaves with first axes of {came or 'none'}; one common number of examples was expected"
        )
    return counts.pop()[0]
