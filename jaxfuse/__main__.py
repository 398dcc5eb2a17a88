"""jaxfuse COMMAND [options]

Multi-modal brain MRI: trains networks that segment, synthesize and fuse, and applies them. `jaxfuse COMMAND` is
`python -m jaxfuse.COMMAND`, with the same options; --help after a command lists them.
"""

from __future__ import annotations

import difflib
import runpy
import sys

import jaxfuse
from jaxfuse.commands import COMMANDS, module_of

_HELP = ("-h", "--help", "-help", "--helpshort", "help")
_VERSION = ("-V", "--version", "-version", "version")


def main() -> int:
    """Runs the command that the first argument names; returns the code of exit where none is run."""
    _, name, *rest = [*sys.argv, ""]
    if name in ("", *_HELP):
        print(overview(), file=sys.stdout if name else sys.stderr)
        return 0 if name else 2
    if name in _VERSION:
        print(f"jaxfuse {jaxfuse.__version__}")
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name.replace("-", "_"), COMMANDS, 1)
        advice = f"did you mean jaxfuse {near[0]}?" if near else f"choose one of {', '.join(COMMANDS)}"
        print(f"error: {name!r} is no command of jaxfuse; {advice}", file=sys.stderr)
        return 2
    sys.argv = [f"jaxfuse {name}", *rest[:-1]]
    # As `python -m` does it: help, spawned workers and what a run notes of itself see the same module.
    runpy.run_module(module_of(name), run_name="__main__", alter_sys=True)
    return 0


def overview() -> str:
    """Returns what the commands are, a line for each."""
    width = max(map(len, COMMANDS)) + 2
    return "\n".join([__doc__ or "", *(f"  {name:<{width}}{told}" for name, told in COMMANDS.items())])


if __name__ == "__main__":
    sys.exit(main())
