"""Eight devices come to what one comes to, and exchange gradients, statistics and the fakes of pools alone.

Every comparison is float64 throughout (`tests/on_devices.py`), so that what is not equal is wrong.
"""

import json
import subprocess
import sys
from collections import Counter

import pytest

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
    assert found["memory"], "pools hold the same fakes, to the bit"


@pytest.fixture(scope="module")
def small():
    return told("small")


def test_a_step_with_batch_norms_exchanges_twice_for_each_and_once_for_all_gradients(small):
    check_equal(small["alone"])
    one, many = small["alone"]["metrics"][:3], small["alone"]["metrics"][3:]
    for (before,), (after,) in zip(one, many, strict=True):
        assert after == pytest.approx(before, rel=1e-12)
    # Of 3 and 2 channels: mean and square forward; sums for shift, scale and mean backward, beside the loss.
    assert small["alone"]["collectives"] == [["all-reduce", n] for n in (4, 6, 8, 17, 87)]


def test_members_side_by_side_exchange_at_once(small):
    check_equal(small["members"])
    doubled = [["all-reduce", 2 * n] for n in (4, 6, 8, 17, 87)]
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


def check_step(found, expected):
    """The exchanges of a step: as many as expected, none but for the pools of the size of an activation."""
    check_equal(found)
    assert kinds(found["collectives"]) == expected
    # The gradients of a network that is passed up to three times, as generators of cycles are, may be summed apart.
    assert max(values for kind, values in found["collectives"] if kind == "all-reduce") <= 3 * found["weights"]
    assert [values for kind, values in found["collectives"] if kind != "all-reduce"] == found["shown"]


GRADIENTS, TWO_POOLS = {"all-reduce": 1}, {"all-reduce": 1, "all-gather": 2}
STEPS = {
    "cmff:ours:transition:8": TWO_POOLS,
    "cmff:ours:fusion:8": GRADIENTS,
    "hyperfusion:full_2d:segmentation:8": {"all-reduce": 18},
    # Two for each of 25 batch norms.
    "infinet:aggregated:coronal:8": {"all-reduce": 51},
    "infinet:unet_double:coronal:8": GRADIENTS,
    "hinet:full:synthesis:8": {"all-reduce": 80},
    "hinet:pix2pix:synthesis:8": {"all-reduce": 14},
    "hinet:mmsyns:synthesis:8": GRADIENTS,
    "hinet:cyclegan:synthesis:8": TWO_POOLS,
    "fuse4seg:full:pretraining:8": GRADIENTS,
    # Of critics, fusion and segmentation, one after the other.
    "fuse4seg:detached:cooperative:8": {"all-reduce": 3},
    "fuse4seg:film_nnunet:cooperative:8": {"all-reduce": 4},
}


@pytest.mark.slow
@pytest.mark.parametrize("form", ["auto", "native"])
@pytest.mark.parametrize("step", STEPS)
def test_a_recipe_comes_to_the_same_on_eight_devices(step, form):
    recipe, row, phase, batch = step.split(":")
    check_step(told(recipe, f"tiny,row={row}", phase, batch, form), STEPS[step])
