"""A user's mistake is a ValueError to whoever uses the library, and keeps its sentence on every way to the user."""

import subprocess
import sys

import pytest

from jaxfuse.errors import Stopped, UserError

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


def test_the_sentence_of_a_recipe_is_not_put_into_another(tmp_path):
    """absl and ml_collections catch a ValueError of the file that they read, and raise their own with a traceback."""
    (tmp_path / "recipe.py").write_text(MISTAKEN)
    command = [sys.executable, "-m", "jaxfuse.describe", f"--config={tmp_path / 'recipe.py'}:no"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: row 'no' is not there; choose one such as fusion\n")
