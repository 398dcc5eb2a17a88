"""Steps of cooperative training, on networks of a few weights."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.models.fuse4seg.small_forms import CLASSES, NAMES, NO_CRITICS, small_system
from tests.tiny_systems import KEY, largest, minus, pictures

PLAYERS = ("fusion", "segmentation")
BATCH = pictures(8, len(NAMES), CLASSES)


def _small(**scheme):
    return small_system(PLAYERS, NO_CRITICS, **scheme)


def test_one_compiled_step_serves_every_weight_of_the_fusion_loss():
    heavy, light = _small(fusion_weight=1.0), _small(fusion_weight=0.01)
    states = [system.init(KEY, BATCH) for system in (heavy, light)]
    programs = [jax.jit(system.train_step).lower(states[0], BATCH).as_text() for system in (heavy, light)]
    assert programs[0] == programs[1]
    step = jax.jit(heavy.train_step)
    after = [step(state, BATCH) for state in states]
    assert step._cache_size() == 1  # pyright: ignore[reportAttributeAccessIssue]
    for weight, (_, metrics) in zip((1.0, 0.01), after, strict=True):
        expected = metrics["fusion/task_loss"] + weight * metrics["fusion/fusion_loss"]
        np.testing.assert_allclose(metrics["fusion/loss"], expected, rtol=1e-6)
    (one, _), (other, _) = after
    assert largest(minus(one.params["fusion"], other.params["fusion"])) > 1e-3
    assert (one.memory["fusion_weight"], other.memory["fusion_weight"]) == (1.0, jnp.float32(0.01))
    # The gradient is linear in the weight, with one compilation for all.
    moves = {}
    for weight in (0.0, 0.5, 1.0):
        state = states[0].replace(memory={**states[0].memory, "fusion_weight": jnp.float32(weight)})
        moves[weight] = minus(states[0].params["fusion"], step(state, BATCH)[0].params["fusion"])
    between = jax.tree.map(lambda a, b: (a + b) / 2, moves[0.0], moves[1.0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), between, moves[0.5])
    assert step._cache_size() == 1  # pyright: ignore[reportAttributeAccessIssue]


def test_an_evaluation_without_memory_weighs_as_the_recipe_says():
    system = _small(fusion_weight=0.3)
    state = system.init(KEY, BATCH)
    without = jax.jit(system.eval_step)(state.replace(memory={}), BATCH)
    total = without["segmentation/loss"] + 0.3 * without["fusion/fusion_loss"]
    np.testing.assert_allclose(without["fusion/loss"], total, rtol=1e-6)
