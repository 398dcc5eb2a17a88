"""The memory of schemes that hold out: the adjoint that the next solve begins with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.learning.game import Game
from jaxfuse.learning.held_out import fusion_leader
from tests.refusals import refused

PHI, PSI = {"a": jnp.array([0.3, -0.2])}, {"b": jnp.linspace(-1.0, 1.0, 8)}
CURVES = jnp.geomspace(0.01, 10.0, 8)


def _game(steep=1.0):
    """A follower with eight eigenvalues of its Hessian between 0.01 and 10."""

    def task(psi, theta, part):
        scale = jnp.where(part == "lower", 1.0, 0.5)
        shift = theta.sum() * jnp.cos(jnp.arange(8.0))
        return scale * 0.5 * steep * (CURVES * (psi["b"] - shift) ** 2).sum() + psi["b"].sum() * (part == "upper")

    return Game(
        fuse=lambda phi, part: Made(jnp.broadcast_to(phi["a"].sum(), (2, 1, 1, 1))),
        fusion_loss=lambda made: (jnp.float32(0) * made.theta.sum(), {}),
        segmentation_loss=task,
        logits=lambda psi, theta: theta,
    )


class Made:
    def __init__(self, theta):
        self.theta = theta


def test_a_solve_that_goes_on_where_the_last_one_ended_comes_nearer():
    def after(calls, **options):
        """The adjoint that each call leaves behind."""
        scheme = fusion_leader(weight_decay=0.0, **options)
        lead = jax.jit(lambda memory: scheme(_game(), PHI, PSI, memory).memory)
        memories = [scheme.start(PHI, PSI)]
        for _ in range(calls):
            memories.append(lead(memories[-1]))
        assert len({str(jax.tree.structure(memory)) for memory in memories}) == 1
        return [memory["adjoint"]["b"] for memory in memories[1:]]

    (exact,) = after(1, steps=60)
    # In the norm in which conjugate gradients come nearer at every step.
    errors = [float(jnp.sqrt((CURVES * (one - exact) ** 2).sum())) for one in after(4, steps=2)]
    assert errors[0] > errors[1] > errors[2] > errors[3] > 0
    assert errors[3] < 0.8 * errors[0]


def test_damping_follows_the_scale_of_the_loss_unless_it_is_fixed():
    found = {}
    for scale in ("trace", "fixed"):
        scheme = fusion_leader(damping=0.1, damping_scale=scale, weight_decay=0.0)
        lead = jax.jit(lambda steep, scheme=scheme: scheme(_game(steep), PHI, PSI, scheme.start(PHI, PSI)).metrics)
        told = [lead(steep) for steep in (1.0, 100.0)]
        found[scale] = [float(one["bilevel/damping"]) for one in told]
    mean = float(CURVES.mean())  # random signs give the trace of a diagonal exactly
    np.testing.assert_allclose(found["trace"], [0.1 * mean, 10 * mean], rtol=1e-5)
    np.testing.assert_allclose(found["fixed"], [0.1, 0.1], rtol=1e-6)
    refused("damping_scale is 'mean'; choose one of trace, fixed", fusion_leader, damping_scale="mean")


def test_a_gradient_that_is_dropped_leaves_no_start():
    scheme = fusion_leader()
    lead = jax.jit(lambda memory: scheme(_game(jnp.nan), PHI, PSI, memory))({"adjoint": {"b": jnp.ones(8)}})
    assert lead.metrics["bilevel/dropped"] == 1
    assert lead.metrics["bilevel/implicit_norm"] == -1
    np.testing.assert_array_equal(lead.memory["adjoint"]["b"], np.zeros(8))


@pytest.mark.parametrize("warm", [True, False])
def test_the_memory_is_as_large_as_the_follower_or_empty(warm):
    start = fusion_leader(warm_start=warm).start(PHI, PSI)
    assert jax.tree.map(jnp.shape, start) == ({"adjoint": {"b": (8,)}} if warm else {})
