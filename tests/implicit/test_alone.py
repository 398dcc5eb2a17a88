"""`jaxfuse.implicit` as a library of its own: with JAX, lineax and optax alone, and nothing else of jaxfuse."""

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ALONE = """
import sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder

known = {known!r} | set(sys.stdlib_module_names)

class Wall(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        top, *below = name.split(".")
        foreign = top not in known and not top.startswith("_")
        if foreign or (top == "jaxfuse" and below[:1] not in ([], ["implicit"])):
            return None
        return super().find_spec(name, path, target)

sys.meta_path[:] = [BuiltinImporter, FrozenImporter, Wall]
for absent in ("flax", "nibabel", "jaxfuse.errors", "jaxfuse.io.nifti"):
    try:
        __import__(absent)
    except ModuleNotFoundError:
        continue
    raise AssertionError(absent)

import jax.numpy as jnp
from jaxfuse import implicit

def lower(x, y):
    return 0.5 * jnp.sum((2 * y - x) ** 2)

def upper(x, y):
    return jnp.sum(y**2)

x = jnp.array([1.0, 2.0])
gradient, info = implicit.hypergradient(upper, lower, x, x / 2)
info.check()
print(gradient.tolist())
"""


def brought_by(*names: str) -> set[str]:
    """The names under which distributions and all that they require are imported."""
    rest, seen = list(names), dict[str, set[str]]()
    while rest:
        name = rest.pop().lower().replace("_", "-")
        if name in seen:
            continue
        found = metadata.distribution(name)
        parts = {path.parts[0].removesuffix(".py").partition(".")[0] for path in found.files or ()}
        seen[name] = {part for part in parts if part.isidentifier()}
        rest += [re.match(r"[\w.-]+", line).group() for line in found.requires or () if ";" not in line]
    return set().union(*seen.values())


def test_implicit_gradients_with_jax_lineax_and_optax_alone():
    known = brought_by("jax", "lineax", "optax") | {"jaxfuse"}
    assert not {"flax", "nibabel", "ml_collections", "orbax", "grain"} & known
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", ALONE.format(known=known)], capture_output=True, text=True, env=environment, check=False
    )
    assert (done.returncode, done.stdout) == (0, "[0.5, 1.0]\n"), done.stderr
