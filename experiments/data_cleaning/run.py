"""Can wrong labels be found by what they do to a few clean examples? On scikit-learn's digits.

    python -m experiments.data_cleaning.run

Needs scikit-learn (extra `oracle`). One in five training labels is replaced by another class. Each training example
gets a weight, learned as the leader of a bi-level problem whose follower is the classifier: the loss on 300 clean
examples is lowered by hypergradients. The classifier with these weights tells which labels it confirms; fitted to
those, it tells which labels it holds for hardly possible; these are left out. It is compared on the test part with the
same classifier on the labels as they came, and on clean labels. Settings were chosen on the development part
(`--development`), and frozen before the test part was opened. Writes table.md and scores.json beside this file.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxfuse import implicit
from jaxfuse.errors import UserError
from jaxfuse.io.tables import render, write_json

HERE = Path(__file__).parent
SEEDS = (0, 1, 2, 3, 4)
CLASSES = 10
# Of 1,797 digits, whose order is drawn once. Seeds draw who is training and who is clean, and the wrong labels. What a
# first protocol was judged on is now development.
OPENED, TEST, CLEAN = 597, 400, 300
WRONG = 0.2
FEATURES, WIDTH = 300, 0.716  # random Fourier features of a Gaussian kernel of pixels from 0 to 1
DECAY = 3e-3
# The rate is for each training example, by whose number the follower's loss is divided.
OUTER_STEPS, OUTER_RATE, FIRST = 30, 7.2, 2.0
SOLVER = {"tolerance": 1e-4, "steps": 100}
INNER_TOLERANCE = 0.1
NEWTON_STEPS = 12
# A label is left out whose probability is less than this share of that of the likeliest label.
HARDLY = 0.1
ROWS = {
    "as_they_came": "labels as they came",
    "weighted": "weights learned, as they are",
    "cleaned": "cleaned, from weights learned",
    "cleaned_by_clean": "cleaned, from the clean examples alone",
    "not_harmful": "harmful by influence left out",
    "clean_only": "the clean examples alone",
    "right_only": "right labels alone",
    "clean": "clean data",
}


class Examples(NamedTuple):
    """Features (n, features) of images, and labels (n,)."""

    images: Any
    labels: Any


class Part(NamedTuple):
    """The parts of one seed; `wrong` (n,) tells which labels of `train` differ from `truth`."""

    train: Examples
    truth: Any
    wrong: np.ndarray
    clean: Examples
    judged: Examples


def draw(seed: int, development: bool) -> Part:
    """Draws a seed's training and clean examples, and its wrong labels; what is judged on is the same for all seeds.

    Raises:
        UserError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise UserError(
            "the digits come with scikit-learn, which is not installed; install it by pip install 'jaxfuse[oracle]'"
        ) from None
    digits = load_digits()
    order = np.random.default_rng(20_261).permutation(len(digits.target))
    opened, test, rest = np.split(order, [OPENED, OPENED + TEST])
    judged, more = (opened[:TEST], opened[TEST:]) if development else (test, opened)
    rng = np.random.default_rng(seed)
    clean, train = np.split(rng.permutation(np.concatenate([rest, more])), [CLEAN])

    def examples(places: np.ndarray) -> Examples:
        return Examples(features(digits.data[places] / 16), jnp.asarray(digits.target[places]))

    truth = digits.target[train]
    wrong = np.zeros(len(train), bool)
    wrong[rng.permutation(len(train))[: round(WRONG * len(train))]] = True
    labels = np.where(wrong, (truth + rng.integers(1, CLASSES, len(train))) % CLASSES, truth)
    given = Examples(examples(train).images, jnp.asarray(labels))
    return Part(given, jnp.asarray(truth), wrong, examples(clean), examples(judged))


def features(pixels: np.ndarray) -> Any:
    """Random Fourier features (n, FEATURES) of images (n, pixels), the same for all."""
    rng = np.random.default_rng(3)
    turned = pixels @ (WIDTH * rng.normal(size=(pixels.shape[1], FEATURES))) + rng.uniform(0, 2 * np.pi, FEATURES)
    return jnp.asarray(4 * np.sqrt(2 / FEATURES) * np.cos(turned))


def logits(y: Any, images: Any) -> Any:
    return images @ y["weight"] + y["bias"]


