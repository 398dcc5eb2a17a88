"""Flat options of a recipe, which fill the forms of a model."""

import importlib
import inspect
from collections import Counter
from dataclasses import dataclass, fields, is_dataclass

import pytest
from ml_collections import ConfigDict

from configs import cmff
from jaxfuse.config import parse
from jaxfuse.errors import UserError
from jaxfuse.options import grouped


@dataclass(frozen=True)
class _Form:
    width: int = 1
    depth: int = 2


@dataclass(frozen=True)
class _Other:
    width: int = 10
    kernel_init: object = None


def _make(*, loss, form: _Form = _Form(), scale=3):
    return loss, form, scale


def _make_two(*, form: _Form = _Form(), other: _Other = _Other(), depth=0):
    return form, other, depth


def test_flat_options_fill_the_forms_of_a_model():
    assert grouped(_make, {"loss": "l", "depth": 7}) == {"loss": "l", "form": _Form(1, 7)}
    assert _make(**grouped(_make, {"loss": "l", "width": 4, "scale": 5})) == ("l", _Form(4, 2), 5)
    for stray in ("heigth", "form"):
        with pytest.raises(UserError, match=f"has no option {stray}"):
            grouped(_make, {"loss": "l", stray: 1})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"width": 5}, (_Form(5), _Other(5), 0)),
        # A parameter and the field of a form.
        ({"depth": 6}, (_Form(1, 6), _Other(), 6)),
        ({"other": {"width": 7}}, (_Form(), _Other(7), 0)),
        ({"width": 5, "other": {"width": 7}}, (_Form(5), _Other(7), 0)),
        ({"width": 5, "form": {"depth": 8}}, (_Form(5, 8), _Other(5), 0)),
        ({"other": {}}, (_Form(), _Other(), 0)),
    ],
)
def test_an_option_goes_to_every_form_that_has_it_unless_addressed_to_one(options, expected):
    read = {name: ConfigDict(value) if isinstance(value, dict) else value for name, value in options.items()}
    for given in (options, read):
        assert _make_two(**grouped(_make_two, given)) == expected


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"form": {"kernel_init": 1, "width": 2}}, "has no option form.kernel_init"),
        ({"other": 3}, "has no option other of its own, but the group other of kernel_init, width"),
        ({"third": {"width": 3}}, "has no option third"),
    ],
)
def test_an_option_addressed_to_no_form_is_refused(options, sentence):
    with pytest.raises(UserError) as error:
        grouped(_make_two, options)
    assert str(error.value) == sentence


def test_addressed_options_of_a_config(tmp_path, monkeypatch):
    """Those of `args` win over those of `network`, field by field, and initializers are resolved at any depth."""
    (tmp_path / "formed_paper.py").write_text(
        "from dataclasses import dataclass\n"
        "from jaxfuse.learning.networks import Stateless\n"
        "from jaxfuse.learning.system import Geometry, Segmentation\n"
        "@dataclass(frozen=True)\n"
        "class Form:\n"
        "    width: int = 1\n"
        "    depth: int = 1\n"
        "    kernel_init: object = None\n"
        "@dataclass(frozen=True)\n"
        "class Network:\n"
        "    first: Form\n"
        "    second: Form\n"
        "    def init(self, rng, image): ...\n"
        "    def __call__(self, params, image): ...\n"
        "def make_system(*, optimizers, first: Form = Form(), second: Form = Form()):\n"
        "    return Segmentation(Stateless(Network(first, second)), (0,), print, optimizers, Geometry(2, 1), 'S')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = cmff.get_config("tiny,row=random")
    with config.unlocked():
        config.fusion.model = "formed_paper"
        config.network = {"width": 2, "kernel_init": "nn.initializers:normal", "second": {"width": 3, "depth": 4}}
        config.fusion.args = {"second": {"depth": 5, "kernel_init": "nn.initializers:he_normal"}}
    made = parse(config).phases["fusion"].build(("t1",), ("background",), 10).network.function
    assert (made.first.width, made.first.depth) == (2, 1)
    assert (made.second.width, made.second.depth) == (3, 5)
    assert callable(made.first.kernel_init)
    assert callable(made.second.kernel_init)


@pytest.mark.parametrize(
    "name", ["cmft:make_system", "cmft:make_reconstruction", "cmff:make_system", "cmff:make_joint"]
)
def test_no_option_of_a_model_has_two_meanings(name):
    """A flat name goes to every form that has it; the forms of these models share none."""
    module, function = name.split(":")
    parameters = inspect.signature(getattr(importlib.import_module(f"jaxfuse.models.{module}"), function)).parameters
    names = Counter(list(parameters))
    for parameter in parameters.values():
        if is_dataclass(parameter.default):
            names.update(f.name for f in fields(parameter.default))
    assert {name for name, count in names.items() if count > 1} == set()
