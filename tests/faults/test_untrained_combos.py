"""A network fuses combinations of modalities that it was never trained to fuse."""

import re

import pytest

from configs import fuse4seg
from jaxfuse.brats_fuse.__main__ import read_combos
from jaxfuse.brats_fuse.plan import Order, deciding_options, plan_of
from jaxfuse.engine.trained.slice_fuser import load_fuser, untrained_count
from tests.faults.catalogue import given, table
from tests.made_cases import head, write_case
from tests.refusals import refused
from tests.untrained_run import TRAIN, write_untrained_run

PAIRS = ["t1+t1ce", "t1+t2", "t1+flair", "t1ce+t2", "t1ce+flair", "t2+flair"]


@pytest.fixture(scope="module")
def phase_of(tmp_path_factory):
    """A function from the combinations of a training to its phase."""

    def phase(combos):
        folder = tmp_path_factory.mktemp("run")
        config = fuse4seg.get_config("tiny")
        config.network.combos, config.data.cache = combos, str(folder / "cache")
        return load_fuser(str(write_untrained_run(folder / "run", config, "cooperative", train=TRAIN)))

    return phase


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("root")
    for number in range(3):
        write_case(folder, f"c{number}", head((12, 12, 10), number))
    return folder


def _planned(phase, root, **options):
    plain = dict.fromkeys(("layout", "labels", "modalities", "hd_bet_device"))
    plain |= {
        "root": str(root),
        "run": "run",
        "out": "out",
        "axis": "axial",
        "brain_mask": "union",
        "combos": "trained",
    }
    plain |= dict.fromkeys(("one_per_case", "attention", "allow_trained", "allow_untrained"), False)
    order = Order(**{**plain, "seed": 0, "panels": 0, "batch": 1, "devices": "1", **options})
    return deciding_options(order, plan_of(order, phase, read_combos, print), "")


@table(
    "combos,options,expected",
    ("`brats_fuse` of a run on the six pairs", "the six pairs, none of the other five", tuple(PAIRS), {}, PAIRS),
    ("the same of a run on T1c and FLAIR alone", "that pair", ("flair+t1ce",), {}, ["t1ce+flair"]),
    (
        "the same with `--modalities t1,t2` of a run on pairs",
        "one pair",
        tuple(PAIRS),
        {"modalities": ["t1", "t2"]},
        ["t1+t2"],
    ),
)
def test_what_was_trained_is_fused(phase_of, root, combos, options, expected):
    found = _planned(phase_of(combos), root, **options)
    assert (found["combos"], found["untrained_combos"]) == (expected, [])


@given("`brats_fuse` of a run on all combinations", "all 11")
def test_all_combinations_where_all_were_trained(phase_of, root):
    found = _planned(phase_of(("all",)), root)
    assert (len(found["combos"]), found["untrained_combos"]) == (11, [])


@given("`--combos all` of a run on pairs", "refused: names the five, and the option that allows them")
def test_others_are_refused(phase_of, root):
    triples = re.escape("never trained to fuse t1+t1ce+t2, t1+t1ce+flair, t1+t2+flair, t1ce+t2+flair, t1+t1ce+t2+flair")
    refused(f"{triples}: .*--allow_untrained", _planned, phase_of(tuple(PAIRS)), root, combos="all")


@given("the same with `--allow_untrained`", "`builder.json` lists the five")
def test_others_are_marked(phase_of, root):
    found = _planned(phase_of(tuple(PAIRS)), root, combos="all", allow_untrained=True)
    assert [combo for combo in found["combos"] if combo not in PAIRS] == found["untrained_combos"]
    assert len(found["untrained_combos"]) == 5


@given("`--modalities t1,t2` of a run that never fused them", "refused")
def test_modalities_of_no_trained_combination_are_refused(phase_of, root):
    refused(
        "trained to fuse no combination of t1, t2", _planned, phase_of(("t1ce+flair",)), root, modalities=["t1", "t2"]
    )


@given("`fuse --images` of three images by a run on pairs", "fused, with a sentence that it was never trained to")
def test_three_images_for_a_network_of_pairs(phase_of):
    phase = phase_of(tuple(PAIRS))
    assert untrained_count(phase, 2) == ""
    assert "was trained to fuse 2 images, never 3" in untrained_count(phase, 3)
