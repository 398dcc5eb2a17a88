"""Implicit gradients: float64 unless a test is marked `single`; no type and no rank is promoted in silence."""

import jax
import pytest


@pytest.fixture(autouse=True)
def precision(request):
    """float64, strict types and strict ranks for every test of this folder."""
    double = request.node.get_closest_marker("single") is None
    with jax.enable_x64(double), jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield
