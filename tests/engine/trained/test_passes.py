"""Passes that replace the settings of a validation, for one network and for several; what means nothing to them."""

from dataclasses import replace

import pytest

from jaxfuse.data.slices import AXES
from jaxfuse.engine.trained.passes import PATCHES, Passes, each_of, way_of
from jaxfuse.inference.large_tiles import MEGABYTE
from jaxfuse.learning.system import Geometry
from jaxfuse.models.baselines.pointwise import make_system as make_fusing
from jaxfuse.prediction.predictor import Way, seen_axes
from tests.engine.valid_phases import TINY, valid_phase
from tests.refusals import refused
from tests.tiny_systems import gradient_descent, valid_system
from tests.untrained_run import fixed_system

CUBES, SQUARES = fixed_system(Geometry(3, 1), "S"), fixed_system(Geometry(2, 1), "S")
VALIDATION = replace(TINY.validation, overlap=0.25, memory_mb=0, weighting="gaussian", mirror="0,2")
PHASE = replace(TINY, name="p", validation=VALIDATION)


def test_passes_replace_the_settings_of_the_validation():
    assert way_of(PATCHES, PHASE, CUBES, 2) == Way(0.25, 0, "gaussian", (0, 2))
    assert way_of(Passes(overlap=0.0, weighting="equal", mirror="none"), PHASE, CUBES, 2) == Way(0.0, 0, "equal", ())
    valid = valid_system(2, channels=(0, 1))
    assert way_of(Passes(memory_mb=3), PHASE, valid, 2) == Way(0.25, 3 * MEGABYTE, "gaussian", (0, 2))


@pytest.mark.parametrize(("axis", "seen"), [("axial", (1, 0)), ("coronal", (2, 0)), ("sagittal", (2, 1))])
def test_slices_are_mirrored_along_the_axes_of_their_plane(axis, seen):
    across = AXES[axis]
    assert seen_axes(SQUARES.geometry.ndim, across) == seen
    assert way_of(Passes(mirror="all"), PHASE, SQUARES, across).mirror == tuple(sorted(seen))
    assert way_of(Passes(mirror=str(seen[0])), PHASE, SQUARES, across).mirror == seen[:1]
    told = f"mirror is {across}, but the slices of phase p lie across axis {across}, and each is the same in a mirror"
    refused(told, way_of, Passes(mirror=str(across)), PHASE, SQUARES, across)


def test_what_means_nothing_to_a_network_is_refused():
    refused("memory_mb is 5, but the network of phase p has no valid", way_of, Passes(memory_mb=5), PHASE, CUBES, 2)
    side_by_side = valid_phase(validation={"weighting": "gaussian"})
    told = (
        "weighting is gaussian, but the tiles of phase .*, of valid convolutions, lie side by side at overlap 0; give"
    )
    refused(told, way_of, PATCHES, side_by_side, valid_system(2, channels=(0, 1)), 2)
    fusing = make_fusing(optimizers=gradient_descent("fusion"), modalities=("mri", "ct"))
    for overlap, weighting in ((0.5, "equal"), (0.0, "gaussian")):
        told = f"overlap is {overlap} and weighting {weighting}, but phase p fuses each picture in one pass"
        refused(told, way_of, Passes(overlap=overlap, weighting=weighting, mirror="none"), PHASE, fusing, 2)
    assert way_of(Passes(overlap=0.0, weighting="equal", mirror="0"), PHASE, fusing, 2).mirror == (0,)
    for name, value in (("overlap", 0.5), ("memory_mb", 5), ("weighting", "gaussian")):
        refused(f"in one pass, for which --{name} means nothing", Passes, whole=True, **{name: value})
    assert Passes(whole=True, mirror="all").mirror == "all"
    refused("mirror is 'up'; choose none, all or axes", Passes, mirror="up")
    refused("weighting is 'gauss'; choose equal or gaussian", Passes, weighting="gauss")
    refused("memory_mb is -1; give a limit in MB, or 0", Passes, memory_mb=-1)


def test_each_of_several_networks_takes_what_means_something_to_it():
    valid, flat = Geometry(3, 1, margin=2), Geometry(2, 1)
    beside = replace(PHASE, validation=replace(VALIDATION, overlap=0.0))
    members = [("valid", beside, valid, 2), ("axial", PHASE, flat, 2), ("coronal", PHASE, flat, 1)]
    found = each_of(Passes(memory_mb=5, weighting="gaussian", mirror="1"), members)
    assert [one.memory_mb for one in found] == [5, None, None]
    assert [one.weighting for one in found] == ["equal", "gaussian", "gaussian"]
    assert [one.mirror for one in found] == ["1", "1", "none"]
    assert each_of(Passes(mirror="all"), members) == [Passes(mirror="all")] * 3
    assert each_of(PATCHES, members) == [PATCHES] * 3


def test_what_means_nothing_to_any_of_several_networks_is_refused():
    flat = [(name, PHASE, Geometry(2, 1), 2) for name in ("a", "b")]
    beside = replace(PHASE, validation=replace(VALIDATION, overlap=0.0))
    valid = [("v", beside, Geometry(3, 1, margin=2), 2)]
    refused("memory_mb is 5, but no network of a, b has valid convolutions", each_of, Passes(memory_mb=5), flat)
    refused("mirror is 0,2, but all slices of a, b lie across axis 2, and", each_of, Passes(mirror="0,2"), flat)
    refused("weighting is gaussian, but the tiles of v, of valid", each_of, Passes(weighting="gaussian"), valid)
