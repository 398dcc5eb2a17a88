"""Bi-level schemes on two networks of a few weights, in float64, against unrolled descent and dense algebra."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from jaxfuse.learning import bilevel
from jaxfuse.learning.game import Energy, Game, Scheme, guard, part_of
from tests.refusals import refused

DECAY = 0.05  # weight decay of the follower
CLASSES = 3


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


class Made(NamedTuple):
    """The output of a fusion network."""

    theta: jax.Array


@functools.cache
def data():
    """Sources (8 3 3 2) in [0, 1], labels that depend on them, and the image that the fusion loss wants."""
    rng = np.random.default_rng(0)
    sources = rng.uniform(size=(8, 3, 3, 2))
    label = np.digitize(sources.sum(-1) + 0.3 * rng.normal(size=(8, 3, 3)), [0.8, 1.2])
    return jnp.asarray(sources), jnp.asarray(label), jnp.asarray(sources.max(-1, keepdims=True))


@functools.cache
def drawn():
    """(phi, psi) as they start."""
    rng = np.random.default_rng(1)
    phi = {"in": rng.normal(size=(2, 3)), "out": rng.normal(size=(3, 1))}
    psi = {"in": rng.normal(size=(1, 4)), "bias": rng.normal(size=4), "out": 0.5 * rng.normal(size=(4, CLASSES))}
    return jax.tree.map(jnp.asarray, (phi, psi))


def _network(psi, theta):
    return jnp.tanh(2 * theta @ psi["in"] + psi["bias"][None, None, None]) @ psi["out"]


def _linear(psi, theta):
    """Softmax regression on fixed features: its Fisher information is its Hessian."""
    return _network(drawn()[1] | {"out": psi["out"]}, theta)


def _game(logits=_network, penalty=0.0, batch=None, **changes):
    """One dense layer pair per network and pixel; the penalty is |psi|^2 / 2 within L^s, on every batch alike."""
    sources, label, wanted = batch or data()

    def segmentation_loss(psi, theta, part):
        chosen = jax.nn.one_hot(part_of(label, part), CLASSES)
        entropy = -(chosen * jax.nn.log_softmax(logits(psi, theta))).sum(-1).mean()
        return entropy + 0.5 * penalty * optax.tree.norm(psi, squared=True)

    def fuse(phi, part):
        return Made(jax.nn.sigmoid(jnp.tanh(part_of(sources, part) @ phi["in"]) @ phi["out"]))

    def fusion_loss(made):
        loss = jnp.square(made.theta - wanted).mean()
        return loss, {"content": loss}

    given = {"fuse": fuse, "fusion_loss": fusion_loss, "segmentation_loss": segmentation_loss, "logits": logits}
    return Game(**given | {"fusion_weight": 0.3} | changes)


def _lower(game, decay=DECAY):
    """The follower's loss by hand: half of the batch, weight decay."""

    def loss(phi, psi):
        squares = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(psi))
        return game.task(phi, psi, "lower") + decay / 2 * squares

    return loss


def _descended(lower, phi, psi, steps, rate):
    """The follower's weights after plain gradient descent, as a function that can be differentiated."""
    step = lambda psi, _: (jax.tree.map(lambda w, g: w - rate * g, psi, jax.grad(lower, 1)(phi, psi)), None)
    return jax.lax.scan(step, psi, None, steps)[0]


@functools.cache
def converged(logits):
    """The follower's weights at the minimum of its loss, and the gradient through all of a long descent from afar."""
    game, (phi, psi) = _game(logits), drawn()
    lower = _lower(game)

    def after(phi):
        last = _descended(lower, phi, psi, 3000, 2.0)
        return game.upper(phi, last, "upper")[0], last

    (_, last), gradient = jax.jit(jax.value_and_grad(after, has_aux=True))(phi)
    assert optax.tree.norm(jax.jit(jax.grad(lower, 1))(phi, last)) < 1e-9
    return last, gradient


