"""The face that a constrained or non-smooth minimum lies on, and whether the minimum is smooth in x there.

Near x, the minimum moves along a smooth face (bounds stay active, zeros stay zero) as long as the argument of its
projection, or proximal step, stays away from the kinks of that. On a kink the minimum has one derivative on each side.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxfuse.implicit import trees
from jaxfuse.implicit.certificate import Scalar, at_hand
from jaxfuse.implicit.trees import Product, Vector

_ROUNDINGS = 100  # that an argument computed from y and a gradient may be off
_DISPLACEMENTS = 10  # the estimate of |y - y*| is no bound


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Face:
    """The constraints that hold a minimum, and how far it is from being held by others. All are arrays.

    Attributes:
        active: True where a constraint or a kink holds an entry: in the structure of y (of `kkt_hypergradient`, of the
            inequalities); None at leaves that are no variables.
        margin: distance from the next kink, in the units of y: of the argument of the proximal step, entry by entry; of
            inequalities, of their distance or their scaled multiplier, whichever is not zero. Infinite where there is
            no kink.
        size: the largest entry of what could be on a kink.
        rounding: the relative rounding of that.
        curvature: the curvature of the problem along the face, in the direction that the solve met; infinite if none.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> lower, upper = lambda x, y: 0.5 * ((y - x) ** 2).sum(), lambda x, y: y.sum()
        >>> x, y = jnp.array([3.0, 0.5]), jnp.array([1.0, 0.5])
        >>> _, info = implicit.proximal_hypergradient(upper, lower, x, y, term=implicit.box(0.0, 1.0))
        >>> info.face.active.tolist()  # the bound holds the first
        [True, False]
    """

    active: Any
    margin: Any
    size: Any
    rounding: Any
    curvature: Any

    def smooth(self, displacement: Scalar) -> Scalar:
        """Tells whether y, known up to a displacement, is known not to lie on a kink."""
        now, displacement = at_hand((self, displacement))[1]
        with np.errstate(all="ignore"):
            return now.margin > _ROUNDINGS * now.rounding * now.size + _DISPLACEMENTS * displacement

    @property
    def positive(self) -> Scalar:
        return ~(at_hand(self)[1].curvature <= 0)


def stride(y: Vector, slope: Vector, hessian: Product) -> Array:
    """A length for gradient steps from y, about one over the curvature, by one product along a random direction.

    Where there is no curvature it is |y| / |slope|; 1 where that is no number either.
    """
    y, slope = lax.stop_gradient((y, slope))
    drawn = trees.random_like(jax.random.key(0), y)
    curved = _quotient(trees.norm(drawn), trees.norm(lax.stop_gradient(hessian(drawn))))
    moved = _quotient(trees.norm(y), trees.norm(slope))
    return jnp.where(curved > 0, curved, jnp.where(moved > 0, moved, 1))


def along_face(tangent: Vector, adjoint: Vector, target: Vector, step: Array) -> Array:
    """The curvature along a face, u'Cu / u'u = u'target / (step u'u), where the adjoint's part in the face is u.

    C is the Hessian of the Lagrangian with the curvature of the face. Infinite where u is but rounding.
    """
    unit = trees.unit(adjoint)
    u, q, t = trees.divide(tangent, unit), trees.divide(adjoint, unit), trees.divide(target, unit)
    squared, whole = trees.dot(u, u), trees.dot(q, q)
    some = squared > (1e4 * float(jnp.finfo(trees.coarsest_type(u)).eps)) ** 2 * whole
    return jnp.where(some, trees.dot(u, t) / jnp.where(some, squared, 1) / step, jnp.inf)


def rounding_of(vector: Vector) -> Array:
    """The coarsest eps of the leaves, as an array of their widest type."""
    return jnp.asarray(float(jnp.finfo(trees.coarsest_type(vector)).eps), trees.scalar_type(vector))


def largest(vector: Vector) -> Array:
    """The largest size of an entry; 0 of no entries."""
    kind = trees.scalar_type(vector)
    sizes = [jnp.max(jnp.abs(leaf), initial=0).astype(kind) for leaf in vector]
    return jnp.max(jnp.stack(sizes))


def _quotient(part: Array, whole: Array) -> Array:
    """part / whole, and 0 where that is no positive number."""
    found = part / jnp.where(whole > 0, whole, 1)
    return jnp.where((whole > 0) & jnp.isfinite(found), found, 0)
