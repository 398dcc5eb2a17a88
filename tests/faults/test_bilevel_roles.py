"""A network that moves when it should not, a held-out half that holds nothing out, an image judged that nobody gets.

In the cooperative training of Fuse4Seg every network has its role in a step, and its own examples.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.learning.optim import adam, sgd
from tests.faults.catalogue import table
from tests.models.fuse4seg.small_forms import ALL, CLASSES, NAMES, small_system
from tests.tiny_systems import KEY, largest, moved, pictures, same

# The momentum of a network goes on where its gradient has ended, and weight decay needs no gradient.
RESTLESS = {
    "Adam": adam(learning_rate=0.01, total_steps=20, clip_norm=1.0),
    "gradient descent with momentum": sgd(learning_rate=0.01, total_steps=20, momentum=0.9, nesterov=True),
    "gradient descent with weight decay": sgd(learning_rate=0.01, total_steps=20, weight_decay=0.1),
}


@pytest.fixture(scope="module")
def batch():
    return pictures(8, len(NAMES), CLASSES)


def steps_by_absence(system, state, name):
    """Numbers of steps that show a modality, and of those that do not."""
    number, steps = NAMES.index(name), {True: [], False: []}
    for step in range(40):
        key, *_ = jax.random.split(state.replace(step=jnp.int32(step)).key(), 3)
        steps[bool(system.combinations.draw(key).shows(len(NAMES))[number])].append(step)
    return steps[True], steps[False]


@table(
    "optimizer,combos",
    *(
        (
            f"the critic of a modality that five steps in a row do not show; {name}",
            "not a bit of its weights changes, and its moments wait",
            optimizer,
            ("t1+t2", "t2+t1ce"),
        )
        for name, optimizer in RESTLESS.items()
    ),
    (
        "the same where pairs and triples are trained together",
        "a slot that is left over moves no critic",
        RESTLESS["Adam"],
        ("t1+t2", "t1+t1ce+t2"),
    ),
)
def test_critics_of_modalities_not_shown_stay(batch, optimizer, combos):
    system = small_system(combos=combos, optimizers=dict.fromkeys(ALL, optimizer))
    state = system.init(KEY, batch)
    step = jax.jit(system.train_step)
    shown, absent = steps_by_absence(system, state, "t1ce")
    begun, _ = step(state.replace(step=jnp.int32(shown[0])), batch)
    assert largest(moved(state, begun, "critics")["t1ce"]) > 1e-4
    after = begun
    for number in absent[:5]:
        after, _ = step(after.replace(step=jnp.int32(number)), batch)
    same(after.params["critics"]["t1ce"], begun.params["critics"]["t1ce"])
    moments, kept = (tree.opt_state["critics"]["t1ce"][:-1] for tree in (after, begun))
    same(moments, kept)
    for other in ("t1", "t2"):
        assert largest(moved(begun, after, "critics")[other]) > 1e-4
    again, _ = step(after.replace(step=jnp.int32(shown[1])), batch)
    assert largest(moved(after, again, "critics")["t1ce"]) > 1e-4
    assert np.isfinite(largest(again.params))
