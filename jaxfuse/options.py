"""Options of a recipe: groups are checked, names become functions, flat options fill the forms of a model."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Collection, Mapping
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
        if not is_group(addressed):
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
        both = is_group(value) and is_group(merged.get(name))
        merged[name] = merge(merged[name], value) if both else value
    return merged


def with_initializers(options: Any) -> dict[str, Any]:
    """The options, each named initializer in them resolved."""

    def one(name: str, value: Any) -> Any:
        if is_group(value):
            return with_initializers(value)
        return resolve(value)() if name == "kernel_init" else value

    return {name: one(name, value) for name, value in options.items()}


def is_group(value: Any) -> bool:
    """Whether an option is a group of options."""
    return hasattr(value, "items")


def flat(group: Any, *, without: Collection[str] = ()) -> dict[str, Any]:
    """The options of a group and of the groups in it, by dotted names; those of the group that `without` names go."""
    values: dict[str, Any] = {}
    for key, value in group.items():
        if key not in without:
            values |= {f"{key}.{name}": v for name, v in flat(value).items()} if is_group(value) else {key: value}
    return values


def record(kind: Any, where: str, group: Any, **least: int) -> Any:
    """A group as a dataclass, whose fields it names one by one; those in `least` are at least so much."""
    same_keys(where, group, {f.name for f in fields(kind)})
    at_least(f"{where}.", group, **least)
    return kind(**dict(group.items()))


def at_least(prefix: str, group: Any, **least: int) -> None:
    """Refuses options of a group that are smaller than these."""
    for option, minimum in least.items():
        if group[option] < minimum:
            raise UserError(f"{prefix}{option} is {group[option]}; it must be at least {minimum}")


def same_keys(where: str, group: Any, known: Collection[str], *, optional: Collection[str] = ()) -> None:
    """Refuses a group with other options than those known, or without one of them that is not optional."""
    if unknown := sorted(set(group) - set(known)):
        raise UserError(f"{where} has no option {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    if absent := sorted(set(known) - set(optional) - set(group)):
        raise UserError(f"{where} lacks {', '.join(absent)}")
