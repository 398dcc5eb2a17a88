"""Five bi-level problems over made or shipped data, with the value function F(x) = upper(x, y*(x)) of each in closed
form or to the digits that a curve shows.

Both functions are means over samples; data are cut into batches, (batches, size, ...). All in float64.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.flatten_util import ravel_pytree
from scipy.optimize import brentq, minimize
from scipy.special import expit

from jaxfuse.implicit import implicit_minimum
from jaxfuse.implicit.solvers import split_batches

BATCH = 64
BY_LBFGS = "by L-BFGS on the exact gradient, from the start"


@dataclass(frozen=True)
class Task:
    """A bi-level problem.

    Attributes:
        key, title: name, and a line for people.
        upper, lower: (x, y, batch) -> scalar.
        data: the batches of upper and of lower.
        start: first (x, y).
        value: (x, y near y*(x)) -> F(x).
        largest: about the largest eigenvalue of lower_yy, the unit of rates.
        least: the least value of F that is known beforehand; infinite where none is.
        reference: how that was found.
        budget: oracle calls that every solver gets.
        outer_unit: unit of the rates of x.
    """

    key: str
    title: str
    upper: Callable[[Any, Any, Any], Array]
    lower: Callable[[Any, Any, Any], Array]
    data: tuple[Any, Any]
    start: tuple[Any, Any]
    value: Callable[[Any, Any], Array]
    largest: float
    least: float
    reference: str
    budget: int
    outer_unit: float

    @property
    def batches(self) -> tuple[int, int]:
        upper, lower = (len(jax.tree.leaves(each)[0]) for each in self.data)
        return upper, lower


def whole(function: Callable[[Any, Any, Any], Array], data: Any) -> Callable[[Any, Any], Array]:
    """Returns the function of (x, y) over all batches at once."""
    together = jax.tree.map(lambda leaf: jnp.reshape(leaf, (-1, *leaf.shape[2:])), data)
    return lambda x, y: function(x, y, together)


def least_value(value: Callable[[Any, Any], Array], x: Any, y: Any) -> float:
    """Finds the least value of F by L-BFGS on its exact gradient, from x."""
    flat, restore = ravel_pytree(x)
    both = jax.jit(jax.value_and_grad(lambda flat: value(restore(flat), y)))

    def evaluate(point: np.ndarray) -> tuple[float, np.ndarray]:
        found, slope = both(jnp.asarray(point))
        return float(found), np.asarray(slope)

    found = minimize(evaluate, np.asarray(flat), jac=True, method="L-BFGS-B", options={"maxiter": 500, "ftol": 1e-15})
    return float(found.fun)


def _form(x: Any, y: Any, batch: Any) -> Array:
    """Means of (h'y)^2 / 2 + (o'x)^2 / 2 + (x'u)(v'y) + c'y + d'x: the quadratic of benchmark_bilevel, factored.

    For arrays of JAX and tensors of PyTorch.
    """
    bent = 0.5 * ((batch["h"] @ y) ** 2).mean() + 0.5 * ((batch["o"] @ x) ** 2).mean()
    crossed = ((batch["u"] @ x) * (batch["v"] @ y)).mean()
    return bent + crossed + (batch["c"] @ y).mean() + (batch["d"] @ x).mean()


def _factors(rng: np.random.Generator, samples: int, size: int, spectra: dict[str, Any]) -> dict[str, np.ndarray]:
    def basis() -> np.ndarray:
        return np.linalg.qr(rng.normal(size=(size, size)))[0]

    def correlated(spectrum: np.ndarray) -> np.ndarray:
        turned = basis()
        return rng.normal(size=(samples, size)) @ (turned * np.sqrt(spectrum)) @ turned.T

    left, right, drawn = basis(), basis(), rng.normal(size=(samples, size))
    return {
        "h": correlated(spectra["inner"]),
        "o": correlated(spectra["outer"]),
        "u": drawn @ (left * spectra["cross"]).T,
        "v": drawn @ right.T,
        "c": rng.normal(size=(samples, size)),
        "d": rng.normal(size=(samples, size)),
    }


def quadratic(samples: int = 1024, size: int = 40, seed: int = 0) -> Task:
    """The quadratic of benchmark_bilevel: curvatures from 0.1 to 1, cross terms of 0.1, rank one a sample."""
    spectrum = np.logspace(-1, 0, size)
    spectra = {"inner": spectrum, "outer": np.r_[0, spectrum[1:]], "cross": np.full(size, 0.1)}
    rng = np.random.default_rng(seed)
    for _ in range(20):
        up, low = (_factors(rng, samples, size, spectra) for _ in range(2))
        A, C, c = low["h"].T @ low["h"] / samples, low["u"].T @ low["v"] / samples, low["c"].mean(axis=0)
        H, K, D = (up[a].T @ up[b] / samples for a, b in (("h", "h"), ("o", "o"), ("u", "v")))
        response = -np.linalg.solve(A, C.T)
        bent = response.T @ H @ response + K + D @ response + (D @ response).T
        if np.linalg.eigvalsh(bent).min() > 1e-3:
            break
    else:
        raise ValueError("no seed gave a value function that is convex; take more samples")
    data = tuple(split_batches(jax.tree.map(jnp.asarray, each), BATCH) for each in (up, low))
    above = whole(_form, data[0])

    def value(x, y):
        return above(x, jnp.linalg.solve(A, -(C.T @ x) - c))

    x, y = rng.normal(size=size), rng.normal(size=size)
    flat = np.linalg.solve(bent, -np.asarray(jax.grad(value)(jnp.zeros(size), None)))
    least = float(value(jnp.asarray(flat), None))
    title = f"quadratic, {size} unknowns at either level, {samples} samples"
    largest = float(np.linalg.eigvalsh(A).max())
    start = (jnp.asarray(x), jnp.asarray(y))
    return Task("quadratic", title, _form, _form, data, start, value, largest, least, "exact", 12_000, 0.3)


def ridge(samples: int = 512, size: int = 30, seed: int = 1) -> Task:
    """Ridge regression with a log penalty for each weight, few of which matter."""
    rng = np.random.default_rng(seed)
    scales = np.logspace(-0.5, 0, size)
    truth = rng.normal(size=size) * (rng.random(size) < 0.3)

    def made() -> Any:
        features = rng.normal(size=(samples, size)) * scales
        return split_batches((jnp.asarray(features), jnp.asarray(features @ truth + rng.normal(size=samples))), BATCH)

    data = (made(), made())

    def loss(y: Any, batch: Any) -> Array:
        return 0.5 * jnp.mean((batch[0] @ y - batch[1]) ** 2)

    def upper(x, y, batch):
        return loss(y, batch)

    def lower(x, y, batch):
        return loss(y, batch) + 0.5 * jnp.sum(jnp.exp(x) * y**2)

    features, targets = (jnp.reshape(leaf, (samples, *leaf.shape[2:])) for leaf in data[1])
    gram, moment = features.T @ features / samples, features.T @ targets / samples
    above = whole(upper, data[0])

    def value(x, y):
        return above(x, jnp.linalg.solve(gram + jnp.diag(jnp.exp(x)), moment))

    start = (jnp.full(size, -1.0), jnp.zeros(size))
    largest = float(jnp.linalg.eigvalsh(gram)[-1]) + float(np.exp(-1.0))
    title = f"ridge regression, {size} penalties, {samples} samples"
    least = least_value(value, *start)
    return Task("ridge", title, upper, lower, data, start, value, largest, least, BY_LBFGS, 12_000, 3.0)


def logistic(samples: int = 2048, size: int = 22, seed: int = 2) -> Task:
    """Logistic regression with a log penalty for each weight; 22 features and one positive in ten, as in IJCNN1."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=size) * (rng.random(size) < 0.4)

    def made() -> Any:
        features = rng.normal(size=(samples, size)) * np.linspace(0.3, 1, size)
        features[:, -1] = 1  # the intercept
        logits = 3 * features @ truth
        shift = brentq(lambda shift: np.mean(expit(logits - shift)) - 0.1, -50, 50)
        labels = rng.random(samples) < expit(logits - shift)
        return split_batches((jnp.asarray(features), jnp.asarray(labels, float)), BATCH)

    data = (made(), made())

    def loss(y: Any, batch: Any) -> Array:
        logits = batch[0] @ y
        return jnp.mean(jax.nn.softplus(logits) - batch[1] * logits)

    def upper(x, y, batch):
        return loss(y, batch)

    def lower(x, y, batch):
        return loss(y, batch) + 0.5 * jnp.sum(jnp.exp(x) * y**2)

    above, below = whole(upper, data[0]), whole(lower, data[1])

    def value(x: Any, y: Any) -> Array:
        def newton(_: Any, y: Any) -> Any:
            return y - jnp.linalg.solve(jax.hessian(below, 1)(x, y), jax.grad(below, 1)(x, y))

        found = lax.fori_loop(0, 10, newton, jnp.zeros(size))
        return above(x, implicit_minimum(below, x, lax.stop_gradient(found)))

    start = (jnp.full(size, -2.0), jnp.zeros(size))
    features = jnp.reshape(data[1][0], (samples, size))
    largest = float(jnp.linalg.eigvalsh(features.T @ features / samples)[-1]) / 4 + float(np.exp(-2.0))
    title = f"logistic regression, {size} penalties, {samples} samples, one positive in ten"
    least = least_value(value, *start)
    return Task("logistic", title, upper, lower, data, start, value, largest, least, BY_LBFGS, 12_000, 30.0)


def cleaning(seed: int = 3, noise: float = 0.5) -> Task:
    """Weights of samples of scikit-learn's digits, half of the labels drawn at random, by the loss on clean ones."""
    from sklearn.datasets import load_digits  # an extra, left out where it is not installed

    rng = np.random.default_rng(seed)
    digits = load_digits()
    order = rng.permutation(len(digits.target))
    features, labels = digits.data[order] / 16, digits.target[order]
    rows = {"lower": slice(0, 640), "upper": slice(640, 1152)}
    wrong = rng.random(640) < noise
    labels[:640] = np.where(wrong, rng.integers(0, 10, 640), labels[:640])
    made = {
        name: split_batches((jnp.asarray(features[row]), jnp.asarray(labels[row])), BATCH) for name, row in rows.items()
    }
    data = (made["upper"], (*made["lower"], split_batches(jnp.arange(640), BATCH)))

    def losses(y: Any, features: Any, labels: Any) -> Array:
        logits = jax.nn.log_softmax(features @ y)
        return -jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]

    def upper(x, y, batch):
        return jnp.mean(losses(y, *batch))

    def lower(x: Any, y: Any, batch: Any) -> Array:
        weights = jax.nn.sigmoid(x[batch[2]])
        return jnp.mean(weights * losses(y, batch[0], batch[1])) + 0.01 * jnp.sum(y**2)

    above, below = whole(upper, data[0]), whole(lower, data[1])
    largest = 0.5 * float(jnp.linalg.eigvalsh(features[:640].T @ features[:640] / 640)[-1]) + 0.02

    def value(x: Any, y: Any) -> Array:
        """F after 150 accelerated steps from y."""
        slope, momentum = jax.grad(below, 1), (1 - np.sqrt(0.02 / largest)) / (1 + np.sqrt(0.02 / largest))

        def move(_: Any, carry: Any) -> Any:
            y, last = carry
            ahead = y + momentum * (y - last)
            return ahead - slope(x, ahead) / largest, y

        return above(x, lax.fori_loop(0, 150, move, (y, y))[0])

    start = (jnp.zeros(640), jnp.zeros((64, 10)))
    title = "data cleaning, 640 of scikit-learn's digits, labels of half drawn at random"
    return Task("cleaning", title, upper, lower, data, start, value, largest, np.inf, "", 6_000, 300.0)


def sinusoids(tasks: int = 32, width: int = 16, seed: int = 4) -> Task:
    """Meta-learning: features x shared by regressions of sinusoids, each with its own head in y (10 + 10 points)."""
    rng = np.random.default_rng(seed)
    amplitude, phase = rng.uniform(0.5, 2, (tasks, 1)), rng.uniform(0, np.pi, (tasks, 1))

    def made() -> tuple[Array, Array]:
        inputs = rng.uniform(-3, 3, (tasks, 10))
        return jnp.asarray(inputs), jnp.asarray(amplitude * np.sin(inputs + phase))

    place = jnp.arange(tasks)
    support, query = made(), made()
    data = tuple(split_batches((*each, place), 4) for each in (query, support))

    def features(x: Any, inputs: Any) -> Array:
        hidden = jnp.tanh(inputs[..., None] * x["a"] + x["b"])
        return jnp.tanh(hidden @ x["w"] + x["c"])

    def loss(x: Any, heads: Any, inputs: Any, targets: Any) -> Array:
        found = jnp.einsum("tnf,tf->tn", features(x, inputs), heads)
        return 0.5 * jnp.mean((found - targets) ** 2, axis=1)

    def upper(x: Any, y: Any, batch: Any) -> Array:
        return jnp.mean(loss(x, y[batch[2]], batch[0], batch[1]))

    def lower(x: Any, y: Any, batch: Any) -> Array:
        """The sum over all tasks, estimated from those of the batch, so that each task keeps its own curvature."""
        heads = y[batch[2]]
        return tasks * jnp.mean(loss(x, heads, batch[0], batch[1]) + 0.05 * jnp.sum(heads**2, axis=1))

    def value(x: Any, y: Any) -> Array:
        found = features(x, support[0])
        gram = jnp.einsum("tnf,tng->tfg", found, found) / 10 + 0.1 * jnp.eye(width)
        heads = jnp.linalg.solve(gram, jnp.einsum("tnf,tn->tf", found, support[1])[..., None] / 10)[..., 0]
        return upper(x, heads, (*query, place))

    x = {"a": rng.normal(size=width), "b": rng.normal(size=width), "c": 0.1 * rng.normal(size=width)}
    x["w"] = rng.normal(size=(width, width)) / np.sqrt(width)
    start = (jax.tree.map(jnp.asarray, x), jnp.zeros((tasks, width)))
    title = f"meta-learning, {tasks} sinusoids, a network of {2 * width} units shared"
    return Task("sinusoids", title, upper, lower, data, start, value, float(width) / 2, np.inf, "", 12_000, 1.0)


MAKERS = {"quadratic": quadratic, "ridge": ridge, "logistic": logistic, "cleaning": cleaning, "sinusoids": sinusoids}


@functools.cache
def make(key: str) -> Task:
    """Makes a task by its name."""
    return MAKERS[key]()


def missing() -> str:
    """Returns a sentence where a task cannot be made, else nothing."""
    if find_spec("sklearn") is None:
        return "Data cleaning is left out: scikit-learn is not installed (pip install 'jaxfuse[oracle]')."
    return ""
