"""The comparison of ends finds what a disturbed run may lose or have twice; kills are drawn alike from one seed."""

import random
import shutil
from pathlib import Path

import pytest

from experiments.failures import endurance
from experiments.failures.ends import compare, left_behind, records
from experiments.failures.kills import KILLS, plans
from experiments.failures.run import page
from experiments.failures.trainings import PLACES, RECIPES, Started
from jaxfuse.engine.run_folder.metric_writer import MetricWriter
from jaxfuse.io.tables import write_json
from tests.engine.toy_loop import Bench


def toy_run(folder: Path, steps: int) -> Path:
    """Trains a toy whose checkpoints lie where those of the phase `toy` do."""
    Bench(folder, steps, checkpoint_every=2, validate_every=2, log_every=1).run()
    (folder / "checkpoints").rename(folder / "toy")
    (folder / "checkpoints").mkdir()
    (folder / "toy").rename(folder / "checkpoints" / "toy")
    return folder


@pytest.fixture(scope="module")
def ended(tmp_path_factory) -> Path:
    """The folder of a run with rows, checkpoints and scores."""
    folder = toy_run(tmp_path_factory.mktemp("ended"), 4)
    write_json(folder / "results" / "toy" / "summary.json", {"dice": 0.5, "seconds_per_subject": 1.0})
    (folder / "report.html").write_text("<html></html>", encoding="utf-8")
    return folder


@pytest.fixture
def other(ended, tmp_path) -> Path:
    return Path(shutil.copytree(ended, tmp_path / "other"))


def test_a_copy_is_the_same_and_times_do_not_count(ended, other):
    write_json(other / "results" / "toy" / "summary.json", {"dice": 0.5, "seconds_per_subject": 2.0})
    assert compare(other, ended).same


def test_rows_twice_missing_and_of_another_value_are_found(ended, other):
    lines = (ended / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    numbers = 1  # of a row, beside what a clock decides
    (other / "metrics.jsonl").write_text("".join([*lines, lines[0]]), encoding="utf-8")
    assert compare(other, ended).twice == numbers
    (other / "metrics.jsonl").write_text("".join(lines[1:]), encoding="utf-8")
    assert compare(other, ended).missing == numbers
    (other / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    assert compare(other, ended).same
    writer = MetricWriter(other)
    writer.write(1, "toy", "train", {"net/loss": 7.0})
    writer.close()
    found = compare(other, ended)
    assert found.twice == 3 * numbers  # in all three files
    assert len(found.unequal) == 3


def test_weights_and_scores_of_another_value_are_found(ended, other, tmp_path):
    assert [name for name in compare(other, ended).unequal if "weights" in name] == []
    shutil.rmtree(other / "checkpoints")
    (toy_run(tmp_path / "longer", 6) / "checkpoints").rename(other / "checkpoints")
    write_json(other / "results" / "toy" / "summary.json", {"dice": 0.25, "seconds_per_subject": 1.0})
    unequal = compare(other, ended).unequal
    assert "results/toy/summary.json" in unequal
    assert [name for name in unequal if name.startswith("checkpoints: ") and "weights/params/net/w" in name]


def test_a_record_that_was_cut_is_told(ended):
    (path,) = ended.glob("tensorboard/*/events.out.tfevents.*")
    content = path.read_bytes()
    assert len(list(records(content))) > 4
    with pytest.raises(ValueError, match="was cut"):
        list(records(content[:-3]))
    assert len(list(records(content[:-3], whole=False))) == len(list(records(content))) - 1


def test_files_of_work_that_was_cut_short_are_listed(tmp_path):
    for name in (".lock", ".metrics.csv.17.0123abcd", "metrics.csv"):
        (tmp_path / name).touch()
    assert left_behind(tmp_path) == [".metrics.csv.17.0123abcd"]


def test_kills_are_drawn_by_the_seed_in_the_order_of_a_run():
    drawn = [plans(random.Random(seed), 2) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert [len(one) for one in drawn] == [KILLS] * 3
    for one in drawn:
        assert (one[0].place, one[-1].place) == ("cache", "report")
        middle = [plan.phase for plan in one[1:-1]]
        assert middle == sorted(middle)
        assert {plan.place for plan in one} <= {*PLACES, "anywhere"}


def test_where_a_run_stands_is_told_by_what_it_says_and_writes(tmp_path):
    run = Started(RECIPES["cmff"], tmp_path / "run", tmp_path / "cache", tmp_path / "out.txt")
    announced = "Phase 1 of 2, transition: 12 steps of 1 x 16 x 16 x 16 patches\n"
    run.said.write_text("jaxfuse cmff: cpu\n", encoding="utf-8")
    assert run.place() == "start-up"
    (tmp_path / "cache" / "phantoms").mkdir(parents=True)
    assert run.place() == "cache"
    run.said.write_text(announced, encoding="utf-8")
    assert run.place() == "compilation"
    writer = MetricWriter(tmp_path / "run")
    writer.write(1, "transition", "train", {"loss": 1.0})
    assert run.place() == "training"
    writer.write(6, "transition", "train", {"loss": 1.0})
    assert run.place() == "validation"
    (tmp_path / "run" / "checkpoints" / "transition" / "last" / ".partial-6-1-ab").mkdir(parents=True)
    assert run.place() == "checkpoint"
    run.said.write_text(f"{announced}Phase transition: 12 steps in 0:15\n", encoding="utf-8")
    assert (run.place(), run.phase()) == ("judging", 0)
    run.said.write_text(f"{announced}Phase 2 of 2, fusion: 12 steps from step 12 of 1 x 16\n", encoding="utf-8")
    assert (run.place(), run.phase()) == ("judging", 1)
    write_json(tmp_path / "run" / "results" / "fusion" / "summary.json", {})
    assert run.place() == "report"
    writer.close()


def test_the_table_counts_lost_runs_and_kills_by_place():
    kill = {"wanted": "training", "place": "training", "sent": "SIGKILL", "exit_code": -9, "after_s": 1.0}
    good = {"recipe": "cmff", "kills": [kill, kill], "lost": "", "twice": 0, "missing": 0, "unequal": [], "left": []}
    lost = {"recipe": "hinet", "kills": [kill], "lost": "error: gone"}
    told = page("COMMAND", [good, lost])
    assert "Written by `COMMAND`. 3 kills of 2 runs." in told
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in told.splitlines() if line.startswith("| ")]
    rows = {name: values for name, *values in cells}
    assert rows["all"] == ["2", "3", "1", "0", "0", "1", "0"]
    assert rows["training"] == ["3"]


def test_endurance_sets_the_last_tenth_beside_the_first():
    samples = [
        endurance.Sample(step, step * 2e-3, step * 1e-3, 100.0 + step / 1e5, 9, 5) for step in range(0, 10**5, 50)
    ]
    found = endurance.tenths(samples, 10**5)
    assert found["processor time of a step (ms)"] == pytest.approx((1.0, 1.0))
    assert found["wall time of a step (ms)"] == pytest.approx((2.0, 2.0))
    assert found["open files"] == (9, 9)
    first, last = found["resident memory (MB)"]
    assert last - first == pytest.approx(0.9, abs=0.02)
