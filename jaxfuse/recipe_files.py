"""Files of recipes: those that jaxfuse brings, by their names, those of a user, and what each offers."""

from __future__ import annotations

import difflib
import importlib.util
from pathlib import Path
from types import ModuleType

from jaxfuse.errors import UserError

_PACKAGE = Path(__file__).parent


def folder() -> Path:
    """Returns the folder of the recipes that jaxfuse brings: within an installed package, beside it in a checkout."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def names() -> tuple[str, ...]:
    """Returns the names of these recipes, in order."""
    return tuple(sorted(path.stem for path in folder().glob("*.py") if path.stem != "__init__"))


def find(named: str) -> Path:
    """Returns the file that `named` is, else that of the recipe of this name.

    Raises:
        UserError: it is neither; or it is a recipe's name, and a file here that holds something else has it, too.
    """
    if Path(named).is_file():
        return Path(named)
    if named not in names():
        raise UserError(_unknown(named))
    recipe = folder() / f"{named}.py"
    for own in (Path(f"{named}.py"), Path("configs", f"{named}.py")):
        if own.is_file() and own.read_bytes() != recipe.read_bytes():
            raise UserError(
                f"{named} may be the recipe of jaxfuse or the file {own} here, and they differ; write {own} for the "
                f"file, or {recipe} for the recipe"
            )
    return recipe


def _unknown(named: str) -> str:
    """Says in one sentence what could have been meant."""
    listed = f"a recipe of jaxfuse ({', '.join(names())})"
    if (path := Path(named)).name != named or path.suffix:
        if path.stem in names():
            return f"the config file {named} is not there; the recipe of jaxfuse is called by its name, {path.stem}"
        return f"the config file {named} is not there; name one such as --config configs/cmff.py, or {listed}"
    near = difflib.get_close_matches(named, names(), 1)
    question = f"did you mean {near[0]}? " if near else ""
    return f"no recipe is called {named!r}; {question}name {listed}, or a file such as configs/cmff.py"


def load(path: Path) -> ModuleType:
    """Runs the file of a recipe; returns its module, which is entered nowhere."""
    spec = importlib.util.spec_from_file_location("recipe", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UserError(f"{path} is not a config file; give a Python file such as configs/cmff.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def choices(path: Path) -> dict[str, dict[str, str]]:
    """Returns presets, rows and data variants of a recipe, each with its one line."""
    module = load(path)
    return {"presets": dict(module.PRESETS), "rows": dict(module.ROWS), "data": dict(module.VARIANTS)}
