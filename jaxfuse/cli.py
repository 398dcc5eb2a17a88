"""What every command shares: flags in, one plain sentence and exit code 2 on a user's mistake."""

from __future__ import annotations

import sys
from collections.abc import Callable

from absl import app, flags, logging

from jaxfuse.errors import Stopped, UserError


def run(main: Callable[[list[str]], int | None]) -> None:
    """Runs `main(argv)` as an absl program; a `UserError` or a bad flag is one sentence and exit code 2."""

    def guarded(argv: list[str]) -> int:
        logging.set_verbosity(logging.WARNING)  # libraries report each file that they write
        try:
            return main(argv) or 0
        except UserError as error:
            return _refuse(error)
        except Stopped as stopped:
            print(stopped, file=sys.stderr)
            return stopped.exit_code

    app.run(guarded, flags_parser=_parse)


def no_arguments(argv: list[str]) -> None:
    """Refuses what is neither a flag nor a flag's value."""
    if argv[1:]:
        raise UserError(f"{argv[1]!r} is not understood; every setting is a flag, such as --workdir DIR")


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except UserError as error:
        sys.exit(_refuse(error))
    # ml_collections raises AttributeError or KeyError for an option that the config lacks, TypeError or
    # ValueError for a value of the wrong type, and OSError for a config file that is not there.
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        sys.exit(_refuse(_as_sentence(error)))


def _as_sentence(error: Exception) -> str:
    text = " ".join(str(error).split()).strip("\"'")
    return f"{text or type(error).__name__}; see the options with --helpshort, and those of a config in its file"


def _refuse(error: object) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2
