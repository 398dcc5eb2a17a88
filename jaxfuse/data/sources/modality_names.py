"""Names of modalities: those by which data sets of this field call one image, and the one that is used here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from jaxfuse.errors import UserError

# Letters and digits of a name -> canonical name.
_KNOWN: Mapping[str, str] = {
    **dict.fromkeys(("t1", "t1w", "t1n"), "t1"),
    **dict.fromkeys(("t1ce", "t1c", "t1gd", "t1wce", "t1wgd", "t1cw", "cet1", "cet1w"), "t1ce"),
    **dict.fromkeys(("t2", "t2w"), "t2"),
    **dict.fromkeys(("flair", "t2f", "t2flair"), "flair"),
}
_OTHER = re.compile(r"[^a-z0-9]+")


def canonical_name(name: str) -> str:
    """Returns t1, t1ce, t2 or flair for their usual names, else the name in small letters, digits and underscores."""
    small = name.strip().lower()
    return _KNOWN.get(_OTHER.sub("", small), _OTHER.sub("_", small).strip("_"))


def canonical_names(names: Iterable[str], *, said_by: object) -> tuple[str, ...]:
    """Returns the canonical names in their order; refuses two that are alike, and one without a letter or a digit."""
    given = tuple(names)
    found = tuple(map(canonical_name, given))
    if "" in found or len(set(found)) < len(found):
        raise UserError(
            f"{said_by} names the images {', '.join(map(repr, given))}, which are {', '.join(map(repr, found))} here; "
            "give each a name of its own"
        )
    return found
