"""Bytes of what is done to examples in the step beside those of the step itself."""

from dataclasses import fields

import jax
import jax.numpy as jnp
import pytest

from jaxfuse.augment.batch import augmentation
from jaxfuse.augment.dropout import Dropout
from jaxfuse.augment.settings import Augment, augment_from
from jaxfuse.data.presence import weighted_subsets
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


@pytest.mark.slow
def test_dropout_of_modalities_costs_the_step_of_cmff_next_to_nothing():
    """Compares two compiled steps; the choice of what is shown, and zeros in place of the rest, lie between them."""
    built = phases("cmff", "")["fusion"]
    batch = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in built.batch.items()}
    batch["label"] = jax.ShapeDtypeStruct(batch["label"].shape, jnp.int32)
    dropout = Dropout(*weighted_subsets((), built.modalities))
    augment = augmentation(augment_from({}), built.phase.patch, (1.0,) * 3, 0, dropout)
    state = Programs(built.system).abstract_init(batch)
    bare, dropped = (Programs(built.system, augment=one).step.lower(state, batch).compile() for one in (None, augment))
    moved, more = (one.cost_analysis()["bytes accessed"] for one in (bare, dropped))
    done, more_done = (one.cost_analysis()["flops"] for one in (bare, dropped))
    print(f"with dropout {more / moved - 1:.2%} more bytes and {more_done / done - 1:.2%} more operations")
    assert more < 1.01 * moved
    assert more_done < 1.001 * done
    kept, taken = (one.memory_analysis().temp_size_in_bytes for one in (bare, dropped))
    assert taken < 1.01 * kept
