"""python -m jaxfuse.completion bash|zsh|fish

Prints the script by which a shell completes jaxfuse: commands, their options and values, recipes, presets and rows.

    jaxfuse completion bash > ~/.local/share/bash-completion/completions/jaxfuse
    jaxfuse completion zsh > DIR/_jaxfuse                          (DIR: a folder of fpath)
    jaxfuse completion fish > ~/.config/fish/completions/jaxfuse.fish

It holds the words of this version: print it anew after an update.
"""

from __future__ import annotations

import importlib
import json
from typing import Any

from absl import flags

import jaxfuse
from jaxfuse import cli, recipe_files, shell_scripts
from jaxfuse.commands import COMMANDS, module_of
from jaxfuse.errors import UserError
from jaxfuse.options import flat
from jaxfuse.shell_scripts import FIRST, Option, Words

SHELLS = {"bash": shell_scripts.bash, "zsh": shell_scripts.zsh, "fish": shell_scripts.fish}

# A recipe notes in these what it was called with; to set them changes nothing.
_OF_THE_CALL = ("name", "preset", "row", "variant", "pairs")


def define_flags() -> None:
    """Declares no option: the shell is named."""


def main(argv: list[str]) -> int:
    """Prints the script; returns 0."""
    if len(argv) != 2 or argv[1] not in SHELLS:
        given = " ".join(argv[1:]) or "nothing"
        raise UserError(f"{given!r} is no shell; name one of {', '.join(SHELLS)}: jaxfuse completion bash")
    print(SHELLS[argv[1]](words()), end="")
    return 0


def words() -> Words:
    """Returns all words of this installation."""
    recipes = {name: recipe_files.load(recipe_files.folder() / f"{name}.py") for name in recipe_files.names()}
    defaults = [flat(json.loads(module.get_config().to_json_best_effort())) for module in recipes.values()]
    kinds = {"preset": "PRESETS", "row": "ROWS", "data": "VARIANTS"}
    offers = {
        name: {kind: tuple(filter(None, getattr(module, held))) for kind, held in kinds.items()}
        for name, module in recipes.items()
    }
    shared = (name for name in defaults[0] if all(name in others for others in defaults))
    options = {name: tuple(_options(name, tuple(recipes))) for name in COMMANDS}
    return Words(
        jaxfuse.__version__, COMMANDS, options, offers, tuple(name for name in shared if name not in _OF_THE_CALL)
    )


def _options(command: str, recipes: tuple[str, ...]) -> list[Option]:
    """Returns the options that a command declares, which are taken back: others have some of the same names."""
    name = module_of(command)
    module = importlib.import_module(name)
    if hasattr(module, "__path__"):  # a package runs by a module of its own
        module = importlib.import_module(f"{name}.__main__")
    before = set(flags.FLAGS)
    module.define_flags()
    found = []
    for option in sorted(set(flags.FLAGS) - before):
        found.append(_option(flags.FLAGS[option], recipes))
        delattr(flags.FLAGS, option)
    if any(one.name == "config" for one in found):
        found.append(Option(FIRST, True, recipes, ""))
    elif command == "completion":
        found.append(Option(FIRST, True, tuple(SHELLS), ""))
    return found


def _option(flag: flags.Flag[Any], recipes: tuple[str, ...]) -> Option:
    values = tuple(getattr(flag.parser, "enum_values", ())) or (recipes if flag.name == "config" else ())
    return Option(flag.name, not flag.boolean, values, " ".join((flag.help or "").split()))


if __name__ == "__main__":
    define_flags()
    cli.run(main)
