"""The validation of a phase while it trains, and its best weights so far."""

import math
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.data.sampling import sampling_rule
from jaxfuse.engine.judging.assessment import Needs
from jaxfuse.engine.run_folder.metric_writer import MetricWriter, read_metrics
from jaxfuse.engine.validation import (
    PhaseJudge,
    Progress,
    Validation,
    fixed_batches,
    spread,
    validation_interval,
)
from jaxfuse.inference.tiling import Asked
from jaxfuse.learning.state import State
from tests.engine.valid_phases import Kept, case, valid_phase


@pytest.mark.parametrize(
    ("cases", "count", "chosen"),
    [(9, 1, [4]), (9, 3, [1, 4, 7]), (10, 2, [2, 7]), (3, 3, [0, 1, 2]), (2, 5, [0, 1]), (1, 1, [0])],
)
def test_watched_cases_are_spread_over_the_list(cases, count, chosen):
    assert [one.id for one in spread([case(i) for i in range(cases)], count)] == [str(i) for i in chosen]


@pytest.mark.parametrize("without_label", [False, True])
def test_validation_batches_show_labeled_windows_where_every_case_has_one(labeled, healthy, without_label):
    phase = valid_phase(patch=(8, 8, 8), batch=4, sampling=sampling_rule("foreground", {"grid": 1}))
    cases = [*labeled, healthy] if without_label else labeled
    fixed = fixed_batches(phase, cases, seed=1, margin=3)
    assert [batch["label"].shape for batch in fixed] == [(4, 2, 2, 2)] * len(cases)
    held = [batch["label"].any((1, 2, 3)).all() for batch in fixed]
    assert all(held) != without_label
    more = fixed_batches(replace(phase, batch=9), cases, seed=1, margin=3)
    assert len(more[0]["image"]) == 8
    np.testing.assert_array_equal(more[0]["image"][:4], fixed[0]["image"])


def test_a_pass_over_the_validation_cases_counts_the_windows_of_the_output():
    phase = valid_phase(patch=(8, 8, 8), batch=1, validation={"every": 1})
    one = replace(case(0), facts=replace(case(0).facts, original_shape=(8, 8, 8), shape=(8, 8, 8)))
    # One tile, a third of a step, in a tenth of the time; and eight of them.
    assert validation_interval(phase, [one], asked=1, margin=0) == 4
    assert validation_interval(phase, [one], asked=1, margin=2) == 27


SCORE = Asked(values=("score",))


def state(loss: float = 0.0) -> State:
    return State(jnp.int32(0), None, {"net": loss}, {}, {"net": "moments"}, {"pool": "fakes"})  # pyright: ignore


def test_a_validation_joins_losses_and_scores_of_weights_alone():
    class Assessed:
        def needs(self, cases, *, at_end):
            assert not at_end
            return Needs(cases, SCORE)

        def quick(self, predict, cases):
            return {"score": sum(predict(one, SCORE) for one in cases)}

        def full(self, predict, cases, *, results, figures_dir, title):
            raise AssertionError

    def predict(weights, case, asked):
        assert asked == SCORE
        assert (weights.opt_state, weights.memory) == ({}, {})
        return weights.params["net"] + int(case.id)

    def losses(own, batch):
        return {"a": own.params["net"] * batch, "b": jnp.float32(batch) ** 2}

    # Losses are means over the fixed batches.
    fixed = [jnp.float32(1), 3]
    validate = Validation(
        losses,
        predict,
        Assessed(),
        (case(1), case(2)),
        fixed,
        lambda state: state,
        lambda needs, predict, judging: judging(predict),
    )
    assert validate(state(10.0)) == {"a": 20.0, "b": 5.0, "score": 23.0}


def test_a_judge_keeps_the_first_best_and_goes_on_from_its_document(tmp_path):
    scores = iter([math.nan, 0.1, 0.5, 0.5, math.inf, 0.3])
    writer, kept = MetricWriter(tmp_path), Kept()
    judge = PhaseJudge("toy", lambda state: {"score": next(scores)}, writer, kept, Progress())
    for step in range(1, 7):
        judge(step, state())
    assert kept.best == [2, 3]
    assert judge.document() == {"best_score": 0.5, "best_step": 3, "since": 3}
    judge.recall({"best_score": 0.7, "best_step": 9})
    judge.validate = lambda state: {"score": 0.6, "net/loss": 1.0}
    judge(7, state())
    judge.validate = lambda state: {"net/loss": 1.0}  # a phase that is judged by its losses alone
    judge(8, state())
    writer.close()
    assert kept.best == [2, 3]
    assert judge.document() == {"best_score": 0.7, "best_step": 9, "since": 1}
    assert [row["step"] for row in read_metrics(tmp_path) if row["split"] == "val"] == list(range(1, 9))
