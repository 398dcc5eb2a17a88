"""A network that moves when it should not, a held-out half that holds nothing out, an image judged that nobody gets.

In the cooperative training of Fuse4Seg every network has its role in a step, and its own examples.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import fuse4seg
from jaxfuse.config import parse
from jaxfuse.data.pipeline import HalvesHeldOut
from jaxfuse.data.streams import held_out_streams
from jaxfuse.data.subject_names import subject_rule
from jaxfuse.learning.optim import adam, sgd
from tests.faults.catalogue import given, table
from tests.made_cases import without_arrays
from tests.models.fuse4seg.small_forms import ALL, CLASSES, NAMES, NO_CRITICS, small_system
from tests.refusals import refused
from tests.runs import run_of
from tests.tiny_systems import KEY, largest, moved, pictures, same

# The momentum of a network goes on where its gradient has ended, and weight decay needs no gradient.
RESTLESS = {
    "Adam": adam(learning_rate=0.01, total_steps=20, clip_norm=1.0),
    "gradient descent with momentum": sgd(learning_rate=0.01, total_steps=20, momentum=0.9, nesterov=True),
    "gradient descent with weight decay": sgd(learning_rate=0.01, total_steps=20, weight_decay=0.1),
}


@pytest.fixture(scope="module")
def batch():
    return pictures(8, len(NAMES), CLASSES)


def steps_by_absence(system, state, name):
    """Numbers of steps that show a modality, and of those that do not."""
    number, steps = NAMES.index(name), {True: [], False: []}
    for step in range(40):
        key, *_ = jax.random.split(state.replace(step=jnp.int32(step)).key(), 3)
        steps[bool(system.combinations.draw(key).shows(len(NAMES))[number])].append(step)
    return steps[True], steps[False]


@table(
    "optimizer,combos",
    *(
        (
            f"the critic of a modality that five steps in a row do not show; {name}",
            "not a bit of its weights changes, and its moments wait",
            optimizer,
            ("t1+t2", "t2+t1ce"),
        )
        for name, optimizer in RESTLESS.items()
    ),
    (
        "the same where pairs and triples are trained together",
        "a slot that is left over moves no critic",
        RESTLESS["Adam"],
        ("t1+t2", "t1+t1ce+t2"),
    ),
)
def test_critics_of_modalities_not_shown_stay(batch, optimizer, combos):
    system = small_system(combos=combos, optimizers=dict.fromkeys(ALL, optimizer))
    state = system.init(KEY, batch)
    step = jax.jit(system.train_step)
    shown, absent = steps_by_absence(system, state, "t1ce")
    begun, _ = step(state.replace(step=jnp.int32(shown[0])), batch)
    assert largest(moved(state, begun, "critics")["t1ce"]) > 1e-4
    after = begun
    for number in absent[:5]:
        after, _ = step(after.replace(step=jnp.int32(number)), batch)
    same(after.params["critics"]["t1ce"], begun.params["critics"]["t1ce"])
    moments, kept = (tree.opt_state["critics"]["t1ce"][:-1] for tree in (after, begun))
    same(moments, kept)
    for other in ("t1", "t2"):
        assert largest(moved(begun, after, "critics")[other]) > 1e-4
    again, _ = step(after.replace(step=jnp.int32(shown[1])), batch)
    assert largest(moved(after, again, "critics")["t1ce"]) > 1e-4
    assert np.isfinite(largest(again.params))


STEPS, BATCH = 60, 4


def seen(cases, subject, seed=0):
    """The subjects in the lower and in the upper half of all batches of a long training."""
    streams = held_out_streams(cases, seed=seed, subject=subject)
    examples = HalvesHeldOut(streams, batch=BATCH, seed=seed)
    sides = ([], [])
    for number in range(STEPS * BATCH):
        sides[number % BATCH >= BATCH // 2].append(subject(cases[examples[number]].of_case))
    return [set(side) for side in sides]


@table(
    "names,slices,pattern",
    (
        "fusion_leader on ten slices of each of five heads",
        "a head is in the lower or in the upper half of all batches, never in both",
        ("c1", "c2", "c3", "c4", "c5"),
        10,
        "",
    ),
    (
        "the same with two examinations of each of two heads",
        "both examinations in one half",
        ("sub-1_ses-1", "sub-1_ses-2", "sub-2_ses-1", "sub-2_ses-2"),
        10,
        "",
    ),
    (
        "volumes whose names tell no subject, with data.subject='([AB])'",
        "A in one half, B in the other",
        ("A1", "A2", "A3", "B1", "B2", "B3"),
        0,
        "([AB])",
    ),
    (
        "one head of forty slices and one of a single slice",
        "two subjects, one in each half",
        ("BraTS-GLI-00001-000", "BraTS-GLI-00002-000"),
        1,
        "",
    ),
)
def test_a_held_out_half_is_of_other_subjects_in_every_step(names, slices, pattern):
    subject = subject_rule(pattern)
    cases = without_arrays(*names, slices=slices)
    if slices == 1:
        cases = (*without_arrays(names[0], slices=40), *cases[1:])
    lower, upper = seen(cases, subject)
    assert lower
    assert upper
    assert not lower & upper
    assert lower | upper == {subject(case.of_case) for case in cases}


@given(
    "the same training stopped and gone on with, or with its cases listed in another order",
    "each head stays in its half",
)
def test_a_subject_belongs_to_one_half_for_the_whole_run():
    cases = without_arrays("c1", "c2", "c3", "c4", slices=3)
    assert seen(cases, subject_rule("")) == seen(cases[::-1], subject_rule(""))


@table(
    "key,value,expected",
    (
        "fusion_leader with one training subject",
        "refused before the first step: at least two subjects are needed",
        "data.phantom.cases",
        2,
        "the 1 training cases are of one subject",
    ),
    (
        "fusion_leader with a batch of one",
        "refused before the first step: a batch of one has no halves",
        "cooperative.batch",
        1,
        "half of each batch, and batch is 1",
    ),
)
def test_what_cannot_be_held_out_is_refused(tmp_path, key, value, expected):
    config = fuse4seg.get_config("tiny,row=fusion_leader")
    config.data.cache = str(tmp_path / "cache")
    config.update_from_flattened_dict({key: value})
    refused(f"^phase cooperative: .*{expected}", run_of(config, tmp_path / "run").execute)
    assert not (tmp_path / "run" / "checkpoints").exists()


def changed(batch, half):
    """The batch with other pictures and labels in the lower or the upper half."""
    other = pictures(8, len(NAMES), CLASSES, seed=1)
    place = {"lower": 1, "upper": 0}[half]
    return {name: array.at[place].set(other[name][place]) for name, array in batch.items()}


@table(
    "bilevel",
    *(
        (
            f"{name}, with other pictures in the half of the other role",
            "the follower's loss and the leader's task stay as they are, to the bit",
            name,
        )
        for name in ("fusion_leader", "rank_one", "unrolled")
    ),
)
def test_each_role_reads_its_own_half(batch, bilevel):
    system = small_system(bilevel=bilevel)
    params = system.init(KEY, batch).params
    phi, psi = params["fusion"], params["segmentation"]

    def losses(batch):
        game = system.game(params["critics"], batch, system.combinations.choice(0), None)
        follower, _ = system.scheme.follow(game, game.fuse(phi, "all"), psi)
        _, terms = system.scheme.upper(game)(phi, psi)
        return float(follower), float(terms["task_loss"]), float(system.scheme.lower(game)(phi, psi))

    follower, task, lower = losses(batch)
    seen_by_leader, seen_by_follower = losses(changed(batch, "upper")), losses(changed(batch, "lower"))
    assert (seen_by_leader[0], seen_by_leader[2]) == (follower, lower)
    assert seen_by_leader[1] != task
    assert seen_by_follower[1] == task
    assert seen_by_follower[0] != follower
    assert seen_by_follower[2] != lower
    assert system.holds_out
    assert not small_system().holds_out


@pytest.fixture(scope="module")
def settled(batch):
    """A system of scheme pixel, its state and its prediction."""
    system = small_system(("fusion", "segmentation"), NO_CRITICS, bilevel="pixel", options={"gamma": 0.03})
    state = system.init(KEY, batch)
    return system, state, jax.jit(system.predict)(state, batch)


@given("scheme pixel: the image that users get", "the one that the task was judged on; the network's own beside it")
def test_pixel_predicts_the_settled_image(batch, settled):
    system, state, made = settled
    game = system.game(None, batch, system.combinations.choice(0), None)
    output = game.fuse(state.params["fusion"], "all").theta
    np.testing.assert_allclose(made["fused_by_network"], output, atol=1e-6)
    theta = system.scheme.image(output, game.energy)
    assert jnp.abs(theta - output).max() > 0.02
    np.testing.assert_allclose(made["fused"], theta, atol=1e-4)
    logits = system.segmentation.segment(state.params["segmentation"], theta, None)
    np.testing.assert_allclose(made["S"], jax.nn.softmax(logits), atol=1e-4)


@given("scheme pixel: the image that segmentation is trained and validated on", "the same image")
def test_pixel_trains_and_validates_on_the_settled_image(batch, settled):
    system, state, made = settled
    psi, label = state.params["segmentation"], batch["label"]
    loss, other = (system.segmentation.loss(psi, made[name], label, None) for name in ("fused", "fused_by_network"))
    assert abs(loss - other) > 0.003 * other
    _, metrics = jax.jit(system.train_step)(state, batch)
    np.testing.assert_allclose(metrics["segmentation/loss"], loss, rtol=5e-4)
    np.testing.assert_allclose(jax.jit(system.eval_step)(state, batch)["segmentation/loss"], loss, rtol=5e-4)


@given("scheme pixel: a picture alone, and among others", "one and the same fused image")
def test_a_settled_picture_does_not_depend_on_those_beside_it(batch, settled):
    system, state, made = settled
    alone = jax.jit(system.predict)(state, {"image": batch["image"][:1]})
    np.testing.assert_allclose(alone["fused"], made["fused"][:1], atol=1e-6)


@given("schemes without an energy", "the network's own image, and no second one")
def test_other_schemes_give_the_image_of_the_network(batch):
    system = small_system(("fusion", "segmentation"), NO_CRITICS)
    state = system.init(KEY, batch)
    made = system.predict(state, batch)
    assert set(made) == {"fused", "S"}
    game = system.game(None, batch, system.combinations.choice(0), None)
    np.testing.assert_allclose(made["fused"], game.fuse(state.params["fusion"], "all").theta, atol=1e-6)


@table(
    "bilevel,told",
    (
        "a scheme of one's own whose module cannot be imported",
        "told so by its name",
        "no_such_package.schemes:mine",
        "'no_such_package.schemes:mine' names no module of jaxfuse.learning and no importable module",
    ),
    (
        "a scheme of one's own whose module lacks it",
        "told so",
        "game:mine",
        "'game:mine' names a function that jaxfuse.learning.game lacks",
    ),
    (
        "a function that makes no scheme",
        "told what it lacks, and what to derive it from",
        "settling:settle",
        "bilevel 'jaxfuse.learning.settling:settle' needs a value of energy, output, rounds, steps; set it in scheme.o",
    ),
)
def test_a_scheme_of_ones_own_that_is_none_is_refused(bilevel, told):
    config = fuse4seg.get_config("tiny")
    config.cooperative.args.scheme.bilevel = bilevel

    def build():
        phase = parse(config).phases["cooperative"]
        phase.build(fuse4seg.MODALITIES, ("background", "tumor"), 4)

    refused(told, build)
