"""Peers in PyTorch are the same computations as the Systems that they are timed against."""

import importlib

import pytest

from experiments.throughput.systems import CASES


@pytest.mark.torch
@pytest.mark.parametrize("name", CASES)
def test_a_peer_is_the_same_computation(name):
    pytest.importorskip("torch")
    parity = importlib.import_module("experiments.throughput.parity")
    found = parity.compare(name)
    assert found["outputs"] < parity.FORWARD
    assert found["losses"] < parity.FORWARD
    assert found["gradients"] < parity.GRADIENT
