"""The reference of options, held to the recipes: types and defaults of `options.md`, and all of `options_by_recipe.md`.

    python -m tests.options_pages

writes both pages below `docs/reference` anew. Meanings of what all recipes share stand in `options.md`; those of
networks and losses are the docstrings of their forms, makers and functions, or stand in `SAID`.
"""

import inspect
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jaxfuse.learning.bilevel import SCHEMES
from jaxfuse.options import resolve
from tests.recipe_phases import RECIPES, argument, config_of

PAGES = Path(__file__).parents[1] / "docs" / "reference"
SHARED, BY_RECIPE = PAGES / "options.md", PAGES / "options_by_recipe.md"
DIFFERS = "[by recipe](options_by_recipe.md)"
OWN = re.compile(r"network\.|PHASE\.(args|loss_args|sampling_args)\.")
_ROW = re.compile(r"^\| (`[^|]+`) \|[^|]*\|[^|]*\| (.+) \|$", re.MULTILINE)

_CALLED = ("name", "preset", "row", "variant")
_HEAD = "| option | type | default | preset `paper` | meaning |\n|---|---|---|---|---|\n"
_INTRODUCTION = """\
# Options by recipe

Options of the networks and losses of each recipe, and its defaults of those [options of all recipes](options.md) in
which recipes differ. A value for each phase is told where phases differ. An option that the default row of a recipe
does not have is told for the rows that have it; in what else rows differ is told by

```sh
python -m jaxfuse.describe --config configs/cmff.py:,row=S_A
```

This page is written by `python -m tests.options_pages` from the recipes and the docstrings.
"""

# Names that mean one thing, in whatever words docstrings have it.
ALIKE = ("kernel_init", "dtype", "remat")
# Meanings of options whose docstrings say them elsewhere, by the class or function and the name of the option.
SAID = {
    "UNetForm": {
        "arch": "`residual` blocks, or `plain` ones",
        "base": "channels of the finest level; they double at each coarser one",
        "levels": "resolutions; sides of a patch are multiples of 2**(levels - 1)",
    },
    "CycleForm": {
        "critic_base": "channels of the first layer of each critic",
        "critic_layers": "strided layers of each critic, each of which halves a patch",
        "cycle_weight": "weight of the cycle's loss beside the adversarial one",
        "pool_size": "past fakes that critics are shown",
    },
    "FusionForm": {
        "fusion_width": "channels of S_F",
        "attention": '"mask" (guidance by the predicted tumor), "cbam", "plain" (masks of 1) or "none"',
        "mask_mode": "masks are the probability of the `whole` tumor, or that of each `class`",
        "residual_attention": "features times one plus the mask, in place of the mask alone",
        "stop_gradient_masks": "S_F's loss does not reach the branches through the masks",
        "presence": "what S_F makes of absent modalities: "
        "[three forms](../explanation/missing_modalities.md#three-forms)",
    },
    "make_branch": {
        "side": "which branch is trained, a or b",
        "deep_supervision": "so many coarser levels of the decoder have a head and a loss, which count half as much "
        "from one to the next, in training alone",
    },
    "make_reconstruction": {"corruption": "standard deviation of the noise that is added to the input"},
    "make_joint": {
        "segmentation_weight": "weight of the loss of labels beside that of the cycle GAN",
        "share_trunk": "generators and branches have their trunks in common",
    },
    "MmFormerForm": {"heads": "heads of each transformer's attention"},
    "LossForm": {
        "correlation_weight": "weight of the bands' decorrelation",
        "gradient_weight": "weight of the difference of gradients from the sources'",
        "intensity_weight": "weight of the difference of intensities from the sources'",
    },
    "NNUNetForm": {
        "stages": "resolutions; sides of the image are multiples of 2**(stages - 1)",
        "base": "channels of the first stage; they double at each stage",
        "most": "the most channels of a stage",
    },
    "make_pretraining": {"correlation_weight": "share of the bands' decorrelation in the loss, from 0 to 1"},
    "make_system": {
        "rule": "`mean` or `maximum`",
        "trunk_rate": "rate of the trunks that are taken over beside that of the rest; 0: they are frozen",
        "reads": "modalities that segmentation alone reads",
        "fusion": 'how several of them are read: their "mean", their "maximum", or each as one of the "channels"',
        "target_weight": "weight of the difference from the target beside the adversarial loss",
        "cycle_weight": "weight of the cycle's loss",
        "identity_weight": "weight of the loss of what a target becomes, times `cycle_weight`",
        "pool_size": "past fakes that critics are shown",
        "variance_weight": "weight of how much the modalities' latent maps differ",
    },
    "dice_and_cross_entropy": {"dice_weight": "weight of Dice", "entropy_weight": "weight of the cross-entropy"},
    "dice_loss_of_logits": {"eps": "added above and below"},
    "combo": {
        "alpha": "share of the entropy, the rest being that of Dice",
        "beta": "weight of the class itself in the entropy, the rest being that of all others",
        "form": '"weighted", "scaled" or "literal", the printed equation',
    },
    "focal": {"gamma": "power of the weight of a voxel's error", "alpha": "weight of the class itself"},
    "tversky": {"a": "weight of false positives", "b": "weight of what is missed"},
    # Of any form or function.
    "": {
        "kernel_init": "how kernels are drawn, as `module:function` below `jaxfuse`",
        "dtype": "arithmetic: `float32`, `bfloat16`, or `auto`, which the machine settles",
        "remat": "`on`: blocks are computed again in the backward pass; `off`; `auto`, which the machine settles",
        "include_background": "Dice counts the background, too",
        "squared": "squares the terms of Dice's denominator",
        "over_batch": "sums of Dice run over the whole batch, not over one example",
        "combos": "combinations of modalities that are fused, one of them in each step",
        "grid": "voxels along each axis from one window of patches to the next",
    },
}


