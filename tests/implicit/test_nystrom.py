"""Nystrom sketches: the damped closed form at full rank, and fewer steps for conjugate gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.implicit import cg, hessian, hypergradient, minibatch_hessian
from jaxfuse.implicit.nystrom import NystromPreconditioner, nystrom, nystrom_preconditioner
from tests.implicit.problems import central_difference, differentiate, distance, error, near, quadratic, refuses, said

N, RANK, DAMPING = 120, 40, 1e-5
EIGENVALUES = np.concatenate([np.logspace(0, -5, 30), np.full(N - 30, DAMPING)])  # 30 that decay, and a flat rest


def key():
    return jax.random.key(0)


def decaying():
    """A quadratic in a pytree of two leaves, (100,) and (4, 5), whose Hessian has `EIGENVALUES`, turning with x[0]."""
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(N, N)))
    base, turn = jnp.asarray(basis * EIGENVALUES @ basis.T), rng.normal(size=(N, N))
    turned = jnp.asarray((basis * np.sqrt(EIGENVALUES)) @ (turn + turn.T) @ (basis * np.sqrt(EIGENVALUES)).T / N)
    pull, goal = jnp.asarray(rng.normal(size=(N, 3))), jnp.asarray(rng.normal(size=N))
    flat = lambda y: jnp.concatenate([y["w"], jnp.ravel(y["b"])])
    tree = lambda v: {"w": v[:100], "b": v[100:].reshape(4, 5)}
    matrix = lambda x: base + x[0] * turned
    lower = lambda x, y: 0.5 * flat(y) @ (matrix(x) @ flat(y)) - flat(y) @ (pull @ x)
    upper = lambda x, y: 0.5 * jnp.sum((flat(y) - 100 * goal) ** 2)
    solve = lambda x: tree(jnp.linalg.solve(matrix(x), pull @ x))
    return upper, lower, solve, base, tree, flat


def test_full_rank_gives_the_damped_closed_form():
    case, damping = quadratic(12, 50), 1e-2
    estimator = nystrom(12, damping, key(), chunk=5)
    gradient, info = differentiate(case, estimator=estimator)
    cross, matrix = jax.jacfwd(jax.grad(case.lower, 1), (0, 1))(case.x, case.y)
    target = jax.grad(case.upper, 1)(case.x, case.y)
    adjoint = jnp.linalg.solve(matrix + damping * jnp.eye(12), target)
    assert error(gradient, 0.1 * case.x - cross.T @ adjoint) < 1e-8
    near(info.adjoint, adjoint, 1e-8)
    near(info.residual, distance(matrix @ adjoint, target), 1e-6)  # of the Hessian itself
    assert float(info.system_residual) < 1e-8  # of the damped system
    near(info.least_curvature, 0.02 + damping, 1e-6)
    assert said(info, "damping", "steps", "products") == (damping, 1, 13)


def test_a_small_damping_on_a_flat_spectrum_is_flagged_and_a_large_one_is_not():
    case = quadratic(12, 3)
    by = lambda damping: {"estimator": nystrom(4, damping, key())}
    run = jax.jit(lambda damping: hypergradient(case.upper, case.lower, case.x, case.y, **by(damping)))
    for damping, good in ((1e-3, False), (1.0, True)):
        assert said(run(damping)[1], "solve_converged", "damping") == (good, damping)


def test_reverse_mode_through_the_sketch():
    case, direction = quadratic(8, 10), jnp.cos(jnp.arange(7.0))
    curved = lambda x, y: case.lower(x, y) + 0.1 * jnp.exp(0.3 * x[0]) * jnp.sum(y**4)
    gradient = lambda x: hypergradient(case.upper, curved, x, case.y, estimator=nystrom(4, 0.1, key()))[0]
    along = lambda x: direction @ gradient(x)
    near(jax.jit(jax.grad(along))(case.x) @ direction, central_difference(along, case.x, direction), 1e-6)


def test_preconditioner_is_the_formula_on_orthonormal_directions_and_keeps_the_structure():
    _, lower, solve, base, tree, flat = decaying()
    x = jnp.array([0.0, 0.5, -0.3])
    make = jax.jit(lambda x, y: nystrom_preconditioner(lower, x, y, rank=RANK, damping=DAMPING, key=key()))
    found = make(x, solve(x))
    assert [leaf.shape for leaf in found.basis] == [(RANK, 4, 5), (RANK, 100)]
    vectors = np.concatenate([np.asarray(leaf).reshape(RANK, -1) for leaf in found.basis[::-1]], axis=1)
    near(vectors @ vectors.T, np.eye(RANK), atol=1e-12)
    near(found.eigenvalues[:5], EIGENVALUES[:5], 0.01)
    assert np.all(np.diff(found.eigenvalues) <= 0)
    dense = np.stack([flat(found(tree(unit))) for unit in np.eye(N)])
    near(dense, dense.T, atol=1e-8)
    values = np.linalg.eigvalsh(np.linalg.cholesky(dense).T @ (base + DAMPING * np.eye(N)) @ np.linalg.cholesky(dense))
    assert 0 < values[-1] < 20 * values[0]  # the condition number was 50,000
    # Leaves that are no variables pass through.
    assert found({"w": jnp.ones(100), "b": jnp.ones((4, 5)), "count": jnp.array(3)})["count"] == 3
    refuses("preconditioner is for leaves of shapes", lambda: found({"w": jnp.ones(3), "b": jnp.ones((4, 5))}))


def test_noise_of_a_rank_beyond_that_of_the_curvature_is_left_out():
    """Curvature diag(1, 0.5, 0, ..., 0) and rank 5: three directions are rounding alone."""
    scales = jnp.zeros(20).at[:2].set(jnp.array([1.0, 0.5]))
    lower = lambda x, y: 0.5 * jnp.sum(scales * y**2) * x
    found = nystrom_preconditioner(lower, 1.0, jnp.ones(20), rank=5, damping=0.1, key=key())
    np.testing.assert_allclose(found.eigenvalues[:2], [1, 0.5], rtol=1e-12)
    np.testing.assert_array_equal(found.eigenvalues[2:], 0)
    np.testing.assert_allclose(found(jnp.ones(20)), 1 / (scales + 0.1), rtol=1e-10)


def test_conjugate_gradients_take_a_third_of_the_steps_or_less():
    upper, lower, solve, *_ = decaying()
    x = jnp.array([0.0, 0.5, -0.3])

    @jax.jit
    def both(x, y):
        preconditioner = nystrom_preconditioner(lower, x, y, rank=RANK, damping=DAMPING, key=key())
        plain = hypergradient(upper, lower, x, y, estimator=cg(tolerance=1e-9))
        return plain, hypergradient(upper, lower, x, y, estimator=cg(1e-9, preconditioner=preconditioner))

    (plain, plain_info), (fast, fast_info) = both(x, solve(x))
    assert int(fast_info.steps) * 3 <= int(plain_info.steps)
    assert float(fast_info.residual) <= 2e-9
    assert error(fast, plain) < 1e-6


def test_warm_start_and_a_kept_preconditioner_halve_the_steps_on_a_drifting_problem():
    """Ten outer steps in one scan; the preconditioner is that of the first."""
    upper, lower, solve, *_ = decaying()
    points = jnp.array([[0.0, 0.5, -0.3]]) + 0.01 * jnp.arange(10.0)[:, None]

    @jax.jit
    def drift(points):
        first = points[0]
        kept = nystrom_preconditioner(lower, first, solve(first), rank=RANK, damping=DAMPING, key=key())
        assert isinstance(kept, NystromPreconditioner)

        def step(state, x):
            adjoint, kept = state
            y = solve(x)
            _, cold = hypergradient(upper, lower, x, y, estimator=cg(tolerance=1e-8))
            _, warm = hypergradient(upper, lower, x, y, estimator=cg(1e-8, start=adjoint, preconditioner=kept))
            return (warm.adjoint, kept), (cold.steps, warm.steps, cold.residual, warm.residual)

        nothing = jax.tree.map(jnp.zeros_like, solve(first))
        return jax.lax.scan(step, (nothing, kept), points)[1]

    cold, warm, cold_residual, warm_residual = drift(points)
    assert int(jnp.sum(warm)) * 2 <= int(jnp.sum(cold))
    assert jnp.all(warm[1:] < warm[0])  # the warm start alone helps too
    assert jnp.max(jnp.concatenate([cold_residual, warm_residual])) <= 2e-8


def test_arguments_are_checked():
    lower, y = lambda x, y: 0.5 * jnp.sum(y**2) * x, jnp.ones(3)
    upper = lambda x, y: jnp.sum(y)
    make = partial(nystrom_preconditioner, lower, 1.0, y, damping=0.1, key=key())
    refuses("rank is 4, more than the 3 unknowns", lambda: make(rank=4))
    refuses("needs a positive one", lambda: nystrom(2, 0.0, key()))
    refuses("at least 1 was expected", lambda: nystrom(0, 0.1, key()))
    twice = {"estimator": nystrom(2, 0.1, key()), "curvature": hessian(damping=0.1)}
    refuses("nystrom takes the damping as its own argument", lambda: hypergradient(upper, lower, 1.0, y, **twice))
    fresh = minibatch_hessian(lambda x, y, batch: lower(x, y), jnp.ones(4))
    refuses("same matrix in every product", lambda: make(rank=2, curvature=fresh))
