"""The exceptions that a user is meant to read."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake at the border: one plain sentence says what came, what was expected and what to do.

    Commands print it on standard error, without traceback, and exit with code 2. Whoever uses the library may catch
    it as a ValueError.
    """


class Stopped(Exception):
    """A run that ends before its end and can be resumed: by a signal, or because its numbers are no longer finite.

    Commands print the sentence and exit with `exit_code` (128 + the signal's number, or 1).
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
