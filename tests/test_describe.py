"""`python -m jaxfuse.describe`: the exact integers of the paper's networks, and what a config offers."""

from __future__ import annotations

import json
from typing import Any

import jax
import pytest

from configs import cmff
from jaxfuse.describe import choices
from jaxfuse.engine.description import describe
from jaxfuse.errors import UserError
from tests.commands import ROOT, call

CONFIG = ROOT / "configs" / "cmff.py"
TRUNK = 8_261_728  # a U-Net without its output convolution, which the branches have from the generators


def paper(row: str) -> dict[str, Any]:
    config = cmff.get_config(f"paper,row={row}")
    config.data.root = "/no/such/folder"
    return describe(config, cost=False)["phases"]


def test_parameters_of_the_paper_by_the_command_and_without_data(tmp_path):
    root = "--config.data.root=/no/such/folder"
    done = call("describe", "--config", f"{CONFIG}:paper", root, "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["name"], facts["preset"], facts["row"], facts["result"]) == ("cmff", "paper", "ours", ["fusion"])
    transition, fusion = facts["phases"]["transition"], facts["phases"]["fusion"]
    assert transition["networks"] == {"G_AB": 8_261_762, "G_BA": 8_261_762, "D_A": 698_385, "D_B": 698_385}
    assert transition["players"] == {"generators": 16_523_524, "discriminators": 1_396_770}
    assert fusion["networks"] == {"S_A": 8_261_796, "S_B": 8_261_796, "S_F": 166_020}
    assert fusion["players"] == {"net": 16_689_612}
    assert transition["transfers"] == []
    assert fusion["transfers"] == [
        {"source": "transition:generators/ab/trunk", "target": "net/branch_a/trunk", "values": TRUNK},
        {"source": "transition:generators/ba/trunk", "target": "net/branch_b/trunk", "values": TRUNK},
    ]
    assert (fusion["length"], fusion["patch"]) == ({"epochs": 100}, [128, 128, 128])
    assert list(tmp_path.iterdir()) == []  # no data set was looked for, and no phantom written


@pytest.mark.parametrize(("row", "parameters"), [("wo_MG", 110_724), ("w_CA", 111_574), ("random", 166_020)])
def test_fusion_branch_of_the_rows(row, parameters):
    fusion = paper(row)["fusion"]
    assert fusion["networks"] == {"S_A": 8_261_796, "S_B": 8_261_796, "S_F": parameters}
    assert [t["values"] for t in fusion["transfers"]] == ([] if row == "random" else [TRUNK, TRUNK])


def test_rows_of_single_branches():
    phases = paper("S_A+S_B")
    assert list(phases) == ["transition", "branch_a", "branch_b"]
    for name, network, generator in (("branch_a", "S_A", "ab"), ("branch_b", "S_B", "ba")):
        assert phases[name]["networks"] == {network: 8_261_796}
        source = f"transition:generators/{generator}/trunk"
        assert phases[name]["transfers"] == [{"source": source, "target": "net/trunk", "values": TRUNK}]


def test_fusion_networks_of_fuse4seg_by_the_command(tmp_path):
    done = call("describe", "--config", f"{ROOT / 'configs' / 'fuse4seg.py'}:paper", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    phases = json.loads(done.stdout)["phases"]
    cooperative = phases["cooperative"]["networks"]
    # As in CDDFuse: 1,188,272 without cross-attention.
    fusion = {"encoder": 599_144, "decoder": 207_936, "fusion_layers": 381_192}
    assert {name: cooperative[name] for name in fusion} == fusion
    assert sum(fusion.values()) == 1_188_272
    assert cooperative["adapters"] == 12 * 1_495_296
    critics = {name: count for name, count in cooperative.items() if name.startswith("D_")}
    assert phases["pretraining"]["networks"] == {"encoder": 599_144, "decoder": 207_936, **critics}
    assert [t["values"] for t in phases["cooperative"]["transfers"]] == [599_144, 207_936, sum(critics.values())]


def test_two_dimensional_donor_of_the_row_voc():
    phases = paper("voc")
    assert phases["voc"]["networks"] == {"segmentation": 2_768_917}
    assert [t["values"] for t in phases["fusion"]["transfers"]] == [TRUNK, TRUNK]


def test_table_for_people(tmp_path):
    done = call("describe", "--config", f"{CONFIG}:tiny,row=S_B", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0] == "cmff tiny row=S_B"
    assert "phase transition: 4 steps, patch 16 x 16 x 16" in lines
    assert "S_B 31,420" in lines
    assert "transition:generators/ba/trunk -> net/trunk: 31,400 values" in lines
    assert "backend" not in done.stdout


def test_every_preset_and_row_is_listed(tmp_path):
    assert choices(str(CONFIG)) == {"presets": cmff.PRESETS, "rows": cmff.ROWS, "data": cmff.VARIANTS}
    done = call("describe", "--config", str(CONFIG), "--rows", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    shown = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")}
    assert shown == {"(default)", "tiny", "paper", *cmff.ROWS}
    done = call("describe", "--config", f"{CONFIG}:paper", "--rows", "--json", folder=tmp_path)
    assert json.loads(done.stdout)["rows"] == cmff.ROWS


def test_cost_of_one_step_names_the_backend():
    config = cmff.get_config("tiny,row=random")
    config.network.unet.levels = 2
    plain, facts = describe(config, cost=False)["phases"]["fusion"], describe(config, cost=True)["phases"]["fusion"]
    cost = facts.pop("cost")
    assert facts == plain
    assert cost.pop("backend") == jax.default_backend()
    assert set(cost) == {"flops", "argument_bytes", "temporary_bytes"}
    assert all(type(value) is int for value in cost.values())
    # The step holds parameters and both moments of Adam, in float32, and the image of four modalities.
    assert cost["argument_bytes"] > 3 * 4 * plain["players"]["net"] + 4 * 4 * 16**3
    # Two operations per weight and voxel at the finest level are a fraction of the forward pass alone.
    assert cost["flops"] > 2 * 16**3 * 27 * 32 * 4
    assert cost["temporary_bytes"] > 0


def test_what_is_no_config_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a config file; give a Python file such as configs/cmff.py"):
        choices(str(tmp_path / "absent.py"))
    with pytest.raises(UserError, match="is not a config file"):
        choices(str(tmp_path))
