"""The contract of Systems for which examples may lack modalities, for every one that a recipe builds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.config import parse
from jaxfuse.data.settings import declared_facts
from jaxfuse.engine.build import build_system, check_systems
from tests.recipe_phases import RECIPES, Built, argument, config_of, distinct, phases
from tests.refusals import refused
from tests.tiny_systems import count, drawn, largest, minus, same, structure

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


def _formed(recipe, row, phase, **options):
    """The phase of a row with other options, and the same without."""
    found = []
    for chosen in ({}, options):
        config = RECIPES[recipe].get_config(argument("tiny", row))
        config.update_from_flattened_dict(chosen)
        parsed = parse(config)
        modalities, classes = declared_facts(parsed.data_of(parsed.phases[phase]))
        found.append(
            Built(parsed.phases[phase], build_system(parsed.phases[phase], modalities, classes, 4), modalities, classes)
        )
    return found


# Form -> the recipe, its row and phase, the options, and the subtree of what belongs to the first modality alone.
FORMS = {
    "cmff": ("cmff", "random", "fusion", {"fusion.args.fusion.presence": "masked"}, ("branch_b",)),
    "hyperdense": ("hyperfusion", "baseline", "segmentation", {"network.form.presence": "masked"}, ()),
    "hyperfusion": ("hyperfusion", "full", "segmentation", {"network.form.presence": "masked"}, ()),
    "infinet": ("infinet", "aggregated", "axial", {"network.form.presence": "masked"}, ("T2_arm", "t2_arm")),
}


def _of_last(params, parts):
    """The parameters that read the last modality, or group, alone."""
    leaves = jax.tree_util.tree_leaves_with_path(params)

    def belongs(path):
        names = [getattr(key, "key", "") for key in path]
        if parts:
            return any(part in names for part in parts)
        return "stream_2" in names  # of networks with two streams

    return [leaf for path, leaf in leaves if belongs(path)]


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "row", "phase", "options", "parts"), FORMS.values(), ids=FORMS)
def test_a_masked_form_leaves_out_what_is_absent_and_is_the_plain_form_where_all_is_there(
    recipe, row, phase, options, parts
):
    plain, masked = _formed(recipe, row, phase, **options)
    assert structure(masked.state.params) == structure(plain.state.params)
    state, (batch, other) = _weights(masked.state), _batches(masked)
    predict, predict_plain = jax.jit(masked.system.predict), jax.jit(plain.system.predict)
    primary = masked.system.primary
    whole = {"image": batch["image"], "presence": np.ones_like(batch["presence"])}
    np.testing.assert_allclose(predict(state, whole)[primary], predict_plain(state, whole)[primary], atol=1e-6)
    given, garbled = ({key: one[key] for key in ("image", "presence")} for one in (batch, other))
    same(predict(state, given), predict(state, garbled))
    assert np.abs(predict(state, given)[primary] - predict_plain(state, given)[primary]).max() > 1e-6
    # With nothing of the last modality, or group, in any example its part learns nothing at all.
    presence = np.array(batch["presence"])
    last = list(masked.system.pairing.b) if recipe == "cmff" else [presence.shape[-1] - 1]
    presence[:], presence[:, last] = True, False

    @jax.jit
    def slope(params):
        def loss(params):
            given = jax.tree.map(jnp.asarray, {**batch, "presence": presence})
            after = masked.system.eval_step(state.replace(params=params), given)
            return sum(after.values())

        return jax.grad(loss)(params)

    found = slope(state.params)
    absent = _of_last(found, parts)
    assert absent
    assert all(not np.asarray(leaf).any() for leaf in absent)
    assert any(np.asarray(leaf).any() for leaf in jax.tree.leaves(found))


@pytest.mark.slow
def test_a_conditioned_unet_begins_as_the_plain_one_and_learns_by_what_is_present():
    plain, told = _formed("cmff", "S_A", "branch_a", **{"branch_a.args.unet.presence": "conditioned"})
    counted = {name: count(tree) for name, tree in told.system.networks(told.state.params).items()}
    assert counted["trunk"] + counted["head"] == count(plain.state.params)
    levels = sum(told.system.network.function.trunk.widths)
    assert counted["presence"] == (2 * 32 + 32) + (32 * 2 * levels + 2 * levels)
    batch, _ = _batches(told)
    state = told.system.init(jax.random.key(0), batch)
    trunk = {name: state.params["net"][name] for name in ("trunk", "head")}
    image = {"image": jnp.asarray(batch["image"])}
    found, expected = (
        told.system.predict(state, image),
        plain.system.predict(state.replace(params={"net": trunk}), image),
    )
    same(found, expected)
    after, _ = jax.jit(told.system.train_step)(state, batch)
    assert largest(minus(after.params["net"]["presence"], state.params["net"]["presence"])) > 0


def test_forms_stand_where_they_mean_something():
    config = RECIPES["cmff"].get_config("tiny,row=joint")
    phase = config.schedule[-1]
    config[phase].args["fusion"]["presence"] = "masked"
    refused("presence is 'masked'; choose one of zeroed", lambda: check_systems(parse(config)))
    config = RECIPES["infinet"].get_config("tiny,row=single_encoder")
    config.network.form.presence = "masked"
    refused("presence is 'masked'; choose one of zeroed", lambda: check_systems(parse(config)))


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_steps_on_images_that_show_nothing_keep_numbers(call):
    """All channels are 0 in each voxel, as in a patch of background, or where all that a branch reads lacks."""
    recipe, text, name = call
    built = phases(recipe, text)[name]
    label = np.random.default_rng(0).integers(0, len(built.classes), built.batch["label"].shape, np.int32)
    batch = {"image": np.zeros(built.batch["image"].shape, np.float32), "label": label}
    state, step = jax.jit(built.system.init)(jax.random.key(0), batch), jax.jit(built.system.train_step)
    for _ in range(2):
        state, _ = step(state, batch)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state.params, state.stats)))
