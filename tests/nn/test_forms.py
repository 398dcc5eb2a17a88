"""Forms that do not exist are refused with the option, its value and what it may be."""

from types import SimpleNamespace

import jax.numpy as jnp

from jaxfuse.nn.forms import check_choices, check_least, check_not_negative, check_picture, check_volume
from tests.refusals import refused


def test_values_are_checked_option_by_option():
    form = SimpleNamespace(kind="early", kernel=3, width=0)
    check_choices(form, {"kind": ("early", "late"), "kernel": (1, 3)})
    check_least(form, {"kernel": 3, "width": 0})
    refused("^kind is 'early'; choose one of late, 1$", check_choices, form, {"kernel": (1, 3), "kind": ("late", 1)})
    refused("^width is 0; give at least 1$", check_least, form, {"kernel": 1, "width": 1})
    check_not_negative({"weight": 0.0, "share": 0.5})
    refused("^share is -0.5; it must not be negative$", check_not_negative, {"weight": 0.0, "share": -0.5})


def test_volumes_have_sides_that_can_be_halved_down_to_two():
    check_volume(jnp.zeros((1, 8, 12, 8, 2)), 3, called="a net")
    sentence = r"^a net of 3 levels takes images .* multiples of 4, and at least 8, got shape \(1, {}\); change the"
    refused(sentence.format("8, 8, 10, 2"), check_volume, jnp.zeros((1, 8, 8, 10, 2)), 3, called="a net")
    refused(sentence.format("8, 4, 8, 2"), check_volume, jnp.zeros((1, 8, 4, 8, 2)), 3, called="a net")
    refused(sentence.format("8, 8, 2"), check_volume, jnp.zeros((1, 8, 8, 2)), 3, called="a net")


def test_pictures_have_sides_that_the_divisor_divides():
    check_picture(jnp.zeros((1, 8, 12, 2)), 4, called="a net")
    for shape in ((1, 8, 10, 2), (1, 0, 8, 2), (8, 8, 2)):
        sentence = "^a net takes images .* multiples of 4, got shape .*; pad or crop them$"
        refused(sentence, check_picture, jnp.zeros(shape), 4, called="a net")
