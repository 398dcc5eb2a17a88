"""Rows that are compared have the same share of their published widths, and tables tell scores as they are."""

from pathlib import Path

import numpy as np
import pytest

from configs import hinet, hyperfusion, infinet
from experiments.hinet_rows import rows as synthesis
from experiments.hinet_rows import run as synthesis_run
from experiments.supervised_rows import rows as supervised
from experiments.supervised_rows import run as supervised_run
from jaxfuse.metrics.protocols import DICE

RUNS = Path("runs")
SHARED_BY_ALL = ("width", "critic_width", "latent")  # numbers of channels, where a form has them


@pytest.mark.parametrize("name", synthesis.ROWS)
def test_networks_of_synthesis_have_half_of_their_published_widths(name):
    published = hinet.get_config(f"paper,row={name}").synthesis.args.form
    own = synthesis.ROWS[name].form
    widths = [key for key in SHARED_BY_ALL if key in published]
    assert {key: own[key] / published[key] for key in widths} == dict.fromkeys(widths, 0.5)
    assert own.get("blocks") == published.get("blocks"), "depth is the published one"


def test_trainings_have_a_folder_each_and_rates_are_chosen_for_every_kind(tmp_path):
    trainings = synthesis.trainings()
    assert len({one.workdir(tmp_path) for one in trainings}) == len(trainings)
    assert {row.kind for row in synthesis.ROWS.values()} == set(synthesis.CHOSEN)
    assert {row.kind for row in supervised.ROWS.values()} == set(supervised.KINDS)
    for kind, (name, factor) in supervised.KINDS.items():
        assert supervised.ROWS[name].kind == kind
        assert factor in supervised.FACTORS


def test_every_supervised_row_is_opened_by_its_recipe_with_its_share_of_widths():
    recipes = {"hyperfusion": hyperfusion, "infinet": infinet}
    shares: dict[supervised.Family, set[float]] = {}
    for row in supervised.ROWS.values():
        name, _, call = row.config.removeprefix("configs/").partition(".py:")
        own = recipes[name].get_config(call).network.form
        published = recipes[name].get_config(f"paper{call}").network.form
        key = "base" if "base" in own else "width"
        width = 4 if supervised.U_NET in row.options else own[key]
        shares.setdefault(row.family, set()).add(width / published[key])
    assert list(shares.values()) == [{4 / 25}, {0.25}, {4 / 25}]


def test_rows_that_share_a_training_do_not_share_scores():
    one, other = (supervised.Training(name, 300, 0, 1.0) for name in ("InfiNet", "InfiNet, coronal"))
    assert one.workdir(RUNS) == other.workdir(RUNS)
    assert one.runs(RUNS) != other.runs(RUNS)
    head = "HyperFusionNet, cross-entropy, the baseline's head"
    narrow, wide = (supervised.Training(name, 700, 0, 1.0) for name in (head, "HyperFusionNet, cross-entropy"))
    assert narrow.workdir(RUNS) != wide.workdir(RUNS)


def made(dice):
    return [
        {
            "case": f"c{number}",
            "output": way,
            "region": "lesion",
            DICE.name: value - (way == "unmasked") / 8,
            "hd_mm": None,
        }
        for number, value in enumerate(dice)
        for way in ("masked", "unmasked")
    ]


def test_the_supervised_table_tells_what_a_row_is_ahead_by():
    scores = {"baseline, cross-entropy": [made([0.25, 0.5])], "ResFuse": [made([0.5, 0.75])]}
    reference, ahead = supervised_run.table(supervised.STROKE, scores).splitlines()[2:]
    assert "0.375" in reference
    assert "0.250" in reference, "not masked"
    assert "+0.250 [+0.250, +0.250]" in ahead


def test_the_table_of_synthesis_pairs_hi_net_with_each_row_by_case():
    def scores(psnr):
        rest = {"ssim": 0.5, "rmse_tumor": 0.25, "rmse_rest": 0.125, "dice": 0.75}
        return [{"case": f"c{number}", "psnr_db": value, **rest} for number, value in enumerate(psnr)]

    by_row = {"real": [[{"case": "c0", "dice": 0.5}]], "full": [scores([24.0, 26.0])], "mmsyns": [scores([23.5, 25.5])]}
    (line,) = synthesis_run.differences(by_row).splitlines()[2:]
    assert "+0.50 [+0.50, +0.50]" in line
    real = synthesis_run.table(by_row).splitlines()[2]
    assert real.count("- ") >= 4, "the real image has no error"
    assert np.isclose(synthesis_run.values(by_row["full"], "psnr_db").mean(), 25)
