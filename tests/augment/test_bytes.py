"""Bytes of augmentation beside those of a step at a paper's sizes."""

from dataclasses import fields

import jax
import jax.numpy as jnp
import pytest

from jaxfuse.augment.batch import augmentation
from jaxfuse.augment.settings import Augment, augment_from
from jaxfuse.engine.cost.least_bytes import least_bytes
from jaxfuse.engine.programs import Programs
from tests.recipe_phases import phases


@pytest.mark.slow
def test_all_changes_together_move_less_than_a_tenth_of_what_the_step_of_cmff_must():
    """Compares the program compiled for this machine with the least that any program of the step moves."""
    built = phases("cmff", "paper")["fusion"]
    every = augment_from({one.name: {"probability": 0.5} for one in fields(Augment)})
    augment = augmentation(every, built.phase.patch, (1.0,) * 3, 0)
    batch = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in built.batch.items()}
    learned = {**batch, "label": jax.ShapeDtypeStruct(batch["label"].shape, jnp.int32)}
    own = jax.jit(augment.__call__).lower(jax.eval_shape(lambda: jax.random.key(0)), learned).compile()
    step = least_bytes(Programs(built.system).step.trace(built.state, batch).jaxpr)
    moved = own.cost_analysis()["bytes accessed"]
    print(f"augmentation moves {moved / 1e9:.2f} GB, the step at least {step / 1e9:.2f} GB")
    assert moved < 0.1 * step
