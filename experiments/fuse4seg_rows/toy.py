"""Two networks of a few weights, whose bi-level gradients are known: how near does each scheme come?

float64. Three problems, since the schemes solve different ones: the segmentation network as follower (exact: back-
propagation through 3,000 steps of its descent), the image as follower (exact: through 400 steps of its descent), the
fusion network as follower (exact: dense formula at its optimum).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from configs import fuse4seg
from jaxfuse.learning import bilevel
from jaxfuse.learning.game import Energy, Game, part_of

DECAY = 0.05  # of the segmentation network's weights
DAMPING = bilevel.weights().damping
CLASSES = 3
PIXEL = {"gamma": 0.05, "kappa": 0.5, "width": 0.1}


class Made(NamedTuple):
    """The output of the fusion network."""

    theta: jax.Array


def networks() -> tuple[Game, Any, Any]:
    """A batch of eight 3 x 3 images with two sources as a game, and the weights (phi, psi) to start from."""
    rng = np.random.default_rng(0)
    sources = rng.uniform(size=(8, 3, 3, 2))
    label = jnp.asarray(np.digitize(sources.sum(-1) + 0.3 * rng.normal(size=(8, 3, 3)), [0.8, 1.2]))
    turns = np.arange(8).reshape(2, 4)[::-1].T.ravel()  # the first four at odd places: the lower part
    sources, label = jnp.asarray(sources)[turns], label[turns]
    wanted = sources.max(-1, keepdims=True)
    phi = {"in": rng.normal(size=(2, 3)), "out": rng.normal(size=(3, 1))}
    psi = {"in": rng.normal(size=(1, 4)), "bias": rng.normal(size=4), "out": 0.5 * rng.normal(size=(4, CLASSES))}
    phi, psi = jax.tree.map(jnp.asarray, (phi, psi))

    def logits(psi: Any, theta: Any) -> Any:
        return jnp.tanh(2 * theta @ psi["in"] + psi["bias"]) @ psi["out"]

    def task(psi: Any, theta: Any, part: Any) -> Any:
        chosen = jax.nn.one_hot(part_of(label, part), CLASSES)
        return -(chosen * jax.nn.log_softmax(logits(psi, theta))).sum(-1).mean()

    def fuse(phi: Any, part: Any) -> Made:
        return Made(jax.nn.sigmoid(jnp.tanh(part_of(sources, part) @ phi["in"]) @ phi["out"]))

    def content(made: Made) -> tuple[Any, dict[str, Any]]:
        return jnp.square(made.theta - wanted).mean(), {}

    def energy(*, gamma: float, kappa: float, width: float) -> Energy:
        def residuals(theta: Any, output: Any) -> dict[str, Any]:
            steps = theta[:, :, 1:] - theta[:, :, :-1]
            return {"fidelity": theta - output, "intensity": theta - wanted, "gradient": steps - 0.1}

        def convex(r: Any) -> Any:
            smooth = lambda v: (jnp.sqrt(v**2 + width**2) - width).sum()  # noqa: E731
            penalty = smooth(r["intensity"]) + kappa * smooth(r["gradient"])
            return 0.5 * (r["fidelity"] ** 2).sum() + gamma * penalty

        def weights(r: Any) -> dict[str, Any]:
            scales = {"intensity": gamma, "gradient": gamma * kappa}
            return {"fidelity": jnp.ones_like(r["fidelity"])} | {
                name: scale / jnp.hypot(r[name], width) for name, scale in scales.items()
            }

        return Energy(residuals, convex, weights)

    game = Game(fuse=fuse, fusion_loss=content, segmentation_loss=task, logits=logits, energy=energy, fusion_weight=0.3)
    return game, phi, psi


def descended(loss: Any, start: Any, steps: int, rate: float) -> Any:
    """Returns the unknown after plain gradient descent; differentiable."""
    step = lambda w, _: (jax.tree.map(lambda a, g: a - rate * g, w, jax.grad(loss)(w)), None)  # noqa: E731
    return jax.lax.scan(step, start, None, steps)[0]


def recipe_scheme(**options: Any) -> Any:
    """`fusion_leader` as in configs/fuse4seg.py, with the weight decay of this follower."""
    given = recipe_options()["options"].to_dict() | options
    return bilevel.SCHEMES["fusion_leader"](**given | {"weight_decay": DECAY, "entropy_weight": 1.0})


def recipe_options() -> Any:
    return fuse4seg.get_config(",row=fusion_leader").cooperative.args.scheme


def trained_by_recipe(moves: int, rate: float = 0.05) -> float:
    """The cosine of the leader's gradient with the exact one, in a training from the start by the recipe's scheme.

    Both networks learn: before each move of the leader the follower makes as many steps as the recipe says.
    """
    with jax.enable_x64(True):
        game, phi, psi = networks()
        scheme, steps = recipe_scheme(), recipe_options().follower_steps

        def lower(phi: Any, psi: Any) -> Any:
            return game.task(phi, psi, "lower") + DECAY / 2 * optax.tree.norm(psi, squared=True)

        def move(state: Any, key: Any) -> Any:
            phi, psi, memory = state
            psi = descended(lambda w: lower(phi, w), psi, steps, 2.0)
            lead = scheme(replace(game, key=key), phi, psi, memory)
            moved = jax.tree.map(lambda weight, slope: weight - rate * slope, phi, lead.gradient)
            return (moved, psi, dict(lead.memory)), (phi, psi, lead.gradient)

        keys = jax.random.split(jax.random.key(1), moves)
        start = (phi, psi, dict(scheme.start(phi, psi)))
        _, (all_phi, all_psi, gradients) = jax.jit(lambda keys: jax.lax.scan(move, start, keys))(keys)
        phi, psi, found = jax.tree.map(lambda leaf: leaf[-1], (all_phi, all_psi, gradients))

        def after(phi: Any) -> Any:
            return game.upper(phi, descended(lambda w: lower(phi, w), psi, 3000, 2.0), "upper")[0]

        return row("segmentation", "", found, jax.jit(jax.grad(after))(phi))["cosine"]


def segmentation_follows(game: Game, phi: Any, psi: Any) -> list[dict[str, Any]]:
    def lower(phi: Any, psi: Any) -> Any:
        return game.task(phi, psi, "lower") + DECAY / 2 * optax.tree.norm(psi, squared=True)

    def after(phi: Any) -> tuple[Any, Any]:
        last = descended(lambda w: lower(phi, w), psi, 3000, 2.0)
        return game.upper(phi, last, "upper")[0], last

    (_, best), exact = jax.jit(jax.value_and_grad(after, has_aux=True))(phi)
    slope = optax.tree.norm(jax.jit(jax.grad(lower, 1))(phi, psi), squared=True)
    remembered = {"squared": jnp.asarray(slope, jnp.float32), "count": jnp.int32(5)}
    schemes = {
        "detached": (bilevel.detached(), {}),
        "joint (both halves of the batch)": (bilevel.joint(), {}),
        "rank_one": (bilevel.rank_one(weight_decay=DECAY), remembered),
        "fusion_leader, as in the recipe": (recipe_scheme(warm_start=False), {}),
        "fusion_leader, Fisher, damping 0.01": (
            bilevel.fusion_leader(
                weight_decay=DECAY,
                entropy_weight=1.0,
                curvature="fisher",
                damping=0.01,
                damping_scale="fixed",
                warm_start=False,
            ),
            {},
        ),
        "fusion_leader, Hessian, no damping": (
            bilevel.fusion_leader(steps=200, damping=0.0, weight_decay=DECAY, warm_start=False),
            {},
        ),
        "unrolled, 20 steps": (bilevel.unrolled(steps=20, learning_rate=2.0, weight_decay=DECAY), {}),
    }
    # On the half that the exact gradient is of, so that only the follower's answer is missing.
    direct = jax.jit(jax.grad(lambda p: game.upper(p, best, "upper")[0]))(phi)
    return [
        row("segmentation", "direct (upper half of the batch)", direct, exact),
        *(
            row("segmentation", name, jax.jit(lambda p, s=s, m=m: s(game, p, best, m).gradient)(phi), exact)
            for name, (s, m) in schemes.items()
        ),
    ]


def image_follows(game: Game, phi: Any, psi: Any) -> list[dict[str, Any]]:
    assert game.energy is not None
    energy = game.energy(**PIXEL)

    def after(phi: Any) -> Any:
        output = game.fuse(phi, "all").theta
        theta = descended(lambda t: energy.convex(energy.residuals(t, output)), output, 400, 0.4)
        task = game.segmentation_loss(psi, theta, "all")
        return task + game.fusion_weight * game.fusion_loss(game.fuse(phi, "all"))[0]

    exact = jax.jit(jax.grad(after))(phi)
    schemes = {
        "joint": bilevel.joint(),
        "pixel, as in the recipe": bilevel.pixel(**PIXEL),
        "pixel, 60 steps": bilevel.pixel(**PIXEL, inner_steps=60, steps=60),
    }
    return [
        row("image", name, jax.jit(lambda p, s=s: s(game, p, psi, {}).gradient)(phi), exact)
        for name, s in schemes.items()
    ]


def fusion_follows(game: Game, phi: Any, psi: Any) -> list[dict[str, Any]]:
    follow = bilevel.weights().follow

    # With a weight decay as large as the recipe's damping, without which the weights would grow for ever.
    def lower(psi: Any, phi: Any) -> Any:
        return follow(game, game.fuse(phi, "all"), psi)[0] + 0.5 * DAMPING * optax.tree.norm(phi, squared=True)

    best = jax.jit(lambda: descended(lambda p: lower(psi, p), phi, 20_000, 1.0))()
    flat_phi, to_phi = ravel_pytree(best)
    flat_psi, to_psi = ravel_pytree(psi)

    @jax.jit
    def formula(x: Any, y: Any) -> Any:
        upper = lambda x, y: game.task(to_phi(y), to_psi(x))  # noqa: E731
        flat = lambda x, y: lower(to_psi(x), to_phi(y))  # noqa: E731
        cross = jax.jacfwd(jax.grad(flat, 1), 0)(x, y)
        return jax.grad(upper)(x, y) - cross.T @ jnp.linalg.solve(jax.hessian(flat, 1)(x, y), jax.grad(upper, 1)(x, y))

    exact = to_psi(formula(flat_psi, flat_phi))
    schemes = {
        "no implicit part": lambda s: jax.grad(lambda w: game.task(best, w))(s),
        "weights, as in the recipe": lambda s: bilevel.weights()(game, best, s, {}).gradient,
        "weights, 60 steps": lambda s: bilevel.weights(steps=60)(game, best, s, {}).gradient,
    }
    return [row("fusion", name, jax.jit(make)(psi), exact) for name, make in schemes.items()]


def row(follower: str, scheme: str, found: Any, exact: Any) -> dict[str, Any]:
    a, b = (np.asarray(ravel_pytree(tree)[0]) for tree in (found, exact))
    cosine = float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    return {
        "follower": follower,
        "scheme": scheme,
        "cosine": cosine,
        "relative error": float(np.linalg.norm(a - b) / np.linalg.norm(b)),
    }


def compare() -> list[dict[str, Any]]:
    """Makes one row for each scheme of each problem."""
    with jax.enable_x64(True):
        game, phi, psi = networks()
        return [
            *segmentation_follows(game, phi, psi),
            *image_follows(game, phi, psi),
            *fusion_follows(game, phi, psi),
        ]


if __name__ == "__main__":
    for one in compare():
        print(f"{one['follower']:14s} {one['scheme']:36s} cosine {one['cosine']:.4f} error {one['relative error']:.2e}")
