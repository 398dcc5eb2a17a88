"""Constrained and non-smooth minima: closed forms on the face, differences, and what is said at kinks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse import implicit
from jaxfuse.implicit import box, group_norm, l1_ball, l1_norm, l2_ball, simplex
from tests.implicit.problems import central_difference, near, refuses, spd

SIZE = 8
# Of NumPy: at import, JAX is not in float64 yet.
A = spd(SIZE, 10.0)
B = np.random.default_rng(0).normal(size=(SIZE, 3))
T = np.random.default_rng(1).normal(size=SIZE)
X = np.array([0.7, -0.4, 0.9])
UPPER = lambda x, y: 0.5 * jnp.sum((y - T) ** 2) + 0.05 * jnp.sum(x**2)
LOWER = lambda x, y: 0.5 * y @ (A @ y) - y @ (B @ x)


def solved(term, x, lower=LOWER, size=SIZE, steps=1500):
    """The minimum by proximal steps, to rounding; eigenvalues end at 1."""
    x = jax.lax.stop_gradient(x)
    advance = lambda _, y: implicit.proximal_step(lower, term, x, y, 1.0)
    return jax.lax.fori_loop(0, steps, advance, jnp.full(size, 0.1))


def judged(term, x=X, lower=LOWER, **options):
    """(gradient, info, y) at the minimum."""

    def run(x):
        y = solved(term, x, lower)
        return *implicit.proximal_hypergradient(UPPER, lower, x, y, term=term, **options), y

    return jax.jit(run)(x)


def on_face(basis, y, curved=0.0, x=X):
    """The gradient where y moves in the span of `basis` alone, with more curvature `curved` there: dense algebra."""
    a, b, z = np.asarray(A) + curved, np.asarray(B), np.asarray(basis)
    return 0.1 * np.asarray(x) + b.T @ z @ np.linalg.solve(z.T @ a @ z, z.T @ (np.asarray(y) - np.asarray(T)))


def null(rows):
    """A basis of what is orthogonal to these rows."""
    rows = np.atleast_2d(rows)
    return np.linalg.svd(rows)[2][np.linalg.matrix_rank(rows) :].T


def held(active, *rows):
    """Rows that hold the active entries, and these."""
    return np.array([*np.eye(SIZE)[np.asarray(active)], *rows])


def sphere(y, multiplier):
    return multiplier * np.eye(SIZE)


def shrinking(y):
    """The curvature of the norms of the two groups of four, where they are not zero."""
    whole = np.zeros((SIZE, SIZE))
    for part in (slice(0, 4), slice(4, 8)):
        length = np.linalg.norm(y[part])
        if length:
            whole[part, part] = (np.eye(4) - np.outer(y[part], y[part]) / length**2) / length
    return whole


def test_lasso_by_its_closed_form():
    gradient, info, y = judged(l1_norm(0.2))
    assert 0 < int((y == 0).sum()) < SIZE
    assert (info.face.active == (y == 0)).all()
    near(gradient, on_face(null(held(y == 0)), y), 1e-9)
    assert info.check().converged
    near(info.value, UPPER(X, y), 1e-14)


@pytest.mark.parametrize(
    "name",
    ["simplex", *(pytest.param(name, marks=pytest.mark.slow) for name in ("box", "l1 ball", "l2 ball", "loose"))],
)
def test_sets_by_their_closed_forms(name):
    terms = {"box": box(-0.3, 0.4), "simplex": simplex(2.0), "l1 ball": l1_ball(2.0), "l2 ball": l2_ball(1.0)}
    gradient, info, y = judged(terms.get(name, l2_ball(100.0)))
    y = np.asarray(y)
    active = np.asarray(info.face.active)
    curved = 0.0
    if name == "box":
        rows = held(abs(y - 0.05) > 0.35 - 1e-12)
        assert active.sum() == len(rows)
    elif name == "simplex":
        rows = held(y == 0, np.ones(SIZE))
    elif name == "l1 ball":
        rows = held(y == 0, np.sign(y))
    elif name == "l2 ball":
        rows, curved = y, sphere(y, -y @ np.asarray(jax.grad(LOWER, 1)(X, y)))
    else:
        rows = np.zeros((1, SIZE))
    assert active.any() == (name != "loose")
    near(gradient, on_face(null(rows), y, curved), 1e-8)
    assert info.check().converged


def grouped(weight):
    """A group lasso with two groups of four, as one leaf of two rows."""
    term = group_norm(weight, axis=1)
    lower = lambda x, y: LOWER(x, y.reshape(SIZE))
    upper = lambda x, y: UPPER(x, y.reshape(SIZE))

    def solution(x):
        advance = lambda _, y: implicit.proximal_step(lower, term, x, y, 1.0)
        return jax.lax.fori_loop(0, 1500, advance, jnp.full((2, 4), 0.1))

    return term, lower, upper, solution


@pytest.mark.slow
@pytest.mark.parametrize("weight", [1.0, 0.1])
def test_group_lasso_by_its_closed_form(weight):
    term, lower, upper, solution = grouped(weight)
    y = jax.jit(solution)(X)
    gradient, info = jax.jit(lambda x, y: implicit.proximal_hypergradient(upper, lower, x, y, term=term))(X, y)
    flat = np.asarray(y).reshape(SIZE)
    near(
        gradient,
        on_face(null(held(flat == 0) if weight == 1 else np.zeros((1, SIZE))), flat, weight * shrinking(flat)),
        1e-8,
    )
    assert info.face.active.any(axis=1).tolist() == [True, False] if weight == 1 else not info.face.active.any()
    assert info.check().converged


TERMS = {
    "l1_norm": l1_norm(lambda x: 0.2 + 0.1 * x[0] ** 2),
    "box": box(lambda x: -0.3 * x[0], lambda x: 0.4 + 0.1 * x[1]),
    "simplex": simplex(lambda x: 2 + x[2]),
    "l1_ball": l1_ball(lambda x: 2 + x[2]),
    "l2_ball": l2_ball(lambda x: 1 + 0.3 * x[1]),
    "group_norm": group_norm(lambda x: 0.2 * x[0]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TERMS)
def test_terms_that_depend_on_x_against_differences(name):
    term = TERMS[name]
    gradient, info, _ = judged(term)
    assert info.check().converged
    loss = lambda x: UPPER(x, solved(term, x))
    attached = lambda x: UPPER(x, implicit.implicit_proximal_minimum(LOWER, x, solved(term, x), term=term))
    for direction in jnp.eye(3):
        near(gradient @ direction, central_difference(loss, X, direction), 1e-6, 1e-7)
    near(jax.jit(jax.grad(attached))(X), gradient, 1e-8)
    near(jax.jit(jax.jacfwd(attached))(X), gradient, 1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [implicit.gmres(), implicit.bicgstab(), implicit.lsmr()], ids=str)
def test_solvers(estimator):
    gradient, info, y = judged(l1_norm(0.2), estimator=estimator)
    near(gradient, on_face(null(held(y == 0)), y), 1e-8)
    assert info.check().converged


@pytest.mark.slow
def test_a_batch_agrees_with_a_loop_and_may_hold_different_faces():
    points = jnp.stack([jnp.asarray(X), -2 * X, 0.3 * X])
    one = lambda x: implicit.proximal_hypergradient(UPPER, LOWER, x, solved(TERMS["box"], x), term=TERMS["box"])
    batch, info = jax.jit(jax.vmap(one))(points)
    near(batch, jnp.stack([jax.jit(one)(x)[0] for x in points]), 1e-10)
    assert len({tuple(row) for row in info.face.active.tolist()}) > 1
    assert info.check().converged.all()


def clipped(x, y, term, lower=None, policy="warn"):
    """The identity, clipped or shrunk: lower = |y - x|^2 / 2."""
    lower = lower or (lambda x, y: 0.5 * jnp.sum((y - x) ** 2))
    return implicit.proximal_hypergradient(
        lambda x, y: jnp.sum(y * jnp.arange(1.0, y.size + 1)),
        lower,
        jnp.asarray(x),
        jnp.asarray(y),
        term=term,
        policy=policy,
    )


KINKS = {  # term, x, y
    "bound about to be active": (box(0.0, 1.0), [0.5, 1.0, -1.0], [0.5, 1.0, 0.0]),
    "zero about to leave": (l1_norm(1.0), [3.0, -1.0, 0.2], [2.0, 0.0, 0.0]),
    "entry of a simplex at zero with no force": (simplex(), [0.75, 0.25, 0.0], [0.75, 0.25, 0.0]),
    "ball just reached": (l2_ball(5.0), [3.0, 4.0, 0.0], [3.0, 4.0, 0.0]),
    "l1 ball just reached": (l1_ball(1.0), [0.75, -0.25, 0.0], [0.75, -0.25, 0.0]),
    "group about to leave": (group_norm(5.0), [3.0, 4.0, 0.0], [0.0, 0.0, 0.0]),
}


@pytest.mark.parametrize("name", ["zero about to leave", *(pytest.param(n, marks=pytest.mark.slow) for n in KINKS)])
def test_a_kink_is_flagged(name):
    term, x, y = KINKS[name]
    _, info = jax.jit(functools.partial(clipped, term=term, policy="raise"))(x, y)
    flags = (info.inner_converged, info.solve_converged, info.positive, info.finite, info.smooth, info.converged)
    assert [bool(flag) for flag in flags] == [True] * 4 + [False] * 2
    refuses("y lies on a kink, where it has no derivative", info.check, implicit.UnreliableGradient)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINKS)
def test_just_beside_a_kink_all_is_well(name):
    term, x, _ = KINKS[name]
    for side in (0.99, 1.01):
        moved = term.step(None, [side * jnp.asarray(x)], jnp.array(1.0)).point[0]
        assert clipped(side * np.asarray(x), moved, term)[1].check().converged


@pytest.mark.slow
def test_policies_at_a_kink():
    term, x, y = KINKS["bound about to be active"]
    for policy, expected in (("nan", np.nan), ("fallback", 0.0)):
        gradient, info = clipped(x, y, term, policy=policy)
        near(gradient, np.full(3, expected))
        assert bool(info.fell_back) == (policy == "fallback")
    attached = lambda x, policy: implicit.implicit_proximal_minimum(
        lambda x, y: 0.5 * jnp.sum((y - x) ** 2), x, jnp.asarray(y), term=term, policy=policy
    )
    near(attached(jnp.asarray(x), "nan"), np.array(y))
    assert np.isnan(jax.jacobian(attached)(jnp.asarray(x), "nan")).all()
    assert np.isfinite(jax.jacfwd(attached)(jnp.asarray(x), "ignore")).all()


@pytest.mark.slow
def test_an_active_set_that_y_is_too_far_off_to_know_is_flagged():
    """y is within the tolerance of the minimum, but one entry is nearer to its bound than to its place."""
    _, info = clipped([0.5, 1e-6, 2.0], [0.5 + 3e-5, 1e-6, 1.0], box(0.0, 1.0), policy="ignore")
    assert (bool(info.inner_converged), bool(info.smooth)) == (True, False)


@pytest.mark.slow
def test_what_else_goes_wrong_is_flagged_too():
    term = box(-0.3, 0.4)
    y = solved(term, X, steps=3)
    _, cut = implicit.proximal_hypergradient(UPPER, LOWER, X, y, term=term)
    assert not cut.inner_converged
    # A saddle on the face: the free entry is at a maximum.
    saddle = lambda x, y: 0.5 * jnp.sum(jnp.array([1.0, -1.0, 1.0]) * (y - x) ** 2)
    _, info = clipped([0.5, 0.4, 2.0], [0.5, 0.4, 1.0], box(0.0, 1.0), saddle)
    assert (bool(info.inner_converged), bool(info.positive)) == (True, False)
    with pytest.warns(implicit.UnreliableGradientWarning, match="curvature is not positive"):
        info.check()
    # The same along a bound that holds it is a minimum.
    _, info = clipped([0.5, 0.4, 2.0], [0.5, 1.0, 1.0], box(0.0, 1.0), saddle)
    assert info.check().converged
    _, flat = clipped([0.5, 0.4, 2.0], [0.5, 0.4, 1.0], box(0.0, 1.0), lambda x, y: saddle(x, y) * jnp.array(0.0))
    assert not flat.converged


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-20, 1e20])
@pytest.mark.parametrize("unit", [1e-5, 1.0])
@pytest.mark.single
def test_flags_have_no_unit(scale, unit):
    """float32, with the lower function in other units, and y too."""
    term = box(0.0, unit)
    lower = lambda x, y: 0.5 * scale * jnp.sum((y - unit * x) ** 2)
    _, info = clipped([0.5, 0.2, -1.0], np.float32(unit) * np.float32([0.5, 0.2, 0.0]), term, lower)
    assert info.check().converged
    _, info = clipped([0.5, 1.0, -1.0], np.float32(unit) * np.float32([0.5, 1.0, 0.0]), term, lower)
    assert not info.smooth


@pytest.mark.slow
def test_trees_constants_and_types():
    """y with a part that is free, one that is held, and constants; x with a whole number."""
    y = {"free": jnp.float32([0.5, 0.5]), "held": np.float32([1.0]), "name": "y", "count": 3}
    x = {"shift": jnp.float32(0.5), "steps": 7}
    lower = lambda x, y: jnp.sum((y["free"] - x["shift"]) ** 2) + jnp.sum((y["held"] - 4 * x["shift"]) ** 2)
    upper = lambda x, y: (jnp.sum(y["free"]) + 5 * jnp.sum(y["held"]), "said")
    term = {"free": None, "held": box(0.0, 1.0), "name": None, "count": None}
    gradient, info = implicit.proximal_hypergradient(upper, lower, x, y, term=term)
    near(gradient, {"shift": 2.0, "steps": 0}, 1e-6)
    assert gradient["shift"].dtype == np.float32
    assert info.aux["upper"] == "said"
    assert (info.face.active["name"], info.face.active["held"].tolist()) == (None, [True])
    moved = implicit.proximal_step(lower, term, x, y, 0.5)
    near(moved["free"], np.array([0.5, 0.5]), 1e-6)
    assert (moved["name"], moved["count"], moved["held"].dtype) == ("y", 3, np.float32)


def test_y_may_be_split_over_an_explicit_axis():
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Explicit,))
    lower, upper = lambda x, y: 0.5 * jnp.sum((y - x * jnp.array([1.0, 2.0, 3.0])) ** 2), lambda x, y: jnp.sum(y)

    def run(x, y):
        options = {"term": box(0.0, 5.0), "estimator": implicit.bicgstab()}
        return implicit.proximal_hypergradient(upper, lower, x, y, **options)

    with jax.set_mesh(mesh):
        y = jax.device_put(jnp.array([2.0, 4.0, 5.0]), jax.NamedSharding(mesh, jax.P("d")))
        gradient, info = jax.jit(run)(jnp.array(2.0), y)
    near(gradient, 3.0, 1e-12)
    assert info.check().face.active.tolist() == [False, False, True]
    assert info.scalars()["smooth"]


def test_refusals():
    lower = lambda x, y: ((y - x) ** 2).sum()
    no_length = lambda: implicit.proximal_step(lower, l1_norm(0.2), 1.0, jnp.zeros(2), 0.0)
    refuses("proximal_step got length=0.0; a positive number was expected", no_length)
    refuses("symmetric", lambda: judged(l1_norm(0.2), estimator=implicit.cg()))
    refuses("solves no linear system", lambda: judged(l1_norm(0.2), estimator=implicit.direct()), TypeError)
