"""Implicit gradients are measured in float64 unless a test says otherwise."""

import jax
import pytest


@pytest.fixture
def double():
    """float64 for one test."""
    with jax.enable_x64(True):
        yield
