"""The experiment on real pairs: heads are held out whole, rows train alike, a lead is more than chance."""

import numpy as np
import pytest

from configs import fusion
from experiments.harvard_pairs import run as pairs
from jaxfuse.config import parse
from jaxfuse.metrics.names import names_of


def test_every_third_head_is_held_out_with_all_of_its_pictures():
    names = [f"{head}{place:03d}" for head in (2, 10, 9, 33, 41) for place in (5, 17)]
    sides = pairs.sides_of(names)
    assert {pairs.head_of(name) for name in sides["test"]} == {"10"}
    assert sides["val"] == []
    assert sorted([*sides["train"], *sides["test"]]) == sorted(names)
    assert len(sides["test"]) == 2


@pytest.mark.parametrize("kind", pairs.KINDS)
@pytest.mark.parametrize("row", pairs.ROWS)
def test_rows_take_as_many_steps_on_the_same_crops(kind, row):
    argument, *options = pairs.options_of(row, kind)
    assert argument.startswith("--config=configs/fusion.py:")
    config = fusion.get_config(argument.partition(":")[2])
    assert config.data.modalities == ("mri", kind)
    given = dict(option.removeprefix("--config.").split("=") for option in options)
    steps = [int(given[f"{name}.steps"]) for name in config.schedule]
    assert sum(steps) == pairs.FIRST_STEPS + pairs.LAST_STEPS
    for name in config.schedule:
        config[name].patch, config[name].steps = (pairs.SIDE, pairs.SIDE), 1
        assert given[f"{name}.patch"] == str((pairs.SIDE, pairs.SIDE))
    assert parse(config).schedule == tuple(config.schedule)


def test_ahead_is_what_a_paired_interval_says():
    rng = np.random.default_rng(0)
    maximum = {name: rng.normal(size=20).tolist() for name in names_of(pairs.EIGHT)}
    found = {name: list(values) for name, values in maximum.items()}
    assert pairs.against_maximum(found, maximum) == ([], [])
    found["qabf"] = [value + 0.3 + 0.1 * rng.normal() for value in maximum["qabf"]]
    found["sf"] = [value - 0.3 + 0.1 * rng.normal() for value in maximum["sf"]]
    found["vif"] = [value + 2 * rng.normal() for value in maximum["vif"]]
    assert pairs.against_maximum(found, maximum) == (["qabf"], ["sf"])
    text = pairs.table_of({"maximum": {**maximum, "ssim_255": [1.0]}, "row": {**found, "ssim_255": [1.0]}})
    assert "1 of 8" in text


def test_the_eight_are_those_of_published_tables():
    assert names_of(pairs.EIGHT) == ("en_bits", "sd", "sf", "mi_nats", "scd", "vif", "qabf", "ssim")
