"""Devices that are not there, or that cannot share what they are to share."""

from dataclasses import replace
from typing import Any

import jax
import pytest

from jaxfuse.config import Experiment, parse
from jaxfuse.engine.build import check_systems
from jaxfuse.engine.devices import placement
from jaxfuse.engine.devices.placement import placed
from jaxfuse.errors import UserError
from tests.faults.catalogue import table
from tests.recipe_phases import config_of


def asking(devices: str, row: str = "ours", batch: int = 4, patch: tuple[int, ...] = (), **shared: Any) -> Experiment:
    """A run of CMFF that asks for devices, and for what they are to share; `patch`: of its last phase alone."""
    experiment = parse(config_of("cmff", f"tiny,row={row}"))
    phases = {name: replace(phase, batch=batch) for name, phase in experiment.phases.items()}
    last = experiment.schedule[-1]
    phases[last] = replace(phases[last], patch=patch or phases[last].patch)
    return replace(experiment, devices=devices, phases=phases, **shared)


@table(
    "asked, told",
    (
        "`devices` that is neither auto, all nor a number",
        "refused, with the choices",
        {"devices": "two"},
        "devices is 'two'; choose auto, all or a number from 1 on",
    ),
    ("`devices` 0", "refused in the same way", {"devices": "0"}, "devices is '0'; choose auto, all or a number from 1"),
    (
        "more `devices` than the machine has",
        "refused, with how many there are",
        {"devices": "4"},
        "devices is 4, and this machine has 3; choose all, or a number up to 3",
    ),
    (
        "a batch that does not divide among the devices",
        "refused, with the phase, and with both ways out of it",
        {"devices": "all"},
        "phase transition: a batch of 4 cannot be parted evenly among 3 devices; set transition.batch to a multiple of "
        "3, or devices to a number that divides 4",
    ),
    (
        "`space` that the devices are no multiple of",
        "refused, with both numbers",
        {"devices": "all", "space": 2},
        "space is 2, but the devices are 3, which cannot be parted into groups of 2 that share an example",
    ),
    (
        "`space` on one device",
        "refused in the same way",
        {"devices": "1", "space": 2},
        "space is 2, but the devices are 1, which cannot be parted into groups of 2",
    ),
    (
        "`shard_state` on one device",
        "refused: there is nobody to share with",
        {"devices": "1", "shard_state": True},
        "shard_state is True, but there is one device only; set devices to all, or shard_state to False",
    ),
    (
        "`space` for a phase of slices",
        "refused, with the phase: a slice fits one device",
        {"devices": "all", "space": 3, "row": "voc"},
        "phase voc: space is 3, but a network of pictures learns from examples that fit one device; set space to 1",
    ),
    (
        "a patch whose first side `space` does not divide",
        "refused, with the patch",
        {"devices": "all", "space": 3, "patch": (16, 24, 24), "row": "random"},
        "phase fusion: a patch of 16 x 24 x 24 cannot be divided evenly among 3 devices along its first axis; choose "
        "another fusion.patch, or another space",
    ),
)
def test_it_is_refused_before_any_data_are_read(monkeypatch, asked, told):
    monkeypatch.setattr(placement.jax, "local_devices", lambda: jax.devices() * 3)
    with pytest.raises(UserError) as error:
        _begin(asking(**asked))
    assert str(error.value).startswith(told)


def _begin(experiment: Experiment) -> None:
    """Checks what a run checks of its devices, in this order."""
    check_systems(experiment)
    placed(experiment)


@table(
    "patch, margin, told",
    (
        "a patch whose label, smaller by the margin of valid convolutions, `space` does not divide",
        "refused, with the sides of the label",
        (32, 32, 32),
        9,
        "phase segmentation: a patch of 32 x 32 x 32, 14 voxels without the margin of its network, cannot be divided",
    ),
)
def test_sides_of_labels(patch, margin, told):
    with pytest.raises(UserError) as error:
        placement.check_sides("segmentation", patch, margin, 4)
    assert str(error.value).startswith(told)