def entropy(y: Any, example: Examples) -> Any:
    """The cross-entropy of one example."""
    return -jax.nn.log_softmax(logits(y, example.images))[example.labels]


def entropies(y: Any, examples: Examples) -> Any:
    return jax.vmap(lambda example: entropy(y, example))(examples)


def decay(y: Any) -> Any:
    return 0.5 * DECAY * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(y))


def weighted(examples: Examples, weights: Any, y: Any) -> Any:
    """The follower's loss: weights have mean 1, so that they do not compete with the decay."""
    return jnp.mean(weights / jnp.mean(weights) * entropies(y, examples)) + decay(y)


def newton(lower: Any, y: Any, steps: int) -> Any:
    """Newton's steps by conjugate gradients, each taken as far as it lowers the loss."""

    def step(y: Any, _: None) -> tuple[Any, None]:
        slope = jax.grad(lower)(y)
        product = lambda vector: jax.jvp(jax.grad(lower), (y,), (vector,))[1]  # noqa: E731
        move, _ = jax.scipy.sparse.linalg.cg(product, slope, tol=1e-3, maxiter=100)
        tries = [jax.tree.map(lambda a, b, s=s: a - s * b, y, move) for s in (1.0, 0.5, 0.1, 0.0)]
        best = jnp.argmin(jnp.stack([lower(each) for each in tries]))
        return jax.tree.map(lambda *leaves: jnp.stack(leaves)[best], *tries), None

    return jax.lax.scan(step, y, None, steps)[0]


def empty(examples: Examples) -> Any:
    return {"weight": jnp.zeros((examples.images.shape[1], CLASSES)), "bias": jnp.zeros(CLASSES)}


@jax.jit
def fit(examples: Examples, weights: Any) -> Any:
    return newton(lambda y: weighted(examples, weights, y), empty(examples), NEWTON_STEPS)


@jax.jit
def learn(train: Examples, clean: Examples) -> tuple[Any, Any, Any]:
    """Learns x, whose sigmoids are the weights: (weights, loss on the clean examples by step, converged by step).

    One step: the follower goes on from where it was, the adjoint from the one before, then plain descent. (Adam would
    move every weight as far as any other, however little its example matters.)
    """
    optimizer = optax.sgd(OUTER_RATE * len(train.labels))
    lower = lambda x, y: weighted(train, jax.nn.sigmoid(x), y)  # noqa: E731
    upper = lambda x, y: jnp.mean(entropies(y, clean))  # noqa: E731

    def step(carry: Any, _: None) -> tuple[Any, Any]:
        x, y, state, adjoint = carry
        y = newton(lambda y: lower(x, y), y, 2)
        solver = implicit.cg(start=adjoint, **SOLVER)
        gradient, info = implicit.hypergradient(upper, lower, x, y, estimator=solver, inner_tolerance=INNER_TOLERANCE)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(x, updates), y, state, info.adjoint), (info.value, info.converged)

    x = jnp.full(len(train.labels), FIRST)
    y = fit(train, jnp.ones(len(train.labels)))
    carry = (x, y, optimizer.init(x), jax.tree.map(jnp.zeros_like, y))
    (x, *_), (values, converged) = jax.lax.scan(step, carry, None, OUTER_STEPS)
    return jax.nn.sigmoid(x), values, converged


@jax.jit
def influences(train: Examples, clean: Examples) -> tuple[Any, Any]:
    """How the loss on the clean examples would change without each training example, and whether that was solved."""
    y = fit(train, jnp.ones(len(train.labels)))
    whole = jax.tree.map(lambda leaf: leaf[None], clean)
    mean = lambda y, examples: jnp.mean(entropies(y, examples))  # noqa: E731
    changes, info = implicit.influence(
        entropy, train, whole, y, penalty=decay, test_loss=mean, estimator=implicit.cg(**SOLVER)
    )
    return changes[0], info.converged[0]


@jax.jit
def likelihoods(y: Any, examples: Examples) -> Any:
    """The probability of each label, as a share of that of the likeliest one."""
    found = jax.nn.log_softmax(logits(y, examples.images))
    given = jnp.take_along_axis(found, examples.labels[:, None], axis=1)[:, 0]
    return jnp.exp(given - jnp.max(found, axis=1))


