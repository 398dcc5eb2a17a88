"""The common ground of all tests: checked annotations, a compilation cache, real sample volumes, parsed flags."""

import gc
import os
from pathlib import Path

# Tests compile much and compute little. Before JAX is imported, so that the processes that tests start inherit it:
# without LLVM's costly passes and without XLA's emitters of fused kernels a program compiles five times faster.
_FLAGS = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}".strip()
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"

import jax  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

import tests.shape_checks  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]

# Before the first import of jaxfuse: from here on every annotated shape is checked.
tests.shape_checks.install()

jax.config.update(
    "jax_compilation_cache_dir",
    os.environ.get("JAXFUSE_TEST_CACHE") or str(Path.home() / ".cache" / "jaxfuse" / "test-compilation"),
)
# Even the smallest: to read a program back takes a quarter of compiling it, and workers compile much alike.
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)

# Grain reads flags of its own, which pytest never parses.
if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()

# Tracing makes many objects that live on: looking for garbage among them took a third of the time.
gc.set_threshold(50_000, 10, 10)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Keeps what was collected out of every later search for garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real sample volumes; the test is skipped where there is none."""
    folder = Path(os.environ.get("JAXFUSE_SHARED_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real sample volumes at {folder}; name their folder in JAXFUSE_SHARED_DATA")
    return folder
