"""Cases of a judgment that several processes predict: as one process judges them; threads stand for processes."""

import threading

import numpy as np
import pytest

from jaxfuse.engine.devices.processes import Processes
from jaxfuse.engine.judging.assessment import Judged, MadeElsewhere, Needs
from jaxfuse.engine.judging.division import AHEAD, EXCHANGE, clear, judged_by_all
from jaxfuse.engine.judging.losses import losses
from jaxfuse.engine.judging.segmentation import segmentation
from jaxfuse.errors import PROCESS_LOST, Stopped, Unfinished, UserError
from jaxfuse.inference.tiling import Asked
from tests.engine.devices.boards import in_all
from tests.engine.judging.heads import LESION, OUTPUTS, full, predict, prepared, summary_of
from tests.engine.valid_phases import case

ASKED = Asked(labels=("S",))
CASES = [case(number) for number in range(9)]


def answer(one, asked):
    turned = np.random.default_rng(int(one.id)).random((5, 4, 3), np.float32).transpose(1, 2, 0)
    return {"S": np.full((2, 3), int(one.id), np.uint8), "values": turned}


@pytest.mark.parametrize("count", [2, 3])
def test_files_are_those_of_one_process_and_each_predicts_its_part(tmp_path, drawn, count):
    judge, cases = segmentation(Judged(LESION, "S_F", OUTPUTS)), prepared(tmp_path / "cache")
    predicted = {number: [] for number in range(count)}

    def work(processes: Processes):
        def noting(one, asked):
            predicted[processes.number].append(one.id)
            return predict(one, asked)

        needs, workdir = judge.needs(cases, at_end=True), tmp_path / "run"
        judging = lambda predict: full(judge, predict, cases, workdir)["cases"]
        return judged_by_all(processes, workdir, needs, noting, judging)

    assert in_all(count, work) == [4] * count
    assert predicted == {number: list("abcd"[number::count]) for number in range(count)}
    full(judge, predict, cases, tmp_path / "alone")
    for name in ("cases.csv", "labels.npz"):
        here, there = (tmp_path / folder / "results" / name for folder in ("run", "alone"))
        assert here.read_bytes() == there.read_bytes()
    here, there = map(summary_of, (tmp_path / "run", tmp_path / "alone"))
    assert {**here, "seconds_per_subject": 0} == {**there, "seconds_per_subject": 0}
    assert list((tmp_path / "run" / EXCHANGE).iterdir()) == []
    clear(tmp_path / "run")
    assert not (tmp_path / "run" / EXCHANGE).exists()


def test_outputs_come_bit_by_bit_in_any_order_and_what_was_not_foreseen_is_made_by_process_0(tmp_path):
    predicted, needs = [], Needs(CASES, ASKED)

    def work(processes):
        def noting(one, asked):
            predicted.append((processes.number, one.id, asked))
            return answer(one, asked)

        def judging(predict):
            found = [predict(CASES[place], ASKED) for place in (1, 4, 2, 8)]  # 3, 5, 6 and 7 are never asked for
            assert [isinstance(one, MadeElsewhere) for one in found] == [True, True, True, True]
            assert all(one.seconds > 0 for one in found)
            others = [predict(CASES[4], ASKED), predict(CASES[7], Asked())]  # the one again, the other otherwise
            assert not any(isinstance(one, MadeElsewhere) for one in others)
            assert all(one["values"].flags.c_contiguous for one in [*found, *others]), "they lie alike in memory"
            for one, place in zip([*found, *others], (1, 4, 2, 8, 4, 7), strict=True):
                wanted = answer(CASES[place], ASKED)
                assert {name: (a.dtype, a.tobytes()) for name, a in one.items()} == {
                    name: (a.dtype, a.tobytes()) for name, a in wanted.items()
                }
            return "judged"

        return judged_by_all(processes, tmp_path, needs, noting, judging)

    assert in_all(3, work) == ["judged"] * 3
    assert [one for one in predicted if one[0] == 0] == [(0, "4", ASKED), (0, "7", Asked())]
    assert list((tmp_path / EXCHANGE).iterdir()) == [], "what nobody has read is removed by who made it"


def test_no_process_is_further_ahead_than_told(tmp_path):
    reached, too_early = [0], []

    def work(processes):
        def noting(one, asked):
            if not processes.first and int(one.id) > reached[0] + AHEAD * processes.count:
                too_early.append((one.id, reached[0]))
            return answer(one, asked)

        def judging(predict):
            for place, one in enumerate(CASES):
                reached[0] = place
                predict(one, ASKED)

        return judged_by_all(processes, tmp_path, Needs(CASES, ASKED), noting, judging)

    in_all(2, work)
    assert too_early == []


def test_where_process_0_ends_all_end(tmp_path):
    def work(processes):
        def judging(predict):
            predict(CASES[1], ASKED)
            raise Stopped("SIGTERM: stopped", 143)

        return judged_by_all(processes, tmp_path, Needs(CASES, ASKED), answer, judging)

    first, *others = in_all(2, work)
    assert str(first) == "SIGTERM: stopped"
    assert [(type(error), error.exit_code) for error in others] == [(Unfinished, 143)]
    assert list((tmp_path / EXCHANGE).iterdir()) == []


def test_process_0_ends_where_one_is_lost_that_it_waits_for(tmp_path):
    leader, there = [], threading.Barrier(2)

    def work(processes):
        leader.extend([processes] * processes.first)
        there.wait()

        def failing(one, asked):
            if not processes.first:
                leader[0].lost = ("process 1 has ended: no memory", PROCESS_LOST)  # as its watch hears
                raise UserError("no memory")
            return answer(one, asked)

        def judging(predict):
            return [len(predict(one, ASKED)) for one in CASES]

        return judged_by_all(processes, tmp_path, Needs(CASES, ASKED), failing, judging)

    first, second = in_all(2, work)
    assert (str(first), first.exit_code) == ("process 1 has ended: no memory", PROCESS_LOST)
    assert str(second) == "no memory"


def test_one_case_one_process_and_what_is_within_a_turn_are_judged_as_before(tmp_path):
    def judged(processes, cases):
        made_here = lambda predict: type(predict(CASES[1], ASKED)) is dict
        return judged_by_all(processes, tmp_path, Needs(cases, ASKED), answer, made_here)

    assert judged(Processes(), CASES)
    assert in_all(2, lambda processes: judged(processes, CASES[:1])) == [True, True]
    assert in_all(2, lambda processes: processes.led(lambda: judged(processes, CASES))) == [True, True]
    assert losses(Judged(None, "S")).needs(CASES, at_end=True) == Needs()
    assert not (tmp_path / EXCHANGE).exists()
