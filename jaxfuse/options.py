"""Options of a recipe: groups are checked, names become functions, and groups fill the forms of a model."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from jaxfuse.errors import UserError


def resolve(name: str, *, package: str = "jaxfuse") -> Callable[..., Any]:
    """Returns the function "module:function", looked for under `package` and then as a dotted path of its own.

    Raises:
        UserError: there is no such module or function.
    """
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
    """Returns options as arguments of `make`.

    A parameter whose default is a dataclass is a form. Its fields are addressed as a group, {form: {field: value}};
    those that are not named keep their defaults. All other parameters are options of their own name.

    Raises:
        UserError: an option is neither a parameter nor a field of the form that it is addressed to.
    """
    parameters = inspect.signature(make).parameters
    forms = {name: p.default for name, p in parameters.items() if is_dataclass(p.default)}
    if stray := sorted(set(options) - set(parameters)):
        places = [f"{form}.{stray[0]}" for form, default in forms.items() if stray[0] in _fields(default)]
        advice = f"; write {' or '.join(places)}" if places else ""
        raise UserError(f"has no option {', '.join(stray)}{advice}")
    plain = {name: value for name, value in options.items() if name not in forms}
    return plain | {name: _filled(name, form, options.get(name, {})) for name, form in forms.items()}


def _filled(name: str, form: Any, group: Any) -> Any:
    """The form with the fields that a group addresses."""
    known = _fields(form)
    if not is_group(group):
        raise UserError(f"has no option {name} of its own, but the group {name} of {', '.join(known)}")
    if wrong := sorted(f"{name}.{key}" for key in set(group) - set(known)):
        raise UserError(f"has no option {', '.join(wrong)}")
    return replace(form, **dict(group.items()))


def _fields(form: Any) -> list[str]:
    return sorted(f.name for f in fields(form))


def merge(shared: Any, own: Any) -> dict[str, Any]:
    """Returns the options of both; those of `own` win, group by group."""
    merged = dict(shared.items())
    for name, value in own.items():
        both = is_group(value) and is_group(merged.get(name))
        merged[name] = merge(merged[name], value) if both else value
    return merged


def given(options: Any) -> dict[str, Any]:
    """Returns the options of a group, and of the groups in it, that are not None."""
    groups = {name: given(value) for name, value in options.items() if is_group(value)}
    plain = {name: value for name, value in options.items() if not is_group(value) and value is not None}
    return {**plain, **{name: group for name, group in groups.items() if group}}


def with_functions(options: Any) -> dict[str, Any]:
    """Returns the options, each initializer, and each bi-level scheme of one's own, that they name resolved."""

    def one(name: str, value: Any) -> Any:
        if is_group(value):
            return with_functions(value)
        if name == "bilevel" and isinstance(value, str) and ":" in value:
            return resolve(value, package="jaxfuse.learning")
        return resolve(value)() if name == "kernel_init" else value

    return {name: one(name, value) for name, value in options.items()}


# The choice of an option that a run's devices settle, and what it is where nothing did: `jaxfuse.engine.settled`.
AUTO = "auto"
_UNSETTLED = {"dtype": "float32", "remat": "off"}
_SWITCH = {"on": True, "off": False}


def with_switches(options: Any, *, where: str) -> dict[str, Any]:
    """Returns the options, `remat` as True or False; `auto` that nothing settled is that of a machine without a GPU.

    Raises:
        UserError: `remat` is something else than auto, on or off.
    """

    def one(name: str, value: Any) -> Any:
        if is_group(value):
            return with_switches(value, where=where)
        value = _UNSETTLED[name] if name in _UNSETTLED and value == AUTO else value
        if name == "remat" and value not in _SWITCH:
            raise UserError(f"{where}: remat is {value!r}; choose one of {AUTO}, {', '.join(_SWITCH)}")
        return _SWITCH[value] if name == "remat" else value

    return {name: one(name, value) for name, value in options.items()}


def is_group(value: Any) -> bool:
    """Tells whether an option is a group of options."""
    return hasattr(value, "items")


def flat(group: Any, *, without: Collection[str] = ()) -> dict[str, Any]:
    """Returns the options of a group and of the groups in it, by dotted names, but for those named in `without`."""
    values: dict[str, Any] = {}
    for key, value in group.items():
        if key not in without:
            values |= {f"{key}.{name}": v for name, v in flat(value).items()} if is_group(value) else {key: value}
    return values


def record(kind: Any, where: str, group: Any, *, optional: Collection[str] = (), **least: int) -> Any:
    """Returns a group as a dataclass, whose fields it names one by one; those in `least` are at least so much.

    Those that are `optional` may be left out.

    Raises:
        UserError: the group lacks a field, has another one, or a value is too small.
    """
    same_keys(where, group, {f.name for f in fields(kind)}, optional=optional)
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
