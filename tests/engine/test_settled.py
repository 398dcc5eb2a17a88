"""Options that are `auto`: by the machine, by the memory that a step needs, and by the run that has begun."""

import json

import jax
import jax.numpy as jnp
import pytest

from configs import cmff, fuse4seg, hinet, hyperfusion, infinet
from jaxfuse.config import parse
from jaxfuse.engine import settled as module
from jaxfuse.engine.build import abstract_state, build_system
from jaxfuse.engine.cost.gpus import GPUS
from jaxfuse.engine.devices.placement import one_device
from jaxfuse.engine.run_folder.workdir import begun_config, open_workdir, read_config
from jaxfuse.engine.settled import SHARE, Machine, settled, settlements, step_bytes
from jaxfuse.options import flat
from tests.refusals import refused
from tests.tiny_systems import kept_bytes, shape, size_bytes

NEEDED = 1000
AUTO = {"dtype": "auto", "remat": "auto"}
CPU, LARGE = Machine("cpu", False, 2**40), Machine("card", True, 2**40)


def recipe(**options):
    config = cmff.get_config("tiny,row=random")
    config.network.unet.update(options)
    return config


@pytest.fixture(autouse=True)
def _needed(monkeypatch):
    """Every step needs so many bytes, without being traced."""
    monkeypatch.setattr(module, "step_bytes", lambda experiment, phase, parts: NEEDED)


def _chosen(config, machine, kept=None):
    unet = settled(config, machine, kept).network.unet
    return unet.dtype, unet.remat


def test_the_machine_settles_and_what_is_named_stays():
    assert _chosen(recipe(**AUTO), LARGE) == ("bfloat16", "off")
    assert _chosen(recipe(**AUTO), CPU) == ("float32", "off")
    assert _chosen(recipe(dtype="bfloat16", remat="on"), CPU) == ("bfloat16", "on")
    told = settlements(recipe(**AUTO), settled(recipe(**AUTO), LARGE))
    assert told == {"network.unet.dtype": "bfloat16", "network.unet.remat": "off"}


def test_a_step_that_needs_too_much_is_rematerialized():
    for memory, expected in ((1.01 * NEEDED / SHARE, "off"), (0.99 * NEEDED / SHARE, "on")):
        assert _chosen(recipe(**AUTO), Machine("card", True, int(memory)))[1] == expected


def test_what_a_step_needs_is_its_state_and_batch_and_what_lies_between():
    config = recipe(dtype="float32", remat="off")
    config.network.unet.levels = 2
    experiment = parse(config)
    (phase,) = experiment.phases.values()
    system = build_system(phase, config.data.modalities, ("a", "b", "c", "d"), 4)
    state = abstract_state(system, phase, config.data.modalities)
    given = size_bytes(state) + 16**3 * (4 * 4 + 4)
    network = kept_bytes(system.fusion, state.params["net"], *[shape(1, 16, 16, 16, 2)] * 2)
    found = step_bytes(experiment, phase)
    # The backward pass keeps as much, and works on some maps beside.
    assert given + 0.5 * network < found < given + 3 * network
    # Of a batch parted among four devices each holds all of the state and a quarter of the rest.
    assert step_bytes(experiment, phase, parts=4) == size_bytes(state) + (found - size_bytes(state)) // 4


def test_a_run_that_has_begun_keeps_what_it_began_with_on_any_machine():
    kept = json.loads(settled(recipe(**AUTO), LARGE).to_json_best_effort())
    assert _chosen(recipe(**AUTO), CPU, kept) == ("bfloat16", "off")
    kept["network"]["unet"]["remat"] = "on"
    assert _chosen(recipe(**AUTO), CPU, kept) == ("bfloat16", "on")


def test_a_run_folder_goes_on_with_auto_on_another_machine_and_refuses_another_choice(tmp_path):
    assert begun_config(tmp_path) is None
    open_workdir(tmp_path, settled(recipe(**AUTO), LARGE))
    assert begun_config(tmp_path) is None  # nothing is trained there: it binds nobody
    (tmp_path / "checkpoints").mkdir()
    again = settled(recipe(**AUTO), CPU, begun_config(tmp_path))
    open_workdir(tmp_path, again)
    assert parse(read_config(tmp_path)).phases["fusion"].patch == (16, 16, 16)
    assert read_config(tmp_path).network.unet.dtype == again.network.unet.dtype == "bfloat16"
    other = settled(recipe(remat="auto", dtype="float32"), LARGE, begun_config(tmp_path))
    refused("network.unet.dtype: 'bfloat16' there, 'float32' now", open_workdir, tmp_path, other)


def test_machines_are_read_from_devices_and_cards():
    here = Machine.of(one_device())
    assert here.name == jax.devices()[0].device_kind
    assert here.memory_bytes > 2**28
    assert Machine.of(GPUS["a100"]) == Machine("NVIDIA A100-SXM4-80GB", True, 80 * 10**9)


@pytest.mark.parametrize("module", [cmff, fuse4seg, hinet, hyperfusion, infinet])
def test_presets_of_the_papers_leave_both_to_the_machine_and_the_others_nothing(module):
    for preset in ("paper", "", "tiny"):
        found = {
            name: value
            for name, value in flat(module.get_config(preset)).items()
            if name.rpartition(".")[2] in ("dtype", "remat")
        }
        assert {name.rpartition(".")[2] for name in found} == {"dtype", "remat"}
        assert set(found.values()) == ({"auto"} if preset == "paper" else {"float32", "off"})


def test_what_nothing_settled_is_as_without_a_gpu():
    given = (AUTO, {"dtype": "float32", "remat": "off"}, {"dtype": "float32", "remat": "on"})
    build = [parse(recipe(**options)).phases["fusion"].build for options in given]
    systems = [one(("t1", "t1ce", "t2", "flair"), ("a", "b"), 4) for one in build]
    trunks = [system.fusion.branches[0].trunk for system in systems]
    assert [(trunk.dtype, trunk.remat) for trunk in trunks] == [(jnp.float32, False)] * 2 + [(jnp.float32, True)]
    refused("fusion: remat is 'level'; choose one of auto, on, off", parse, recipe(remat="level"))
