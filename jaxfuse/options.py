"""Options of a recipe as arguments: names become functions, and flat options fill the forms of a model."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from jaxfuse.errors import UserError


def resolve(name: str, *, package: str = "jaxfuse") -> Callable[..., Any]:
    """The function "module:function", looked for under `package` and then as a dotted path of its own."""
    module, _, function = name.partition(":")
    if not module or not function:
        raise UserError(f"{name!r} is not understood; write module:function")
    for path in (f"{package}.{module}", module):
        if importlib.util.find_spec(path.partition(".")[0]) is None:
            continue
        try:
            found = importlib.import_module(path)
        except ModuleNotFoundError as error:
            if error.name and path.startswith(error.name):
                continue
            raise
        if not hasattr(found, function):
            raise UserError(f"{name!r} names a function that {path} lacks")
        return getattr(found, function)
    raise UserError(f"{name!r} names no module of {package} and no importable module")


def grouped(make: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as arguments of `make`: a parameter whose default is a dataclass, a form, takes those of its fields.

    A flat option goes to every parameter of its name and every form that has such a field. {form: {field: value}}
    addresses one form alone, and wins there over the flat option.

    Raises:
        UserError: an option is neither a parameter nor a field of one.
    """
    parameters = inspect.signature(make).parameters
    forms = {name: p.default for name, p in parameters.items() if is_dataclass(p.default)}
    flat = {name: value for name, value in options.items() if name not in forms}
    args = {name: value for name, value in flat.items() if name in parameters}
    known = set(args)
    for name, form in forms.items():
        of_form = {f.name for f in fields(form)}
        addressed = options.get(name, {})
        if not _is_group(addressed):
            raise UserError(f"has no option {name} of its own, but the group {name} of {', '.join(sorted(of_form))}")
        if wrong := sorted(f"{name}.{key}" for key in set(addressed) - of_form):
            raise UserError(f"has no option {', '.join(wrong)}")
        own = {key: value for key, value in flat.items() if key in of_form}
        args[name] = replace(form, **{**own, **dict(addressed.items())})  # pyright: ignore[reportArgumentType]
        known |= set(own)
    if stray := sorted(set(flat) - known):
        raise UserError(f"has no option {', '.join(stray)}")
    return args


def merge(shared: Any, own: Any) -> dict[str, Any]:
    """The options of both; those of `own` win, group by group."""
    merged = dict(shared.items())
    for name, value in own.items():
        both = _is_group(value) and _is_group(merged.get(name))
        merged[name] = merge(merged[name], value) if both else value
    return merged


def with_initializers(options: Any) -> dict[str, Any]:
    """The options, each named initializer in them resolved."""

    def one(name: str, value: Any) -> Any:
        if _is_group(value):
            return with_initializers(value)
        return resolve(value)() if name == "kernel_init" else value

    return {name: one(name, value) for name, value in options.items()}


def _is_group(value: Any) -> bool:
    return hasattr(value, "items")
