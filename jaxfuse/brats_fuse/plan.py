"""What is to be built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxfuse.brats_fuse.layout import Layout
from jaxfuse.data.cases import CaseFiles
from jaxfuse.labels import LabelScheme


@dataclass(frozen=True)
class Plan:
    """The cases and how they are cut and fused.

    Attributes:
        files: the cases, by id.
        split_of: case id -> train, val or test.
        seen: ids of cases that the network was trained on.
        layout: the files of a slice.
        scheme: of the labels.
        one_per_case: only the slice with the largest tumor of each case.
        channels: the modalities in the order in which the network takes them.
    """

    files: tuple[CaseFiles, ...]
    split_of: Mapping[str, str]
    seen: frozenset[str]
    layout: Layout
    scheme: LabelScheme
    one_per_case: bool
    channels: tuple[str, ...]
