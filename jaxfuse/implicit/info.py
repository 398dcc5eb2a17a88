"""The evidence of a solve: a pytree that travels with every implicit gradient, and the policies that act on it."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any, Literal, get_args

import jax
import numpy as np
from jax import Array

from jaxfuse.implicit.certificate import Certificate, Scalar, Steps, at_hand
from jaxfuse.implicit.face import Face

Policy = Literal["ignore", "warn", "nan", "raise", "fallback"]
_SCALARS = (
    *("value", "inner_value", "inner_gradient_norm", "displacement", "residual", "system_residual", "adjoint_error"),
    *("steps", "products", "least_curvature", "damping", "best_iterate"),
    *("inner_converged", "solve_converged", "positive", "finite", "converged", "fell_back"),
)


class UnreliableGradient(ArithmeticError):
    """Raised by `Info.check` under the policy "raise": the sentence says which check failed and by how much.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> lower, upper = lambda x, y: 2 * y**2 - x * y, lambda x, y: y  # y*(x) = x / 4
        >>> x, y = jnp.array(8.0), jnp.array(2.0)
        >>> _, info = implicit.hypergradient(upper, lower, x, y + 1, policy="raise")
        >>> try:
        ...     info.check()
        ... except implicit.UnreliableGradient as error:
        ...     print(str(error)[:62])
        implicit gradient by dense: y does not solve the inner problem
    """


class UnreliableGradientWarning(UserWarning):
    """Given by `Info.check` under the policy "warn".

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> import warnings
        >>> lower, upper = lambda x, y: 2 * y**2 - x * y, lambda x, y: y  # y*(x) = x / 4
        >>> x, y = jnp.array(8.0), jnp.array(2.0)
        >>> _, info = implicit.hypergradient(upper, lower, x, y + 1)
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     _ = info.check()
        >>> caught[0].category.__name__
        'UnreliableGradientWarning'
    """


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Info:
    """The trust that an implicit gradient deserves. Fields are arrays but for the static ones; scalars where not said.

    What is not known is a number too, never NaN: -1 for a length, infinite for a curvature.

    Written for minima; derivatives of roots read the numbers as `root_vjp` says. Fields are those that the device
    computed. Properties follow from them when they are asked for: as JAX arrays inside jit; outside of it as NumPy's,
    after waiting for the device.

    Attributes:
        value: the upper function at (x, y).
        inner_value: the lower function there.
        aux: the auxiliaries of `upper` and `lower`, a dict with these keys; None where there are none.
        adjoint: q of the adjoint equation H q = d upper / dy, in the structure of y (None at leaves that are no
            variables): the `start` of the next solve. None where no linear system is solved.
        evidence: the sums that the properties follow from.
        steps: steps of the solver.
        products: curvature products spent, those of the certificate included.
        damping: the multiple of the identity that was added to the curvature.
        best_iterate: whether the adjoint is an earlier iterate than the last step would have made: the one before a
            direction of no positive curvature (cg), or that of least residual (bicgstab).
        results_finite: whether the gradient, its parts and the values are finite.
        policy: what `check` does: static.
        estimator: the estimator's name: static.
        face: which constraints hold y, and how far it is from a kink; None where nothing constrains it.

    Properties:
        inner_gradient_norm: Euclidean norm of d lower / dy. Zero at an inner optimum.
        displacement: estimate of |y - y*|, inner_gradient_norm / least_curvature (the norm itself where no curvature
            is known); for estimators that step the inner iteration, the length of its last step.
        residual: |H q - d upper/dy| / |d upper/dy| with the true, undamped Hessian of `lower`, measured after the
            solve. Zero where d upper/dy is zero; -1 where no linear system is solved.
        system_residual: the same for the system that was solved (chosen curvature and damping).
        adjoint_error: estimate of |q - q*| / |q*|, the system's residual over least_curvature.
        least_curvature: least v'Av / v'v met over the directions v that the solver saw; an upper bound on the least
            eigenvalue of the solved system (exact for `dense` if it is negative). Infinite where none was seen.
        inner_converged: whether displacement <= inner tolerance * |y|, or all of the inner gradient is explained by
            the rounding of y to bfloat16 or float16. True where it makes no claim.
        solve_converged: whether the linear solve reached what it promises (its tolerance; without one, an adjoint_error
            of 1e-9 in float64 and 1e-3 in float32; for approximations by name, less residual than the zero vector).
        positive: whether all curvature met was positive. Only estimators that need it can say False, and faces.
        smooth: whether y lies on no kink, as far as y is known; at one, it has no derivative. True without a face.
        finite: whether these results and inner_gradient_norm are finite.
        converged: whether every check passed: the gradient may be taken at its word.
        fell_back: whether policy "fallback" replaced the gradient by the direct one, d upper / dx.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> lower, upper = lambda x, y: 2 * y**2 - x * y, lambda x, y: y  # y*(x) = x / 4
        >>> x, y = jnp.array(8.0), jnp.array(2.0)
        >>> _, info = implicit.hypergradient(upper, lower, x, y)
        >>> bool(info.converged), float(info.inner_gradient_norm), float(info.least_curvature)
        (True, 0.0, 4.0)
        >>> _, info = implicit.hypergradient(upper, lower, x, y + 1)  # no minimum
        >>> sorted(info.complaints())
        ['inner_converged']
    """

    value: Array
    inner_value: Array
    aux: dict[str, Any]
    adjoint: Any
    evidence: Certificate | Steps
    steps: Array
    products: Array
    damping: Array
    best_iterate: Array
    results_finite: Array
    policy: Policy = dataclasses.field(metadata={"static": True}, default="warn")
    estimator: str = dataclasses.field(metadata={"static": True}, default="")
    face: Face | None = None

    @property
    def inner_gradient_norm(self) -> Scalar:
        return self.evidence.inner_gradient_norm

    @property
    def displacement(self) -> Scalar:
        return self.evidence.displacement

    @property
    def residual(self) -> Scalar:
        return self.evidence.residual

    @property
    def system_residual(self) -> Scalar:
        return self.evidence.system_residual

    @property
    def adjoint_error(self) -> Scalar:
        return self.evidence.adjoint_error

    @property
    def least_curvature(self) -> Scalar:
        return self.evidence.least_curvature

    @property
    def inner_converged(self) -> Scalar:
        return self.evidence.inner_converged

    @property
    def solve_converged(self) -> Scalar:
        return self.evidence.solve_converged

    @property
    def positive(self) -> Scalar:
        return self.evidence.positive if self.face is None else self.evidence.positive & self.face.positive

    @property
    def smooth(self) -> Scalar:
        if self.face is not None:
            return self.face.smooth(self.displacement)
        xp, norm = at_hand(self.inner_gradient_norm)
        return xp.ones_like(norm, dtype=bool)

    @property
    def finite(self) -> Scalar:
        xp, (results, norm) = at_hand((self.results_finite, self.inner_gradient_norm))
        return results & xp.isfinite(norm)

    @property
    def converged(self) -> Scalar:
        return self.inner_converged & self.solve_converged & self.positive & self.smooth & self.finite

    @property
    def fell_back(self) -> Scalar:
        return ~self.converged & (self.policy == "fallback")

    def complaints(self) -> dict[str, str]:
        """Returns a sentence for each check that failed, by its name. Brings the scalars to the host."""
        said = {}
        if not np.all(self.finite):
            said["finite"] = "the gradient or a value is not finite: look for NaN in upper, lower and their data"
        if not np.all(self.inner_converged):
            said["inner_converged"] = (
                f"y does not solve the inner problem (its gradient or residual is {_worst(self.inner_gradient_norm)}, "
                f"about {_worst(self.displacement)} away): run the inner solver longer or name an inner_tolerance"
            )
        if not np.all(self.positive):
            said["positive"] = (
                f"the curvature is not positive (least value met {_least(self._least_met())}), so y is no strict "
                "minimum: use gauss_newton, fisher or damping, or minres for a stationary point"
            )
        if self.face is not None and not np.all(self.smooth):
            said["smooth"] = (
                "y lies on a kink, where it has no derivative, or is not known well enough to say on which side (the "
                f"next is {_least(self.face.margin)} away, and y about {_worst(self.displacement)} off): run the inner "
                "solver longer; if the margin stays near zero, take another x"
            )
        if not np.all(self.solve_converged):
            said["solve_converged"] = (
                f"the linear solve ended with a relative residual of {_worst(self.system_residual)} after "
                f"{int(np.max(self.steps))} steps: allow more steps, precondition, damp, or name a tolerance"
            )
            if isinstance(self.evidence, Certificate) and self.evidence.kind.claimed:
                said["solve_converged"] += "; or leave out symmetric=True, if the matrix is not"
        return said

    def _least_met(self) -> Scalar:
        return self.least_curvature if self.face is None else np.fmin(self.least_curvature, self.face.curvature)

    def check(self) -> Info:
        """Acts on the host as the policy says, and returns itself.

        Warns under "warn" if any element of a batch failed a check; does nothing under the policies that have acted on
        the device. Blocks until the scalars are there.

        Raises:
            UnreliableGradient: a check failed, under "raise".
        """
        if self.policy in ("warn", "raise"):
            said = self.complaints()
            if said:
                message = f"implicit gradient by {self.estimator}: " + "; ".join(said.values()) + "."
                if self.policy == "raise":
                    raise UnreliableGradient(message)
                warnings.warn(message, UnreliableGradientWarning, stacklevel=2)
        return self

    def scalars(self) -> dict[str, Scalar]:
        """The numbers and flags by name, for a log: everything but the arrays of the problem; `smooth` of a face."""
        names = _SCALARS if self.face is None else (*_SCALARS, "smooth")
        return {name: getattr(self, name) for name in names}


def check_policy(policy: str) -> None:
    if policy not in get_args(Policy):
        raise ValueError(f"policy {policy!r} is not known; choose one of {', '.join(get_args(Policy))}")


def _worst(values: Scalar) -> str:
    found = np.asarray(values, dtype=np.float64)
    return "nan" if np.all(np.isnan(found)) else f"{np.nanmax(found):.3g}"


def _least(values: Scalar) -> str:
    found = np.asarray(values, dtype=np.float64)
    return "nan" if math.prod(found.shape) and np.all(np.isnan(found)) else f"{np.nanmin(found):.3g}"
