"""Phases side by side in a config: which trainings come of it, and what is refused."""

import re

import pytest
from ml_collections import ConfigDict

from configs import cmff, infinet
from jaxfuse.config import parse
from jaxfuse.options import flat
from tests.refusals import refused

VIEWS = ("sagittal", "coronal", "axial")
IN_TURN = tuple((view,) for view in VIEWS)


def _views(**changes):
    """InfiNet's recipe with dotted options replaced, as --config.a.b=v does; side by side if nothing else is said."""
    config = infinet.get_config("tiny")
    with config.unlocked():
        for name, value in {"side_by_side": True, **changes}.items():
            config.update_from_flattened_dict({name.replace("__", "."): value})
    return config


@pytest.mark.parametrize(
    ("changes", "trainings"),
    [
        ({}, (VIEWS,)),
        ({"side_by_side": False}, IN_TURN),
        ({"result": ("coronal", "axial")}, (("sagittal",), ("coronal", "axial"))),
        ({"result": ("sagittal", "coronal")}, (("sagittal", "coronal"), ("axial",))),
    ],
)
def test_the_phases_of_the_result_are_one_training(changes, trainings):
    assert parse(_views(**changes)).trainings == trainings


def test_recipes_train_one_after_another_unless_told_otherwise():
    assert parse(infinet.get_config()).trainings == IN_TURN
    assert parse(cmff.get_config("tiny")).trainings == (("transition",), ("fusion",))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"result": ("axial",)}, "result names one phase only, axial"),
        ({"result": ("sagittal", "axial")}, "the phases of result, sagittal, axial, do not follow each other so"),
        ({"result": ("axial", "coronal")}, "the phases of result, axial, coronal, do not follow each other so"),
        ({"axial__batch": 3}, "sagittal.batch is 2 and axial.batch is 3"),
        ({"coronal__patch": (40, 40)}, "sagittal.patch is (32, 32) and coronal.patch is (40, 40)"),
        ({"coronal__steps": 9}, "sagittal.steps is 2 and coronal.steps is 9"),
        ({"coronal__model": "baselines.unet2d"}, "coronal.model is 'baselines.unet2d'"),
        ({"coronal__optimizers__net__learning_rate": 0.5}, "coronal.optimizers.net.learning_rate is 0.5"),
        ({"coronal__args__form": {"blocks": 2}}, "sagittal.args.form.blocks is None and coronal.args.form.blocks is 2"),
        ({"axial__init": (("net/head", "coronal:net/head"),)}, "phase axial takes over from coronal"),
    ],
)
def test_refusals(changes, told):
    config = _views()
    with config.unlocked():
        if "coronal__args__form" in changes:
            config.coronal.args = ConfigDict({"form": changes["coronal__args__form"]})
        elif "coronal__model" in changes:
            config.coronal.model, config.network = changes["coronal__model"], ConfigDict()
        else:
            config = _views(**changes)
    refused(f"{re.escape(told)}.*leave side_by_side False$", parse, config)


def test_data_and_what_is_taken_over_may_differ():
    config = _views(result=("coronal", "axial"), axial__init=(("net/head", "sagittal:net/head"),))
    with config.unlocked():
        config.axial.data.val_fraction = 0.5
    assert parse(config).trainings == (("sagittal",), ("coronal", "axial"))


@pytest.mark.parametrize(
    ("changes", "weighs"),
    [
        ({}, True),
        ({"loss_args": {"frequencies": (0.25, 0.25, 0.25, 0.25)}}, False),
        ({"loss": "losses.overlap:dice_loss_of_logits"}, False),
    ],
)
def test_a_phase_tells_whether_its_loss_weighs_classes_by_its_data(changes, weighs):
    config = infinet.get_config("tiny")
    with config.unlocked():
        config.axial.update(changes)
    assert parse(config).phases["axial"].weighs_classes == weighs


def test_flat_options():
    group = ConfigDict({"a": 1, "b": {"c": (2,), "d": {"e": 3}}, "f": {}, "g": {"a": 4}})
    assert flat(group) == {"a": 1, "b.c": (2,), "b.d.e": 3, "g.a": 4}
    assert flat(group, without=("a", "b")) == {"g.a": 4}
