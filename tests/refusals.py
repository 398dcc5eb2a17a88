"""Refusals of bad input, asserted in one line."""

from collections.abc import Callable
from typing import Any

import pytest

from jaxfuse.errors import UserError


def refused(message: str, call: Callable[..., Any], /, *args: Any, **options: Any) -> None:
    """Asserts that the call raises a `UserError` whose sentence matches the pattern `message`."""
    with pytest.raises(UserError, match=message):
        call(*args, **options)
