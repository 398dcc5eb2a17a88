"""Lines of measurements: printed, and added to a file, at once."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def add_out(parser: argparse.ArgumentParser) -> None:
    """Adds the option of the file that lines go to."""
    parser.add_argument("--out", type=Path, help="file that the lines are added to, beside being printed")


def write(lines: Iterable[dict[str, Any]], out: Path | None) -> None:
    """Prints each line of JSON when it comes, and adds it to the file, if one is named."""
    for line in lines:
        text = json.dumps(line)
        print(text, flush=True)
        if out:
            with out.open("a", encoding="utf-8") as file:
                file.write(text + "\n")
