"""Minima under equalities and inequalities: dense algebra, differences, other formulations, and what is flagged."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse import implicit
from jaxfuse.implicit import Constraints
from tests.implicit.problems import central_difference, near, refuses
from tests.implicit.test_proximal import LOWER, SIZE, UPPER, A, B, X, judged

RNG = np.random.default_rng(7)
E, G = RNG.normal(size=(2, SIZE)), RNG.normal(size=(5, SIZE))
LINES = Constraints(lambda x, y: E @ y - x[:2], lambda x, y: {"rows": G @ y - 0.3 - 0.1 * x[2], "sum": jnp.sum(y) - 9})


@functools.cache
def program():
    """(y, multipliers, active) of LOWER under LINES, by trying every active set: dense algebra."""
    limit = np.full(5, 0.3 + 0.1 * X[2])
    for code in range(2**5):
        active = np.array([bool(code >> place & 1) for place in range(5)])
        rows, right = np.concatenate([E, G[active]]), np.concatenate([X[:2], limit[active]])
        count = len(rows)
        found = np.linalg.solve(
            np.block([[A, rows.T], [rows, np.zeros((count, count))]]), np.concatenate([B @ X, right])
        )
        y, forces = found[:SIZE], np.zeros(5)
        forces[active] = found[SIZE + 2 :]
        if (forces >= 0).all() and (G @ y <= limit + 1e-9).all():
            return y, (found[SIZE : SIZE + 2], forces), active
    raise AssertionError("no active set solves it")


def exact(x):
    """The minimum near X as a function of x, on the same active set; to be differentiated as it stands."""
    _, _, active = program()
    rows = jnp.concatenate([E, G[active]])
    right = jnp.concatenate([x[:2], jnp.full(int(active.sum()), 0.3) + 0.1 * x[2]])
    count = len(rows)
    matrix = jnp.block([[A, rows.T], [rows, jnp.zeros((count, count))]])
    return jnp.linalg.solve(matrix, jnp.concatenate([B @ x, right]))[:SIZE]


def gradient_of(x, y, constraints=LINES, upper=UPPER, lower=LOWER, **options):
    run = functools.partial(implicit.kkt_hypergradient, upper, lower, constraints=constraints, **options)
    return jax.jit(run)(x, jnp.asarray(y))


def test_quadratic_program_by_dense_algebra():
    y, _, active = program()
    assert 0 < active.sum() < 5
    gradient, info = gradient_of(X, y)
    near(gradient, jax.grad(lambda x: UPPER(x, exact(x)))(X), 1e-9)
    assert info.face.active["rows"].tolist() == active.tolist()
    assert not info.face.active["sum"]
    assert info.check().converged
    near(info.value, UPPER(X, jnp.asarray(y)), 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [None, implicit.minres(), implicit.gmres()], ids=str)
def test_multipliers_may_be_given_and_solvers_chosen(estimator):
    y, (forces, pushes), _ = program()
    multipliers = (jnp.asarray(forces), {"rows": jnp.asarray(pushes), "sum": jnp.array(0.0)})
    expected = jax.grad(lambda x: UPPER(x, exact(x)))(X)
    gradient, info = gradient_of(X, y, multipliers=multipliers, estimator=estimator)
    near(gradient, expected, 1e-8)
    assert info.check().converged
    wrong = (multipliers[0], {"rows": multipliers[1]["rows"] - 1.0, "sum": jnp.array(0.0)})
    assert not gradient_of(X, y, multipliers=wrong, estimator=estimator)[1].converged


@pytest.mark.slow
def test_attached_in_both_modes_and_to_second_order():
    y, _, _ = program()
    attached = lambda x: UPPER(x, implicit.implicit_kkt(LOWER, x, jnp.asarray(y), constraints=LINES))
    expected = lambda x: UPPER(x, exact(x))
    for mode in (jax.grad, jax.jacfwd):
        near(jax.jit(mode(attached))(X), jax.grad(expected)(X), 1e-9)
    near(jax.jit(jax.hessian(attached))(X), jax.hessian(expected)(X), 1e-8, 1e-9)


@pytest.mark.slow
def test_the_same_set_as_projections_have_it():
    """Box and simplex as constraints, and as terms."""
    for term, constraints in (
        (implicit.box(-0.3, 0.4), Constraints(inequality=lambda x, y: (y - 0.4, -0.3 - y))),
        (implicit.simplex(2.0), Constraints(lambda x, y: jnp.sum(y) - 2.0, lambda x, y: -y)),
        (implicit.l2_ball(1.0), Constraints(inequality=lambda x, y: jnp.sum(y**2) - 1.0)),
    ):
        expected, info, y = judged(term)
        gradient, found = gradient_of(X, y, constraints)
        near(gradient, expected, 1e-8)
        near(found.face.curvature, info.face.curvature, 1e-6)
        assert found.check().converged


@pytest.mark.slow
def test_curved_constraints_that_depend_on_x_against_differences():
    """Nearest point of an ellipse whose axes are x: by its angle, to rounding."""

    def solve(x):
        angle = lambda t: jnp.array([x[0] * jnp.cos(t), x[1] * jnp.sin(t)])
        far = lambda t: jnp.sum((angle(t) - jnp.array([3.0, 2.0])) ** 2)
        newton = lambda _, t: t - jax.grad(far)(t) / jax.grad(jax.grad(far))(t)
        return angle(jax.lax.fori_loop(0, 30, newton, 0.7))

    ellipse = Constraints(lambda x, y: (y[0] / x[0]) ** 2 + (y[1] / x[1]) ** 2 - 1)
    lower = lambda x, y: jnp.sum((y - jnp.array([3.0, 2.0])) ** 2)
    upper = lambda x, y: y[0] ** 2 - 3 * y[1]
    x = jnp.array([1.5, 0.8])
    gradient, info = gradient_of(x, solve(x), ellipse, upper, lower)
    for direction in jnp.eye(2):
        near(gradient @ direction, central_difference(lambda x: upper(x, solve(x)), x, direction), 1e-6)
    assert info.check().converged
    assert info.face.active is None


HALF = Constraints(inequality=lambda x, y: jnp.sum(y) - 1.0)


def nearest(x, y, constraints=HALF, lower=None, **options):
    lower = lower or (lambda x, y: 0.5 * jnp.sum((y - x) ** 2))
    return gradient_of(jnp.asarray(x), y, constraints, lambda x, y: 2 * y[0] + y[1], lower, **options)


@pytest.mark.slow
def test_an_inequality_that_holds_without_a_force_is_flagged():
    gradient, info = nearest([0.75, 0.25], [0.75, 0.25], policy="nan")
    assert np.isnan(gradient).all()
    assert [bool(flag) for flag in (info.inner_converged, info.solve_converged, info.smooth)] == [True, True, False]


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_neither_side_of_it_is_nor_do_units_matter(scale):
    constraints = Constraints(inequality=lambda x, y: scale * (jnp.sum(y) - 1.0))
    lower = lambda x, y: scale**-0.5 * jnp.sum((y - x) ** 2)
    gradient, info = nearest([0.75, 0.2], [0.75, 0.2], constraints, lower)
    near(gradient, np.array([2.0, 1.0]), 1e-12)
    assert (bool(info.face.active), bool(info.check().converged)) == (False, True)
    gradient, info = nearest([0.8, 0.3], [0.75, 0.25], constraints, lower)
    near(gradient, np.array([0.5, -0.5]), 1e-12)
    assert (bool(info.face.active), bool(info.check().converged)) == (True, True)
    near(info.face.margin, 0.05 * np.sqrt(2), 1e-9)
    assert not nearest([0.75, 0.25], [0.75, 0.25], constraints, lower)[1].smooth


@pytest.mark.slow
def test_what_is_no_minimum_is_flagged():
    _, outside = nearest([0.8, 0.3], [0.8, 0.3])
    _, inside = nearest([0.5, 0.2], [0.7, 0.3])  # held by a force that would have to pull
    _, short = nearest([0.8, 0.3], [0.7, 0.2])
    for info in (outside, inside, short):
        assert not info.inner_converged
    saddle = lambda x, y: 0.5 * (y[0] - x[0]) ** 2 - (y[1] - x[1]) ** 2
    _, info = nearest([0.5, 0.5], [0.5, 0.5], Constraints(lambda x, y: y[0] - y[1]), saddle)
    assert not info.positive
    twice = Constraints(lambda x, y: jnp.stack([jnp.sum(y) - 1, 2 * (y[0] - 1) ** 2]))  # no gradient at the second
    assert not nearest([1.2, 0.5], [1.0, 0.0], twice)[1].converged


@pytest.mark.slow
def test_attached_is_nan_there_and_a_batch_agrees_with_a_loop():
    def at(x):
        y = x - jnp.maximum(jnp.sum(x) - 1, 0) / 2
        return implicit.implicit_kkt(lambda x, y: 0.5 * jnp.sum((y - x) ** 2), x, y, constraints=HALF)

    points = jnp.array([[0.8, 0.3], [0.75, 0.25], [0.1, 0.2]])
    found = jax.jit(jax.vmap(jax.jacobian(at)))(points)
    near(found[0], np.array([[0.5, -0.5], [-0.5, 0.5]]), 1e-12)
    assert np.isnan(found[1]).all()
    near(found[2], np.eye(2), 1e-12)


def test_refusals():
    refuses("neither equality nor inequality", lambda: nearest([0.0, 0.0], [0.0, 0.0], Constraints()))
    inside = jax.shard_map(
        lambda y: implicit.implicit_kkt(LOWER, jnp.asarray(X), y, constraints=LINES),
        mesh=jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,)),
        in_specs=jax.P("d"),
        out_specs=jax.P("d"),
    )
    refuses("constraints need y whole", lambda: inside(jnp.ones(SIZE)))
    refuses("multipliers of the inequality", lambda: nearest([0.0, 0.0], [0.0, 0.0], multipliers=(None, jnp.ones(2))))
