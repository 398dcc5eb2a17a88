"""The exceptions that a user is meant to read."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake at the border: one plain sentence says what came, what was expected and what to do.

    Commands print it on standard error, without traceback, and exit with code 2. Whoever uses the library may catch
    it as a ValueError.
    """


class OutputError(UserError):
    """A place that cannot be written, such as a full disk: other cases would meet it as well."""


class Unfinished(Exception):
    """Work that ends before its end, with a code of exit; what was done stays.

    Commands print the message on standard error.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Stopped(Unfinished):
    """A run that ends before its end and can be resumed: by a signal, or because its numbers are no longer finite.

    Its exit code is 128 + the signal's number, or 1.
    """


class CasesLeftOut(Unfinished):
    """A batch of which some cases could not be done; the message lists all of them.

    Its exit code is 1, or 2 where none was done.
    """
