"""The compiled functions: where they lie, what a step donates, and which devices are in use."""

import ast
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.engine.devices.placement import Placement, one_device
from jaxfuse.engine.programs import Programs, all_finite, program_memory
from jaxfuse.nn.conv import implementation
from tests.tiny_systems import valid_system

PACKAGE = Path(__file__).resolve().parents[2] / "jaxfuse"
# Layers below the engine, which may compile what is theirs.
BELOW = {"models", "nn", "implicit", "learning", "losses"}
SYSTEM = valid_system(2, ndim=3, channels=(0, 1))
BATCH = {"image": np.zeros((1, 9, 9, 9, 2), np.float32), "label": np.zeros((1, 5, 5, 5), np.int32)}


def test_nothing_is_compiled_elsewhere_in_the_engine_and_the_commands():
    where = set()
    for path in PACKAGE.rglob("*.py"):
        relative = path.relative_to(PACKAGE)
        if relative.parts[0] not in BELOW and any(_compiles(node) for node in ast.walk(ast.parse(path.read_text()))):
            where.add(str(relative))
    assert where == {"engine/programs.py", "prediction/programs.py", "engine/exported/programs.py"}


def _compiles(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module == "jax" and "jit" in {alias.name for alias in node.names}
    return isinstance(node, ast.Attribute) and node.attr in ("jit", "pjit", "pmap")


@pytest.fixture(scope="module")
def programs():
    return Programs(SYSTEM)


def test_programs_are_made_once_and_a_step_alone_donates_its_state(programs):
    state = programs.init(jax.random.key(0), BATCH)
    abstract = programs.abstract_init(BATCH)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, abstract)
    donated = programs.step.lower(state, BATCH).donate_argnums
    assert set(donated) == set(range(len(jax.tree.leaves(state))))
    for program in (programs.evaluate, programs.predict):
        assert program.lower(state, BATCH).donate_argnums == ()
    assert all(getattr(programs, name) is getattr(programs, name) for name in ("init", "step", "evaluate", "predict"))
    cost = program_memory(programs.step.lower(state, BATCH).compile())
    assert cost["argument_bytes"] >= sum(leaf.size * 4 for leaf in jax.tree.leaves(state.params))
    assert cost["temporary_bytes"] > 0
    # Forward, and back to weights and image: less for the layer that reads the image, to which no gradient goes.
    forward = programs.counted_tile_program(state.replace(opt_state={}, memory={}), 1, 2, BATCH["image"].shape[1:-1])
    assert 2 < programs.step_operations(state, BATCH) / forward.cost_analysis()["flops"] / len(BATCH["image"]) < 3.5
    programs.evaluate(state, BATCH)
    after, _ = programs.step(state, BATCH)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
    again, _ = programs.step(after, BATCH)
    assert int(again.step) == 2
    assert programs.step._cache_size() == 1  # a drawn state and one that a step made are alike


def test_a_step_traced_anew_takes_the_form_of_convolution_in_force(programs):
    state = programs.abstract_init(BATCH)
    texts = set()
    for form in ("native", "folded"):
        with implementation(form):
            lowered = programs.traced_anew().lower(state, BATCH)
        texts.add(lowered.as_text())
        assert lowered.donate_argnums
    assert len(texts) == 2


def test_tiles_are_counted_in_the_native_form(programs):
    weights = programs.abstract_init(BATCH).replace(opt_state={}, memory={})
    tiles = {"image": jnp.zeros((2, 9, 9, 11, 2))}
    with implementation("native"):
        native = jax.jit(lambda w, x: SYSTEM.predict(w, x)).lower(weights, tiles)
    counted = programs.counted_tile_program(weights, 2, 2, (9, 9, 11))
    assert counted.cost_analysis()["flops"] == native.cost_analysis()["flops"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_is_found(bad):
    tree = {"a": jnp.zeros(3), "b": (jnp.ones((2, 2)),)}
    assert bool(all_finite(tree))
    assert not bool(all_finite({**tree, "b": (jnp.array([[1.0, 0.0], [0.0, bad]]),)}))


def test_everything_lies_on_the_first_device_and_devices_are_named_with_their_count(monkeypatch):
    here = one_device()
    assert here.devices == (jax.devices()[0],)
    assert (here.device_name, here.backend) == (jax.devices()[0].device_kind, jax.default_backend())
    if here.backend == "cpu":
        assert (here.peak_bytes(), here.memory_bytes()) == (None, None)
    device = SimpleNamespace(
        device_kind="NVIDIA H200", platform="gpu", memory_stats=lambda: {"peak_bytes_in_use": 7, "bytes_limit": 9}
    )
    for count, name in ((1, "NVIDIA H200"), (8, "8 x NVIDIA H200")):
        monkeypatch.setattr(Placement, "devices", (device,) * count)
        monkeypatch.setattr(Placement, "first", device)
        placement = one_device()
        assert (placement.device_name, placement.backend) == (name, "gpu")
        assert (placement.peak_bytes(), placement.memory_bytes()) == (7, 9)
