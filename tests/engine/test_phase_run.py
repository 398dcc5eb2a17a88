"""One phase of a run and its data, before it is trained."""

from contextlib import closing
from dataclasses import replace
from itertools import pairwise

import jax
import numpy as np
import pytest

from jaxfuse.engine.run import Run
from jaxfuse.engine.run_folder.checkpoints import Checkpoints
from jaxfuse.learning.transfer import parse_rule
from tests.engine.view_runs import VIEWS, recipe
from tests.runs import run_of, said
from tests.tiny_systems import same


def views(folder, workdir, **changes) -> Run:
    config = recipe(folder / "cache", side_by_side=False, steps=4, pixelwise=True)
    config.update_from_flattened_dict(changes)
    return run_of(config, workdir)


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory) -> Run:
    return views(folder, tmp_path_factory.mktemp("run"))


def test_a_phase_is_opened_once_and_knows_its_place_and_the_seeds_of_its_batches(run, folder, tmp_path):
    other = views(folder, tmp_path, seed=1)
    assert len({run.phase(view).seed for view in VIEWS} | {other.phase(view).seed for view in VIEWS}) == 4
    assert views(folder, tmp_path / "again").phase("axial").seed == run.phase("axial").seed
    assert [run.phase(view).number for view in VIEWS] == [0, 1]
    assert run.phase("axial") is run.phase("axial")
    phase = run.phase("axial")
    assert phase.system is phase.system
    assert phase.total_steps == 4
    assert phase.checkpoint_folder == run.workdir / "checkpoints" / "axial"


def test_the_stream_goes_on_at_any_step_and_ends_with_the_phase(run):
    phase = run.phase("coronal")
    whole = list(phase.stream(0))
    assert len(whole) == phase.total_steps
    for start in (1, 3):
        same(list(phase.stream(start)), whole[start:])
    assert any((a["image"] != b["image"]).any() for a, b in pairwise(whole))


def test_a_validation_is_repeatable_and_watches_its_share_of_the_cases(run):
    phase = run.phase("coronal")
    assert len(phase.watched) == min(len(phase.data.val), phase.phase.validation.cases)
    weights = phase.initial_state()
    first, second = phase.validation()(weights), phase.validation()(weights)
    assert first == second
    assert {"net/loss", "score"} <= set(first)
    assert phase.validation_interval >= phase.phase.validation.every


def test_weights_are_taken_over_from_another_phase_as_they_lie_on_disk(run):
    donor, phase = run.phase("coronal"), run.phase("axial")
    phase = replace(phase, phase=replace(phase.phase, rules=(parse_rule(("net", "coronal:net")),)))
    given, fresh = donor.initial_state(), phase.initial_state()
    assert run.phase("axial").transfer(fresh, {}) is fresh  # no rule, no donor
    with closing(Checkpoints(donor.checkpoint_folder)) as checkpoints:
        checkpoints.save(4, given, {})
    begun = phase.transfer(fresh, {"coronal": donor})
    same(begun.params, given.params)
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (given.params, fresh.params)), strict=True))
    same((begun.stats, begun.opt_state), (fresh.stats, fresh.opt_state))
    # Every array is bound to the devices in use: else the step would be compiled again for its own output.
    assert all(leaf.committed for leaf in jax.tree.leaves(begun))
    values = sum(np.size(leaf) for leaf in jax.tree.leaves(given.params))
    assert said(run).endswith(f"{values:,} values are taken over: coronal:net -> net\n")


def test_a_phase_that_goes_on_forgets_how_it_and_the_result_were_judged(run):
    phase = run.phase("axial")
    summaries = {name: run.setting.results(name) / "summary.json" for name in (*VIEWS, "result")}
    for path in summaries.values():
        path.parent.mkdir(parents=True)
        path.touch()
    assert phase.is_judged
    phase.forget_judgment()
    assert [name for name, path in summaries.items() if path.exists()] == ["coronal"]
    assert not phase.is_judged
    phase.forget_judgment()  # there is nothing left to forget
