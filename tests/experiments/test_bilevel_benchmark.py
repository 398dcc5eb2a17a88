"""The comparison of bi-level solvers: its tasks, its adapter for benchmark_bilevel, and a quick run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.bilevel_benchmark import adapter, run, tasks


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def test_the_least_value_of_the_quadratic_is_where_its_gradient_vanishes():
    task = tasks.quadratic(samples=128, size=6)
    value = lambda x: task.value(x, None)
    x, step = task.start[0], jax.jit(lambda x: x - 0.5 * jax.grad(value)(x))
    for _ in range(400):
        x = step(x)
    assert abs(float(value(x)) - task.least) < 1e-9
    assert float(value(task.start[0])) > task.least + 0.01


def test_the_adapter_takes_functions_of_benchmark_bilevel():
    """Samples (t - y)^2 below and (y - 1)^2 above, x shifting t: y = mean of t + x, so x* = 1 - mean of t."""
    targets = jnp.asarray(np.random.default_rng(0).normal(size=(8, 2)))

    def f_inner(inner, outer, start=0, batch_size=1):
        batch = jax.lax.dynamic_slice(targets, (start, 0), (batch_size, 2))
        return 0.5 * jnp.mean(jnp.sum((inner - outer - batch) ** 2, axis=1))

    def f_outer(inner, outer, start=0, batch_size=1):
        return 0.5 * jnp.sum((inner - 1) ** 2)

    problem = {"f_inner": f_inner, "f_outer": f_outer, "n_inner_samples": 8, "n_outer_samples": 8}
    problem |= {"inner_var0": jnp.zeros(2), "outer_var0": jnp.zeros(2)}
    state, advance = adapter.stretches(problem, "saba", 0.2, 2.0, batch_size=2, steps=600, seed=0)
    state = advance(state)
    np.testing.assert_allclose(state.x, 1 - targets.mean(axis=0), atol=1e-6)
    assert int(state.step) == 600


@pytest.mark.slow
def test_a_quick_run_writes_table_and_curves(tmp_path):
    run.main(["--out", str(tmp_path), "--tasks", "ridge", "--quick"])
    scores = json.loads((tmp_path / "scores.json").read_text())
    (task,) = scores["tasks"]
    names = [row["method"] for row in task["rows"]]
    assert names[:14] == list(run.MAKERS)
    assert all(np.isfinite(row["values"]).all() for row in task["rows"])
    assert "| SOBA" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "curves.png").stat().st_size > 10_000
