"""A user's mistake is a ValueError to whoever uses the library, and keeps its sentence on every way to the user."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.engine.run_folder.checkpoints import read_weights
from jaxfuse.errors import Stopped, UserError
from jaxfuse.io.analyze import write_analyze
from jaxfuse.io.nifti import read_volume
from jaxfuse.learning.state import State

MISTAKEN = """
from jaxfuse.engine.run_folder.checkpoints import read_weights
from jaxfuse.errors import UserError

def get_config(text=""):
    raise UserError(f"row {text!r} is not there; choose one such as fusion")
"""


def test_a_library_user_catches_a_value_error():
    with pytest.raises(ValueError, match="a sentence"):
        raise UserError("a sentence")
    assert not issubclass(Stopped, ValueError)


def test_a_missing_half_of_a_pair_is_not_called_damage(tmp_path):
    write_analyze(tmp_path / "a.hdr", np.ones((2, 3, 4), np.int16), (1.0, 1.0, 1.0))
    (tmp_path / "a.img").unlink()
    with pytest.raises(UserError) as refused:
        read_volume(tmp_path / "a.hdr")
    assert str(refused.value).endswith(
        "a.img cannot be read (No such file or directory); a pair needs both .hdr and .img"
    )
    assert "damaged" not in str(refused.value)


def test_a_checkpoint_that_is_not_there_is_not_called_unfit(tmp_path):
    (tmp_path / "last").mkdir()
    like = State(step=jnp.int32(0), rng=jax.random.key(0), params={}, stats={}, opt_state={}, memory={})
    with pytest.raises(UserError) as refused:
        read_weights(tmp_path, like, best=False)
    assert str(refused.value) == f"{tmp_path}/last holds no finished checkpoint; train this phase first"


def test_the_sentence_of_a_recipe_is_not_put_into_another(tmp_path):
    """absl and ml_collections catch a ValueError of the file that they read, and raise their own with a traceback."""
    (tmp_path / "recipe.py").write_text(MISTAKEN)
    command = [sys.executable, "-m", "jaxfuse.describe", f"--config={tmp_path / 'recipe.py'}:no"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: row 'no' is not there; choose one such as fusion\n")
