"""The surroundings of a call: versions, Python, the machine, and the environment variables that matter; without JAX."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import jaxfuse

REQUIRED = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "scipy", "nibabel", "scikit-image")
REQUIRED += ("ml-collections", "lineax")
# Told of where they are there: they decide on what and how the same program computes.
_OPTIONAL = ("jax-cuda13-plugin", "jax-cuda12-plugin", "onednn-cpu-gomp", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12")
_VARIABLES = ("JAX_", "JAXFUSE_", "XLA_", "CUDA_", "NCCL_", "OMP_", "OPENBLAS_", "MKL_", "TF_CPP_", "LD_LIBRARY_PATH")
_VARIABLES += ("NVIDIA_VISIBLE_DEVICES", "XDG_CACHE_HOME")


def versions() -> dict[str, str]:
    """Returns the versions of jaxfuse and of the packages that decide what it computes."""
    found = {"jaxfuse": jaxfuse.__version__}
    for package in (*REQUIRED, *_OPTIONAL):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            if package in REQUIRED:
                found[package] = "not installed as a package"
    return found


def command() -> str:
    """Returns the call of this process: `python -m` and a module, or a script; in a notebook, that of its kernel."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    called = ["-m", module.name.removesuffix(".__main__")] if module else [sys.argv[0]]
    return shlex.join(["python", *filter(None, called), *sys.argv[1:]])


def revision() -> str:
    """Returns the commit of the checkout that this jaxfuse is, with "-dirty" where files differ; "" if it is none."""
    root, git = Path(__file__).resolve().parents[1], shutil.which("git")
    if not git or not (root / ".git").exists():
        return ""
    asked = [git, "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def host() -> str:
    """Returns the kind of machine, its cores, and its memory where the system tells it."""
    memory = memory_bytes()
    told = f", {memory / 1e9:.1f} GB" if memory else ""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores{told}"


def memory_bytes() -> int:
    """Returns the memory of the machine; 0 where the system does not tell it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf; some systems lack the name
        return 0


def variables() -> dict[str, str]:
    """Returns the environment variables that change what is computed or where; none of them holds a secret."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(_VARIABLES)}
