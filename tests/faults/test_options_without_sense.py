"""Options of the right type that make no sense: refused by name, before any data are read."""

import math
from collections.abc import Iterator
from typing import Any

import pytest

from jaxfuse.config import parse
from jaxfuse.engine import run
from jaxfuse.errors import UserError
from jaxfuse.options import flat
from jaxfuse.ranges import numbers, range_of
from tests.faults.catalogue import given, table
from tests.recipe_phases import RECIPES, arguments

ODD = (math.nan, math.inf, -math.inf, -1, 0)


def leaves(recipe: str) -> Iterator[tuple[Any, str, Any]]:
    """Yields every number that a recipe may hold, once for each model: a config, its name and value."""
    seen = set()
    for text in arguments(recipe):
        if not text.startswith("tiny"):
            continue
        try:
            config = RECIPES[recipe].get_config(text)
        except UserError:
            continue  # a row that such data cannot serve
        for name, value in flat(config).items():
            phase, _, rest = name.partition(".")
            kind = (config[phase].model, rest) if phase in config.schedule else name
            if kind not in seen and list(numbers(value)):
                seen.add(kind)
                yield config, name, value


def put(config: Any, name: str, value: Any) -> None:
    with config.unlocked():
        config.update_from_flattened_dict({name: value})


def refusal(config: Any) -> str:
    """Returns the sentence with which a config is refused; "" where it is not."""
    try:
        parse(config)
    except UserError as error:
        return str(error)
    return ""


@given("any number of any recipe set to NaN, infinity, -1 or 0", "refused by name, or taken where it has a meaning")
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_number_of_every_recipe(recipe):
    for config, name, value in leaves(recipe):
        for odd in ODD:
            if isinstance(odd, float) and isinstance(value, int | tuple):
                continue  # an option of whole numbers refuses others as it is read
            new = tuple(type(one)(odd) for one in value) if isinstance(value, tuple) else type(value)(odd)
            if isinstance(value, tuple) and not all(isinstance(one, int) for one in value):
                continue
            put(config, name, new)
            allowed = range_of(name)
            assert allowed is not None, f"{name} has no range: list it in jaxfuse/ranges.py"
            told = refusal(config)
            if told.endswith("one must be positive"):  # neither steps nor epochs, each of which may be 0
                continue
            if told.endswith("is 0, which only phantoms of gliomas have; leave it out"):  # a factor of other phantoms
                continue
            # Recipes may give one option to several phases, of which the first is named.
            named = f"{name.partition('.')[2] or name} is {new}; "
            assert named in told if odd not in allowed else not told, f"{name}={new}: {told}"
        put(config, name, value)


@table(
    "option,value,told",
    ("a learning rate of NaN", "refused", "fusion.optimizers.net.learning_rate", math.nan, "it must be above 0"),
    ("an infinite one", "refused", "fusion.optimizers.net.learning_rate", math.inf, "it must be above 0"),
    ("a negative one", "refused", "transition.optimizers.generators.learning_rate", -0.001, "it must be above 0"),
    ("momentum of the gradient 1", "refused", "fusion.optimizers.net.b1", 1.0, "at least 0 and below 1"),
    ("a width of -4", "refused", "network.unet.base", -4, "at least 1 and at most 65536"),
    ("a width of a million", "refused", "network.unet.base", 10**6, "at most 65536"),
    ("a mirror probability of 1.5", "refused", "fusion.augment.flip.probability", 1.5, "at most 1"),
    ("a batch of 0", "refused", "fusion.batch", 0, "it must be at least 1"),
    ("a seed of -1", "refused", "seed", -1, "it must be at least 0"),
    ("a seed of 2^70", "refused", "seed", 2**70, "at most 4294967295"),
    ("more steps than a counter of 32 bits holds", "refused", "fusion.steps", 3 * 10**9, "at most 2147483647"),
    ("neither steps nor epochs", "refused", "fusion.steps", 0, "one must be positive"),
    ("phantoms of -3 mm", "refused", "data.phantom.spacing_mm", -3.0, "it must be above 0"),
    ("a negative weight of a loss", "refused", "transition.args.cycle.cycle_weight", -1.0, "at least 0"),
    ("an overlap of tiles of 1", "refused", "fusion.validation.overlap", 1.0, "below 1"),
    ("an unknown weighting of tiles", "refused", "fusion.validation.weighting", "flat", "choose equal or gaussian"),
    ("mirrors along an axis that is none", "refused", "fusion.validation.mirror", "0,3", "choose none, all or axes"),
    ("a patch with a side of 0", "refused", "fusion.patch", (16, 0, 16), "each must be at least 1"),
    ("a patch side that the network cannot halve", "refused", "fusion.patch", (16, 16, 17), "positive multiple of 4"),
    ("a patch of two sides for a network of volumes", "refused", "fusion.patch", (16, 16), "needs 3 sides"),
    ("an unknown optimizer schedule", "refused", "fusion.optimizers.net.schedule", "step", "choose one of constant"),
    ("an unknown place of patches", "refused", "fusion.sampling", "everywhere", "everywhere"),
    ("an unknown rule of intensities", "refused", "data.normalize", "zscore", "zscore"),
    ("an unknown source of data", "refused", "data.source", "dicom", "dicom"),
    ("no modality", "refused", "data.modalities", (), "modalities"),
    ("a result of no phase", "refused", "result", (), "at least one phase"),
    ("one phase twice in the result", "refused", "result", ("fusion", "fusion"), "each once"),
    ("one modality twice", "refused", "data.modalities", ("t1", "t1", "t2", "flair"), "t1"),
)  # fmt: skip
def test_it_is_refused_before_any_data_are_read(tmp_path, monkeypatch, option, value, told):
    monkeypatch.setattr(run, "open_dataset", None)
    config = RECIPES["cmff"].get_config("tiny")
    put(config, option, value)
    with pytest.raises(UserError) as error:
        run.train(config, tmp_path / "run")
    assert option.rpartition(".")[2] in str(error.value)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
