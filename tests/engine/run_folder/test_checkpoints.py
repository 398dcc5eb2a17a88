"""Checkpoints are read back as they were written, bit by bit, whatever the leaves are."""

from contextlib import closing
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfuse.engine.devices.placement import one_device
from jaxfuse.engine.run_folder.checkpoints import Checkpoints, read_weights
from jaxfuse.errors import UserError
from jaxfuse.learning.optim import ScheduleState, adam
from jaxfuse.learning.state import State, create_state
from tests.refusals import refused
from tests.runs import bits


def draw(seed: int, width: int = 5) -> State:
    """Two players with optimizers that have moved, one running statistic, and a pool of fakes in bfloat16."""
    rng = np.random.default_rng(seed)

    def array(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    params = {"makers": {"trunk": {"kernel": array(3, width), "bias": array(width)}}, "critics": {"kernel": array(4)}}
    optimizers = {player: adam(learning_rate=0.1, total_steps=9, schedule="cosine") for player in params}
    pool = {"fakes": array(2, 7).astype(jnp.bfloat16), "filled": jnp.int32(seed)}
    stats = {"makers": {"mean": array(2)}, "critics": {}}
    state = create_state(jax.random.key(seed), params, optimizers, stats=stats, memory=pool)
    moved = {p: optimizers[p].update(params[p], state.opt_state[p])[1] for p in params}
    return state.replace(opt_state=moved, step=jnp.int32(seed))  # pyright: ignore


def written(folder, *steps: int, progress=None) -> Checkpoints:
    with closing(Checkpoints(folder)) as checkpoints:
        for step in steps:
            checkpoints.save(step, draw(step), progress or {"best_score": None, "best_step": None})
    return Checkpoints(folder)


def test_round_trip_keeps_every_bit_and_the_structure(tmp_path):
    progress = {"best_score": 0.1, "best_step": 2}
    state, found = written(tmp_path, 3, progress=progress).restore(draw(0))
    assert found == progress
    assert jax.tree.structure(state) == jax.tree.structure(draw(3))
    assert bits(state) == bits(draw(3))
    assert [type(one) for one in state.opt_state["makers"][:2]] == [optax.ScaleByAdamState, ScheduleState]
    assert jax.random.key_impl(state.rng) == jax.random.key_impl(jax.random.key(0))


def test_last_is_the_newest_and_one_before_it_is_kept_in_a_relative_folder_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(Path(), 2, 4, 6)
    with closing(Checkpoints(tmp_path)) as checkpoints:  # a step that is there is not written again
        checkpoints.save(6, draw(9), {"best_score": 1.0, "best_step": 4})
    assert sorted(path.name for path in (tmp_path / "last").iterdir() if path.name.isdigit()) == ["4", "6"]
    # What a killed writer left is no checkpoint.
    (tmp_path / "last" / ".partial-8-7-0a0a").mkdir(parents=True)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest_step() == 6
    state, progress = checkpoints.restore(draw(0))
    assert (bits(state), progress) == (bits(draw(6)), {"best_score": None, "best_step": None})


def test_saved_values_are_those_of_the_call_although_the_next_step_reuses_the_memory(tmp_path):
    state = State(jnp.int32(1), jax.random.key(0), {"net": jnp.zeros(1 << 20)}, {"net": {}}, {}, {})  # pyright: ignore
    advance = jax.jit(lambda s: s.replace(params={"net": s.params["net"] + 1}), donate_argnums=0)
    checkpoints = Checkpoints(tmp_path)
    state = advance(state)
    checkpoints.save(1, state, {})
    checkpoints.save_best(1, state)
    for _ in range(20):
        state = advance(state)
    checkpoints.close()
    assert np.all(np.asarray(state.params["net"]) == 21)
    for found in (Checkpoints(tmp_path).restore(state)[0], read_weights(tmp_path, state, one_device(), best=True)):
        assert np.all(np.asarray(found.params["net"]) == 1)


def test_best_and_last_are_read_apart_and_without_optimizers(tmp_path):
    with closing(Checkpoints(tmp_path)) as checkpoints:
        for step in (2, 4):
            checkpoints.save_best(step, draw(step))
        checkpoints.save(6, draw(6), {})
        # The best is whole before a progress names it: nothing was waited for since, and a kill could come now.
        assert (tmp_path / "best" / "4" / "digests.json").exists()
    like = jax.eval_shape(lambda: draw(0))
    for best, step in ((True, 4), (False, 6)):
        found = read_weights(tmp_path, like, one_device(), best=best)
        assert (bits(found.params), bits(found.stats)) == (bits(draw(step).params), bits(draw(step).stats))
        assert (int(found.step), found.opt_state, found.memory) == (step, {}, {})
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["4"]


def test_averaged_weights_are_those_that_predict_and_the_others_go_on_learning(tmp_path):
    average = {"params": draw(7).params, "stats": draw(7).stats}
    state, like = draw(3).replace(average=average), draw(0).replace(average=average)
    with closing(Checkpoints(tmp_path)) as checkpoints:
        checkpoints.save(3, state, {})
        checkpoints.save_best(3, state)
    assert bits(Checkpoints(tmp_path).restore(like)[0]) == bits(state)
    for best in (True, False):
        found = read_weights(tmp_path, jax.eval_shape(lambda: draw(0)), one_device(), best=best)
        assert (bits(found.params), bits(found.stats)) == (bits(average["params"]), bits(average["stats"]))
    with pytest.raises(UserError, match="does not fit this model"):
        Checkpoints(tmp_path).restore(draw(0))


@pytest.mark.parametrize("best", [False, True])
def test_weights_of_a_phase_without_checkpoint(tmp_path, best):
    read = partial(read_weights, tmp_path, draw(0), one_device(), best=best)
    refused(f"holds no {'best' if best else 'last'} checkpoint; train this phase first", read)
    Checkpoints(tmp_path).close()
    refused(f"holds no {'best' if best else 'last'} checkpoint; train this phase first", read)


def test_checkpoint_of_another_model_is_refused_in_one_line(tmp_path):
    checkpoints = written(tmp_path, 4)
    wider, other = draw(0, width=6), draw(0)
    other.params["net"] = other.params.pop("critics")
    for like in (wider, other):
        does_not_fit = r"step 4 in .* does not fit this model .* choose another --workdir"
        with pytest.raises(UserError, match=does_not_fit) as told:
            checkpoints.restore(like)
        assert "\n" not in str(told.value)
        refused("does not fit this run's model", read_weights, tmp_path, like, one_device(), best=False)
