"""Sentences of the commands in the words of Python: options without their dashes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from jaxfuse.errors import UserError

# A flag, but not in a command that is quoted whole.
_FLAG = re.compile(r"(python -m [\w.]+ )?(?<![\w-])--(?:config[. ])?([A-Za-z][\w.]*)")


def in_python(sentence: str) -> str:
    """Returns a sentence with the options that it names as arguments: "pass --overwrite" becomes "pass overwrite"."""
    return _FLAG.sub(lambda found: found[0] if found[1] else found[2], sentence)


@contextmanager
def told_in_python() -> Iterator[None]:
    """Lets each `UserError` of what is done inside speak of arguments."""
    try:
        yield
    except UserError as error:
        error.args = (in_python(str(error)),)
        raise
