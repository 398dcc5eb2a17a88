"""Preconditioners that follow the layers of a network: a block of the curvature, or one number, for each of them.

Layers differ in scale by orders of magnitude, which is what makes systems of networks ill-conditioned; within a layer
they are often tame. Both are pytrees: they may be carried through `lax.scan`, and used again for problems near the one
that they were made for.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.linalg import cho_factor, cho_solve

from jaxfuse.implicit import trees
from jaxfuse.implicit.curvature import Curvature, hessian, is_undamped
from jaxfuse.implicit.problem import pose
from jaxfuse.implicit.trees import Product, Vector

By: TypeAlias = Literal["leaf", "module"]
Groups: TypeAlias = tuple[tuple[int, ...], ...]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LayerPreconditioner:
    """v -> M v, M block-diagonal and positive definite, for `cg`, `minres`, `gmres`, `bicgstab` and `linear`.

    Attributes:
        factors: of each block, a lower factor of Cholesky of the curvature (k, k), or one number () that divides it.
        groups: places of the variables of each block (a complex one has two): static.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> lower = lambda x, y: 2 * y["a"] ** 2 + 8 * y["b"] ** 2
        >>> y = {"a": jnp.array(1.0), "b": jnp.array(1.0)}
        >>> made = implicit.layer_preconditioner(lower, 0.0, y)
        >>> {name: float(leaf) for name, leaf in made(y).items()}  # the curvatures are 4 and 16
        {'a': 0.25, 'b': 0.0625}
    """

    factors: list[Array]
    groups: Groups = dataclasses.field(metadata={"static": True})

    def __call__(self, tree: Any) -> Any:
        """M v in the structure of v, a pytree in the structure of y; leaves that are no variables stay as they are."""
        vector, merge = trees.split(tree, "what is preconditioned")
        if len(vector) != sum(map(len, self.groups)):
            raise ValueError(
                f"this preconditioner is for {sum(map(len, self.groups))} variables, and {len(vector)} came"
            )
        result = list(vector)
        for factor, group in zip(self.factors, self.groups, strict=True):
            block = [vector[place] for place in group]
            if factor.ndim:
                kind, flat = factor.dtype, _flat(block, factor.dtype)
                block = _restored(cho_solve((factor, True), flat.astype(kind)), block)
            else:
                block = trees.divide(block, factor)
            for place, leaf in zip(group, block, strict=True):
                result[place] = leaf
        return merge(result)


def block_preconditioner(
    lower: Callable[[Any, Any], Any],
    x: Any,
    y: Any,
    *,
    by: By = "module",
    damping: float | Array = 0.0,
    curvature: Curvature = hessian(),
    limit: int = 1024,
    chunk: int = 16,
) -> LayerPreconditioner:
    """The inverse of each diagonal block of the curvature at (x, y), exactly: one product for each unknown.

    Dear to make, and made for many solves: over outer steps, it is as good as the curvature stays the same.

    Args:
        lower, x, y: as in `hypergradient`.
        by: a block for each leaf of y, or for each top-level module: all leaves below the first level of y at which
            there is more than one key.
        damping: that of the system to be solved.
        curvature: the one to be solved with, without its damping. A block that is not positive definite makes the
            gradient NaN, which its evidence says.
        limit: most unknowns of a block: the sum of squares of all blocks is held.
        chunk: products evaluated at a time.

    Raises:
        ValueError: a block has more unknowns than the limit, the curvature is damped or draws fresh batches, y is
            split over devices, limit or chunk is below 1, or the damping is negative.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> curves = jnp.array([1.0, 2.0])
        >>> lower = lambda x, y: (curves * (y["first"] - x) ** 2).sum() + y["last"] ** 2
        >>> x, y = jnp.array([4.0, 6.0]), {"first": jnp.array([4.0, 6.0]), "last": jnp.array(0.0)}
        >>> solver = implicit.cg(preconditioner=implicit.block_preconditioner(lower, x, y))
        >>> gradient, info = implicit.hypergradient(lambda x, y: y["first"].sum(), lower, x, y, estimator=solver)
        >>> print(gradient.round(4), info.steps)
        [1. 1.] 1
    """
    if limit < 1 or chunk < 1:
        raise ValueError(f"limit is {limit} and chunk {chunk}; at least 1 was expected of both")
    _check_damping(damping)
    problem = pose(lower, lower, x, y)
    if trees.is_sharded(problem.y):
        raise ValueError("block_preconditioner needs y on one device, and it is split: use layer_preconditioner")
    product = _undamped(curvature, "block_preconditioner")(problem)
    groups, names = _groups(y, by)
    factors = []
    for group, name in zip(groups, names, strict=True):
        size = sum(problem.y[place].size for place in group)
        if size > limit:
            raise ValueError(
                f"the block {name} has {size} unknowns, more than the limit of {limit}: take by='leaf', "
                "layer_preconditioner or nystrom_preconditioner, or raise the limit"
            )
        block = _block(lambda vector: product(vector, jnp.array(0)), problem.y, group, min(chunk, max(size, 1)))
        block = (block + block.T) / 2 + jnp.asarray(damping, block.dtype) * jnp.eye(size, dtype=block.dtype)
        factors.append(cho_factor(block, lower=True)[0])
    return LayerPreconditioner(factors, groups)


def layer_preconditioner(
    lower: Callable[[Any, Any], Any],
    x: Any,
    y: Any,
    *,
    by: By = "leaf",
    damping: float | Array = 0.0,
    curvature: Curvature = hessian(),
    probes: int = 2,
    key: Array | None = None,
) -> LayerPreconditioner:
    """One number for each layer, 1 / (mean curvature + damping), from a few products: for networks of any size.

    The mean of the diagonal of each block is estimated by products with random signs (Hutchinson 1990), block by block,
    since through the smallest coupling a layer of large curvature would drown out one of small. A block whose estimate
    is not positive takes the largest of all. Runs on sharded variables, too.

    Args:
        lower, x, y, by, damping: as in `block_preconditioner`.
        curvature: likewise.
        probes: products for each block.
        key: of the random signs; `jax.random.key(0)` if None.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> lower = lambda x, y: ((y["first"] - x) ** 2).sum() + 500 * (y["last"] ** 2).sum()
        >>> y = {"first": jnp.array([4.0, 6.0]), "last": jnp.array([0.0, 0.0])}
        >>> made = implicit.layer_preconditioner(lower, y["first"], y)
        >>> [float(factor) for factor in made.factors]  # what the leaves are divided by
        [2.0, 1000.0]
    """
    if probes < 1:
        raise ValueError(f"probes is {probes}; at least 1 was expected")
    _check_damping(damping)
    problem = pose(lower, lower, x, y)
    product = _undamped(curvature, "layer_preconditioner")(problem)
    groups, _ = _groups(y, by)
    blocks = {place: block for block, group in enumerate(groups) for place in group}
    first = jax.random.key(0) if key is None else key

    def seen(number: Array) -> Array:
        """The mean curvature along one random vector of signs in one block."""
        drawn = trees.random_like(jax.random.fold_in(first, number), problem.y)
        inside = [number // probes == blocks[place] for place in range(len(drawn))]
        signs = [
            jnp.where(here, jnp.where(leaf < 0, -1, 1), 0).astype(leaf.dtype)
            for here, leaf in zip(inside, drawn, strict=True)
        ]
        return trees.dot(signs, product(signs, number)) / jnp.maximum(trees.dot(signs, signs), 1)

    means = jnp.mean(lax.map(seen, jnp.arange(len(groups) * probes)).reshape(len(groups), probes), axis=1)
    means = jnp.where(means > 0, means, jnp.max(means)) + jnp.asarray(damping, means.dtype)
    return LayerPreconditioner(list(means), groups)


def _check_damping(damping: float | Array) -> None:
    # A traced one has no value here; what it does shows in the evidence of the solve.
    if isinstance(damping, int | float) and damping < 0:
        raise ValueError(f"damping is {damping}; at least 0 was expected")


def _undamped(curvature: Curvature, name: str) -> Any:
    if not is_undamped(curvature) or curvature.fresh:
        raise ValueError(
            f"{name} was given the curvature {curvature}; one of one batch and without damping was expected, since the "
            "damping is an argument of its own"
        )
    return curvature


def _groups(tree: Any, by: By) -> tuple[Groups, list[str]]:
    """The places of the variables of each block, and its name."""
    if by not in ("leaf", "module"):
        raise ValueError(f"by is {by!r}; leaf or module was expected")
    found = jax.tree_util.tree_flatten_with_path(tree)[0]
    paths = [path for path, leaf in found if trees.is_variable(leaf) for _ in trees.parts(leaf)]
    level = 0
    while by == "module" and len({path[: level + 1] for path in paths}) == 1 and level < len(paths[0]):
        level += 1
    names = [jax.tree_util.keystr(path if by == "leaf" else path[: level + 1]) for path in paths]
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    return tuple(tuple(group) for group in places.values()), list(places)


def _block(product: Product, y: Vector, group: tuple[int, ...], chunk: int) -> Array:
    """The diagonal block (k, k) of the variables of a group, row by row."""
    pattern = [y[place] for place in group]
    kind = trees.scalar_type(pattern)

    def row(unit: Array) -> Array:
        vector = trees.zeros(y)
        for place, leaf in zip(group, _restored(unit, pattern), strict=True):
            vector[place] = leaf
        image = product(vector)
        return _flat([image[place] for place in group], kind)

    return lax.map(row, jnp.eye(sum(leaf.size for leaf in pattern), dtype=kind), batch_size=chunk)


def _flat(block: Vector, kind: Any) -> Array:
    return jnp.concatenate([leaf.astype(kind).ravel() for leaf in block])


def _restored(flat: Array, block: Vector) -> Vector:
    """The entries of a flat block (k,) in the shapes and types of its leaves."""
    ends = [0]
    for leaf in block:
        ends.append(ends[-1] + leaf.size)
    cut = [flat[start:end] for start, end in itertools.pairwise(ends)]
    return [part.reshape(leaf.shape).astype(leaf.dtype) for part, leaf in zip(cut, block, strict=True)]
