"""The names of the package: all are there, and looking one up is what loads anything."""

import subprocess
import sys

import pytest

import jaxfuse
from tests.commands import ROOT

HEAVY = {"jax", "jaxlib", "numpy", "nibabel", "matplotlib", "absl", "ml_collections"}


def test_importing_loads_nothing():
    program = "import sys, jaxfuse; assert 'load' in dir(jaxfuse); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not HEAVY & loaded
    assert {name for name in loaded if name.startswith("jaxfuse")} == {"jaxfuse"}


def test_every_name_is_there_and_no_other():
    assert set(jaxfuse.__all__) == {*jaxfuse._PLACES, *jaxfuse._MODULES}
    for name in jaxfuse.__all__:
        assert getattr(jaxfuse, name).__doc__, name
    assert jaxfuse.load is jaxfuse.load
    with pytest.raises(AttributeError, match="module 'jaxfuse' has no attribute 'lod'"):
        jaxfuse.lod  # noqa: B018
