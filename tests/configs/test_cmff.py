"""configs/cmff.py: data of a phase that learns from images alone."""

import json

import pytest

from configs import cmff
from jaxfuse.config import parse
from jaxfuse.engine.run import train
from tests.made_cases import head, nested_cubes, write_case


@pytest.mark.parametrize(("row", "phase"), [("ours", "transition"), ("self", "reconstruction")])
def test_data_of_pre_training_are_those_of_the_experiment_but_for_what_is_set(row, phase):
    config = cmff.get_config(f"tiny,row={row}")
    config.data.val_fraction = 0.4
    assert parse(config).phases[phase].data is None
    config[phase].data.root = "elsewhere"
    config[phase].data.phantom.seed = 7
    own = parse(config).phases[phase].data
    assert (own.root, own.val_fraction, own.phantom.seed, own.phantom.cases) == ("elsewhere", 0.4, 7, 3)
    assert (parse(config).data.root, parse(config).data.phantom.seed) == ("", 0)


@pytest.mark.slow
def test_joint_training_on_cases_with_and_without_a_label_end_to_end(tmp_path, capsys):
    for number in range(6):
        label = nested_cubes((32, 32, 24)) if number < 3 else None
        write_case(tmp_path / "cases", f"c{number}", {**head((32, 32, 24), number), "seg": label})
    config = cmff.get_config("tiny,row=joint")
    config.data.root, config.data.cache = str(tmp_path / "cases"), str(tmp_path / "cache")
    config.data.unlabeled = "keep"
    assert train(config, tmp_path / "run").stat().st_size
    assert "3 of them without a label" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any(row.get("net/cycle_a", 0) > 0 for row in rows)
    assert json.loads((tmp_path / "run/results/joint/summary.json").read_text())["cases"] == 1


@pytest.mark.slow
def test_pre_training_on_unlabeled_cases_end_to_end(tmp_path, capsys):
    for number in range(6):
        label = nested_cubes((32, 32, 24)) if number < 3 else None
        folder = tmp_path / ("labeled" if label is not None else "unlabeled")
        write_case(folder, f"c{number}", {**head((32, 32, 24), number), "seg": label})
    config = cmff.get_config("tiny")
    config.data.root, config.data.cache = str(tmp_path / "labeled"), str(tmp_path / "cache")
    config.transition.data.root = str(tmp_path / "unlabeled")
    report = train(config, tmp_path / "run")
    assert report.stat().st_size
    assert "2 of them without a label" in capsys.readouterr().out
    facts, own = (
        json.loads((tmp_path / "run" / name).read_text()) for name in ("dataset.json", "dataset_transition.json")
    )
    assert {*facts["train"], *facts["val"]} == {"c0", "c1", "c2"}
    assert {*own["train"], *own["val"]} == {"c3", "c4", "c5"}
    assert json.loads((tmp_path / "run/results/fusion/summary.json").read_text())["cases"] == 1
