"""Descriptions of configs: networks and transfers of rows of the paper, and the cost of a step."""

from typing import Any

import jax
import pytest

from configs import cmff
from jaxfuse.engine.description import describe
from tests.made_cases import head, write_case

TRUNK = 8_261_728  # a U-Net without its output convolution, which the branches have from the generators


def paper(row: str) -> dict[str, Any]:
    config = cmff.get_config(f"paper,row={row}")
    config.data.root = "/no/such/folder"
    return describe(config, cost=False)["phases"]


ROWS = {"wo_MG": 110_724, "w_CA": 111_574, "random": 166_020, "voc": None}


@pytest.mark.parametrize(("row", "parameters"), ROWS.items())
def test_fusion_branch_of_the_rows(row, parameters):
    phases = paper(row)
    if row == "voc":  # its donor has two dimensions
        assert phases["voc"]["networks"] == {"segmentation": 2_768_917}
    else:
        assert phases["fusion"]["networks"] == {"S_A": 8_261_796, "S_B": 8_261_796, "S_F": parameters}
    assert [t["values"] for t in phases["fusion"]["transfers"]] == ([] if row == "random" else [TRUNK, TRUNK])


def test_rows_of_single_branches():
    phases = paper("S_A+S_B")
    assert list(phases) == ["transition", "branch_a", "branch_b"]
    for name, network, generator in (("branch_a", "S_A", "ab"), ("branch_b", "S_B", "ba")):
        assert phases[name]["networks"] == {network: 8_261_796}
        source = f"transition:generators/{generator}/trunk"
        assert phases[name]["transfers"] == [{"source": source, "target": "net/trunk", "values": TRUNK}]


def test_cost_of_one_step_names_the_backend_and_that_of_a_volume_what_comes_to_the_host():
    config = cmff.get_config("tiny,row=random")
    config.network.unet.levels = 2
    plain = describe(config, cost=False)["phases"]["fusion"]
    facts = describe(config, cost=True, volume=(20, 17, 18))["phases"]["fusion"]
    cost = facts.pop("cost")
    volume = cost.pop("volume")
    assert facts == plain
    assert cost.pop("backend") == jax.default_backend()
    assert set(cost) == {"flops", "argument_bytes", "temporary_bytes"}
    assert all(type(value) is int for value in cost.values())
    # The step holds parameters and both moments of Adam, in float32, and the image of four modalities.
    assert cost["argument_bytes"] > 3 * 4 * plain["players"]["net"] + 4 * 4 * 16**3
    # Two operations per weight and voxel at the finest level are a fraction of the forward pass alone.
    assert cost["flops"] > 2 * 16**3 * 27 * 32 * 4
    assert cost["temporary_bytes"] > 0
    # Of a volume on a canvas of 32^3 come labels of one byte, and the image of four modalities goes there.
    assert volume["result_bytes"] == 32**3
    assert volume["argument_bytes"] > 4 * 4 * 32**3
    assert volume["temporary_bytes"] > 0


def test_what_preparing_the_data_takes_is_told_of_roots_that_are_here(tmp_path):
    config = cmff.get_config("tiny,row=random")
    assert describe(config, cost=False)["data"] == {}
    config.data.root = str(tmp_path / "none")
    assert describe(config, cost=False)["data"] == {"data": None}
    config.data.root = str(write_case(tmp_path, "a", head((20, 18, 16), 0)).parent)
    told = describe(config, cost=False)["data"]["data"]
    assert (told["cases"], told["processes"]) == (1, 1)
    assert told["told"].startswith("preparing 1 case takes at most ")
