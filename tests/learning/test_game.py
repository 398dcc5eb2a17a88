import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.learning import bilevel
from jaxfuse.learning.game import FusionLeads, Game, Scheme, remembered, shares
from tests.refusals import refused

AT = {"a": jnp.array([0.5, -2.0]), "b": jnp.array(3.0)}


def test_a_function_that_is_remembered_is_not_computed_again_for_its_derivative():
    calls = []

    def function(x):
        calls.append(1)
        return {"image": jnp.sin(x["a"]) * x["b"], "bands": x["a"] ** 2, "attention": None}

    def loss(made):
        return jnp.sum(made["image"] ** 3) + jnp.sum(made["bands"])

    @jax.jit
    def both(at):
        value, known = remembered(function, at)
        return value, jax.value_and_grad(lambda x: (loss(known(x)), known(x)), has_aux=True)(at)

    value, ((total, made), gradient) = both(AT)
    assert len(calls) == 1
    expected, slope = jax.value_and_grad(lambda x: loss(function(x)))(AT)
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), gradient, slope)
    jax.tree.map(np.testing.assert_array_equal, value, made)


class Weighed(NamedTuple):
    """A fusion network's output that is its two weights."""

    x: jax.Array
    y: jax.Array

    @property
    def theta(self):
        return self.x[None]


TWO_TERMS = Game(
    fuse=lambda phi, part: Weighed(**phi),
    fusion_loss=lambda made: (3 * made.x + 2 * made.y, {}),
    segmentation_loss=lambda psi, theta, part: -4 * theta.sum(),
    logits=lambda psi, theta: theta,
    fusion_weight=0.5,
    fusion_terms=lambda made: {"first": 3 * made.x, "second": 2 * made.y},
)


def test_shares_are_lengths_of_the_parts_of_a_gradient():
    """A fusion of two weights, by hand: L^f = 3 x + 2 y, the task's part (-4, 0), against the pull of L^f."""
    phi = {"x": jnp.array(0.1), "y": jnp.array(0.2)}
    gradient = {"x": jnp.array(1.5 - 4.0), "y": jnp.array(1.0)}
    found = shares(TWO_TERMS, phi, gradient)
    expected = {"share/first": 1.5, "share/second": 1.0, "share/task": 4.0}
    for name, length in expected.items():
        np.testing.assert_allclose(found[name], length / 6.5, rtol=1e-6)
    np.testing.assert_allclose(found["share_cosine"], -1.5 / np.hypot(1.5, 1.0), rtol=1e-6)
    # Where nothing pulls, nothing has a share.
    weightless = Game(**{**TWO_TERMS.__dict__, "fusion_weight": 0.0})
    assert all(float(value) == 0 for value in shares(weightless, phi, {"x": phi["x"] * 0, "y": phi["y"] * 0}).values())


class Halved(FusionLeads):
    """A scheme of one's own: half of the gradient of `joint`."""

    def __init__(self, share=0.5):
        self.share = share

    def __call__(self, game, phi, psi, memory):
        lead = bilevel.joint()(game, phi, psi, memory)
        return lead._replace(gradient=jax.tree.map(lambda leaf: self.share * leaf, lead.gradient))


def without_image(steps):
    del steps
    return object()


def test_a_scheme_of_ones_own():
    """By its class, as a recipe hands it over; what is none is told what it lacks."""
    scheme = bilevel.scheme_of(Halved, {"share": 0.25})
    phi = {"x": jnp.array(0.1), "y": jnp.array(0.2)}
    lead, joint = (one(TWO_TERMS, phi, {}, {}) for one in (scheme, bilevel.joint()))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b / 4, rtol=1e-6), lead.gradient, joint.gradient)
    assert isinstance(scheme, Scheme)
    refused("bilevel 'test_game:Halved' has no option gamma; it has share", own(Halved), {"gamma": 1.0})
    refused("bilevel 'test_game:without_image' needs a value of steps", own(without_image), {})
    told = "makes a object, which is no scheme: it lacks leader, follower_part, settles, .* derive it from"
    refused(told, own(without_image), {"steps": 3})
    refused("bilevel names 7, which makes no scheme", bilevel.scheme_of, 7, {})
    refused("bilevel is 'upper'; choose one of joint, pixel", bilevel.scheme_of, "upper", {})


def own(make):
    """`scheme_of` of a scheme that lies in a module of this short name."""
    make.__module__ = "test_game"
    return functools.partial(bilevel.scheme_of, make)