class Setting(NamedTuple):
    """One option of one call: its name with PHASE and PLAYER in it, its phase, its type and its value."""

    option: str
    phase: str
    kind: str
    value: str


@cache
def settings(recipe: str, text: str) -> tuple[Setting, ...]:
    """Returns the options of a call, but for data of a phase that are set nowhere."""
    config = config_of(recipe, text)
    found = []
    for name, kind, value in leaves(config):
        first, *rest = name.split(".")
        if first not in config.schedule:
            found.append(Setting(name, "", kind.__name__, written(value)))
        elif rest[0] != "data":
            rest[1:2] = ["PLAYER"] if rest[0] == "optimizers" else rest[1:2]
            found.append(Setting(".".join(["PHASE", *rest]), first, kind.__name__, written(value)))
    return tuple(found)


def leaves(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, type, Any]]:
    """Yields each option of a config by its dotted name, its type and its value, None where it is not set."""
    for name in config:
        if isinstance(config[name], ConfigDict):
            yield from leaves(config[name], f"{prefix}{name}.")
        else:
            yield prefix + name, config.get_type(name), config[name]


def written(value: Any) -> str:
    return "not set" if value is None else "empty" if value == "" else f"`{value}`"


def rows_of(page: str) -> Iterator[tuple[list[str], str]]:
    """Yields the options of each row of a page, `.name` completed by the first one's group, and their meaning."""
    for cell, meaning in _ROW.findall(page):
        first, *more = [name.strip("`") for name in cell.split(", ")]
        group = first.rpartition(".")[0]
        yield [first, *(group + name if name.startswith(".") else name for name in more)], meaning


def shared_page(page: str) -> str:
    """Returns the page of shared options with types and defaults as the recipes have them."""
    kinds, values = _over_recipes()

    def filled(match: re.Match[str]) -> str:
        ((names, meaning),) = rows_of(match[0])
        found = [DIFFERS if len(values[name]) > 1 else min(values[name]) for name in names]
        return f"| {match[1]} | {_told(_kinds(kinds[name]) for name in names)} | {_told(found)} | {meaning} |"

    return _ROW.sub(filled, page)


@cache
def _over_recipes() -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Returns types and values of each option: of the recipes as they are, or, where none has it, of their rows.

    An option that presets for the papers' sizes alone have is not set.
    """
    kinds: dict[str, set[str]] = {}
    values: dict[str, set[str]] = {}
    rows, papers = ([(recipe, call) for recipe in RECIPES for call in _rows(recipe, of)] for of in ("", "paper"))
    for calls in ([(recipe, "") for recipe in RECIPES], rows, papers):
        met = [setting for call in calls for setting in settings(*call) if setting.option not in kinds]
        for setting in met:
            kinds.setdefault(setting.option, set()).add(setting.kind)
            values.setdefault(setting.option, set()).add(written(None) if calls is papers else setting.value)
    return kinds, values


def _rows(recipe: str, preset: str = "") -> list[str]:
    return [argument(preset, row) for row in RECIPES[recipe].ROWS]


def _kinds(kinds: set[str]) -> str:
    """Returns types in words; a None that is set from nothing else has none of its own."""
    return " or ".join(sorted(kinds - {"NoneType"})) or "any"


def _told(parts: Iterable[str]) -> str:
    parts = list(parts)
    return parts[0] if len(set(parts)) == 1 else ", ".join(parts)


def by_recipe_page() -> str:
    """Renders the options in which recipes differ, recipe by recipe."""
    meanings = {name: meaning for names, meaning in rows_of(SHARED.read_text(encoding="utf-8")) for name in names}
    parts = [_INTRODUCTION]
    for recipe, module in RECIPES.items():
        title = (module.__doc__ or "").partition("\n")[0]
        parts.append(f"## `configs/{recipe}.py`\n\n{title}\n\n{_HEAD}")
        for option in own_options(recipe):
            kinds = {
                one.kind for text in ("", *_rows(recipe)) for one in settings(recipe, text) if one.option == option
            }
            cells = (_kinds(kinds), _cell(recipe, "", option), _cell(recipe, "paper", option))
            meaning = meanings.get(option) or " - or ".join(meanings_of(recipe, option))
            parts[-1] += f"| `{option}` | {' | '.join(cells)} | {meaning} |\n"
    return "\n".join(parts)


def own_options(recipe: str) -> list[str]:
    """Returns the options of a recipe's networks and losses, and those whose defaults are not those of all recipes."""
    _, values = _over_recipes()
    names = dict.fromkeys(one.option for text in ("", *_rows(recipe)) for one in settings(recipe, text))
    told = [name for name in names if name not in _CALLED and (OWN.match(name) or len(values[name]) > 1)]
    return sorted(told, key=lambda name: (name.startswith("PHASE"), bool(OWN.match(name)), name))


