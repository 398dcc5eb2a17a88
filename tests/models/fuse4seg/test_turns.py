"""Turns of follower and leader on networks of a few weights: who moves when, what schedules count, what is paid for."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.engine.run_folder.checkpoints import Checkpoints
from jaxfuse.learning.optim import ScheduleState, adam, sgd
from tests.models.fuse4seg.small_forms import CLASSES, NAMES, NO_CRITICS, small_system
from tests.refusals import refused
from tests.runs import bits
from tests.tiny_systems import KEY, largest, minus, pictures, same, structure

PLAYERS = ("fusion", "segmentation")
BATCH = pictures(8, len(NAMES), CLASSES)


def _small(**scheme):
    return small_system(PLAYERS, NO_CRITICS, **scheme)


def test_a_follower_makes_its_steps_on_one_batch_and_then_the_leader_moves():
    system = _small(follower_steps=3)
    start = system.init(KEY, BATCH)
    after, metrics = jax.jit(system.train_step)(start, BATCH)
    fused = system.fusion.fuse(start.params["fusion"], *system.combinations.choice(0).of(BATCH["image"]), None)
    loss = jax.jit(jax.value_and_grad(lambda psi: system.segmentation.loss(psi, fused.theta, BATCH["label"], None)))
    psi = start.params["segmentation"]
    losses = []
    for _ in range(3):
        value, slope = loss(psi)
        losses.append(float(value))
        psi = minus(psi, slope)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), after.params["segmentation"], psi)
    assert metrics["segmentation/loss"] == pytest.approx(losses[0], rel=1e-5)
    np.testing.assert_allclose(metrics["fusion/task_loss"], loss(psi)[0], rtol=1e-5)
    assert int(after.step) == 1


@pytest.fixture(scope="module")
def taking_turns():
    """A system whose leader moves in every second step: its states, metrics and step."""
    rate = {"learning_rate": 0.1, "total_steps": 12}
    optimizers = {"fusion": adam(**rate, schedule="cosine"), "segmentation": sgd(**rate, schedule="cosine")}
    options = {"leader_every": 2, "share_every": 2, "follower_steps": 3, "warmup_steps": 1}
    system = small_system(PLAYERS, NO_CRITICS, optimizers=optimizers, **options)
    step, states, told = jax.jit(system.train_step), [system.init(KEY, BATCH)], []
    for _ in range(6):
        state, metrics = step(states[-1], BATCH)
        states.append(state)
        told.append(metrics)
    assert step._cache_size() == 1  # pyright: ignore[reportAttributeAccessIssue]
    return states, told, step


def test_a_leader_moves_in_the_first_of_its_steps_and_a_follower_in_all(taking_turns):
    states, told, _ = taking_turns
    pairs = list(itertools.pairwise(states))
    moved = {name: [largest(minus(b.params[name], a.params[name])) > 0 for a, b in pairs] for name in PLAYERS}
    assert moved == {"fusion": [True, False] * 3, "segmentation": [True] * 6}
    for before, after in pairs[1::2]:
        same(before.opt_state["fusion"], after.opt_state["fusion"])
        same(before.memory, after.memory)
    # Between its moves the log repeats what it was told.
    of_leader = [{name: value for name, value in one.items() if name.startswith("fusion/")} for one in told]
    for number in range(0, 6, 2):
        same(of_leader[number], of_leader[number + 1])
    assert all(jnp.isfinite(value) for one in told for value in one.values())
    assert len({structure_text(state) for state in states}) == 1


@pytest.mark.parametrize("number", [3, 4])
def test_a_restored_state_goes_on_within_and_between_turns(taking_turns, tmp_path, number):
    states, _, step = taking_turns
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(number, states[number], {})
    restored, _ = checkpoints.restore(states[0])
    checkpoints.close()
    for expected in states[number + 1 :]:
        restored, _ = step(restored, BATCH)
        assert bits(restored) == bits(expected)


def structure_text(state):
    return str(structure(state.replace(rng=None)))


def test_schedules_count_steps_of_the_run_at_any_pace(taking_turns):
    last = taking_turns[0][-1]
    for player in PLAYERS:
        nodes = jax.tree.leaves(last.opt_state[player], is_leaf=lambda node: isinstance(node, ScheduleState))
        (schedule,) = [node for node in nodes if isinstance(node, ScheduleState)]
        assert float(schedule.count * schedule.every) == pytest.approx(6)
        assert float(schedule.total) == 12


def test_shares_are_measured_at_every_so_many_moves_of_the_leader(taking_turns):
    _, told, _ = taking_turns
    names = [name for name in told[0] if name.startswith("fusion/share/")]
    assert set(names) == {f"fusion/share/{one}" for one in ("correlation", "intensity", "gradient", "task")}
    for one in told:
        assert float(sum(one[name] for name in names)) == pytest.approx(1, rel=1e-5)
    # Moves are those of steps 0, 2 and 4; of them the first and the third are measured. The first is a warm-up.
    shares = [[float(one[name]) for name in names] for one in told]
    assert shares[0] == shares[1] == shares[2] == shares[3] != shares[4] == shares[5]
    assert float(told[0]["fusion/share/task"]) == pytest.approx(0, abs=1e-5)
    assert float(told[4]["fusion/share/task"]) > 0.01


def equations(jaxpr):
    """All equations of a program, with those of the functions that it calls."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def test_no_solve_is_paid_for_in_warm_up():
    system = _small(bilevel="fusion_leader", warmup_steps=5)
    program = jax.make_jaxpr(system.train_step)(system.init(KEY, BATCH), BATCH).jaxpr

    def loops(jaxpr):
        return sum(equation.primitive.name == "while" for equation in equations(jaxpr))

    choices = [one for one in program.eqns if one.primitive.name == "cond"]
    sizes = [[loops(branch.jaxpr) for branch in one.params["branches"]] for one in choices]
    assert [sorted(map(bool, one)) for one in sizes if any(one)] == [[False, True]]
    # All of them: nothing is solved beside the branch.
    assert loops(program) == sum(map(sum, sizes))


def test_a_step_keeps_the_form_of_what_is_remembered():
    """By which the next step finds the program of the last one, also after a restart."""
    system = _small(bilevel="fusion_leader", warmup_steps=1, leader_every=2, share_every=1)
    before = jax.eval_shape(system.init, KEY, BATCH)
    after = jax.eval_shape(system.train_step, before, BATCH)[0]
    assert set(before.memory) == {"fusion_weight", "bilevel", "led", "shares"}
    forms = [jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state) for state in (before, after)]
    assert forms[0] == forms[1]


def test_paces_that_make_no_sense_are_refused():
    refused("follower_steps is 0 and leader_every 1; each must be at least 1", _small, follower_steps=0)
    refused("leader_every 0; each must be at least 1", _small, leader_every=0)
    refused("share_every is -1; it must not be negative", _small, share_every=-1)
    refused("share_every is 5, and in this scheme segmentation leads", _small, bilevel="weights", share_every=5)
