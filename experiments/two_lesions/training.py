"""Training and scoring of one row with one seed. One compiled program serves all weights and seeds of a scheme."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.two_lesions import rows
from experiments.two_lesions.networks import Fusing, FusionNet, Segmenting
from experiments.two_lesions.pictures import CLASSES, pictures
from experiments.two_lesions.rows import Row
from jaxfuse.learning.optim import adam
from jaxfuse.learning.state import Aux, State, create_state, descend
from jaxfuse.losses.fusion import in_gray
from jaxfuse.metrics.fusion import qabf
from jaxfuse.metrics.overlap import dice
from jaxfuse.models.fuse4seg.cooperative import Cooperation
from jaxfuse.models.fuse4seg.judging import CriticForm
from jaxfuse.models.fuse4seg.make import BilevelForm, LossForm, cooperate
from jaxfuse.nn.drawing import carried_out

SEGMENTING = Segmenting()
# Steps of one call of a program, of which the log has the means.
BLOCK = 50
Reading = Callable[[Any, Any], Any]


def optimizers(steps: int) -> dict[str, Any]:
    shared: dict[str, Any] = {"total_steps": steps, "schedule": "cosine", "clip_norm": rows.CLIP_NORM}
    return {
        "fusion": adam(learning_rate=rows.FUSION_RATE, **shared),
        "segmentation": adam(learning_rate=rows.SEGMENTATION_RATE, **shared),
    }


@dataclass(frozen=True)
class Kind:
    """All that a compiled program depends on: rows that differ in weights and seeds alone have one kind."""

    scheme: str
    options: tuple[tuple[str, Any], ...]
    follower_steps: int
    reads: str
    batch: int
    steps: int
    channels: int


def kind_of(row: Row, steps: int) -> Kind:
    reads = "frozen" if row.reads.startswith("frozen") else row.reads
    return Kind(row.scheme, tuple(row.options.items()), row.follower_steps, reads, row.batch, steps, row.channels)


@cache
def cooperation(kind: Kind) -> Cooperation:
    share_every = rows.SHARE_EVERY if kind.scheme != "weights" else 0
    form = BilevelForm(
        kind.scheme, follower_steps=kind.follower_steps, share_every=share_every, options=dict(kind.options)
    )
    return cooperate(
        Fusing(kind.channels),
        SEGMENTING,
        optimizers=optimizers(kind.steps),
        modalities=("A", "B"),
        critics=CriticForm(adversarial_weight=0.0),
        losses=LossForm(correlation_weight=0.0, gradient_weight=rows.GRADIENT_WEIGHT),
        scheme=form,
    )


# What segmentation reads of the pictures (n h w 2); the argument is a frozen fusion network's.
READINGS: dict[str, Reading] = {
    "A": lambda _, image: image[..., :1],
    "B": lambda _, image: image[..., 1:],
    "mean": lambda _, image: image.mean(-1, keepdims=True),
    "maximum": lambda _, image: image.max(-1, keepdims=True),
    "(A - B) / 2": lambda _, image: (image[..., :1] - image[..., 1:]) / 2 + 0.5,
    "both channels": lambda _, image: image,
    "frozen": lambda phi, image: FusionNet().apply({"params": phi}, image),
}


@cache
def program(kind: Kind) -> Callable[..., Any]:
    """(state, data key, phi) -> (the state after `BLOCK` steps, the means of their metrics)."""
    system, optimizer = cooperation(kind) if kind.scheme else None, optimizers(kind.steps)["segmentation"]

    def alone(state: State, given: Any, phi: Any) -> tuple[State, Any]:
        theta = READINGS[kind.reads](phi, given["image"])

        def objective(psi: Any) -> tuple[Any, Aux]:
            return SEGMENTING.loss(psi, theta, given["label"], None), Aux({})

        state, aux = descend(state, "segmentation", optimizer, objective)
        return state.advance(), aux.metrics

    def block(state: State, key: Any, phi: Any) -> tuple[State, Any]:
        def one(state: State, _: None) -> tuple[State, Any]:
            given = pictures(jax.random.fold_in(key, state.step), kind.batch)
            return system.train_step(state, given) if system else alone(state, given, phi)

        state, told = jax.lax.scan(one, state, None, BLOCK)
        return state, jax.tree.map(jnp.mean, told)

    return jax.jit(block)


def first_state(row: Row, seed: int, steps: int) -> State:
    """The networks of a seed are drawn alike in all rows with a scheme; those of segmentation alone have their own."""
    key, like = jax.random.key(seed), pictures(jax.random.key(0), row.batch)
    if row.scheme:
        state = carried_out(cooperation(kind_of(row, steps)).init)(key, like)
        return state.replace(memory={**state.memory, "fusion_weight": jnp.float32(row.fusion_weight)})
    theta = READINGS[kind_of(row, steps).reads](_no_weights(key), like["image"])
    psi = carried_out(SEGMENTING.init)(jax.random.fold_in(key, 1), theta)
    return create_state(key, {"segmentation": psi}, {"segmentation": optimizers(steps)["segmentation"]})


def _no_weights(key: Any) -> Any:
    return carried_out(Fusing().init)(key, jax.ShapeDtypeStruct((1, 8, 8, 2), jnp.float32))


def trained(row: Row, seed: int, steps: int, phi: Any = None) -> tuple[State, list[dict[str, float]], float]:
    """The state at the end, the mean metrics of each block of steps, and seconds without compilation."""
    run, state = program(kind_of(row, steps)), first_state(row, seed, steps)
    phi = _no_weights(jax.random.key(0)) if phi is None else phi
    data, log = jax.random.fold_in(jax.random.key(seed), 2), []
    jax.block_until_ready(run(state, data, phi))
    started = time.perf_counter()
    for _ in range(steps // BLOCK):
        state, told = run(state, data, phi)
        log.append({name: float(value) for name, value in jax.device_get(told).items()})
    return state, log, time.perf_counter() - started


@cache
def _predict(kind: Kind) -> Callable[..., Any]:
    if kind.scheme:
        system = cooperation(kind)
        return jax.jit(lambda state, phi, image: system.predict(state, {"image": image}))

    def alone(state: State, phi: Any, image: Any) -> Any:
        theta = READINGS[kind.reads](phi, image)
        logits = SEGMENTING.segment(state.params["segmentation"], theta, None)
        return {"S": jax.nn.softmax(logits)} | ({"fused": theta} if theta.shape[-1] == 1 else {})

    return jax.jit(alone)


def scored(row: Row, state: State, steps: int, count: int, seed: int, phi: Any = None) -> dict[str, Any]:
    """Dice of both lesions in each of so many pictures of a seed, and Qabf of the image where there is one."""
    given = pictures(jax.random.key(seed), count)
    phi = _no_weights(jax.random.key(0)) if phi is None else phi
    made = jax.device_get(_predict(kind_of(row, steps))(state, phi, given["image"]))
    labels, truth, image = made["S"].argmax(-1), np.asarray(given["label"]), np.asarray(given["image"])
    found: dict[str, Any] = {
        CLASSES[kind]: [dice(a == kind, b == kind) for a, b in zip(labels, truth, strict=True)] for kind in (1, 2)
    }
    if "fused" in made:
        gray = partial(np.multiply, 255.0)
        found["qabf"] = [
            qabf(gray(np.clip(fused, 0, 1)), [gray(one[..., 0]), gray(one[..., 1])])
            for fused, one in zip(np.asarray(in_gray(jnp.asarray(made["fused"])))[..., 0], image, strict=True)
        ]
    return found