@jax.jit
def accuracy(y: Any, judged: Examples) -> Any:
    return jnp.mean(jnp.argmax(logits(y, judged.images), -1) == judged.labels)


def clean_up(seed: int, development: bool) -> dict[str, Any]:
    """Every row for one seed: its accuracy in percent, what was found, and the evidence."""
    part = draw(seed, development)
    weights, values, converged = learn(part.train, part.clean)
    changes, solved = influences(part.train, part.clean)
    even, none = jnp.ones(len(part.wrong)), jnp.zeros(len(part.wrong))
    truth = part.train._replace(labels=part.truth)

    def fit_both(train: Examples, weights: Any) -> Any:
        """Fits training examples with these weights, and the clean ones, which everyone has."""
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), train, part.clean)
        return fit(both, jnp.concatenate([weights, jnp.ones(CLEAN)]))

    def possible(y: Any) -> Any:
        """Tells which labels are possible under what is fitted to the labels that y confirms."""
        confirmed = likelihoods(y, part.train) >= 1
        return likelihoods(fit_both(part.train, confirmed.astype(even.dtype)), part.train) >= HARDLY

    by_clean, by_weights = fit_both(part.train, none), fit_both(part.train, weights / jnp.max(weights))
    kept = {"cleaned": possible(by_weights), "cleaned_by_clean": possible(by_clean), "not_harmful": changes > 0}
    models = {
        "as_they_came": fit_both(part.train, even),
        "weighted": by_weights,
        "clean_only": by_clean,
        "right_only": fit_both(part.train, jnp.asarray(~part.wrong, even.dtype)),
        "clean": fit_both(truth, even),
        **{name: fit_both(part.train, keep.astype(even.dtype)) for name, keep in kept.items()},
    }
    kept["weighted"] = weights >= 0.5
    left = {name: ~np.asarray(keep) for name, keep in kept.items()}
    return {
        "seed": seed,
        "accuracy": {name: 100 * float(accuracy(y, part.judged)) for name, y in models.items()},
        "wrong_found": {name: float(out[part.wrong].mean()) for name, out in left.items()},
        "right_lost": {name: float(out[~part.wrong].mean()) for name, out in left.items()},
        "clean_loss": [float(values[0]), float(values[-1])],
        "converged": float(jnp.mean(converged)),
        "influence_converged": bool(solved),
    }


def table(scores: list[dict[str, Any]]) -> str:
    """Renders means and standard deviations over seeds, and the difference to clean data seed by seed."""

    def told(name: str) -> dict[str, str]:
        values = np.array([score["accuracy"][name] for score in scores])
        apart = values - np.array([score["accuracy"]["clean"] for score in scores])
        found, lost = ([score[key].get(name) for score in scores] for key in ("wrong_found", "right_lost"))
        return {
            "Trained on": ROWS[name],
            "accuracy %": f"{values.mean():.2f} ± {values.std(ddof=1):.2f}",
            "beside clean data, points": f"{apart.mean():+.2f} ({', '.join(f'{each:+.2f}' for each in apart)})",
            "wrong labels found %": "" if None in found else f"{100 * np.mean(found):.1f}",
            "right labels lost %": "" if None in lost else f"{100 * np.mean(lost):.1f}",
        }

    rows = [told(name) for name in ROWS]
    return render(rows, list(rows[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--development", action="store_true", help="judge on the development part; nothing is written")
    development = parser.parse_args().development
    jax.config.update("jax_enable_x64", True)
    started = time.perf_counter()
    scores = [clean_up(seed, development) for seed in SEEDS]
    seconds = time.perf_counter() - started
    text = table(scores)
    print(text)
    converged = np.mean([score["converged"] for score in scores])
    print(f"{100 * converged:.1f} % of hypergradients converged; {seconds:.0f} s")
    if not development:
        write_json(HERE / "scores.json", {"seconds": seconds, "seeds": scores})
        head = "# Data cleaning: digits, one label in five wrong\n\n    python -m experiments.data_cleaning.run\n\n"
        tail = f"\n{100 * converged:.1f} % of the hypergradients passed every check.\n"
        (HERE / "table.md").write_text(head + text + tail, encoding="utf-8")


if __name__ == "__main__":
    main()
