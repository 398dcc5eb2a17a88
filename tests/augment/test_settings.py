"""Settings of augmentation: presets and what wins over them, and refusals."""

from dataclasses import fields

import pytest

from jaxfuse.augment.settings import PRESETS, Augment, Gamma, Rotation, augment_from
from jaxfuse.ranges import numbers, range_of
from jaxfuse.recipes import augment
from tests.refusals import refused


def test_recipes_offer_every_option_and_no_other():
    offered = augment(0.5).to_dict()
    assert (offered.pop("preset"), offered["flip"]["probability"]) == ("none", 0.5)
    read = {one.name: one.default_factory() for one in fields(Augment)}
    assert {name: set(group) for name, group in offered.items()} == {
        name: {one.name for one in fields(change)} for name, change in read.items()
    }
    assert augment_from(augment(0.5)).active == ("flip",)


def test_a_preset_switches_on_and_what_is_said_wins():
    strong = "flip rotation scaling noise blur low_resolution brightness contrast inverted_gamma gamma"
    active = {preset: augment_from({"preset": preset}).active for preset in PRESETS}
    assert active == {"none": (), "light": ("flip", "brightness", "shift"), "nnunet": tuple(strong.split())}
    config = augment(0.0)
    config.preset, config.flip.probability, config.rotation.degrees = "nnunet", 0.0, 10.0
    config.gamma.range = (0.9, 1.1)
    read = augment_from(config)
    assert (read.rotation, read.gamma) == (Rotation(0.2, 10.0), Gamma(0.3, (0.9, 1.1)))
    assert ("flip" in read.active, read.resamples, read.in_step) == (False, True, read.active)
    assert augment_from({"preset": "light"}).brightness.range == (0.9, 1.1)
    only = augment_from({"flip": {"probability": 0.5}})
    assert (only.active, only.in_step, only.resamples) == (("flip",), (), False)
    assert augment_from({}) == Augment()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"preset": "strong"}, "augment.preset is 'strong'; choose one of none, light, nnunet"),
        ({"intensity": {"scale": 0.1}}, "augment has no intensity; choose from flip, quarter_turn, rotation"),
        ({"flip": {"chance": 1.0}}, "augment.flip has no option chance; it has probability"),
        ({"gamma": {"range": (1.5, 0.7)}}, r"augment.gamma.range is \(1.5, 0.7\); it must be the smaller and"),
        ({"blur": {"range": [1.0]}}, r"augment.blur.range is \(1.0,\); it must be the smaller and the greater end"),
    ],
)
def test_what_is_not_known_is_refused(options, sentence):
    refused(sentence, augment_from, options)


def test_every_number_has_a_range_in_which_its_default_lies():
    for one in fields(Augment):
        for option in fields(one.type if isinstance(one.type, type) else one.default_factory):
            allowed, default = range_of(f"fusion.augment.{one.name}.{option.name}"), option.default
            assert allowed is not None, f"list {one.name}.{option.name} in jaxfuse/ranges.py"
            assert all(number in allowed for number in numbers(default))
