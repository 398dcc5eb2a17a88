"""Proximal steps: those of optax, and the conditions that their points have to meet."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfuse.implicit import box, group_norm, l1_ball, l1_norm, l2_ball, simplex
from jaxfuse.implicit.terms import step_of
from tests.implicit.problems import near, refuses

V = np.array([1.3, -0.2, 0.4, -2.0, 0.05, 0.9])


def step(term, argument, length=1.0, x=None):
    """The step of one term on one leaf."""
    argument = jnp.asarray(argument)
    found = step_of(term, x, argument, [argument], jnp.asarray(length))
    return found.point[0], found.active[0], found.margin


SETS = {
    "box": (box(-0.5, 1.0), lambda v: optax.projections.projection_box(v, jnp.full(6, -0.5), jnp.full(6, 1.0)), 0.1),
    "simplex": (simplex(2.0), lambda v: optax.projections.projection_simplex(v, 2.0), 0.2),
    "l1 tight": (l1_ball(2.0), lambda v: optax.projections.projection_l1_ball(v, 2.0), 0.05),
    "l1 loose": (l1_ball(9.0), lambda v: v, None),
    "l2 tight": (l2_ball(2.0), lambda v: optax.projections.projection_l2_ball(v, 2.0), None),
    "l2 loose": (l2_ball(9.0), lambda v: v, None),
}


@pytest.mark.parametrize(
    "name", ["simplex", *(pytest.param(name, marks=pytest.mark.slow) for name in SETS if name != "simplex")]
)
def test_projections_and_their_derivatives_are_those_of_optax(name):
    term, projection, _ = SETS[name]
    with jax.numpy_dtype_promotion("standard"):
        expected, slopes = projection(jnp.asarray(V)), jax.jacobian(projection)(jnp.asarray(V))
    near(step(term, V)[0], expected, 1e-14, 1e-15)
    near(jax.jacobian(lambda v: step(term, v)[0])(jnp.asarray(V)), slopes, 1e-13, 1e-14)


def test_norms_shrink():
    point, active, margin = step(l1_norm(0.25), V, 2.0)
    near(point, np.sign(V) * np.maximum(abs(V) - 0.5, 0), 1e-15)
    assert active.tolist() == [False, True, True, False, True, False]
    near(margin, 0.1, 1e-12)  # of 0.4 from 0.5
    rows = np.array([[3.0, 4.0], [0.1, 0.1], [0.0, 0.0]])
    point, active, margin = step(group_norm(1.0, axis=1), rows)
    near(point, np.array([[2.4, 3.2], [0, 0], [0, 0]]), 1e-15)
    assert active[:, 0].tolist() == [False, True, True]
    near(margin, 1 - np.hypot(0.1, 0.1), 1e-12)
    near(step(group_norm(1.0), rows[0])[0], rows[0] * 0.8, 1e-15)


@pytest.mark.parametrize(
    ("term", "argument", "margin", "active"),
    [
        (box(0.0, 1.0), [0.3, 1.2, -0.4], 0.2, [False, True, True]),
        (box(0.0), [0.3, 1.2, -0.4], 0.3, [False, False, True]),
        (box(jnp.array([0.0, 1.0]), jnp.array([1.0, 1.0])), [0.4, 1.0], 0.4, [False, True]),  # the second is fixed
        (simplex(), [0.9, 0.3, -0.5], 0.2, [False, False, True]),  # threshold 0.1
        (l1_ball(1.0), [1.2, -0.4, 0.0], 0.1, [False, False, True]),  # threshold 0.3
        (l1_ball(1.0), [0.5, -0.2, 0.0], 0.1, [False, False, False]),  # 0.3 short, over three entries
        (l2_ball(1.0), [0.6, 0.0, 0.0], 0.4, [False] * 3),
        (l2_ball(1.0), [3.0, 4.0, 0.0], 4.0, [True] * 3),
        (group_norm(1.0), [3.0, 4.0, 0.0], 4.0, [False] * 3),
    ],
)
def test_faces_and_margins(term, argument, margin, active):
    _, found, distance = step(term, argument)
    assert found.tolist() == active
    near(distance, margin, 1e-12)


def test_numbers_may_be_functions_of_x():
    slope = jax.jacobian(lambda x: step(simplex(lambda x: x), V, x=x)[0])(2.0)
    near(slope, np.array([1, 0, 1, 0, 0, 1]) / 3, 1e-14, 1e-15)  # three entries share what is added
    near(jax.jacobian(lambda x: step(l1_norm(lambda x: x), V, x=x)[0])(0.3), -np.sign(V) * (abs(V) > 0.3), 1e-14)


def test_each_part_of_a_tree_has_its_own_term():
    y = {"free": jnp.ones(2), "held": (jnp.array([2.0, -1.0]), jnp.array(3.0)), "name": "y"}
    argument = [jnp.array([5.0, 6.0]), jnp.array([2.0, -1.0]), jnp.array(3.0)]
    terms = {"free": None, "held": box(0.0, 1.0), "name": None}
    found = step_of(terms, None, y, argument, jnp.array(1.0))
    near(found.point, [np.array([5.0, 6.0]), np.array([1.0, 0.0]), 1.0])
    assert [each.tolist() for each in found.active] == [[False, False], [True, True], True]
    whole = step_of({"free": None, "held": simplex(), "name": None}, None, y, argument, jnp.array(1.0))
    near(whole.point[1:], [np.array([0.0, 0.0]), 1.0])  # one simplex over both leaves


def test_refusals():
    y = [jnp.ones(2)]
    refuses("nothing constrains y", lambda: step_of(None, None, y, y, jnp.array(1.0)))
    refuses("not that of the upper part of y", lambda: step_of({"a": box()}, None, y, y, jnp.array(1.0)))
    both = [jax.lax.complex(y[0], y[0])]
    refuses("y has a complex leaf", lambda: step_of([box()], None, both, y, jnp.array(1.0)), TypeError)
    refuses("low must not be above high", lambda: box(2.0, 1.0))
    for term in (box(jnp.zeros(3)), l1_norm(jnp.ones(3))):
        sentence = r"has the shape \(3,\), which does not fit a leaf of y of the shape \(2,\)"
        refuses(sentence, lambda term=term: step_of(term, None, y[0], y, jnp.array(1.0)))
    for term in (l1_norm, group_norm):
        refuses(f"{term.__name__} got weight=-1.0; a negative one is no convex term", lambda term=term: term(-1.0))
    for term in (simplex, l1_ball, l2_ball):
        refuses(f"{term.__name__} got .*=0.0; a positive number", lambda term=term: term(0.0))
    part = jax.shard_map(
        lambda v: step_of(simplex(), None, v, [v], jnp.array(1.0)).point[0],
        mesh=jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,)),
        in_specs=jax.P("d"),
        out_specs=jax.P("d"),
    )
    refuses("where a term would see a part of it", lambda: part(jnp.ones(2)))
    refuses("terms such as box", lambda: step_of([0.5], None, y, y, jnp.array(1.0)), TypeError)
