"""Losses that weigh classes do so by their frequencies in the training split, whoever builds the System."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import cmff
from jaxfuse.config import parse
from jaxfuse.data.settings import declared_facts
from jaxfuse.engine.build import abstract_state, build_system
from jaxfuse.engine.run_folder.checkpoints import Checkpoints
from jaxfuse.engine.trained.phases import load
from jaxfuse.errors import UserError
from jaxfuse.io.tables import write_json
from jaxfuse.learning.state import State
from tests.made_cases import write_case
from tests.runs import run_of
from tests.untrained_run import drawn

LOSS = "losses.imbalance:weighted_cross_entropy"
CLASSES = ("background", "core", "edema", "enhancing tumor")
# Pixels of core, edema and enhancing tumor in the slice of each case that has the most of them.
LARGEST = {"a": (1, 2, 1), "b": (1, 3, 1), "c": (3, 3, 1)}


def recipe(folder: Path, *, loss: str = LOSS, **options: Any) -> ConfigDict:
    """A small 2D U-Net on the largest slices of cases a and b, validated on that of c."""
    config = cmff.get_config("tiny,row=voc")
    config.network.unet.base = config.network.unet.levels = 2
    config.schedule = config.result = ("voc",)
    phase = config.voc
    phase.patch, phase.loss = (16, 16), loss
    with phase.unlocked():
        phase.loss_args = ConfigDict(options)
    phase.data.source, phase.data.modalities, phase.data.normalize = "one_slice", ("t1", "flair"), "percentiles"
    phase.data.root, phase.data.split = str(folder / "root"), str(folder / "split.json")
    phase.data.cache = str(folder / "cache")
    return config


def frequencies_of(system: Any) -> tuple[float, ...]:
    return system.loss.keywords["frequencies"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Heads of 4 x 4 x 4 voxels; a second slice with one voxel of edema is not the one that is used."""
    folder = tmp_path_factory.mktemp("weights")
    for name, counts in LARGEST.items():
        label, image = np.zeros((6, 6, 6), np.uint8), np.zeros((6, 6, 6), np.int16)
        flat = np.repeat([1, 2, 4], counts)
        label[1:5, 1:5, 2] = np.pad(flat, (0, 16 - flat.size)).reshape(4, 4)
        label[2, 2, 3] = 2
        image[1:5, 1:5, 1:5] = np.random.default_rng(ord(name)).integers(1, 100, (4, 4, 4))
        write_case(folder / "root", f"case_{name}", {"t1": image, "flair": image, "seg": label})
    (folder / "split.json").write_text(json.dumps({"train": ["case_a", "case_b"], "val": ["case_c"]}))
    return folder


def test_a_run_and_its_predictions_weigh_by_the_slices_trained_on(folder):
    # Of 2 x 16 pixels: core 1 + 1, edema 2 + 3, enhancing tumor 1 + 1.
    expected = pytest.approx((23 / 32, 2 / 32, 5 / 32, 2 / 32))
    config = recipe(folder)
    run = run_of(config, folder / "run")
    workdir = run.workdir
    phase, system = run.phase("voc").phase, run.phase("voc").system
    assert frequencies_of(system) == expected
    assert frequencies_of(run_of(config, workdir).phase("voc").system) == expected  # called again
    # A prediction reads them from dataset.json, without the data.
    write_json(workdir / "dataset.json", run.phase("voc").data.document())
    params = drawn(abstract_state(system, phase, phase.data.modalities).params, 0)
    checkpoints = Checkpoints(workdir / "checkpoints" / "voc")
    checkpoints.save(1, State(jnp.int32(1), jax.random.key(0), params, {"net": {}}, {}, {}), {})
    checkpoints.close()
    (trained,) = load([f"{workdir}:voc"])
    assert frequencies_of(trained.system) == expected
    # And it is this number that a loss is made of: one pixel of edema, probability 1/4, median 7/64.
    one = trained.system.loss(jnp.zeros((1, 1, 1, 4)), jnp.full((1, 1, 1), 2))
    assert float(one) == pytest.approx((3.5 / 32) / (5 / 32) * np.log(4), rel=1e-6)


def test_frequencies_of_the_config_win_and_equal_ones_stand_in_where_no_data_are_looked_at(tmp_path):
    experiment = parse(recipe(tmp_path))
    phase = experiment.phases["voc"]
    system = build_system(phase, *declared_facts(experiment.data_of(phase)), 4)
    assert frequencies_of(system) == (0.25, 0.25, 0.25, 0.25)
    given = {"frequencies": (0.7, 0.1, 0.1, 0.1)}, {"loss": "losses.imbalance:combo", "form": "scaled"}
    phases = [parse(recipe(tmp_path, **options)).phases["voc"] for options in given]
    systems = [build_system(phase, ("t1", "flair"), CLASSES, 4, (9, 0, 1, 1)) for phase in phases]
    assert frequencies_of(systems[0]) == (0.7, 0.1, 0.1, 0.1)
    assert systems[1].loss.keywords == {"form": "scaled"}  # a loss without weights gets none
    with pytest.raises(UserError) as error:
        build_system(phase, ("t1", "flair"), CLASSES, 4, (9, 0, 1, 1))
    assert str(error.value) == (
        f"voc: the loss {LOSS} weighs classes by frequency, but no training case holds a voxel of core; choose another "
        "split or another loss"
    )
