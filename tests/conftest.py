"""The common ground of all tests: checked annotations, a compilation cache, real sample volumes, parsed flags."""

import os
from pathlib import Path

import jax
import pytest
from absl import flags
from jaxtyping import install_import_hook

import tests.shape_checks  # noqa: F401  (named below)

ROOT = Path(__file__).resolve().parents[1]

# Before the first import of jaxfuse: from here on every annotated shape is checked.
install_import_hook("jaxfuse", "tests.shape_checks.check")

# Tests compile much and compute little; without LLVM's costly passes they compile two to four times faster.
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update(
    "jax_compilation_cache_dir",
    os.environ.get("JAXFUSE_TEST_CACHE") or str(Path.home() / ".cache" / "jaxfuse" / "test-compilation"),
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

# Grain reads flags of its own, which pytest never parses.
if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real sample volumes; the test is skipped where there is none."""
    folder = Path(os.environ.get("JAXFUSE_SHARED_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real sample volumes at {folder}; name their folder in JAXFUSE_SHARED_DATA")
    return folder
