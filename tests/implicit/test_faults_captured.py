"""A function that closes over values of the trace around it, such as a row of the data inside vmap.

Derivatives are taken later and from outside, when that trace may be over: every such value has to travel openly.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse import implicit
from tests.faults.catalogue import given, table
from tests.implicit.problems import near

DATA = np.array([[1.0, -1.0, 2.0], [1.0, 1.0, 1.0]])
X, EXACT = np.ones(3), np.array([4.0, 4.0, 10.0])


def attach(x, row, **options):
    """y = x row by its equation, the row captured."""
    y = jax.lax.stop_gradient(x * row)
    options.setdefault("estimator", implicit.cg())
    return implicit.implicit_minimum(lambda p, y: jnp.sum((y - p * row) ** 2), x, y, **options)


def loss(x, **options):
    return jax.vmap(lambda row: jnp.sum(attach(x, row, **options) ** 2))(jnp.asarray(DATA)).sum()


def by_index(x):
    """The captured value is a whole number, which has no derivative to show that it is traced."""
    rows = jnp.asarray(DATA)
    return jax.vmap(lambda i: jnp.sum(attach(x, rows[i]) ** 2))(jnp.arange(2)).sum()


def by_scan(loss):
    return lambda x: jax.lax.scan(lambda total, _: (total + loss(x), None), 0.0, length=1)[0]


@table(
    "differentiate",
    ("a row of data captured inside vmap: grad", "[4, 4, 10]", jax.grad),
    ("a row of data captured inside vmap: grad of jit", "[4, 4, 10]", lambda f: jax.grad(jax.jit(f))),
    ("a row of data captured inside vmap: jit of grad of jit", "[4, 4, 10]", lambda f: jax.jit(jax.grad(jax.jit(f)))),
    ("a row of data captured inside vmap: forward mode of jit", "[4, 4, 10]", lambda f: jax.jacfwd(jax.jit(f))),
    ("a row of data captured inside vmap: grad of scan", "[4, 4, 10]", lambda f: jax.grad(by_scan(f))),
    ("a row of data captured inside vmap: grad of checkpoint", "[4, 4, 10]", lambda f: jax.grad(jax.checkpoint(f))),
)
def test_nesting(differentiate):
    for each in (loss, by_index):
        near(differentiate(each)(X), EXACT, 1e-12)


@given("a row of data captured inside vmap: jax.hessian of jit", "diag [4, 4, 10]")
def test_second_order():
    near(jax.hessian(jax.jit(loss))(X), np.diag(EXACT), 1e-12, 1e-12)


@given("a row of data and a weight captured in two nested vmaps, root of an equation, grad of jit", "right")
def test_two_batches():
    def one(x, row, weight):
        y = jax.lax.stop_gradient(x * row * weight)
        return jnp.sum(implicit.implicit_root(lambda p, y: y - p * row * weight, x, y) ** 2)

    weights = np.array([1.0, 2.0])
    total = lambda x: jax.vmap(lambda row: jax.vmap(lambda w: one(x, row, w))(weights))(jnp.asarray(DATA)).sum()
    near(jax.grad(jax.jit(total))(X), 5 * EXACT, 1e-12)


def scaled(row):
    """A preconditioner that captures: any positive one changes the way, not the answer."""
    return lambda tree: jax.tree.map(lambda leaf: leaf / (1 + row**2), tree)


@table(
    "options",
    (
        "a preconditioner that captures a row",
        "[4, 4, 10]",
        lambda r: {"estimator": implicit.cg(preconditioner=scaled(r))},
    ),
    ("a start of the solver that is traced", "[4, 4, 10]", lambda r: {"estimator": implicit.cg(start=r)}),
    ("a traced learning rate", "[4, 4, 10]", lambda r: {"estimator": implicit.neumann(1, 0.5 + 0 * r[0])}),
    (
        "a curvature that captures a row",
        "[4, 4, 10]",
        lambda r: {"curvature": implicit.gauss_newton(lambda p, y: y - p * r, lambda out: jnp.sum(out**2))},
    ),
)
def test_solver(options):
    def total(x):
        rows = jnp.asarray(DATA)
        return jax.vmap(lambda row: jnp.sum(attach(x, row, **options(row)) ** 2))(rows).sum()

    near(jax.grad(jax.jit(total))(X), EXACT, 1e-12)


@given("an inner problem attached inside the lower function of another, in vmap inside jit", "right")
def test_three_levels():
    """z = p row, y = z^2 by its own equation: d/dx of sum y is 2 x sum row^2."""

    def one(x, row):
        def lower(p, y):
            z = implicit.implicit_root(lambda p, z: z - p * row, p, jax.lax.stop_gradient(p * row))
            return jnp.sum((y - z**2) ** 2)

        return jnp.sum(implicit.implicit_minimum(lower, x, jax.lax.stop_gradient((x * row) ** 2)))

    total = lambda x: jax.vmap(lambda row: one(x, row))(jnp.asarray(DATA)).sum()
    near(jax.grad(jax.jit(total))(X), 2 * (DATA**2).sum(axis=0), 1e-12)
