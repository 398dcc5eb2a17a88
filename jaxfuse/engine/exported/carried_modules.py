"""Modules of jaxfuse as a bundle carries them along: the files themselves, under another package's name.

A second implementation of preparation, tiling and writing would drift from the first. So the modules that
`jaxfuse.prediction.bundle_command` imports, and those that they import, are copied as they lie here; the imports in
them are renamed, and nothing else.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import jaxfuse

PACKAGE, RUNNER = "jaxfuse", "runner"
ROOT = "jaxfuse.prediction.bundle_command"
# What a module that is carried along may import beside the standard library; SciPy and ml_dtypes come with JAX.
LIBRARIES = {"jax", "ml_dtypes", "nibabel", "numpy", "scipy"}
# Modules and packages that only training, phantoms, caches and scores call; in a bundle their functions raise.
LEFT_OUT = (
    "jaxfuse.data.cache",
    "jaxfuse.data.memory",
    "jaxfuse.data.phantom",
    "jaxfuse.io.claims",
    "jaxfuse.metrics.surfels",
)
_ANNOTATIONS = "annotations"
_IMPORT = re.compile(rf"^(\s*(?:from|import)\s+)({PACKAGE}|jaxtyping)\b")

_LEFT_OUT = '''"""Left out of bundles: predictions have no use for it."""


def __getattr__(name):
    def left_out(*arguments, **options):
        raise NotImplementedError(f"{__name__}.{name} is not part of a bundle")

    return left_out
'''

_SHAPES = '''"""Annotations of shapes, which nobody checks in a bundle: `Float[Array, "h w"]` is an `Array` here."""


class _Shaped:
    def __class_getitem__(cls, given):
        return given[0] if isinstance(given, tuple) else given


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return _Shaped
'''


def runner_files() -> dict[str, str]:
    """Returns the files of a bundle's package by their paths below it, with their content."""
    package = Path(jaxfuse.__file__).parent
    files = {"__init__.py": "", f"{_ANNOTATIONS}.py": _SHAPES}
    for module in carried():
        path = _file_of(module, package)
        content = _LEFT_OUT if _is_left_out(module) else renamed(path.read_text(encoding="utf-8"))
        files[path.relative_to(package).as_posix()] = content
        for folder in path.relative_to(package).parents[:-1]:
            files.setdefault(f"{folder.as_posix()}/__init__.py", "")
    return files


def carried() -> list[str]:
    """Lists the modules that a bundle carries along, those that are left out of it included, by their names here."""
    package = Path(jaxfuse.__file__).parent
    found, waiting = list[str](), [ROOT]
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        found.append(module)
        if not _is_left_out(module):
            waiting += [name for name in imported(module) if _is_module(name, package)]
    return sorted(found)


def imported(module: str) -> list[str]:
    """Lists the modules that a module of jaxfuse imports, and names that may be such."""
    path = _file_of(module, Path(jaxfuse.__file__).parent)
    return list(_imported(ast.parse(path.read_text(encoding="utf-8"))))


def foreign() -> dict[str, list[str]]:
    """Lists the libraries that the modules import beside `LIBRARIES` and the standard one, each with its importers."""
    found: dict[str, list[str]] = {}
    for module in carried():
        for name in () if _is_left_out(module) else imported(module):
            top = name.partition(".")[0]
            if top not in {*sys.stdlib_module_names, *LIBRARIES, PACKAGE, "jaxtyping"}:
                found.setdefault(top, []).append(module)
    return found


def renamed(source: str) -> str:
    """Returns a module's source with its imports from jaxfuse as those from the bundle's package."""
    names: Mapping[str, str] = {PACKAGE: RUNNER, "jaxtyping": f"{RUNNER}.{_ANNOTATIONS}"}
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            line = lines[node.lineno - 1]
            lines[node.lineno - 1] = _IMPORT.sub(lambda found: found[1] + names[found[2]], line)
    return "".join(lines)


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _is_module(name: str, package: Path) -> bool:
    return name.startswith(f"{PACKAGE}.") and _file_of(name, package).is_file()


def _file_of(module: str, package: Path) -> Path:
    path = package.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _is_left_out(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in LEFT_OUT)
