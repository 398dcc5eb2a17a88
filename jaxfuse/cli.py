"""The frame of every command: flags in; one plain sentence and exit code 2 on a user's mistake."""

from __future__ import annotations

import io
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from jaxfuse import last_error, named_recipe
from jaxfuse.errors import Unfinished, UserError, machine_sentence

# Errors by which a failing machine shows itself, among others.
_OF_MACHINES = (OSError, MemoryError, RuntimeError, AssertionError)
# Part of a message of the flag parser -> what was expected.
_EXPECTED = {
    "for int()": "a whole number",
    "string to float": "a number",
    "Non-boolean": "True or False",
    "as tuple": 'a tuple, such as "(16,16,16)",',
    "as a ConfigDict": "a value of one option below this group",
}


def run(main: Callable[[list[str]], int | None]) -> None:
    """Runs `main(argv)` as an absl program; a `UserError` or a bad flag is one sentence and exit code 2."""

    def guarded(argv: list[str]) -> int:
        logging.set_verbosity(logging.WARNING)  # libraries report each file that they write
        try:
            return main(argv) or 0
        except UserError as error:
            return _refuse(error)
        except Unfinished as ended:
            if str(ended):  # else another process of the run says why
                print(ended, file=sys.stderr)
                last_error.keep(str(ended))
            return ended.exit_code
        except BrokenPipeError:  # whoever read the output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except Exception as error:
            if isinstance(error, _OF_MACHINES) and (sentence := machine_sentence(error)):
                return _refuse(sentence)
            last_error.keep(traceback.format_exc())
            raise

    warnings.formatwarning = lambda message, *place, **line: f"warning: {message}\n"
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may know ASCII only
    app.run(guarded, flags_parser=_parse)


def no_arguments(argv: list[str]) -> None:
    """Refuses what is neither a flag nor a flag's value."""
    if argv[1:]:
        raise UserError(f"{argv[1]!r} is not understood; every setting is a flag, such as --workdir DIR")


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(named_recipe.gathered(argv) if "config" in flags.FLAGS else argv)
    # ml_collections raises AttributeError, KeyError or TypeError for an option that the config lacks.
    except (AttributeError, KeyError, TypeError) as error:
        sys.exit(_refuse(_unknown_option(error, argv)))
    except (flags.Error, ValueError) as error:
        sys.exit(_refuse(_raised_first(error) or _bad_flag(error)))


def _raised_first(error: BaseException | None) -> UserError | None:
    """Returns the error of the config's own file, which ml_collections and absl each wrap in a ValueError."""
    found = None
    while error is not None:
        found = error if isinstance(error, UserError) else found
        error = error.__context__
    return found


def _unknown_option(error: Exception, argv: Sequence[str]) -> str:
    """Tells which argument names an option that the config lacks, and the nearest option that it has."""
    text = str(error.args[0] if error.args else error)
    # The name stands in it in several ways, among others within two pairs of quotation marks.
    words = set(re.findall(r"\w+", text.partition("Did you mean")[0]))
    near = re.search(r'Did you mean "([^"]+)"', text)
    for argument in argv[1:]:
        path = argument.partition("=")[0]
        if path.startswith("--config.") and not words.isdisjoint(path.split(".")[1:]):
            advice = f'did you mean "{near.group(1)}"?' if near else "its options stand in the config's file"
            return f"{argument} names an option that the config lacks; {advice}"
    return f"the config cannot be read: {type(error).__name__} {_one_line(text)}; correct the config's file"


def _bad_flag(error: Exception) -> str:
    """Says in one way what absl says in several: what came, what was expected, what to do."""
    text = _one_line(str(error))
    if missing := re.search(r"Flag (--\S+) must have a value other than None", text):
        first = "; a recipe may also stand first, such as jaxfuse train cmff" if missing.group(1) == "--config" else ""
        return f"{missing.group(1)} is not given and has to be{first}; see the options with --helpshort"
    if early := re.match(r"Unknown command line flag '(config\.[\w.]+)'", text):
        return f"--{early.group(1)} is an option of a recipe, and none is named; name it with --config"
    if unknown := re.match(r"Unknown command line flag '(\w+)'(?:\. Did you mean: (\w+) \?)?", text):
        near = f"did you mean --{unknown.group(2)}? " if unknown.group(2) else ""
        return f"--{unknown.group(1)} is no option of this command; {near}see the options with --helpshort"
    argument, colon, reason = text.removeprefix("flag ").partition(": ")
    if text.startswith("flag ") and colon:
        expected = next((kind for sign, kind in _EXPECTED.items() if sign in reason), "")
        return f"{argument} is not understood; {f'{expected} is expected' if expected else reason}: correct the value"
    return f"{text.rstrip('.')}; see the options with --helpshort"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _refuse(error: object) -> int:
    print(f"error: {error}", file=sys.stderr)
    last_error.keep(str(error))
    return 2
