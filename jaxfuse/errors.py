"""The one exception that a user is meant to read."""

from __future__ import annotations


class UserError(Exception):
    """A mistake at the border: one plain sentence says what came, what was expected and what to do.

    Commands print it on standard error, without traceback, and exit with code 2.
    """