def _cell(recipe: str, preset: str, option: str) -> str:
    """Returns the value of an option in the default row, by phase where phases differ; else those of other rows."""
    own = [one for one in settings(recipe, argument(preset, config_of(recipe, "").row)) if one.option == option]
    if own:
        told = dict.fromkeys(f"{one.phase}: {one.value}" for one in own)
        return own[0].value if len({one.value for one in own}) == 1 else "; ".join(told)
    rows: dict[str, list[str]] = {}
    for row in RECIPES[recipe].ROWS:
        for one in settings(recipe, argument(preset, row)):
            if one.option == option and row not in rows.setdefault(one.value, []):
                rows[one.value].append(row)
    return "; ".join(f"row {', '.join(names)}: {value}" for value, names in rows.items())


def meanings_of(recipe: str, option: str) -> list[str]:
    """Returns what the forms, makers and functions of a recipe's rows say of an option."""
    found: dict[str, None] = {}
    for text in ("", *_rows(recipe)):
        config = config_of(recipe, text)
        for phase in {one.phase for one in settings(recipe, text) if one.option == option}:
            groups = [config[name] for name in ([phase] if phase else config.schedule)]
            found |= dict.fromkeys(said for group in groups for said in _said(option, group))
    return [said for said in found if said]


def _said(option: str, group: ConfigDict) -> Iterator[str]:
    """Yields what is said of an option by those that a phase gives it to."""
    _, _, name = option.removeprefix("PHASE.").partition(".")
    last = name.rpartition(".")[2]
    if option.startswith("PHASE.loss_args."):
        yield _meaning(resolve(group.loss), last)
    elif option.startswith("PHASE.sampling_args."):
        yield SAID[""][last]
    else:
        module, _, function = group.model.partition(":")
        make = resolve(f"{module}:{function or 'make_system'}", package="jaxfuse.models")
        form, _, field = name.partition(".")
        if form in (parameters := inspect.signature(make).parameters):
            owner = type(parameters[form].default) if field else make
            yield _meaning(SCHEMES[group.args.scheme.bilevel] if "options." in field else owner, last)


def _meaning(owner: Any, name: str) -> str:
    """Returns what a function or class, or one that it is derived from, says of an argument or attribute."""
    others = owner.__mro__ if inspect.isclass(owner) else ()
    if name in ALIKE:
        return SAID[""][name]
    for one in (owner, *others):
        if said := SAID.get(one.__name__, {}).get(name) or documented(one).get(name):
            return said
    return SAID[""].get(name, "")


def documented(thing: Any) -> dict[str, str]:
    """Returns the entries of a docstring's Args or Attributes, each on one line."""
    found = {}
    section = re.search(r"^(?:Attributes|Args):\n((?: {4}.*\n?|\n)+)", inspect.getdoc(thing) or "", re.MULTILINE)
    for names, text in re.findall(r"^ {4}(\w[\w, ]*): ((?:.*\n?)(?: {8}.*\n?)*)", section[1] if section else "", re.M):
        found |= dict.fromkeys(names.split(", "), " ".join(text.split()).removesuffix("."))
    return found


def write() -> None:
    SHARED.write_text(shared_page(SHARED.read_text(encoding="utf-8")), encoding="utf-8")
    BY_RECIPE.write_text(by_recipe_page(), encoding="utf-8")


if __name__ == "__main__":
    write()
    print(f"wrote {SHARED} and {BY_RECIPE}")
