"""The mark that tells two sets of weights apart, and the slices that are drawn."""

import jax
import jax.numpy as jnp
import pytest

from jaxfuse.brats_fuse.panels import chosen_rows
from jaxfuse.engine.trained.phases import weights_digest
from jaxfuse.learning.state import State


def digest(params, stats=None, step=1):
    return weights_digest(State(jnp.int32(step), jax.random.key(step), params, stats or {}, {}, {}))


def test_weights_are_told_apart_by_name_shape_type_and_value():
    kernel = jnp.arange(4, dtype=jnp.float32)
    first = digest({"fusion": {"kernel": kernel}})
    assert digest({"fusion": {"kernel": kernel + 0}}, step=7) == first
    values = (kernel.reshape(2, 2), kernel.astype(jnp.int32), kernel.at[3].add(1e-6))
    others = {digest({"fusion": {"kernel": other}}) for other in values}
    renamed, with_statistics = {"fusion": {"other": kernel}}, {"fusion": {"mean": kernel}}
    assert len({first, *others, digest(renamed), digest({"fusion": {"kernel": kernel}}, with_statistics)}) == 6


ROWS = [
    {"case": case, "z": z, "tumor_px": tumor, "brain_px": 100 - z}
    for case, tumors in (("A", (0, 5, 9)), ("B", (0, 0)), ("C", (1,)), ("D", (2, 3)))
    for z, tumor in enumerate(tumors)
]


@pytest.mark.parametrize(
    ("count", "chosen"),
    [(1, "C0"), (2, "B0 D1"), (4, "A2 B0 C0 D1"), (6, "A2 B0 C0 D1 A1 B1"), (99, "A2 B0 C0 D1 A1 B1 D0 A0")],
)
def test_slices_with_most_tumor_are_drawn_of_cases_spread_evenly(count, chosen):
    assert " ".join(f"{row['case']}{row['z']}" for row in chosen_rows(ROWS, count)) == chosen
