"""Eight devices come to what one comes to, and exchange gradients, statistics and the fakes of pools alone.

Every comparison is float64 throughout (`tests/on_devices.py`), so that what is not equal is wrong.
"""

import importlib
import json
import os
import pkgutil
import subprocess
import sys
from collections import Counter

import pytest

from jaxfuse import models
from jaxfuse.learning.bilevel import SCHEMES
from jaxfuse.options import resolve
from tests.recipe_phases import RECIPES, config_of

BATCH = 8


def told(*arguments):
    """Runs a comparison in a process with eight devices, and returns what it tells."""
    command = [sys.executable, "-m", "tests.on_devices", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def kinds(collectives):
    return dict(Counter(kind for kind, _ in collectives))


def check_equal(found):
    """One step and three; what is left is the order of sums."""
    assert found["first"] <= 1e-10
    assert found["last"] <= 1e-8
    assert found["memory"]


@pytest.fixture(scope="module")
def small():
    return told("small")


# Values of the exchanges of the small network's step.
SMALL = (1, 4, 6, 8, 17, 87)


def test_a_step_with_batch_norms_exchanges_twice_for_each_and_once_for_all_gradients(small):
    check_equal(small["alone"])
    one, many = small["alone"]["metrics"][:3], small["alone"]["metrics"][3:]
    for (before,), (after,) in zip(one, many, strict=True):
        assert after == pytest.approx(before, rel=1e-12)
    # The voxels that count; of 3 and 2 channels mean and square forward, sums for shift, scale and mean backward,
    # beside the loss.
    assert small["alone"]["collectives"] == [["all-reduce", n] for n in SMALL]


def test_members_side_by_side_exchange_at_once(small):
    check_equal(small["members"])
    doubled = [["all-reduce", 2 * n] for n in SMALL]
    assert small["members"]["collectives"] == doubled


def test_each_device_cuts_its_own_examples_from_data_that_lie_there(small):
    assert small["cut"] == [], "neither the data set nor a batch goes from device to device"
    assert small["lies"] == ["P('data',)"]
    assert small["equal"], "batches are those of one device, to the bit"


def test_a_block_of_steps_exchanges_what_its_steps_do(small):
    assert small["block"] == small["alone"]["collectives"]
    assert small["block_apart"] <= 1e-8


def test_halves_of_a_batch_stay_where_they_are(small):
    assert small["halves"] == []


# Weights of channels, and one number of each example, may be put together by gathering: no activation is so small.
LITTLE = 64


def check_step(found, expected):
    """The exchanges of a step: as many as expected, none but for the pools of the size of an activation."""
    check_equal(found)
    assert kinds(found["collectives"]) == expected
    check_sizes(found)


def check_sizes(found):
    # The gradients of a network that is passed up to three times, as generators of cycles are, may be summed apart.
    most = max(LITTLE, 3 * found["weights"])
    assert max(values for kind, values in found["collectives"] if kind == "all-reduce") <= most
    gathered = [values for kind, values in found["collectives"] if kind != "all-reduce"]
    assert [values for values in gathered if values > LITTLE] == found["shown"]


@pytest.mark.slow
def test_every_bilevel_scheme_comes_to_the_same_on_eight_devices():
    """With networks of a few weights; with those of the paper they are in the table below."""
    found = told("schemes", *SCHEMES)
    for name in SCHEMES:
        check_equal(found[name])
        check_sizes(found[name] | {"shown": []})


GRADIENTS, TWO_GATHERED = {"all-reduce": 1}, {"all-reduce": 1, "all-gather": 2}
# Recipe, row, phase, batch, and a scheme in place of the row's -> exchanges. A loss that ignores voxels sums how many
# count.
STEPS = {
    "cmff:ours:transition:8": TWO_GATHERED,
    "cmff:ours:fusion:8": {"all-reduce": 2},
    "cmff:w_CA:fusion:8": {"all-reduce": 2},
    "cmff:S_A:branch_a:8": {"all-reduce": 2},
    "cmff:voc:voc:8": {"all-reduce": 2},
    "cmff:self:reconstruction:8": GRADIENTS,
    "cmff:paired:translation:8": GRADIENTS,
    "cmff:three_groups:transition:8": {"all-reduce": 1, "all-gather": 3},
    "cmff:mmformer:segmentation:8": {"all-reduce": 2},
    "cmff:uhved:segmentation:8": {"all-reduce": 2},
    "cmff:joint:joint:8": {"all-reduce": 2, "all-gather": 2},
    "hyperfusion:full:segmentation:8": {"all-reduce": 19},
    "hyperfusion:full_2d:segmentation:8": {"all-reduce": 19},
    # Two for each of 25 batch norms.
    "infinet:aggregated:coronal:8": {"all-reduce": 51},
    "infinet:single_encoder:coronal:8": {"all-reduce": 39},
    "infinet:unet_single:coronal:8": {"all-reduce": 2},
    "infinet:unet_double:coronal:8": {"all-reduce": 2},
    "hinet:full:synthesis:8": {"all-reduce": 80},
    "hinet:early:synthesis:8": {"all-reduce": 47},
    "hinet:late:synthesis:8": {"all-reduce": 76},
    "hinet:any:synthesis:8": {"all-reduce": 233},
    "hinet:pix2pix:synthesis:8": {"all-reduce": 14},
    "hinet:mmsyns:synthesis:8": GRADIENTS,
    "hinet:cyclegan:synthesis:8": TWO_GATHERED,
    "fuse4seg:full:pretraining:8": GRADIENTS,
    # Of warm-up and of what follows it, one of which is carried out.
    "fuse4seg:full:cooperative:8": {"all-reduce": 7},
    "fuse4seg:wo_decoder:cooperative:8": {"all-reduce": 5},
    # A number of each example, for its system of equations.
    "fuse4seg:pixel:cooperative:8": {"all-reduce": 11, "all-gather": 7},
    "fuse4seg:weights:cooperative:8": {"all-reduce": 14},
    # Two examples on each device: schemes that hold out take one of them for each half.
    "fuse4seg:fusion_leader:cooperative:16": {"all-reduce": 12},
    "fuse4seg:rank_one:cooperative:16": {"all-reduce": 10},
    "fuse4seg:full:cooperative:16:unrolled": {"all-reduce": 17},
    # Of critics, fusion and segmentation, one after the other, among others.
    "fuse4seg:detached:cooperative:8": {"all-reduce": 5},
    "fuse4seg:film_nnunet:cooperative:8": {"all-reduce": 5},
    "fuse4seg:film_nnunet_detached:cooperative:8": {"all-reduce": 3},
    "fuse4seg:film_nnunet_p:cooperative:8": {"all-reduce": 5},
    "fuse4seg:mean:alone:8": {"all-reduce": 3},
    "fuse4seg:attention_unet:alone:8": {"all-reduce": 3},
    "fuse4seg:unet_3plus:alone:8": {"all-reduce": 3},
    "fuse4seg:swin_unet:alone:8": {"all-reduce": 3},
    "fuse4seg:cascade:alone:8": {"all-reduce": 6},
    "fuse4seg:emcad:alone:8": {"all-reduce": 7},
    "fusion:didfuse:fusion:8": {"all-reduce": 26},
    "fusion:tardal:fusion:8": {"all-reduce": 10},
    "fusion:ddcgan:fusion:8": {"all-reduce": 18},
    "fusion:u2fusion:fusion:8": GRADIENTS,
    "fusion:rfn_nest:reconstruction:8": GRADIENTS,
    "fusion:rfn_nest:fusion:8": GRADIENTS,
    "fusion:fuse4seg:fusion:8": {"all-reduce": 2},
    "fusion:cddfuse:reconstruction:8": GRADIENTS,
    "fusion:cddfuse:fusion:8": GRADIENTS,
    "fusion:maximum:fusion:8": GRADIENTS,
}


def phase_of(step):
    """(the function that makes the System of a step of the table, its scheme)"""
    recipe, row, phase, _, *scheme = step.split(":")
    model, args = (config_of(recipe, f"tiny,row={row}")[phase].to_dict()[key] for key in ("model", "args"))
    own = args.get("scheme", {}).get("bilevel", "")
    return maker(model), scheme[0] if scheme else own


def maker(model):
    """The function that a recipe's `model` names."""
    module, _, function = model.partition(":")
    return resolve(f"{module}:{function or 'make_system'}", package="jaxfuse.models")


def makers():
    """Every function that makes a System, by the modules of models."""
    for found in pkgutil.walk_packages(models.__path__, "jaxfuse.models."):
        for name, value in vars(importlib.import_module(found.name)).items():
            if name.startswith("make_") and getattr(value, "__module__", "") == found.name:
                yield value


def test_the_table_names_every_system_and_every_scheme():
    named = set(map(phase_of, STEPS))
    assert {make for make, _ in named} == set(makers())
    assert {scheme for _, scheme in named} == {"", *SCHEMES}
    # A recipe may lead two Systems by one scheme.
    rows = {(recipe, row) for recipe, module in RECIPES.items() for row in module.ROWS}
    phases = (config_of(recipe, f"tiny,row={row}") for recipe, row in rows)
    led = {
        (maker(config[name].model), config[name].args.scheme.bilevel)
        for config in phases
        for name in config.schedule
        if "scheme" in config[name].get("args", {})
    }
    assert led <= named


@pytest.mark.slow
@pytest.mark.parametrize("form", ["auto", "native"])
@pytest.mark.parametrize("step", STEPS)
def test_a_recipe_comes_to_the_same_on_eight_devices(step, form):
    recipe, row, phase, batch, *scheme = step.split(":")
    check_step(told(recipe, f"tiny,row={row}", phase, batch, form, *scheme), STEPS[step])


@pytest.mark.slow
def test_a_run_on_four_devices_compiles_each_program_once(tmp_path):
    command = [sys.executable, "-m", "tests.engine.devices.compilations", str(tmp_path / "run")]
    command += ["hyperfusion", "tiny,row=baseline_2d", "segmentation", "12", "5", "4"]
    environment = {**os.environ, "JAXFUSE_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    happened = json.loads(done.stdout.splitlines()[-1])
    assert [happened.count(f"jit({name})") for name in ("step", "evaluate")] == [1, 1]
    first, last = happened.index("val 5"), happened.index("val 12")
    assert happened[first + 1 : last] == [*(f"train {n}" for n in range(6, 11)), "val 10", "train 11", "train 12"]
    # One for the slices that are watched, one for the subjects that are judged at the end.
    assert happened.count("jit(prediction)") == 2
