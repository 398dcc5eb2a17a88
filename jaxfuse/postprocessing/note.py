"""The note of a post-processing in the header of a label map, which says what was applied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib

from jaxfuse.postprocessing.plan import Plan

_ON_IT = "chosen on this case"
_OPENING = "jaxfuse plan "
_ROOM = 79  # bytes of a header's description, and one that ends it


def note_of(plan: Plan, *, on_it: bool) -> str:
    """Returns the note, cut to what a header holds.

    Args:
        on_it: whether the plan was chosen on this very case.
    """
    opening = f"{_OPENING}{plan.digest}{f', {_ON_IT}' if on_it else ''}: "
    text = (opening + plan.told()).encode("ascii", "replace").decode()
    return text if len(text) <= _ROOM else f"{text[: _ROOM - 3]}..."


def chosen_on_it(path: Path) -> bool:
    """Tells whether the header of a label map says that its post-processing was chosen on the case itself."""
    stored: Any = nib.load(path).header  # pyright: ignore[reportAttributeAccessIssue]
    text = bytes(stored["descrip"]).rstrip(b"\0").decode("latin-1") if "descrip" in stored else ""
    return text.startswith(_OPENING) and _ON_IT in text.partition(":")[0]
