"""Sentences on cases that lack modalities: which images are 0, and which subsets a network was never shown."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from jaxfuse.data.cases import CaseFiles
from jaxfuse.data.presence import present, subset_name

WARNING = "Warning: "


def told_of(
    files: Sequence[CaseFiles], modalities: Sequence[str], shown: Iterable[tuple[str, Collection[str]]]
) -> list[str]:
    """Says which cases lack modalities, and which have a subset that a network has never been shown.

    Args:
        modalities: those that the networks read.
        shown: of each network its name, and the subsets that its training showed it, by name. They may hold modalities
            that it does not read.
    """
    subsets = {one.id: subset_name(present(modalities, one.images), modalities) for one in files}
    whole = subset_name((True,) * len(modalities), modalities)
    lacking = {case: subset for case, subset in subsets.items() if subset != whole}
    said = [f"case {case} has {subset} alone; its other modalities are 0" for case, subset in lacking.items()]
    for name, named in shown:
        seen = {frozenset(one.split("+")) & frozenset(modalities) for one in named}
        said += [
            f"{WARNING}case {case} has {subset} alone, which {name} was never shown in training"
            for case, subset in subsets.items()
            if frozenset(subset.split("+")) not in seen
        ]
    return said
