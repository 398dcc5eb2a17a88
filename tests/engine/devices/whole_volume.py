"""A prediction of a volume in one tile by eight devices and by one, as a process of its own that prints JSON.

    JAX_NUM_CPU_DEVICES=8 [JAX_ENABLE_X64=1] python -m tests.engine.devices.whole_volume SIDE BASE LEVELS

In float32 it is the program of a whole canvas, in float64 the network alone.
"""

import json
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.config import parse
from jaxfuse.data.settings import declared_facts
from jaxfuse.engine.build import abstract_state, build_system, without_optimizers
from jaxfuse.engine.cost.collectives import collectives_of
from jaxfuse.engine.cost.kernels import CompiledKernels
from jaxfuse.engine.devices.placement import on_mesh, one_device
from jaxfuse.engine.programs import Programs
from jaxfuse.inference.canvas import Canvases, lay, windows_of
from jaxfuse.inference.tiling import Asked
from jaxfuse.patches import tile_volume
from tests.recipe_phases import config_of
from tests.tiny_systems import drawn

WIDE = jax.config.jax_enable_x64
if WIDE:
    jnp.float32 = jnp.float64  # what networks cast their results to


def program_for(system, where, image, side):
    """(program, its arguments after the weights)."""
    programs = Programs(system, where)
    if WIDE:
        return programs.predict, ({"image": where.put(image[None].astype(np.float64))},)
    tiling = tile_volume((side,) * 3, (side,) * 3, overlap=0.0, margin=(0,) * 3, centered=False)
    laid = lay(tiling, Canvases())
    program = programs.over_canvas(windows_of(tiling, 1), Asked(values=(system.primary,)))
    return program, (laid.image(image), laid.places(windows_of(tiling, 1), 0.0))


def main(side, base, levels):
    config = config_of("cmff", "tiny").copy_and_resolve_references()
    config.network.unet.base, config.network.unet.levels = base, levels
    experiment = parse(config)
    phase = replace(experiment.phases["fusion"], patch=(side,) * 3, batch=1)
    modalities, classes = declared_facts(experiment.data_of(phase))
    system = build_system(phase, modalities, classes, 10)
    state = without_optimizers(abstract_state(system, phase, modalities))
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64 if WIDE else np.float32), drawn(state.params, 0.1))
    weights = state.replace(params=params, step=np.int32(0), rng=jax.random.key(0))
    image = np.random.default_rng(0).normal(size=(side, side, side, len(modalities))).astype(np.float32)
    found, made = {}, {}
    for name, where in {"several": on_mesh(jax.devices(), space=8), "one": one_device()}.items():
        (program, given), kept = program_for(system, where, image, side), where.keep(weights)
        compiled = program.lower(kept, *given).compile()
        exchanges = collectives_of(CompiledKernels.of(compiled).kernels)
        found[name] = {
            "temporary": compiled.memory_analysis().temp_size_in_bytes,
            "collectives": {kind: [one.count, one.bytes, one.largest] for kind, one in exchanges.items()},
        }
        made[name] = np.asarray(compiled(kept, *given)[system.primary])
    print(json.dumps({**found, "apart": float(np.abs(made["several"] - made["one"]).max())}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
