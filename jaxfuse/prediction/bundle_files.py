"""The files of an exported bundle, and what is wrong with them; the standard library is enough for it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

# What a bundle holds beside its programs and its modules.
HASHES, RECORD, PREPARATION = "hashes.json", "bundle.json", "preparation.json"
WEIGHTS, PLAN, PROGRAMS = "weights.safetensors", "postprocessing.json", "programs"
# The form of all of these; a reader knows one.
FORMAT = 2


def digest_of(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damage_of(folder: Path) -> str:
    """Says in one sentence what is wrong with a bundle's files; "" where all are as they were written."""
    advice = "fetch the bundle again, or export the run anew"
    try:
        listed = json.loads((folder / HASHES).read_text(encoding="utf-8"))
    except OSError:
        return f"{folder} is no bundle: it has no {HASHES}; name a folder that `jaxfuse.export` has written"
    except (ValueError, RecursionError):
        listed = None
    if not isinstance(listed, dict) or not {RECORD, PREPARATION, WEIGHTS} <= listed.keys():
        return f"{folder / HASHES} is damaged; {advice}"
    for name, digest in listed.items():
        try:
            found = digest_of(folder / name)
        except OSError as error:
            return f"{folder / name} cannot be read ({error.strerror}); {advice}"
        if found != digest:
            return f"{folder / name} is not as it was written; {advice}"
    return ""
