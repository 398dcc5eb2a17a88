"""One training step of a phase on several devices and on one, in float64, as a process of its own that prints JSON.

    python -m tests.engine.devices.on_several RECIPE ARGUMENT PHASE DEVICES SPACE SPLITS BATCH SIDE... [--compile]

`runs` sets its environment. With --compile the steps are compiled only, in float32.
"""

import json
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

COMPILED_ONLY = sys.argv[-1] == "--compile"
if not COMPILED_ONLY:
    jnp.float32 = jnp.float64  # what networks and losses name their arithmetic by; before they are read

from jaxfuse.config import parse  # noqa: E402
from jaxfuse.data.settings import declared_facts  # noqa: E402
from jaxfuse.engine.build import abstract_state, build_system, example_batch  # noqa: E402
from jaxfuse.engine.cost.collectives import collectives_of  # noqa: E402
from jaxfuse.engine.cost.kernels import CompiledKernels  # noqa: E402
from jaxfuse.engine.devices.placement import on_mesh, one_device  # noqa: E402
from jaxfuse.engine.programs import Programs  # noqa: E402
from jaxfuse.learning.optim import by_part, sgd  # noqa: E402
from tests.recipe_phases import config_of  # noqa: E402


def drawn(tree, rng, scale, classes):
    """Numbers in place of every array: labels, and else normal ones in float64."""

    def one(leaf):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        if leaf.dtype == np.uint8:
            return rng.integers(0, max(classes, 1), leaf.shape).astype(np.uint8)
        if np.issubdtype(leaf.dtype, np.integer):
            return np.zeros(leaf.shape, leaf.dtype)
        return (scale * rng.normal(size=leaf.shape)).astype(np.float64 if leaf.dtype == np.float32 else leaf.dtype)

    return jax.tree.map(one, tree)


def phase_of(recipe, argument, name, batch, patch):
    """(System, a drawn state as host arrays, a drawn batch)."""
    experiment = parse(config_of(recipe, argument))
    phase = replace(experiment.phases[name], batch=batch, patch=patch)
    modalities, classes = declared_facts(experiment.data_of(phase))
    system = build_system(phase, modalities, classes, 10, (1000, *(100,) * (len(classes) - 1)))
    # The moments of Adam would make a step of the sign of what is rounded to nothing.
    descent = sgd(learning_rate=1e-2, momentum=0.9, total_steps=10)
    own = abstract_state(system, phase, modalities).opt_state
    plain = {player: by_part(descent) if isinstance(own[player], dict) else descent for player in system.players}
    system, rng = replace(system, optimizers=plain), np.random.default_rng(0)
    state, batch = (
        abstract_state(system, phase, modalities),
        example_batch(phase, modalities, margin=system.geometry.margin),
    )
    if COMPILED_ONLY:
        return system, state, batch
    state = drawn(state, rng, 0.1, 0)
    # Fresh, so that gradients alone move the parameters.
    begun = {player: jax.device_get(optimizer.init(state.params[player])) for player, optimizer in plain.items()}
    state = state.replace(opt_state=begun)
    return system, state, drawn(batch, rng, 1.0, len(classes))


def placed(placement, state, batch):
    """State and batch on the devices, or their shapes bound to them."""
    if not COMPILED_ONLY:
        return placement.keep(state.replace(rng=jax.random.key(1))), placement.put(batch)
    return placement.shapes(state, batch)


def one_step(placement, system, state, batch):
    """(facts of the compiled step, the parameters after it)."""
    programs = Programs(system, placement)
    begun, given = placed(placement, state, batch)
    compiled = programs.step.lower(begun, given).compile()
    memory = compiled.memory_analysis()
    found = {
        kind: [one.count, one.bytes, one.largest]
        for kind, one in collectives_of(CompiledKernels.of(compiled).kernels).items()
    }
    facts = {
        "temporary": memory.temp_size_in_bytes,
        "arguments": memory.argument_size_in_bytes,
        "collectives": found,
    }
    if COMPILED_ONLY:
        return facts, None
    after, measured = programs.step(begun, given)
    after, _ = programs.step(after, given)
    facts |= {"programs": programs.step._cache_size(), "loss": measured.rows()[0]}
    return facts, jax.device_get(placement.local(after).params)


def main(recipe, argument, name, devices, space, splits, batch, *sides):
    system, state, batch = phase_of(recipe, argument, name, int(batch), tuple(map(int, sides)))
    several = on_mesh(jax.devices()[: int(devices)], space=int(space), splits=splits == "True")
    (many, after), (one, plain) = (one_step(where, system, state, batch) for where in (several, one_device()))
    if COMPILED_ONLY:
        print(json.dumps({"several": many, "one": one}))
        return
    leaves = zip(jax.tree.leaves(state.params), jax.tree.leaves(plain), jax.tree.leaves(after), strict=True)
    moved, apart = np.sum([[np.square(b - a).sum(), np.square(c - b).sum()] for a, b, c in leaves], axis=0)
    print(json.dumps({"several": many, "one": one, "apart": float(np.sqrt(apart / moved))}))


if __name__ == "__main__":
    main(*(word for word in sys.argv[1:] if word != "--compile"))
