"""Checks of forms, the frozen records of what a recipe may choose about a network, and of what it is given."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from jaxfuse.arrays import Array
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


def check_not_negative(values: Mapping[str, float]) -> None:
    """Refuses numbers below 0.

    Raises:
        UserError: names the number and its value.
    """
    for name, value in values.items():
        if value < 0:
            raise UserError(f"{name} is {value}; it must not be negative")


def check_volume(image: Array, levels: int, *, called: str) -> None:
    """Refuses an image (b d h w m) that a network of so many levels cannot halve that often, down to sides of two.

    Args:
        called: the network, with its article.

    Raises:
        UserError: names the network, its levels and the sides that it takes.
    """
    divisor = 2 ** (levels - 1)
    if image.ndim != 5 or any(side % divisor or side < 2 * divisor for side in image.shape[1:-1]):
        raise UserError(
            f"{called} of {levels} levels takes images (b d h w m) whose sides are multiples of {divisor}, and at "
            f"least {2 * divisor}, got shape {image.shape}; change the patch size or the levels"
        )


def check_picture(image: Array, divisor: int, *, called: str) -> None:
    """Refuses an image that is not (b h w m), or whose sides are no multiples of a network's divisor.

    Args:
        called: the network, with its article.

    Raises:
        UserError: names the network and the sides that it takes.
    """
    if image.ndim != 4 or any(side < 1 or side % divisor for side in image.shape[1:3]):
        raise UserError(
            f"{called} takes images (b h w m) whose sides are multiples of {divisor}, got shape {image.shape}; pad or "
            "crop them"
        )
