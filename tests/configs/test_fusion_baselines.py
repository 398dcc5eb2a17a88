"""Rows of configs/fusion.py of other papers: published sizes, counts that texts tell, trainings that fuse files."""

import dataclasses

import numpy as np
import pytest

from configs import fusion
from jaxfuse import fuse
from jaxfuse.engine.run import train
from jaxfuse.engine.trained.phases import load
from jaxfuse.io.png import read_png, write_png
from jaxfuse.io.tables import read_json, read_rows
from jaxfuse.models.baselines.ddcgan import DDcGanForm
from jaxfuse.models.baselines.didfuse import DidFuseForm
from jaxfuse.models.baselines.rfn_nest import RfnNestForm
from jaxfuse.models.baselines.tardal import TarDalForm
from jaxfuse.models.baselines.u2fusion import U2FusionForm
from tests.commands import call_here
from tests.recipe_phases import argument, phases
from tests.tiny_systems import counts, same

WEIGHTS = {
    "didfuse": 260_935,
    "tardal": 296_577,
    "ddcgan": 1_097_665,
    "u2fusion": 659_217,
    "rfn_nest": 7_524_249,
}


def last(preset, row):
    return list(phases("fusion", argument(preset, row)).values())[-1]


@pytest.mark.parametrize(
    ("row", "form"),
    [
        ("didfuse", DidFuseForm()),
        ("tardal", TarDalForm()),
        ("ddcgan", DDcGanForm()),
        ("u2fusion", U2FusionForm()),
        ("rfn_nest", RfnNestForm()),
    ],
)
def test_the_paper_preset_is_the_published_size(row, form):
    """The tests of the models count the weights of these forms."""
    args = fusion.get_config(argument("paper", row)).fusion.args[row]
    own = {name: value for name, value in args.items() if name not in ("dtype", "kernel_init")}
    assert dataclasses.replace(form, **own) == form
    assert f"({WEIGHTS[row]:,}" in fusion.ROWS[row]


@pytest.mark.slow
@pytest.mark.parametrize("row", WEIGHTS)
def test_a_row_counts_what_its_text_tells(row):
    built = last("paper", row)
    found = counts(built.system.networks(built.state.params))
    assert sum(count for name, count in found.items() if not name.startswith("D_")) == WEIGHTS[row]


@pytest.mark.slow
@pytest.mark.parametrize("row", WEIGHTS)
def test_a_row_trains_on_a_folder_of_pairs_and_fuses_others(tmp_path, row):
    random = np.random.default_rng(0)
    for part, numbers in (("train", range(4)), ("test", range(4, 6))):
        for number in numbers:
            scene = random.integers(20, 230, (44, 50), np.uint8)
            write_png(tmp_path / "CT-MRI" / part / "CT" / f"{number}.png", scene)
            write_png(tmp_path / "CT-MRI" / part / "MRI" / f"{number}.png", scene // 2 + 10)
    config = fusion.get_config(f"tiny,row={row}")
    config.data.root, config.data.cache = str(tmp_path / "CT-MRI"), str(tmp_path / "cache")
    train(config, tmp_path / "run")
    summary = read_json(tmp_path / "run" / "results" / "fusion" / "summary.json")
    assert (summary["kind"], summary["sources"]) == ("fusion", ["mri", "ct"])
    scored = [entry for entry in read_rows(tmp_path / "run/results/fusion/cases.csv") if entry["output"] == "fused"]
    assert all(np.isfinite(float(entry["qabf"])) for entry in scored)
    call_here(fuse, run=tmp_path / "run", pairs=tmp_path / "CT-MRI", output=tmp_path / "out")
    fused = {path.stem: read_png(path) for path in (tmp_path / "out").glob("*.png")}
    assert sorted(fused) == list("012345")
    assert {one.shape for one in fused.values()} == {(44, 50)}
    # So few steps leave images of RFN-Nest below 0, where they are cut.
    assert all(one.std() > 0 for one in fused.values()) or row == "rfn_nest"


@pytest.mark.slow
def test_the_second_phase_of_rfn_nest_keeps_the_auto_encoder_of_the_first(tmp_path):
    train(fusion.get_config("tiny,row=rfn_nest"), tmp_path / "run")
    first, second = (
        load([f"{tmp_path / 'run'}:{name}"])[0].weights().params["fusion"] for name in ("reconstruction", "fusion")
    )
    for part in ("encoder", "decoder"):
        same(first[part], second[part])
