"""The protocol of `experiments.few_labels`: what is drawn, what is paired, and what a probe reads."""

import json

import numpy as np
import pytest

from experiments.few_labels import run, tables
from experiments.few_labels.probe import _entropy, fitted
from experiments.few_labels.protocol import FROZEN, ROWS, SMOKE, labeled_places


def test_fewer_labels_are_among_more_and_draws_differ():
    drawn = {subset: labeled_places(40, 8, subset) for subset in FROZEN.subsets}
    assert len({tuple(sorted(one)) for one in drawn.values()}) == len(FROZEN.subsets)
    for subset, eight in drawn.items():
        assert len(set(eight)) == 8
        assert labeled_places(40, 2, subset) == eight[:2]


@pytest.mark.parametrize("row", ROWS)
def test_every_row_is_one_of_the_recipe_at_the_sizes_of_the_protocol(row):
    experiment = FROZEN.experiment(row)
    *first, last = (experiment.phases[name] for name in experiment.schedule)
    assert (last.steps, last.patch, last.sampling.name) == (300, (24, 24, 24), "mixed")
    assert [(one.steps, one.sampling.name, one.needs_label) for one in first] == [(600, "brain", False)] * len(first)
    assert len(first) == (row != "random")


def _trainings(shift):
    return [
        {
            "row": row,
            "labels": 2,
            "subset": subset,
            "seed": 0,
            "scores": {c: {"WT": shift[row] + 0.1 * subset} for c in "ab"},
        }
        for subset in (1, 0)
        for row in shift
    ]


def test_rows_are_compared_within_a_draw():
    found = _trainings({"random": 0.5, "ours": 0.625})
    assert tables.scores_of(found, "ours", 2).tolist() == [[0.625, 0.625], [0.725, 0.725]]
    # Draws differ, what is paired does not: the interval has no width.
    assert "+0.125 (+0.125 to +0.125)" in tables.render_part("T1", {"trainings": found})


def test_a_probe_reads_what_is_linear_in_its_features():
    rng = np.random.default_rng(0)
    features = [rng.normal(size=(300, 3)) * (1, 100, 0.01) for _ in range(2)]
    labels = [np.where(x[:, 0] + x[:, 1] / 100 > 0.5, 2, (x[:, 2] > 0).astype(int)) for x in features]
    probe = fitted(features, labels, 3)
    assert (probe(features[0]) == labels[0]).mean() > 0.95


def test_the_gradient_of_the_entropy_is_its_slope():
    rng = np.random.default_rng(1)
    design, label, flat = rng.normal(size=(20, 3)), rng.integers(0, 2, 20), rng.normal(size=6)
    _, gradient = _entropy(design, label, 2, flat)
    ahead, behind = (_entropy(design, label, 2, flat + step * np.eye(6)[4])[0] for step in (1e-5, -1e-5))
    assert gradient[4] == pytest.approx((ahead - behind) / 2e-5, rel=1e-5)


@pytest.mark.slow
def test_all_parts_run_are_kept_and_are_not_repeated(tmp_path, capsys):
    run.main(["--smoke", "--folder", str(tmp_path), "--part", "T1", "T4"])
    made = sorted((tmp_path / "usual" / "few_labels").glob("*.json"))
    assert len(made) == len(ROWS) * len(SMOKE.labels)
    scores = json.loads((tmp_path / "scores_T1.json").read_text())
    assert {one["row"] for one in scores["trainings"]} == set(ROWS)
    first = capsys.readouterr().out
    run.main(["--smoke", "--folder", str(tmp_path), "--part", "T1"])
    again = capsys.readouterr().out
    assert "few_labels/subset0" in first
    assert "few_labels/subset0" not in again
    assert again.splitlines()[-1] in first
