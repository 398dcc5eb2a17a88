"""The recipe among the arguments of a command: its name or file, and its preset, row and data in options of their own.

`cmff --preset tiny --row S_A`, `--config cmff:tiny,row=S_A` and `--config=configs/cmff.py:tiny,row=S_A` say the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from jaxfuse import recipe_files
from jaxfuse.errors import UserError

_CONFIG = "config"
# What the text after a recipe's name may say; the preset stands first, without its name.
_PARTS = ("preset", "row", "data")

flags.disclaim_key_flags()  # they are options of the command that declares them, and its short help lists them


def define_flags() -> None:
    """Declares the options that name a recipe; one has to be named."""
    help_text = "Recipe, such as cmff or configs/cmff.py:paper,row=S_A; first, it needs no --config."
    config_flags.DEFINE_config_file(_CONFIG, None, help_text, lock_config=True)
    flags.DEFINE_string("preset", None, "Preset of the recipe, such as tiny or paper.")
    flags.DEFINE_string("row", None, "Row of the paper's tables, by its name there; `describe --rows` lists them.")
    flags.DEFINE_string("data", None, "Variant of the recipe's data, where it has several.")
    flags.mark_flag_as_required(_CONFIG)


def gathered(argv: Sequence[str]) -> list[str]:
    """Returns the arguments with all that names the recipe in one, --config=FILE[:TEXT], before the others.

    Raises:
        UserError: there is no such recipe, or two arguments say the same.
    """
    command, *words = argv
    told, rest = dict[str, str](), list[str]()
    if words and not words[0].startswith("-"):
        told[_CONFIG] = words.pop(0)
    while words:
        word = words.pop(0)
        if word == "--":
            rest += [word, *words]
            break
        option, has_value, value = word.partition("=")
        name = option.removeprefix("-").removeprefix("-")
        if not option.startswith("-") or name not in (_CONFIG, *_PARTS) or not (has_value or words):
            rest.append(word)
            continue
        if name in told:
            raise UserError(f"the {_called(name)} is given twice, as {told[name]} and in {word}; leave one out")
        told[name] = value if has_value else words.pop(0)
    if not told.get(_CONFIG):
        return [*argv]
    return [command, f"--{_CONFIG}={_one(told)}", *rest]


def _one(told: dict[str, str]) -> str:
    """Returns FILE[:TEXT] of what was told in parts."""
    named, colon, text = told[_CONFIG].partition(":")
    parts = [part for part in text.split(",") if part]
    said = {part.partition("=")[0] if "=" in part else "preset": part for part in parts}
    for name in _PARTS:
        if name not in told:
            continue
        if name in said:
            raise UserError(
                f"the {_called(name)} is given twice, in {told[_CONFIG]} and as --{name}={told[name]}; leave one out"
            )
        parts = [told[name], *parts] if name == "preset" else [*parts, f"{name}={told[name]}"]
    return f"{recipe_files.find(named)}{':' if colon or parts else ''}{','.join(parts)}"


def _called(name: str) -> str:
    return {_CONFIG: "recipe", "data": "data variant"}.get(name, name)
