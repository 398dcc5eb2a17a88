"""Batches, states and gradients for tests of networks that fuse two images."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.tiny_systems import drawn, gradient_descent, largest

MODALITIES = ("mri", "ct")
# SSIM has windows of 11 pixels; RFN-Nest halves a picture three times.
BATCH = {"image": jax.random.uniform(jax.random.key(3), (2, 16, 16, 2))}


def made(make_system, **options):
    """The System of a pair, whose optimizers move by the gradient alone."""
    players = options.pop("players", ("fusion",))
    return make_system(optimizers=gradient_descent(*players), modalities=MODALITIES, **options)


def shapes(system, side):
    """The shapes of a fresh state for a batch of pictures of these sides; nothing is drawn."""
    image = jax.ShapeDtypeStruct((2, side, side, 2), jnp.float32)
    return jax.eval_shape(system.init, jax.random.key(0), {"image": image})


def started(system):
    """A state of weights that are nowhere trivial, without compiling anything; biases keep ReLUs alive."""
    state = jax.eval_shape(system.init, jax.random.key(0), BATCH)
    params, stats = (drawn(tree, 0.3, positive=("bias", "scale", "var")) for tree in (state.params, state.stats))
    opt_state = {player: optimizer.init(params[player]) for player, optimizer in system.optimizers.items()}
    known = {"params": params, "stats": stats, "opt_state": opt_state}
    return state.replace(step=jnp.int32(0), rng=jax.random.key(5), **known)


def plainly_alike(a, b):
    """Stands for SSIM, a large program, where it does not matter how alike images are."""
    return 1 - jnp.square(a - b).mean((1, 2))


def reached(system, state, batch, terms):
    """By term of the fusion network's loss: the names of the networks that its gradient moves, critics held or not."""

    @jax.jit
    def slope(params, weights):
        def weighted(params):
            metrics = system.eval_step(state.replace(params=params), batch)
            return sum(weight * metrics[f"fusion/{term}"] for term, weight in weights.items())

        return jax.grad(weighted)(params)

    found = {}
    for term in terms:
        slopes = slope(state.params, {other: jnp.float32(other == term) for other in terms})
        found[term] = {name for name, tree in system.networks(slopes).items() if largest(tree) > 0}
    return found


def near(a, b, tolerance=1e-5):
    np.testing.assert_allclose(a, b, atol=tolerance)
