"""Linear probes: how much of the labels a softmax regression reads from what frozen trunks make of each voxel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from experiments.few_labels.training import Workshop
from jaxfuse.arrays import Array
from jaxfuse.data.prepared import PreparedCase
from jaxfuse.engine.build import without_optimizers
from jaxfuse.engine.trained.predictor import case_predictor
from jaxfuse.inference.tiling import Asked
from jaxfuse.learning.state import State
from jaxfuse.learning.system import Defaults, Geometry
from jaxfuse.models.cmff import FusionSegmentation

# Weight of the squared coefficients beside the mean entropy.
PENALTY = 1e-4
Features = Callable[[PreparedCase], np.ndarray]


@dataclass(frozen=True)
class Trunks(Defaults):
    """The last two feature maps of both trunks, as the output of a System (b *space 4 base)."""

    system: FusionSegmentation

    primary = "features"

    @property
    def geometry(self) -> Geometry:
        return self.system.geometry

    def predict(self, state: State, inputs: Mapping[str, Array]) -> dict[str, Array]:
        fusion, net = self.system.fusion, state.params["net"]
        features = fusion.features(net, self.system.pairing.split(inputs))
        maps = [one for pair in features for one in (pair.penultimate, pair.last)]
        return {"features": jnp.concatenate(maps, -1).astype(jnp.float32)}


def features_of(workshop: Workshop, row: str, seed: int) -> Features:
    """Returns the features of the brain's voxels of a case (voxels features), by the trunks that a row begins with."""
    if row == "intensities":
        return lambda case: _of_brain(np.asarray(case.image), case)
    learner, weights = workshop.learner("random", -1), without_optimizers(workshop.begun(row, seed))
    trunks: Any = Trunks(learner.system)  # pyright: ignore[reportArgumentType]
    predictor = case_predictor(trunks, learner.phase)
    return lambda case: _of_brain(predictor(weights, case, Asked(values=("features",)))["features"], case)


def _of_brain(values: np.ndarray, case: PreparedCase) -> np.ndarray:
    return values.reshape(-1, values.shape[-1])[case.brain].astype(np.float64)


@dataclass(frozen=True)
class Probe:
    """A softmax regression on standardized features.

    Attributes:
        weights: (features + 1, classes), the last row added to all.
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Returns the most probable class of each voxel."""
        return ((features - self.mean) / self.scale @ self.weights[:-1] + self.weights[-1]).argmax(1)

    def labels(self, features: np.ndarray, case: PreparedCase) -> np.ndarray:
        """Returns class indices on the crop of the case, background outside the brain."""
        found = np.zeros(case.facts.shape, np.uint8)
        found.flat[case.brain] = self(features)
        return found


def fitted(features: Sequence[np.ndarray], labels: Sequence[np.ndarray], classes: int) -> Probe:
    """Fits a probe to all voxels of labeled cases: features (voxels features) and class indices (voxels), by case."""
    x, y = np.concatenate(features), np.concatenate(labels)
    mean, scale = x.mean(0), np.maximum(x.std(0), 1e-6)
    design = np.concatenate([(x - mean) / scale, np.ones((len(x), 1))], 1)
    start = np.zeros(design.shape[1] * classes)
    found = minimize(partial(_entropy, design, y, classes), start, jac=True, method="L-BFGS-B", options={"maxiter": 60})
    return Probe(mean, scale, found.x.reshape(-1, classes))


def _entropy(design: np.ndarray, label: np.ndarray, classes: int, flat: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean cross-entropy and penalty with their gradient."""
    weights = flat.reshape(-1, classes)
    logits = design @ weights
    log_probs = logits - logsumexp(logits, axis=1, keepdims=True)
    places = np.arange(len(label))
    value = -log_probs[places, label].mean() + PENALTY * (weights[:-1] ** 2).sum()
    error = np.exp(log_probs)
    error[places, label] -= 1
    gradient = design.T @ error / len(label)
    gradient[:-1] += 2 * PENALTY * weights[:-1]
    return float(value), gradient.ravel()
