"""Data cleaning: one weight for every training sample, half of whose labels are wrong, by clean validation.

The digits are made here, not downloaded: ten smooth random prototypes of 14 x 14 pixels, shifted by up to one pixel
and buried in noise. The inner problem is softmax regression with weight decay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.ndimage import gaussian_filter

from experiments.implicit_gradients.network import descend
from experiments.implicit_gradients.tasks import Library, Losses, Task, jax_library, newton, solved
from jaxfuse import implicit

DECAY = 0.01


@dataclass(frozen=True)
class Digits:
    """Images (n, pixels), labels (n,), the number of classes, and, of the training samples, which labels are wrong."""

    classes: int
    train: np.ndarray
    labels: np.ndarray
    wrong: np.ndarray
    held: np.ndarray
    held_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray


def make_digits(
    train: int, held: int, test: int, *, side: int = 14, classes: int = 10, noise: float = 1.0, seed: int = 5
) -> Digits:
    """Half of the training labels are replaced by another class, drawn evenly; held and test labels are right."""
    rng = np.random.default_rng(seed)
    prototypes = np.stack([gaussian_filter(rng.normal(size=(side, side)), 1.5) for _ in range(classes)])
    prototypes /= prototypes.std(axis=(1, 2), keepdims=True)

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = rng.integers(0, classes, count)
        shifts = rng.integers(-1, 2, (count, 2))
        images = np.stack([np.roll(prototypes[k], s, (0, 1)) for k, s in zip(labels, shifts, strict=True)])
        return (images + noise * rng.normal(size=images.shape)).reshape(count, -1), labels

    images, labels = draw(train)
    wrong = np.arange(train) % 2 == 0
    labels = np.where(wrong, (labels + rng.integers(1, classes, train)) % classes, labels)
    return Digits(classes, images, labels, wrong, *draw(held), *draw(test))


def cleaning_losses(digits: Digits) -> Callable[[Library], Losses]:
    """lower: weighted mean cross-entropy, weights sigmoid(x), with decay; upper: that of the validation set."""
    one_hot, held_one_hot = (np.eye(digits.classes)[labels] for labels in (digits.labels, digits.held_labels))

    def losses(lib: Library) -> Losses:
        X, a, V, b = (lib.array(value) for value in (digits.train, one_hot, digits.held, held_one_hot))

        def entropies(y: Any, images: Any, truth: Any) -> Any:
            logits = images @ y["weight"] + y["bias"]
            return lib.logsumexp(logits) - (logits * truth).sum(-1)

        return (
            lambda x, y: entropies(y, V, b).mean(),
            lambda x, y: (
                (lib.sigmoid(x) * entropies(y, X, a)).mean()
                + 0.5 * DECAY * ((y["weight"] ** 2).sum() + (y["bias"] ** 2).sum())
            ),
        )

    return losses


def cleaning(train: int = 1000, held: int = 500, *, side: int = 14, classes: int = 10) -> Task:
    """The task at x near 0 (all weights near one half), in float32, as such models are trained."""
    digits = make_digits(train, held, 1, side=side, classes=classes)
    losses = cleaning_losses(digits)
    x = 0.1 * np.random.default_rng(6).normal(size=train)
    y, hessian = newton(losses, x, empty_weights(digits))

    def gauss_newton(lib: Library) -> tuple[Callable, Callable]:
        X, a = lib.array(digits.train), lib.array(np.eye(classes)[digits.labels])
        return (
            lambda x, y: (X @ y["weight"] + y["bias"], lib.sigmoid(x), y),
            lambda out: (
                (out[1] * (lib.logsumexp(out[0]) - (out[0] * a).sum(-1))).mean()
                + 0.5 * DECAY * sum((leaf**2).sum() for leaf in out[2].values())
            ),
        )

    def fisher(lib: Library, x: Any) -> dict[str, Any]:
        # The Fisher information knows no weights of samples: their mean stands for them.
        X = lib.array(digits.train)
        scale = lib.sigmoid(x).mean() / train
        return {
            "outputs": lambda x, y: X @ y["weight"] + y["bias"],
            "family": "categorical",
            "scale": scale,
            "damping": DECAY,
        }

    size = f"{classes * (side**2 + 1):,} weights, {train:,} outer variables, condition {{condition:.0f}}, float32"
    return solved("cleaning", size, np.float32, losses, x, y, hessian, gauss_newton, fisher)


def empty_weights(digits: Digits) -> dict[str, np.ndarray]:
    return {"bias": np.zeros(digits.classes), "weight": np.zeros((digits.train.shape[1], digits.classes))}


def learn_weights(
    digits: Digits, *, outer_steps: int, inner_steps: int = 20, learning_rate: float = 0.2, inner_rate: float = 0.5
) -> dict[str, float]:
    """Descends the validation loss by Adam in x, inner gradient steps and CG both started warm, in one scan.

    Returns the mean weights of samples with wrong and with right labels, and the test accuracies of the model refitted
    with even weights, with the weights found, and on the right labels alone.
    """
    library = jax_library(np.float32)
    upper, lower = cleaning_losses(digits)(library)
    y = jax.tree.map(library.array, empty_weights(digits))
    x = jnp.zeros(len(digits.labels), jnp.float32)
    optimizer = optax.adam(learning_rate)

    def outer(carry: Any, _: None) -> tuple[Any, Any]:
        x, y, state, adjoint = carry
        y = descend(lower, x, y, inner_steps, inner_rate)
        solver = implicit.cg(tolerance=1e-4, steps=50, start=adjoint)
        gradient, info = implicit.hypergradient(upper, lower, x, y, estimator=solver, policy="ignore")
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(x, updates), y, state, info.adjoint), (info.value, info.steps)

    @jax.jit
    def run(x: Any, y: Any) -> tuple[Any, Any]:
        y = descend(lower, x, y, 500, inner_rate)
        carry = (x, y, optimizer.init(x), jax.tree.map(jnp.zeros_like, y))
        (x, *_), trace = jax.lax.scan(outer, carry, None, length=outer_steps)
        return x, trace

    found, (values, steps) = run(x, y)

    @jax.jit
    def accuracy(x: Any) -> Any:
        fitted = descend(lower, x, y, 2000, inner_rate)
        logits = library.array(digits.test) @ fitted["weight"] + fitted["bias"]
        return jnp.mean(jnp.argmax(logits, -1) == digits.test_labels)

    weights = np.asarray(library.sigmoid(found))
    right = jnp.where(digits.wrong, -20.0, 20.0).astype(jnp.float32)
    return {
        "outer_steps": outer_steps,
        "weight_of_wrong_labels": float(weights[digits.wrong].mean()),
        "weight_of_right_labels": float(weights[~digits.wrong].mean()),
        "validation_loss_first": float(values[0]),
        "validation_loss_last": float(values[-1]),
        "mean_cg_steps": float(jnp.mean(steps)),
        "test_accuracy_even_weights": float(accuracy(x)),
        "test_accuracy_weights_found": float(accuracy(found)),
        "test_accuracy_right_labels_only": float(accuracy(right)),
    }