def _led(scheme, game, psi, memory=None):
    return jax.jit(lambda phi, psi, memory: scheme(game, phi, psi, memory))(
        drawn()[0], psi, memory or scheme.start(drawn()[0], psi)
    )


def _distance(found, exact):
    """How far two trees lie apart, relative to the second."""
    a, b = (ravel_pytree(tree)[0] for tree in (found, exact))
    return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))


def _agree(found, exact, relative):
    assert _distance(found, exact) <= relative


def _direct(game, psi, part):
    return jax.jit(jax.grad(lambda phi: game.upper(phi, psi, part)[0]))(drawn()[0])


# Where the logits are linear in the weights, Fisher information and Hessian are one.
@pytest.mark.parametrize(
    ("logits", "options"),
    [(_network, {"curvature": "hessian"}), (_linear, {"curvature": "fisher", "entropy_weight": 1.0})],
    ids=["hessian", "fisher"],
)
def test_fusion_leader_is_the_gradient_through_a_long_descent(logits, options):
    psi, unrolled = converged(logits)
    scheme = bilevel.fusion_leader(steps=200, damping=0.0, weight_decay=DECAY, **options)
    lead = _led(scheme, _game(logits), psi)
    _agree(lead.gradient, unrolled, 1e-4)
    # Not the direct gradient in disguise.
    assert _distance(_direct(_game(logits), psi, "upper"), unrolled) >= 1e-2
    assert (lead.metrics["bilevel/dropped"], lead.metrics["bilevel/converged"]) == (0, 1)
    assert all(value.dtype == jnp.float32 for name, value in lead.metrics.items() if "bilevel" in name)
    np.testing.assert_allclose(lead.loss, _game(logits).upper(drawn()[0], psi, "upper")[0])


def test_unrolled_is_the_derivative_of_its_steps():
    game, (phi, psi) = _game(), drawn()
    lead = _led(bilevel.unrolled(steps=3, learning_rate=0.5, weight_decay=DECAY), game, psi)

    @jax.jit
    @jax.value_and_grad
    def after(phi):
        return game.upper(phi, _descended(_lower(game), phi, psi, 3, 0.5), "upper")[0]

    value, gradient = after(phi)
    _agree(lead.gradient, gradient, 1e-10)
    np.testing.assert_allclose(lead.loss, value, rtol=1e-12)
    assert lead.metrics["bilevel/residual"] == -1  # no system was solved


def test_envelope_one_loss_on_both_levels_leaves_the_joint_gradient():
    """F = f: at the follower's optimum there is nothing to solve for, and the direct gradient is exact."""
    twice = [jnp.repeat(array[:4], 2, axis=0) for array in data()]
    game = _game(_linear, penalty=DECAY, batch=twice, fusion_weight=0.0)
    phi, psi = drawn()
    loss = lambda phi, psi: game.task(phi, psi, "lower")
    psi = jax.jit(lambda phi, psi: _descended(loss, phi, psi, 3000, 2.0))(phi, psi)
    scheme = bilevel.fusion_leader(damping=0.0, weight_decay=0.0, curvature="hessian", steps=100)
    joint = _direct(game, psi, "all")
    assert optax.tree.norm(joint) > 1e-3
    _agree(_led(scheme, game, psi).gradient, joint, 1e-8)
    # Away from the optimum the two differ.
    away = jax.tree.map(lambda leaf: 1.2 * leaf, psi)
    assert _distance(_led(scheme, game, away).gradient, _direct(game, away, "all")) >= 1e-2


