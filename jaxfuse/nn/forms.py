"""Checks of forms, the frozen records of what a recipe may choose about a network."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from jaxfuse.errors import UserError


def check_choices(form: Any, known: Mapping[str, Collection[Any]]) -> None:
    """Refuses a form with an option that has none of its known values.

    Raises:
        UserError: names the option, its value and the known ones.
    """
    for name, values in known.items():
        if (value := getattr(form, name)) not in values:
            raise UserError(f"{name} is {value!r}; choose one of {', '.join(map(str, values))}")


def check_least(form: Any, least: Mapping[str, int]) -> None:
    """Refuses a form with an option below its least value.

    Raises:
        UserError: names the option, its value and the least one.
    """
    for name, minimum in least.items():
        if (value := getattr(form, name)) < minimum:
            raise UserError(f"{name} is {value}; give at least {minimum}")
