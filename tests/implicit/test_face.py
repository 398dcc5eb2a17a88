"""The length of a step, the curvature along a face, and when y is known to lie on no kink."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.implicit.face import Face, along_face, largest, stride
from tests.implicit.problems import near


def test_stride_is_one_over_the_curvature_or_a_length_or_one():
    y, slope, flat = [jnp.array([3.0, 4.0])], [jnp.array([0.0, 10.0])], lambda vector: [0 * vector[0]]
    near(stride(y, slope, lambda vector: [-8 * vector[0]]), 0.125, 1e-14)
    near(stride(y, slope, flat), 0.5, 1e-14)
    near(stride(y, [jnp.zeros(2)], flat), 1.0)


def test_curvature_along_a_face_is_none_where_the_adjoint_has_no_part_in_it():
    adjoint, target = [jnp.array([1.0, 2.0])], [jnp.array([6.0, 5.0])]
    near(along_face([jnp.array([1.0, 0.0])], adjoint, target, jnp.array(2.0)), 3.0, 1e-14)
    assert np.isinf(along_face([jnp.array([1e-14, -1e-14])], adjoint, target, jnp.array(2.0)))
    assert np.isinf(along_face([jnp.zeros(2)], adjoint, target, jnp.array(2.0)))
    near(largest([jnp.array([1.0, -7.0]), jnp.zeros(0)]), 7.0)


@pytest.mark.parametrize(
    ("margin", "displacement", "smooth"),
    [(1e-3, 0.0, True), (1e-3, 1e-5, True), (1e-3, 2e-4, False), (1e-13, 0.0, False), (np.inf, 1.0, True)],
)
def test_a_margin_counts_beside_rounding_and_displacement(margin, displacement, smooth):
    face = Face(None, *(np.asarray(each) for each in (margin, 10.0, 2.2e-16, 1.0)))
    assert bool(face.smooth(np.asarray(displacement))) == smooth
    assert face.positive