def test_rank_one_by_its_formula_and_its_limits():
    game, (phi, psi) = _game(), drawn()
    scheme = bilevel.rank_one(weight_decay=DECAY, memory_decay=0.9)
    slope, crossed = jax.jit(jax.grad(_lower(game), (1, 0)))(phi, psi)
    target = jax.jit(jax.grad(lambda psi: game.upper(phi, psi, "upper")[0]))(psi)
    squared = optax.tree.norm(slope, squared=True)
    # No mean yet: the direct gradient.
    first = _led(scheme, game, psi)
    _agree(first.gradient, _direct(game, psi, "upper"), 1e-10)
    np.testing.assert_allclose(first.memory["squared"], squared, rtol=1e-6)
    # From then on damped by it, and |c| <= 1 however small the mean.
    bounds = set()
    for weight, mean in ((1.0, float(squared)), (1.0, 1e-9), (5.0, 1e-9)):
        heavier = _game(task_weight=weight)
        lead = _led(scheme, heavier, psi, {"squared": jnp.float32(mean), "count": jnp.int32(1)})
        c = float(weight * optax.tree.vdot(slope, target) / (squared + mean))
        bounds.add(abs(c) > 1)
        c = np.clip(c, -1, 1)
        expected = jax.tree.map(lambda d, f, c=c: d - c * f, _direct(heavier, psi, "upper"), crossed)
        assert lead.metrics["bilevel/dropped"] == 0
        _agree(lead.gradient, expected, 1e-6)
    assert bounds == {True, False}
    # The mean is the plain one at first, then one that forgets.
    np.testing.assert_allclose(lead.memory["squared"], (1e-9 + squared) / 2, rtol=1e-5)
    late = _led(scheme, game, psi, {"squared": jnp.float32(1.0), "count": jnp.int32(99)})
    np.testing.assert_allclose(late.memory["squared"], 0.9 + 0.1 * squared, rtol=1e-5)
    # At the follower's optimum there is no slope left, and the gradient is the direct one.
    best, _ = converged(_network)
    lead = _led(scheme, game, best, {"squared": jnp.float32(squared), "count": jnp.int32(5)})
    _agree(lead.gradient, _direct(game, best, "upper"), 1e-7)


def _energy(*, gamma, kappa, width, bent=False):
    """Two penalties around the output; with `bent`, a residual that is not linear in the image."""
    wanted = data()[2]

    def residuals(theta, output):
        steps = theta[:, :, 1:] - theta[:, :, :-1]
        steps = jnp.sqrt(steps**2 + 0.01) if bent else steps
        return {"fidelity": theta - output, "intensity": theta - wanted, "gradient": steps - 0.1}

    def smooth(r):
        return (jnp.sqrt(r**2 + width**2) - width).sum()

    def convex(r):
        return 0.5 * (r["fidelity"] ** 2).sum() + gamma * (smooth(r["intensity"]) + kappa * smooth(r["gradient"]))

    def weights(r):
        scales = {"intensity": gamma, "gradient": gamma * kappa}
        return {"fidelity": jnp.ones_like(r["fidelity"])} | {n: s / jnp.hypot(r[n], width) for n, s in scales.items()}

    return Energy(residuals, convex, weights)


@pytest.mark.parametrize(("curvature", "bent"), [("gauss_newton", False), ("hessian", True)])
def test_pixel_is_the_gradient_through_a_long_descent_of_the_image(curvature, bent):
    game, (phi, psi) = _game(energy=functools.partial(_energy, bent=bent)), drawn()
    options = {"gamma": 0.05, "kappa": 0.5, "width": 0.1}
    energy = _energy(**options, bent=bent)

    def after(phi):
        output = game.fuse(phi, "all").theta
        slope = jax.grad(lambda theta: energy.convex(energy.residuals(theta, output)))
        theta = jax.lax.scan(lambda t, _: (t - 0.4 * slope(t), None), jnp.zeros_like(output), None, 200)[0]
        task = game.segmentation_loss(psi, theta, "all")
        return task + game.fusion_weight * game.fusion_loss(game.fuse(phi, "all"))[0], theta

    (value, theta), unrolled = jax.jit(jax.value_and_grad(after, has_aux=True))(phi)
    lead = _led(bilevel.pixel(**options, inner_steps=60, steps=60, curvature=curvature), game, psi)
    _agree(lead.gradient, unrolled, 1e-4)
    np.testing.assert_allclose(lead.loss, value, rtol=1e-8)
    assert (lead.metrics["bilevel/inner_converged"], lead.metrics["bilevel/dropped"]) == (1, 0)
    assert jnp.abs(theta - game.fuse(phi, "all").theta).max() > 0.02  # the energy has moved the image
    assert _distance(_direct(game, psi, "all"), unrolled) >= 1e-2


