"""Chains of problems: three and more levels, each with an estimator, a curvature and evidence of its own.

Below the second level a solution is a function of all variables above it, whose derivatives, the second ones too, the
levels above need. So it is attached (`attached`) by its own estimator, and the gradient of the whole is a
`hypergradient` of the two highest levels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxfuse.implicit import trees
from jaxfuse.implicit.adapted import sama
from jaxfuse.implicit.attached import AttachedPolicy, implicit_minimum
from jaxfuse.implicit.curvature import Curvature, hessian, is_undamped, refuse_curvature
from jaxfuse.implicit.hypergradient import Estimator, hypergradient
from jaxfuse.implicit.info import Info, Policy, check_policy
from jaxfuse.implicit.problem import objective, pose
from jaxfuse.implicit.proximal import implicit_proximal_minimum, proximal_hypergradient
from jaxfuse.implicit.series import direct, finite_difference, identity, rank_one
from jaxfuse.implicit.unrolled import UnrolledEstimator


@dataclasses.dataclass(frozen=True)
class Level:
    """One problem of a chain: its variable minimizes `objective`, given those above and the answers of those below.

    Attributes:
        objective: (x, y_1, ..., y_n) -> real scalar, or (scalar, auxiliary).
        estimator: how the level above is differentiated through this one: any of the package, as in `hypergradient`.
            Its own functions (a step, a start) see the variables above as one tuple: step((x, ...), y).
        curvature: as in `hypergradient`; below the second level as in `implicit_minimum`.
        solve: (x, y_1, ..., y_(k-1)) -> y_k, the minimum for any variables above; never differentiated. Needed where
            a level above has an estimator that evaluates it away from its solution (`moves`): there the given value is
            the minimum no more. If None, the value that is passed is used.
        inner_tolerance: as in `hypergradient`.
        term: what is added to the objective where that is not smooth, as in `proximal_hypergradient`; its numbers see
            the variables above as one tuple. Leaves no choice of curvature.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> level = implicit.Level(lambda x, y: (y - 2 * x) ** 2, estimator=implicit.dense())
        >>> x, y = jnp.array(1.0), jnp.array(2.0)
        >>> gradient, info = implicit.chain_hypergradient(lambda x, y: 3 * y, [level], x, [y])
        >>> print(gradient)
        6.0
    """

    objective: Callable[..., Any]
    estimator: Estimator | None = None
    curvature: Curvature = hessian()
    solve: Callable[..., Any] | None = None
    inner_tolerance: float | None = None
    term: Any = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ChainInfo:
    """The evidence of a chain, one `Info` for each level below the first.

    Attributes:
        levels: of each level, the evidence of its problem below the one above it: whether its variable is the minimum,
            and whether the adjoint equation of the objective above was solved.
        policy: static.

    Properties:
        converged: whether every check of every level passed.
        fell_back: whether policy "fallback" replaced the gradient by the direct one.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> level = implicit.Level(lambda x, y: (y - 2 * x) ** 2)
        >>> _, info = implicit.chain_hypergradient(lambda x, y: y, [level], jnp.array(1.0), [jnp.array(2.5)])
        >>> bool(info.converged), bool(info.levels[0].inner_converged)  # y is not 2
        (False, False)
    """

    levels: tuple[Info, ...]
    policy: Policy = dataclasses.field(metadata={"static": True}, default="warn")

    @property
    def converged(self) -> Any:
        good = self.levels[0].converged
        for info in self.levels[1:]:
            good = good & info.converged
        return good

    @property
    def fell_back(self) -> Any:
        return ~self.converged & (self.policy == "fallback")

    def check(self) -> ChainInfo:
        """Acts on the host as the policy says (`Info.check`), level by level, and returns itself.

        Raises:
            UnreliableGradient: a check failed, under "raise".
        """
        for info in self.levels:
            info.check()
        return self


def chain_hypergradient(
    upper: Callable[..., Any],
    levels: Sequence[Level],
    x: Any,
    ys: Sequence[Any],
    *,
    policy: Policy = "warn",
) -> tuple[Any, ChainInfo]:
    """d upper(x, y_1*, ..., y_n*) / dx, where each y_k* minimizes its level's objective with all below at theirs.

    Pure and jittable, under `vmap` and `scan` too. With one level, it is `hypergradient`.

    Args:
        upper: (x, y_1, ..., y_n) -> real scalar, or (scalar, auxiliary).
        levels: from the one below `upper` to the lowest.
        x: outer variables, any pytree.
        ys: the variables of the levels at (or near) their minima, any pytrees.
        policy: as in `hypergradient`, by the flags of all levels together. Unless it is "ignore", a derivative of a
            lower level whose own solve fails is NaN, and so shows in `finite` of those above.

    Returns:
        The gradient, in the structure and the types of x, and `ChainInfo`.

    Raises:
        ValueError: no level, another number of variables, a level that moves above one without `solve`, or an
            estimator and a curvature that do not go together, or one that cannot be differentiated itself below the
            second level.
        TypeError: as `hypergradient`.

    `finite_difference` is `identity` below the second level: its differences approximate what is differentiated there.

    Example:
        Three levels: z = x y follows y, y minimizes (y - x)^2 + z^2, and x is judged by z:

        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> middle = implicit.Level(lambda x, y, z: (y - x) ** 2 + z**2, estimator=implicit.cg())
        >>> lowest = implicit.Level(lambda x, y, z: (z - x * y) ** 2)
        >>> @jax.jit
        ... def differentiate(x):
        ...     y = x / (1 + x**2)
        ...     return implicit.chain_hypergradient(lambda x, y, z: z, [middle, lowest], x, [y, x * y])
        >>> gradient, info = differentiate(jnp.array(0.5))
        >>> print(f"{gradient:.4f}")  # z = x^2 / (1 + x^2), and so 2 x / (1 + x^2)^2
        0.6400
        >>> print(*[bool(level.converged) for level in info.levels])
        True True
    """
    check_policy(policy)
    _check(levels, ys)
    chain = _Chain(upper, tuple(levels), tuple(ys), "ignore" if policy == "ignore" else "nan")
    gradient, first = chain.differentiate(0, (x,), policy)
    settled = trees.constant((x, *ys))
    others = [chain.differentiate(k, settled[: k + 1], policy)[1] for k in range(1, len(levels))]
    info = ChainInfo((first, *others), policy)
    vector = trees.read_gradient(gradient[0], trees.split(x, "x")[0], "the gradient")
    if policy == "nan":
        vector = trees.spoil(vector, jnp.asarray(info.converged))
    elif policy == "fallback":
        vector = trees.select(jnp.asarray(info.converged), vector, _direct(upper, x, ys))
    return trees.gradient_like(x, vector), info


class _Chain(NamedTuple):
    """A chain at a point. Level k (from 0) has the variable ys[k]; a prefix is (x, y_1, ..., y_k).

    Attributes:
        attached: the policy of derivatives that are attached.
    """

    upper: Callable[..., Any]
    levels: tuple[Level, ...]
    ys: tuple[Any, ...]
    attached: AttachedPolicy

    def differentiate(self, k: int, prefix: tuple[Any, ...], policy: Policy) -> tuple[Any, Info]:
        """The gradient in the prefix of the objective above level k through level k; no policy has acted on it."""
        level = self.levels[k]
        above = self.levels[k - 1].objective if k else self.upper
        options: Any = {"estimator": level.estimator, "inner_tolerance": level.inner_tolerance, "policy": "ignore"}
        problem = self.completed(above), self.completed(level.objective), prefix, self.ys[k]
        if level.term is None:
            gradient, info = hypergradient(*problem, curvature=level.curvature, **options)
        else:
            gradient, info = proximal_hypergradient(*problem, term=level.term, **options)
        return gradient, dataclasses.replace(info, policy=policy)

    def completed(self, function: Callable[..., Any]) -> Callable[[tuple[Any, ...], Any], Any]:
        """`function` of a prefix and the next variable, all below at the minima that these make."""

        def of_two(prefix: tuple[Any, ...], y: Any) -> Any:
            variables = (*prefix, y)
            while len(variables) <= len(self.levels):
                variables = (*variables, self.followed(variables))
            return function(*variables)

        return of_two

    def followed(self, prefix: tuple[Any, ...]) -> Any:
        """The next variable as a function of the prefix."""
        k = len(prefix) - 1
        level = self.levels[k]
        y = trees.constant(self.ys[k] if level.solve is None else level.solve(*trees.constant(prefix)))
        return follow(self.completed(level.objective), prefix, y, level, self.attached)


def follow(lower: Callable[[Any, Any], Any], x: Any, y: Any, level: Level, policy: AttachedPolicy) -> Any:
    """y as the function of x that an estimator takes it for; `lower` is the level's own, completed."""
    estimator: Any = level.estimator
    if level.term is not None:
        options: Any = {"estimator": estimator, "policy": policy, "inner_tolerance": level.inner_tolerance}
        return implicit_proximal_minimum(lower, x, y, term=level.term, **options)
    if isinstance(estimator, (direct, finite_difference, UnrolledEstimator)):
        refuse_curvature(type(estimator).__name__, level.curvature)
    if isinstance(estimator, direct):
        return y
    if isinstance(estimator, UnrolledEstimator):
        problem = pose(lower, lower, x, y)
        return trees.replaced(y, estimator.path(problem)(problem.x)[0])
    if isinstance(estimator, rank_one | sama):
        raise ValueError(
            f"{type(estimator).__name__} was given to a level below the second, where its own derivative is needed "
            "and it has none: use it at the second level, or another estimator here"
        )
    if isinstance(estimator, finite_difference):
        estimator = identity(estimator.scale)
    return implicit_minimum(
        lower,
        x,
        y,
        estimator=estimator,
        curvature=level.curvature,
        policy=policy,
        inner_tolerance=level.inner_tolerance,
    )


def _check(levels: Sequence[Level], ys: Sequence[Any]) -> None:
    if not levels or len(levels) != len(ys):
        raise ValueError(
            f"{len(levels)} levels and {len(ys)} variables were given; at least one, and as many, expected"
        )
    for k, level in enumerate(levels):
        plain = isinstance(level.curvature, hessian) and is_undamped(level.curvature)
        if level.term is not None and not plain:
            raise ValueError(
                f"level {k + 2} has a term and {level.curvature}, but where there is a term the curvature is the "
                "problem's own: leave it out"
            )
        still = [below for below in range(k + 1, len(levels)) if levels[below].solve is None]
        if getattr(level.estimator, "moves", False) and still:
            name = type(level.estimator).__name__
            raise ValueError(
                f"{name} evaluates level {k + 2} away from its solution, where level {still[0] + 2} has another "
                "minimum than the one passed: give that Level a solve"
            )


def _direct(upper: Callable[..., Any], x: Any, ys: Sequence[Any]) -> trees.Vector:
    """The gradient of `upper` in x alone."""
    vector, merge = trees.split(x, "x")
    valued = objective(lambda x, ys: upper(x, *ys), "upper")
    return jax.grad(lambda outer: valued(merge(outer), ys)[0])(vector)
