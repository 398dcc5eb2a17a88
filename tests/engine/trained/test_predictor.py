"""Volumes from tiles of any size, by networks that lose a margin, and from slices along their axis."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.data.sampling import sampling_rule
from jaxfuse.data.slices import AXES
from jaxfuse.engine.devices.placement import Placement
from jaxfuse.engine.trained.passes import Passes
from jaxfuse.engine.trained.predictor import case_predictor
from jaxfuse.inference.tiling import Asked
from jaxfuse.learning.system import Geometry, Segmentation
from tests.engine.valid_phases import drawn, valid_phase, volume
from tests.refusals import refused
from tests.untrained_run import fixed_system, state_of

ASKED = Asked(values=("valid",))


def test_larger_tiles_change_no_answer():
    """A limit that is given later replaces that of the phase."""
    case, shapes = volume(), []
    system, weights = drawn(valid_phase())
    padded = np.pad(case.image, [(2, 2)] * 3 + [(0, 0)])[None]
    expected = system.predict(weights, {"image": jnp.asarray(padded)})["valid"][0]
    for memory_mb, later in ((0, None), (1, None), (100, None), (0, 100)):
        seen = []
        predict = case_predictor(
            _noting(system, seen), valid_phase(memory_mb=memory_mb), passes=Passes(memory_mb=later)
        )
        np.testing.assert_allclose(predict(weights, case, ASKED)["valid"], expected, atol=1e-5)
        shapes.append(set(seen))
    assert shapes[0] == {(3, 9, 9, 9, 2)}
    assert (3, 24, 7, 15, 2) in shapes[2] & shapes[3]  # one tile


def test_one_limit_of_memory_compiles_few_programs():
    """The programs whose memory is asked for are those that run; cases of like sides share them."""
    system, weights = drawn(valid_phase())
    predict, compiled = case_predictor(system, valid_phase(memory_mb=2)), []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, _, **told: compiled.append(told) if name.endswith("backend_compile_duration") else None
    )
    for shape in ((40, 33, 30), (39, 31, 29), (38, 33, 26)):
        assert predict(weights, volume(shape), ASKED)["valid"].shape == (*shape, 2)
    jax.monitoring.clear_event_listeners()
    assert 1 <= len(compiled) <= 4


def test_labels_are_those_of_the_values_and_other_outputs_are_made_of_tiles_where_asked_for():
    system, weights = drawn(valid_phase())
    predict, case = case_predictor(system, valid_phase()), volume()

    def alongside(tiles, outputs):
        assert tiles["image"].shape[1:4] == (9, 9, 9)
        return {"doubled": 2 * outputs["valid"]}

    values = predict(weights, case, Asked(values=("valid", "doubled"), alongside=alongside))
    np.testing.assert_allclose(values["doubled"], 2 * values["valid"], rtol=1e-6)
    labels = predict(weights, case, Asked(labels=("valid",)))
    assert {name: one.dtype.name for name, one in labels.items()} == {"valid": "uint8"}
    np.testing.assert_array_equal(labels["valid"], values["valid"].argmax(-1))


def _noting(system, seen):
    """The System, noting what its prediction is traced with."""

    class Noting(Segmentation):
        def predict(self, state, inputs):
            seen.append(inputs["image"].shape)
            return super().predict(state, inputs)

    return Noting(**vars(system))


@pytest.mark.parametrize(("axis", "memory_mb"), [("axial", 0), ("coronal", 1), ("sagittal", 0)])
def test_a_network_of_slices_goes_along_its_axis(axis, memory_mb):
    case, across = volume((6, 9, 7)), AXES[axis]
    phase = valid_phase(3, patch=(13, 11), memory_mb=memory_mb)
    system, weights = drawn(phase)
    (made,) = case_predictor(system, phase, axis=across)(weights, case, ASKED).values()
    # The slice by hand: columns and rows, both from their far ends.
    picture = np.take(case.image, 2, axis=across).swapaxes(0, 1)[::-1, ::-1]
    padded = np.pad(picture, [(3, 3), (3, 3), (0, 0)])[None]
    expected = np.asarray(system.predict(weights, {"image": jnp.asarray(padded)})["valid"][0])
    np.testing.assert_allclose(np.take(made, 2, axis=across), expected[::-1, ::-1].swapaxes(0, 1), atol=1e-5)


def test_whole_pictures_lie_in_the_middle_as_they_did_in_training():
    """A network that answers, for every pixel, where in the patch it lies."""
    phase = valid_phase(1, patch=(9, 10), sampling=sampling_rule("whole"), pad=True)

    class Place(Segmentation):
        def predict(self, state, inputs):
            b, h, w, _ = inputs["image"].shape
            place = jnp.stack(jnp.meshgrid(jnp.arange(h), jnp.arange(w), indexing="ij"), -1).astype(jnp.float32)
            return {"place": jnp.broadcast_to(place, (b, h, w, 2))[:, 1:-1, 1:-1]}

    system, weights = drawn(phase)
    asked = Asked(values=("place",))
    (made,) = case_predictor(Place(**vars(system)), phase)(weights, volume((6, 5, 2)), asked).values()
    places = {tuple(place.tolist()) for place in made.reshape(-1, 2)}
    # Pictures of 5 rows and 6 columns in patches of 9 x 10.
    assert places == {(row, column) for row in range(2, 7) for column in range(2, 8)}


def test_label_maps_of_a_whole_head_leave_the_device_as_one_byte_a_voxel():
    """The geometry of CMFF: patches of 128^3, three segmentations of four classes; nothing else comes to the host."""
    names = ("S_A", "S_B", "S_F")

    class Three(Segmentation):
        def predict(self, state, inputs):
            return dict.fromkeys(names, inputs["image"])

    phase = valid_phase(patch=(128, 128, 128), validation={"overlap": 0.25, "tile_batch": 1})
    predictor = case_predictor(fixed_system(Geometry(3, 16), "S_F", kind=Three), phase)
    for asked, least in ((Asked(labels=names), 3), (Asked(labels=("S_F",)), 1), (Asked(values=("S_F",)), 16)):
        program, shapes = predictor.program_for(state_of(), (240, 240, 155, 4), asked)
        made = jax.tree.leaves(program.eval_shape(*shapes))
        come = sum(math.prod(one.shape) * one.dtype.itemsize for one in made)
        assert least * 240 * 240 * 155 <= come <= 1.2 * least * 240 * 240 * 155
        assert len(program.lower(*shapes).out_info) == len(made)
    assert 3 * 256 * 256 * 160 < 40e6


def test_a_volume_whose_sums_do_not_fit_on_the_device_is_refused(monkeypatch):
    system, weights = drawn(valid_phase())
    monkeypatch.setattr(Placement, "memory_bytes", lambda self: 100_000)
    told = (
        "an image of 20 x 3 x 11 and the sums of its tiles take .* MB of the device, which has 0 MB; set JAX_PLATFORMS"
    )
    refused(told, case_predictor(system, valid_phase()), weights, volume(), ASKED)
