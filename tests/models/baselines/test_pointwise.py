"""The mean and the maximum of images: exact, blind to what is absent, and without anything to learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.models.baselines.pointwise import FUSIONS, make_system
from tests.refusals import refused
from tests.tiny_systems import KEY, gradient_descent

NAMES = ("a", "b", "c")


@pytest.mark.parametrize(("rule", "expected"), [("mean", 0.3), ("maximum", 0.5)])
def test_a_rule_is_applied_to_what_is_present(rule, expected):
    system = make_system(
        optimizers=gradient_descent("fusion"), modalities=NAMES, combos="all", pairs=("a+b",), rule=rule
    )
    image = jnp.broadcast_to(jnp.array([0.5, 0.1, 0.9]), (2, 6, 6, 3))
    state = system.init(KEY, {"image": image})
    assert jax.tree.leaves(state.params) == []
    for inputs in ({"image": image}, {"image": image.at[..., 2].set(jnp.nan), "presence": jnp.array([1, 1, 0])}):
        np.testing.assert_allclose(system.predict(state, inputs)["fused"], expected, rtol=1e-6)
    after, metrics = system.train_step(state, {"image": image})
    assert int(after.step) == 1
    assert set(metrics) == {"fusion/loss", "fusion/intensity", "fusion/gradient"}


def test_another_rule_is_refused():
    refused(
        f"rule is 'median'; choose one of {', '.join(FUSIONS)}",
        make_system,
        optimizers=gradient_descent("fusion"),
        modalities=NAMES,
        rule="median",
    )
