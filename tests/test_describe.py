"""`python -m jaxfuse.describe`: the exact integers of the papers' networks, and the rows that a config offers."""

import json

import pytest

from configs import cmff
from jaxfuse.describe import sides_of
from tests.commands import ROOT, call
from tests.refusals import refused

CONFIG = ROOT / "configs" / "cmff.py"
TRUNK = 8_261_728  # a U-Net without its output convolution, which the branches have from the generators


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


def test_table_for_people(tmp_path):
    done = call("describe", "--config", f"{CONFIG}:tiny,row=S_B", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0] == "cmff tiny row=S_B"
    assert "phase transition: 4 steps, patch 16 x 16 x 16" in lines
    assert "S_B 31,420" in lines
    assert "transition:generators/ba/trunk -> net/trunk: 31,400 values" in lines
    assert "backend" not in done.stdout


@pytest.mark.slow
def test_a_step_on_several_devices_tells_what_each_holds_and_what_they_exchange(tmp_path):
    small = ["--config", f"{CONFIG}:tiny,row=random", "--config.network.unet.levels=2", "--config.fusion.batch=2"]
    shared = ["--devices", "4", "--space", "2", "--shard_state"]
    alone, several = (call("describe", *small, "--cost", *more, "--json", folder=tmp_path) for more in ([], shared))
    assert (alone.returncode, several.returncode) == (0, 0), alone.stderr + several.stderr
    one, many = (json.loads(done.stdout)["phases"]["fusion"]["cost"] for done in (alone, several))
    assert many["devices"] == 4
    assert many["flops"] == one["flops"]
    assert many["temporary_bytes"] < 0.6 * one["temporary_bytes"]
    assert many["argument_bytes"] < one["argument_bytes"]
    assert {"all-reduce", "collective-permute"} <= set(many["collectives"])
    assert "collectives" not in one


def test_devices_are_for_what_is_compiled(tmp_path):
    done = call("describe", "--config", f"{CONFIG}:tiny", "--devices", "4", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--devices is for programs that are compiled, and nothing is without --cost; add it" in done.stderr
    done = call("describe", "--config", f"{CONFIG}:tiny", "--cost", "--devices", "6", "--space", "4", folder=tmp_path)
    assert "space is 4, but the devices are 6" in done.stderr


def test_every_preset_and_row_is_listed(tmp_path):
    done = call("describe", "--config", str(CONFIG), "--rows", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    shown = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")}
    assert shown == {"(default)", "tiny", "paper", *cmff.ROWS}
    done = call("describe", "--config", f"{CONFIG}:paper", "--rows", "--json", folder=tmp_path)
    assert json.loads(done.stdout)["rows"] == cmff.ROWS


def test_a_volume_has_three_sides():
    assert sides_of(["240", " 240", "155"]) == (240, 240, 155)
    for words in (["240", "240"], ["240", "0", "155"], ["240", "240", "-1"], ["a", "b", "c"]):
        refused("give three sides of 1 and more, such as 240,240,155", sides_of, words)
