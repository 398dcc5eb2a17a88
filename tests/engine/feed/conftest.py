"""Cases of several sizes, and samplers of every kind on them."""

from dataclasses import replace

import numpy as np
import pytest

from jaxfuse.data.pipeline import PatchSampler
from jaxfuse.data.sampling import sampling_rule
from jaxfuse.data.streams import Stream, Streams
from tests.engine.valid_phases import on_disk

SIDES = {3: ((9, 12, 7), (11, 8, 10), (6, 7, 9)), 2: ((9, 12), (11, 8), (6, 7))}
PATCH = {3: (8, 6, 8), 2: (8, 10)}


@pytest.fixture(scope="package")
def cases(tmp_path_factory):
    """By number of axes: cases on disk with one labeled voxel each, some sides shorter than `PATCH`."""
    folder, made = tmp_path_factory.mktemp("cases"), {}
    for axes, shapes in SIDES.items():
        labels = [np.zeros(shape, np.uint8) for shape in shapes]
        for number, label in enumerate(labels):
            label[(number + 3,) * axes] = 1
        made[axes] = tuple(on_disk(folder, f"case{axes}{i}", label) for i, label in enumerate(labels))
    return made


@pytest.fixture(scope="package")
def sampler(cases):
    """A function from what differs to a sampler."""

    def make(
        axes: int, sampling: str, *, flip: float = 0.5, halves: bool = False, lacking: bool = False, **options
    ) -> PatchSampler:
        bare = options.get("unlabeled", False)
        streams = Streams(Stream(("a",), (0, 2)), Stream(("b",), (1,))) if halves else None
        rule = sampling_rule(sampling, {"grid": 1} if sampling == "foreground" else None)
        options = {"unpaired": False, **options}
        first, *others = cases[axes]
        if lacking:
            first = replace(first, facts=replace(first.facts, presence=(False, True)))
        if bare:
            first = replace(first, facts=replace(first.facts, voxels_per_class=()))
        return PatchSampler((first, *others), PATCH[axes], rule.center, flip, streams=streams, **options)

    return make
