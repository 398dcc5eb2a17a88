"""The checker of annotations while tests run; `conftest.py` installs it before jaxfuse is imported.

It checks functions and dataclasses whose annotations name a shape. All others are checked by pyright, without a run:
to check those as well would make the tests a third longer.
"""

import ast
import builtins
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, get_args
from unittest.mock import patch

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, AbstractDtype, _import_hook, install_import_hook, jaxtyped

# The tower lets an int stand where a float is expected, as PEP 484 and pyright do.
checked_shapes = beartype(conf=BeartypeConf(is_pep484_tower=True))
_UNKNOWN = object()


def shapes_checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function, which checks its arguments and its result where one of them has a shape."""
    annotations = getattr(function, "__annotations__", {}).values()
    names = {**vars(builtins), **getattr(function, "__globals__", {})}
    if not any(_is_shaped(found) for one in annotations for found in _named(one, names)):
        return function
    return jaxtyped(typechecker=checked_shapes)(function)


def _named(annotation: Any, names: dict[str, Any]) -> Iterator[Any]:
    """Yields what an annotation names, which stands in the source as a string."""
    if not isinstance(annotation, str):
        yield annotation
        return
    for part in ast.walk(_parsed(annotation)):
        if isinstance(part, ast.Name):
            yield names.get(part.id, _UNKNOWN)
        elif isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield _UNKNOWN


@cache
def _parsed(annotation: str) -> ast.Expression:
    return ast.parse(annotation, mode="eval")


def _is_shaped(named: Any) -> bool:
    """Tells whether it is an array of some shape, or has one within, or cannot be known yet."""
    if named is _UNKNOWN:
        return True
    if isinstance(named, type) and issubclass(named, AbstractArray | AbstractDtype):
        return True
    return any(_is_shaped(part) for part in get_args(named))


class _Transformer(_import_hook.JaxtypingTransformer):
    """Decorates dataclasses and functions; of functions within functions those with a shape in their annotations alone.

    These are decorated anew whenever the outer function runs, which takes longer than all else in tracing a network.
    """

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        inner = any(isinstance(parent, ast.FunctionDef) for parent in self._parents)
        own = len(node.decorator_list)
        super().visit_FunctionDef(node)
        given = node.decorator_list[own:]  # nothing where `no_type_check` stands
        if given and not inner:
            chosen = ast.parse("jaxtyping._import_hook.Typechecker.lookup['shapes']", mode="eval").body
            node.decorator_list[own:] = [ast.copy_location(chosen, given[0])]
        elif given and not _has_shape(node):
            del node.decorator_list[own:]
        return node


def _has_shape(node: ast.FunctionDef) -> bool:
    arguments = [child.annotation for child in ast.walk(node.args) if isinstance(child, ast.arg)]
    parts = [part for a in [*arguments, node.returns] if a is not None for part in ast.walk(a)]
    return any(isinstance(part, ast.Constant) and isinstance(part.value, str) for part in parts)


class _Loader(_import_hook._JaxtypingLoader):
    """Keeps compiled modules apart from those of other processes, also where a module's code is asked for by itself."""

    def get_code(self, fullname: str) -> Any:
        place = partial(_import_hook._optimized_cache_from_source, self._typechecker.get_hash())
        with patch("importlib._bootstrap_external.cache_from_source", place):
            return super().get_code(fullname)


def install() -> None:
    """From here on the annotations of every module of jaxfuse that is imported are checked."""
    _import_hook.JaxtypingTransformer = _Transformer
    _import_hook._JaxtypingLoader = _Loader
    _import_hook.Typechecker.lookup["shapes"] = shapes_checked
    # Compiled modules are kept by this name, which has to change with what is decorated.
    install_import_hook("jaxfuse", "tests.shape_checks.checked_shapes")
