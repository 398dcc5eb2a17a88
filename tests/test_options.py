"""Groups of options of a recipe, which fill the forms of a model."""

from dataclasses import dataclass

import pytest
from ml_collections import ConfigDict

from configs import cmff
from jaxfuse.config import parse
from jaxfuse.learning.system import Geometry
from jaxfuse.options import grouped
from tests.refusals import refused
from tests.untrained_run import fixed_system


@dataclass(frozen=True)
class _Form:
    width: int = 1
    depth: int = 2


@dataclass(frozen=True)
class _Other:
    width: int = 10
    kernel_init: object = None


def _make_two(*, form: _Form = _Form(), other: _Other = _Other(), depth=0):
    return form, other, depth


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (_Form(), _Other(), 0)),
        # A parameter and the field of a form.
        ({"depth": 6}, (_Form(), _Other(), 6)),
        ({"form": {"depth": 6}}, (_Form(1, 6), _Other(), 0)),
        ({"other": {"width": 7}}, (_Form(), _Other(7), 0)),
        ({"form": {"width": 5}, "other": {"width": 7, "kernel_init": 1}}, (_Form(5), _Other(7, 1), 0)),
        ({"other": {}}, (_Form(), _Other(), 0)),
    ],
)
def test_a_group_fills_the_form_that_it_is_named_after(options, expected):
    read = {name: ConfigDict(value) if isinstance(value, dict) else value for name, value in options.items()}
    for given in (options, read):
        assert _make_two(**grouped(_make_two, given)) == expected


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"form": {"kernel_init": 1, "width": 2}}, "has no option form.kernel_init"),
        ({"other": 3}, "has no option other of its own, but the group other of kernel_init, width"),
        ({"third": {"width": 3}}, "has no option third"),
        ({"heigth": 1}, "has no option heigth"),
        # An option of one form, and one of two: which is meant is to be said.
        ({"kernel_init": 1}, "has no option kernel_init; write other.kernel_init"),
        ({"width": 5}, "has no option width; write form.width or other.width"),
    ],
)
def test_an_option_addressed_to_no_form_is_refused(options, sentence):
    refused(f"^{sentence}$", grouped, _make_two, options)


@dataclass(frozen=True)
class _Deep(_Other):
    depth: int = 1


def make_system(*, optimizers, first: _Deep = _Deep(), second: _Deep = _Deep()):
    return fixed_system(Geometry(2, 1), "S", (first, second))


def test_addressed_options_of_a_config():
    """Options of `args` win over those of `network`, field by field, and initializers are resolved at any depth."""
    config = cmff.get_config("tiny,row=random")
    with config.unlocked():
        config.fusion.model = "tests.test_options"
        first = {"width": 2, "kernel_init": "nn.initializers:normal"}
        config.network = {"first": first, "second": {"width": 3, "depth": 4}}
        config.fusion.args = {"second": {"depth": 5, "kernel_init": "nn.initializers:he_normal"}}
    first, second = parse(config).phases["fusion"].build(("t1",), ("background",), 10).network.function.answer
    assert (first.width, first.depth, second.width, second.depth) == (2, 1, 3, 5)
    assert callable(first.kernel_init)
    assert callable(second.kernel_init)