def test_pixel_without_energy_is_joint():
    """gamma = 0: the image is the network's output, and q what back-propagation sends there."""
    game, psi = _game(energy=_energy), drawn()[1]
    joint = _led(bilevel.joint(), game, psi)
    _agree(joint.gradient, _direct(game, psi, "all"), 1e-12)
    distances = []
    for gamma in (0.1, 0.01, 0.0):
        lead = _led(bilevel.pixel(gamma=gamma, width=0.1, inner_steps=20), game, psi)
        distances.append(_distance(lead.gradient, joint.gradient))
    assert distances[0] > 3 * distances[1] > 0
    assert distances[2] < 1e-12
    refused("needs the energy of an image", bilevel.pixel(), _game(), *drawn(), {})


def test_weights_is_the_dense_formula():
    """The segmentation network leads: F = L^s, f = fusion_weight L^f + coupling L^s, damped."""
    game, (phi, psi) = _game(), drawn()
    lead = _led(bilevel.weights(coupling=0.7, steps=60, damping=0.5), game, psi)
    (flat_phi, to_phi), (flat_psi, to_psi) = ravel_pytree(phi), ravel_pytree(psi)

    def upper(x, y):
        return game.task(to_phi(y), to_psi(x))

    def lower(x, y):
        return 0.3 * game.fusion_loss(game.fuse(to_phi(y), "all"))[0] + 0.7 * upper(x, y)

    @jax.jit
    def formula(x, y):
        hessian = jax.hessian(lower, 1)(x, y) + 0.5 * jnp.eye(len(y))
        cross = jax.jacfwd(jax.grad(lower, 1), 0)(x, y)
        return jax.grad(upper)(x, y) - cross.T @ jnp.linalg.solve(hessian, jax.grad(upper, 1)(x, y))

    _agree(lead.gradient, to_psi(formula(flat_psi, flat_phi)), 1e-8)
    assert lead.metrics["bilevel/dropped"] == 0
    assert bilevel.weights.leader == "segmentation"
    # The follower's objective is that lower level.
    value, terms = bilevel.weights(coupling=0.7).follow(game, game.fuse(phi, "all"), psi)
    np.testing.assert_allclose(value, lower(flat_psi, flat_phi), rtol=1e-12)
    assert set(terms) == {"content", "fusion_loss", "task_loss"}


@pytest.mark.parametrize("name", ["joint", "pixel", "fusion_leader", "rank_one"])
def test_a_task_without_weight_is_the_detached_gradient(name):
    """Warm-up relies on it."""
    game, psi = _game(energy=_energy, task_weight=0.0), drawn()[1]
    detached = _led(bilevel.detached(), game, psi)
    exact = jax.jit(jax.grad(lambda phi: 0.3 * game.fusion_loss(game.fuse(phi, "all"))[0]))(drawn()[0])
    _agree(detached.gradient, exact, 1e-12)
    _agree(_led(bilevel.SCHEMES[name](), game, psi).gradient, exact, 1e-12)


@pytest.mark.parametrize("name", ["joint", "fusion_leader"])
def test_the_follower_learns_from_its_part_and_sends_nothing_to_the_leader(name):
    scheme, game, (phi, psi) = bilevel.SCHEMES[name](), _game(), drawn()
    followed = lambda phi, psi: scheme.follow(game, game.fuse(phi, "all"), psi)[0]
    of_phi, of_psi = jax.jit(jax.grad(followed, (0, 1)))(phi, psi)
    assert optax.tree.norm(of_phi) == 0
    part = "all" if name == "joint" else "lower"
    _agree(of_psi, jax.jit(jax.grad(lambda psi: game.task(phi, psi, part)))(psi), 1e-12)


