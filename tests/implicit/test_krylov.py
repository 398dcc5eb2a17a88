"""Conjugate gradients and MINRES against NumPy: the answer, the way there, and every reason to stop."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.implicit import problems
from tests.implicit.problems import CG, DEFINITE, INDEFINITE, MINRES, distance, near, said, solve, spd, split, vector

both = pytest.mark.parametrize("method", [CG, MINRES], ids=["cg", "minres"])


def iterates(method: Any, matrix: np.ndarray, target: np.ndarray, most: int) -> list[Any]:
    """Every iterate but the first, from one compilation; unwrapped, since the number of steps is traced here."""
    posed, options = (problems.on_leaves(matrix), split(jnp.asarray(target))), {"start": None, "preconditioner": None}
    run = jax.jit(lambda steps: inspect.unwrap(method)(*posed, **options, tolerance=0, steps=steps))
    found = [run(steps) for steps in range(1, most + 1)]
    return [solved._replace(adjoint=np.concatenate(solved.adjoint)) for solved in found]


def textbook(matrix: np.ndarray, target: np.ndarray, steps: int) -> list[np.ndarray]:
    """The iterates of conjugate gradients in NumPy, zero first, up to a direction of curvature <= 0."""
    found, residual, direction = [np.zeros_like(target)], target, target
    for _ in range(steps):
        image = matrix @ direction
        if direction @ image <= 0:
            break
        length = residual @ residual / (direction @ image)
        found.append(found[-1] + length * direction)
        following = residual - length * image
        direction = following + following @ following / (residual @ residual) * direction
        residual = following
    return found


def test_equals_numpy():
    for method, matrix in ((CG, DEFINITE), (MINRES, DEFINITE), (MINRES, INDEFINITE)):
        problems.check_accuracy(method, matrix)


@both
def test_ends_after_as_many_steps_as_unknowns(method):
    matrix, target = spd(12, 10), vector(12)
    found = solve(method, matrix, target)
    assert int(found.steps) <= 12
    assert int(found.products) == int(found.steps)
    assert distance(found.adjoint, np.linalg.solve(matrix, target)) <= 1e-11
    assert np.linalg.eigvalsh(matrix)[0] * (1 - 1e-9) <= float(found.least_curvature) <= 1


def test_error_of_cg_falls_at_every_step_in_the_norm_of_the_matrix():
    target = vector(40)
    exact = np.linalg.solve(DEFINITE, target)
    found = [solved.adjoint for solved in iterates(CG, DEFINITE, target, 30)]
    errors = [(q - exact) @ DEFINITE @ (q - exact) for q in found]
    assert np.all(np.diff(errors) < 0)
    reference = textbook(DEFINITE, target, 12)
    for steps, solved in enumerate(iterates(CG, DEFINITE, target, 12), 1):
        assert distance(solved.adjoint, reference[steps]) <= 1e-10


@pytest.mark.parametrize("matrix", [DEFINITE, INDEFINITE], ids=["definite", "indefinite"])
def test_residual_of_minres_never_grows(matrix):
    target = vector(40)
    residuals = [np.linalg.norm(target - matrix @ found.adjoint) for found in iterates(MINRES, matrix, target, 38)]
    assert np.all(np.diff(residuals) <= 1e-12)
    assert residuals[-1] < 1e-2 * residuals[0]


@both
def test_start_at_the_solution_takes_no_step(method):
    target = vector(40)
    exact = np.linalg.solve(DEFINITE, target)
    found = solve(method, DEFINITE, target, start=exact)
    assert said(found, "steps", "products", "least_curvature") == (0, 1, np.inf)
    np.testing.assert_array_equal(found.adjoint, exact)


@both
def test_exact_inverse_as_preconditioner_takes_one_step(method):
    target, inverse = vector(40), np.linalg.inv(DEFINITE)
    found = solve(method, DEFINITE, target, preconditioner=(inverse + inverse.T) / 2, tolerance=1e-10)
    assert int(found.steps) == 1
    assert distance(found.adjoint, np.linalg.solve(DEFINITE, target)) <= 1e-10


@both
def test_stops_at_the_cap_and_at_the_tolerance(method):
    target = vector(40)
    cut = solve(method, DEFINITE, target, steps=5)
    assert said(cut, "steps", "products") == (5, 5)
    assert distance(DEFINITE @ cut.adjoint, target) > 0.01
    counts = []
    for tolerance in (1e-2, 1e-6):
        found = solve(method, DEFINITE, target, tolerance=tolerance)
        assert distance(DEFINITE @ found.adjoint, target) <= tolerance * 1.001
        counts.append(int(found.steps))
    assert 5 < counts[0] < counts[1]


def test_cg_cut_where_the_residual_grew_is_still_nearer_than_before():
    matrix, target = spd(30, 1e3), vector(30)
    exact = np.linalg.solve(matrix, target)
    found = [np.zeros(30)]
    for solved in iterates(CG, matrix, target, 13):
        found.append(solved.adjoint)
        assert not bool(solved.best_iterate)
    residuals = [np.linalg.norm(target - matrix @ q) for q in found]
    assert max(np.diff(residuals)) > 0.1 * residuals[0]
    assert np.all(np.diff([np.linalg.norm(q - exact) for q in found]) < 0)


def test_cg_stops_at_negative_curvature():
    # By hand: the first step has length 3 / 2, the second direction is (1.5, 3, 6), of curvature -22.5 / 47.25.
    found = solve(CG, np.diag([2.0, 1.0, -1.0, 0.0]), np.array([1.0, 1.0, 1.0, 0.0]))
    near((found.adjoint, found.least_curvature), (np.array([1.5, 1.5, 1.5, 0]), -10 / 21), 1e-14)
    assert said(found, "steps", "best_iterate") == (2, True)
    # Here it had come further, and keeps that.
    matrix, target = np.diag([4.0, 2.0, 1.0, -1.0]), np.array([1.0, 1.0, 1.0, 0.01])
    reference = textbook(matrix, target, 10)
    found = solve(CG, matrix, target)
    assert 2 < len(reference) == int(found.steps) < 10
    assert float(found.least_curvature) < 0
    near(found.adjoint, reference[-1], 1e-10)


@both
def test_product_that_is_not_finite_ends_the_loop(method):
    plain, target = problems.on_leaves(DEFINITE), vector(40)
    product = lambda v, step: [jnp.where(step == 6, jnp.nan, leaf) for leaf in plain(v)]
    found = solve(method, DEFINITE, target, product=product)
    assert int(found.steps) == 7
    if method is CG:  # keeps the sixth iterate, and says that it is not the last
        near(found.adjoint, solve(CG, DEFINITE, target, steps=6).adjoint, 1e-10)
        assert bool(found.best_iterate)
    else:
        assert not np.all(np.isfinite(found.adjoint))


@both
def test_zero_target_has_the_zero_solution(method):
    found = solve(method, DEFINITE, np.zeros(40))
    np.testing.assert_array_equal(found.adjoint, np.zeros(40))
    assert said(found, "steps", "best_iterate") == (0, False)


@pytest.mark.single
@both
def test_float32_with_a_million_unknowns(method):
    rng = np.random.default_rng(0)
    values, target = (kind.astype(np.float32) for kind in (rng.uniform(0.1, 1, 10**6), rng.normal(size=10**6)))
    diagonal = split(jnp.asarray(values))
    product = lambda v, step: [d * leaf for d, leaf in zip(diagonal, v, strict=True)]
    found = solve(method, values, target, product=product, tolerance=1e-6)
    assert found.adjoint.dtype == np.float32
    assert distance(found.adjoint, target.astype(np.float64) / values) <= 5e-6
    assert int(found.steps) <= 40
