"""Parts of recipes: the text after a config's name, and the sections that an experiment and a phase have."""

import pytest
from ml_collections import ConfigDict

from jaxfuse.errors import UserError
from jaxfuse.recipes import adam, brats_data, experiment, parse_argument, phase

PRESETS = {"": "default", "tiny": "small", "paper": "large"}
ROWS = {"ours": "", "S_A+S_B": ""}
DATA = brats_data(modalities=("t1", "flair"), shape=(8, 8, 8), cases=3, spacing_mm=1.0)
LEAST = {"model": "cmft", "assess": "engine.judging.losses:losses", "optimizers": {"net": adam(1e-3)}, "patch": (8, 8)}


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        (None, ("", "ours", "")),
        ("", ("", "ours", "")),
        ("tiny", ("tiny", "ours", "")),
        ("paper,row=S_A+S_B", ("paper", "S_A+S_B", "")),
        ("row=S_A+S_B", ("", "S_A+S_B", "")),
        ("tiny,data=stroke,row=ours", ("tiny", "ours", "stroke")),
    ],
)
def test_preset_row_and_variant_are_read(argument, expected):
    variants = {"stroke": "other data"}
    assert parse_argument(argument, presets=PRESETS, rows=ROWS, variants=variants, default_row="ours") == expected


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("large", "preset 'large' is not known; choose one of tiny, paper"),
        ("tiny,row=S_C", "row 'S_C' is not known; choose one of ours, S_A+S_B"),
        ("data=stroke", "data variant 'stroke' is not known; this config has none"),
        ("tiny,paper", "'paper' after the config's name is not understood; write PRESET,row=NAME,data=VARIANT"),
        ("tiny,raw=ours", "'raw=ours' after the config's name is not understood"),
    ],
)
def test_an_argument_that_is_not_understood_is_refused(argument, sentence):
    with pytest.raises(UserError) as error:
        parse_argument(argument, presets=PRESETS, rows=ROWS, variants={}, default_row="ours")
    assert str(error.value).startswith(sentence)


def test_a_phase_has_the_sections_that_it_is_given():
    bare = phase(**LEAST)
    assert not {"loss", "loss_args", "sampling_args", "data"} & set(bare)
    full = phase(**LEAST, loss="losses.image:l1", sampling_args={"grid": 5}, data=DATA)
    assert set(full) - set(bare) == {"loss", "loss_args", "sampling_args", "data"}
    assert (full.loss_args.to_dict(), full.sampling_args.grid) == ({}, 5)
    # Options of one phase are not those of another.
    full.augment.flip.probability = 0.5
    assert phase(**LEAST).augment.flip.probability is None


def test_an_experiment_lists_its_phases_in_order_and_ends_in_the_last():
    phases = {"second": phase(**LEAST), "first": phase(**LEAST)}
    config = experiment("one", ("tiny", "ours", ""), data=DATA, network={}, phases=phases, log_every=1)
    assert (config.schedule, config.result) == (("second", "first"), ("first",))
    assert (config.preset, config.row, config.variant) == ("tiny", "ours", "")
    assert isinstance(config.network, ConfigDict)
    assert "side_by_side" not in config
    offers = {"result": ("second", "first"), "side_by_side": False}
    config = experiment("one", ("", "", ""), data=DATA, network={}, phases=phases, log_every=1, **offers)
    assert (config.result, config.side_by_side) == (("second", "first"), False)