def test_the_follower_of_pixel_learns_from_the_image_that_its_leader_is_judged_on():
    """theta*, which is not the network's output; a game without energy has none."""
    game, (phi, psi) = _game(energy=_energy), drawn()
    scheme = bilevel.pixel(gamma=0.05, width=0.1)
    made = game.fuse(phi, "all")
    theta = scheme.image(made.theta, game.energy)
    assert jnp.abs(theta - made.theta).max() > 0.02
    followed, slope = jax.jit(jax.value_and_grad(lambda psi: scheme.follow(game, made, psi)[0]))(psi)
    expected = jax.jit(jax.value_and_grad(lambda psi: game.segmentation_loss(psi, theta, "all")))(psi)
    np.testing.assert_allclose(followed, expected[0], rtol=1e-12)
    _agree(slope, expected[1], 1e-10)
    judged = _led(scheme, game, psi).loss - 0.3 * game.fusion_loss(made)[0]
    np.testing.assert_allclose(judged, followed, rtol=1e-10)
    to_leader = jax.grad(lambda phi: scheme.follow(game, game.fuse(phi, "all"), psi)[0])(phi)
    assert optax.tree.norm(to_leader) == 0
    refused("needs the energy of an image", scheme.follow, _game(), made, psi)


def test_guard():
    direct, small = {"x": jnp.array([3.0, 4.0])}, {"x": jnp.array([1.0, 0.0])}

    def dropped(implicit, residual):
        gradient, found = guard(direct, {"x": jnp.array(implicit)}, jnp.array(residual))
        expected = direct["x"] + (0 if found.dropped else jnp.array(implicit))
        np.testing.assert_array_equal(gradient["x"], expected)
        assert float(found.direct_norm) == 5
        np.testing.assert_allclose(found.implicit_norm, np.linalg.norm(implicit), rtol=1e-6)
        return bool(found.dropped)

    # A residual that is not a number: no system was solved.
    for implicit, residual in (([1.0, 0.0], 0.5), ([1.0, 0.0], 1.0), ([1.0, 0.0], jnp.nan), ([30.0, 40.0], 0.0)):
        assert not dropped(implicit, residual)
    for implicit, residual in (([30.0, 40.1], 0.0), ([1.0, 0.0], 1.5), ([jnp.nan, 0.0], 0.0), ([jnp.inf, 0.0], 0.0)):
        assert dropped(implicit, residual)
    assert guard(direct, small, jnp.array(0.0), limit=0.1)[1].dropped


def test_a_solve_that_fails_is_dropped_and_said():
    """The follower's loss is not a number, the leader's is: training goes on by the direct gradient."""
    game, psi = _game(), drawn()[1]

    def exploding(psi, theta, part):
        loss = game.segmentation_loss(psi, theta, part)
        return loss + jnp.nan * theta.sum() * psi["bias"].sum() if part == "lower" else loss

    broken = _game(segmentation_loss=exploding)
    lead = _led(bilevel.fusion_leader(), broken, psi)
    _agree(lead.gradient, _direct(game, psi, "upper"), 1e-12)
    assert lead.metrics["bilevel/dropped"] == 1
    assert all(jnp.isfinite(value) for value in lead.metrics.values())
    assert lead.metrics["bilevel/inner_value"] == -1


def test_refusals():
    assert all(isinstance(make(), Scheme) for make in bilevel.SCHEMES.values())
    refused("a batch must have at least 2 examples", part_of, jnp.ones((1, 2)), "lower")
    np.testing.assert_array_equal(part_of(jnp.arange(5), "lower"), [1, 3])
    np.testing.assert_array_equal(part_of(jnp.arange(5), "upper"), [0, 2, 4])
    refused("curvature is 'newton'; choose one of fisher, hessian", bilevel.fusion_leader, curvature="newton")
    refused("pixel", bilevel.pixel, gamma=-1.0)
    refused("pixel", bilevel.pixel, steps=0)
    refused("fusion_leader", bilevel.fusion_leader, damping=-1.0)
    refused("rank_one", bilevel.rank_one, memory_decay=1.0)
    refused("unrolled", bilevel.unrolled, learning_rate=0.0)
    refused("weights", bilevel.weights, coupling=0.0)
