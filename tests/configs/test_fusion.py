"""Rows of configs/fusion.py: their networks, data and phases, and a run on a folder of pairs from end to end."""

import numpy as np
import pytest

from configs import fusion
from jaxfuse import fuse
from jaxfuse.config import parse
from jaxfuse.data.registered import in_levels
from jaxfuse.data.sources.pairs2d import find_pairs, load_pair
from jaxfuse.engine.judging.fused_images import fused_images
from jaxfuse.engine.run import train
from jaxfuse.engine.trained.fused_files import image_fuser
from jaxfuse.engine.trained.slice_fuser import load_fuser
from jaxfuse.io.png import read_png, write_png
from jaxfuse.io.tables import read_json, read_rows
from jaxfuse.learning.system import FusingSystem
from jaxfuse.metrics.fusion import qabf
from tests.commands import call_here
from tests.recipe_phases import argument, phases
from tests.tiny_systems import counts


@pytest.mark.parametrize("row", fusion.ROWS)
def test_the_last_phase_of_a_row_fuses_and_is_judged_by_that(row):
    built = list(phases("fusion", argument("tiny", row)).values())[-1]
    assert isinstance(built.system, FusingSystem)
    assert built.phase.assess is fused_images
    assert not built.phase.needs_label
    assert built.system.trained_combos == (("mri", "ct"),)


def test_fuse4seg_is_the_network_of_its_own_recipe():
    own, other = (phases(*call)["fusion" if call[0] == "fusion" else "cooperative"] for call in CALLS)
    assert own.system.network.form == other.system.fusion.form
    named = counts(own.system.networks(own.state.params))
    assert sum(named[name] for name in ("encoder", "decoder", "fusion_layers")) == 1_188_272
    assert named["cross_attention"] == 32_768
    single = phases("fusion", "paper,row=cddfuse")["fusion"]
    assert sum(counts(single.system.networks(single.state.params)).values()) == 1_188_272
    assert single.phase.patch == (128, 128)


CALLS = (("fusion", "paper"), ("fuse4seg", "paper"))


@pytest.mark.parametrize("variant", ["", *fusion.VARIANTS])
def test_a_variant_shows_what_it_fuses(variant):
    experiment = parse(fusion.get_config(argument("tiny", "cddfuse", variant)))
    system = phases("fusion", argument("tiny", "cddfuse", variant))["fusion"].system
    shown = system.trained_combos[system.shown]
    assert set(shown) == set(experiment.pairs[0].split("+") if experiment.pairs else experiment.data.modalities)
    assert len(system.trained_combos) == (6 if variant == "brats" else 1)


@pytest.mark.slow
def test_a_folder_of_pairs_trains_is_judged_and_fuses_others_in_color(tmp_path):
    """Trained and held-out pairs of another kind lie as public ones do."""
    random = np.random.default_rng(0)
    for part, numbers in (("train", range(4)), ("test", range(4, 6))):
        for number in numbers:
            scene = random.integers(20, 230, (44, 48, 3), np.uint8)
            write_png(tmp_path / "PET-MRI" / part / "PET" / f"{number}.png", scene)
            write_png(tmp_path / "PET-MRI" / part / "MRI" / f"{number}.png", scene[..., 0] // 2 + 10)
    config = fusion.get_config("tiny,row=cddfuse,data=pet")
    config.data.root, config.data.cache = str(tmp_path / "PET-MRI"), str(tmp_path / "cache")
    train(config, tmp_path / "run")
    summary = read_json(tmp_path / "run" / "results" / "fusion" / "summary.json")
    assert (summary["kind"], summary["cases"], summary["sources"]) == ("fusion", 1, ["mri", "pet"])
    call_here(fuse, run=tmp_path / "run", pairs=tmp_path / "PET-MRI", output=tmp_path / "out")
    fused = {path.stem: read_png(path) for path in (tmp_path / "out").glob("*.png")}
    assert sorted(fused) == list("012345")
    assert {one.shape for one in fused.values()} == {(44, 48, 3)}
    # Validation sees pictures whole, as files are fused.
    fuser = image_fuser(load_fuser(str(tmp_path / "run")), 2)
    (row,) = (row for row in read_rows(tmp_path / "run/results/fusion/cases.csv") if row["output"] == "fused")
    (files,) = (one for one in find_pairs(tmp_path, ("mri", "pet")) if one.id == str(row["case"]))
    pair = load_pair(files, ("mri", "pet"))
    gray = np.stack(list(pair.gray.values()), axis=-1)
    picture = np.clip(fuser(gray[None], pair.shown[None])[0], 0, 1)
    sources = [np.rint(255 * one) for one in np.moveaxis(gray, -1, 0)]
    assert row["qabf"] == pytest.approx(qabf(np.rint(255 * picture), sources), abs=1e-3)
    np.testing.assert_array_equal(fused[files.id], in_levels(picture, list(pair.color.values())))
