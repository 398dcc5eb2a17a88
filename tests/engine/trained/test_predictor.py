"""Volumes from tiles of any size, by networks that lose a margin, and from slices along their axis."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.data.sampling import sampling_rule
from jaxfuse.data.slices import AXES
from jaxfuse.engine.trained.predictor import case_predictor
from jaxfuse.learning.system import Segmentation
from tests.engine.valid_phases import drawn, valid_phase, volume


def test_larger_tiles_change_no_answer():
    """A limit that is given later replaces that of the phase."""
    case, shapes = volume(), []
    system, weights = drawn(valid_phase())
    padded = np.pad(case.image, [(2, 2)] * 3 + [(0, 0)])[None]
    expected = system.predict(weights, {"image": jnp.asarray(padded)})["valid"][0]
    for memory_mb, later in ((0, None), (1, None), (100, None), (0, 100)):
        seen = []
        predict = case_predictor(_noting(system, seen), valid_phase(memory_mb=memory_mb), memory_mb=later)
        np.testing.assert_allclose(predict(weights, case)["valid"], expected, atol=1e-5)
        shapes.append(set(seen))
    assert shapes[0] == {(3, 9, 9, 9, 2)}
    assert (3, 24, 7, 15, 2) in shapes[2] & shapes[3]  # one tile


def test_what_is_made_of_tiles_is_put_together_as_outputs_are_where_it_is_asked_for():
    system, weights = drawn(valid_phase())
    predict, case = case_predictor(system, valid_phase()), volume()

    def alongside(tiles, outputs):
        assert tiles["image"].shape[1:4] == (9, 9, 9)
        return {"doubled": 2 * np.asarray(outputs["valid"])}

    with_more = predict(weights, case, alongside=alongside)
    plain = predict(weights, case)
    assert (set(with_more), set(plain)) == ({"valid", "doubled"}, {"valid"})
    np.testing.assert_allclose(with_more["doubled"], 2 * plain["valid"], rtol=1e-6)


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
    (made,) = case_predictor(system, phase, axis=across)(weights, case).values()
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
    (made,) = case_predictor(Place(**vars(system)), phase)(weights, volume((6, 5, 2))).values()
    places = {tuple(place.tolist()) for place in made.reshape(-1, 2)}
    # Pictures of 5 rows and 6 columns in patches of 9 x 10.
    assert places == {(row, column) for row in range(2, 7) for column in range(2, 8)}
