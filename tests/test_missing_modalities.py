"""The contract of Systems for which examples may lack modalities, for every one that a recipe builds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.recipe_phases import RECIPES, argument, config_of, distinct, phases
from tests.tiny_systems import drawn, same

TINY = [(recipe, argument("tiny", row)) for recipe in RECIPES for row in RECIPES[recipe].ROWS]


CALLS = {
    name: (recipe, text, phase)
    for name, (recipe, text, phase) in distinct(TINY).items()
    if config_of(recipe, text)[phase].get("loss")
}
# One image is all that these read, and an example without it has nothing; or what lacks would be translated.
WITHOUT = {"t1", "t1ce", "t2", "flair", "mean", "maximum", "joint"}


def _weights(state):
    """Values as after training for all parameters and statistics; optimizers and counters as they begin."""

    def zeros(tree):
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), tree)

    rest = {name: zeros(getattr(state, name)) for name in ("step", "opt_state", "memory", "average")}
    stats = drawn(state.stats, 0.3, positive=("variance", "var"))
    return state.replace(params=drawn(state.params, 0.1), stats=stats, rng=jax.random.key(0), **rest)


def _batches(built):
    """Two batches that differ in their absent channels alone, among them in values that are no numbers."""
    rng = np.random.default_rng(0)
    batch = {name: np.repeat(leaf[:1], 2, axis=0) for name, leaf in built.batch.items()}
    image = rng.uniform(size=batch["image"].shape).astype(np.float32)
    label = rng.integers(0, len(built.classes), batch["label"].shape, np.int32)
    presence = np.ones((2, image.shape[-1]), bool)
    presence[0, 0] = False
    presence[1, 1:] = False
    other = image.copy()
    other[0, ..., 0], other[1, ..., 1:] = np.nan, 1e9
    first, second = ({"image": one, "label": label, "presence": presence} for one in (image, other))
    return first, second


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_nothing_depends_on_what_stands_in_an_absent_channel(call):
    recipe, text, name = call
    built = phases(recipe, text)[name]
    if config_of(recipe, text).row in WITHOUT:
        assert not built.system.reads_presence
        return
    state, (first, second) = _weights(built.state), _batches(built)
    predict = jax.jit(built.system.predict)
    made = [predict(state, {key: one[key] for key in ("image", "presence")}) for one in (first, second)]
    same(*made)
    assert np.isfinite(made[0][built.system.primary]).all()
    whole = predict(state, {"image": first["image"], "presence": np.ones_like(first["presence"])})
    assert np.abs(whole[built.system.primary] - made[0][built.system.primary]).max() > 0
    if built.system.reads_presence:
        step = jax.jit(built.system.train_step)
        same(*(step(state, one)[0].params for one in (first, second)))
        evaluate = jax.jit(built.system.eval_step)
        same(*(evaluate(state, one) for one in (first, second)))
