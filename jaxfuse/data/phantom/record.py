"""A phantom data set on disk: written whole or not at all, and found again by what was asked for."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxfuse.errors import UserError

RECORD = "phantom.json"


def already_there(root: Path, request: dict[str, Any]) -> bool:
    """Whether `root` holds exactly the requested data set; refuses a root that holds anything else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    record = root / RECORD
    if not record.is_file():
        raise UserError(f"{root} exists and is no phantom data set (it has no {RECORD}); name another folder")
    try:
        found = json.loads(record.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{record} is not valid JSON ({error}); delete {root} or name another folder") from error
    if not isinstance(found, dict):
        raise UserError(f"{record} holds no JSON object; delete {root} or name another folder")
    if found != request:
        keys = [k for k in {**request, **found} if found.get(k) != request.get(k)]
        told = ", ".join(f"{k} {found.get(k)} there and {request.get(k)} asked for" for k in keys)
        raise UserError(f"{root} holds another phantom data set ({told}); delete it or name another folder")
    return True


def write_once(root: Path, request: dict[str, Any], fill: Callable[[Path], None]) -> None:
    """Has `fill` write the data set into a hidden sibling of `root` and renames that, unless it is there already.

    The request (JSON) lies beside the data in `phantom.json`. A run that is killed leaves only the hidden folder.

    Raises:
        UserError: where `root` holds something else.
    """
    if already_there(root, request):
        return
    partial = root.parent / f".{root.name}.partial-{os.getpid()}"
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
        fill(partial)
        (partial / RECORD).write_text(json.dumps(request, indent=2) + "\n")
        try:
            partial.rename(root)
        except OSError:
            # Another process may have finished the same request first.
            if not already_there(root, request):
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
