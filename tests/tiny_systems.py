"""Systems that compile at once, weights that are nowhere trivial, and what tests ask of trees.

`make_system` is found where a recipe names this module as its `model`.
"""

import inspect
import itertools
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxfuse.learning.networks import LinenNetwork, Stateless
from jaxfuse.learning.system import Geometry, Segmentation
from jaxfuse.losses.overlap import cross_entropy
from jaxfuse.nn.conv import conv

KEY = jax.random.key(0)


def count(tree: Any) -> int:
    """The number of values in a tree of arrays or of their shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def counts(trees: Any) -> dict[str, int]:
    """The number of values in each entry of a mapping."""
    return {name: count(tree) for name, tree in trees.items()}


def structure(tree: Any) -> Any:
    """The tree with (shape, dtype) in place of each array."""
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def largest(tree: Any) -> float:
    """The largest magnitude in a tree."""
    return max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(jax.device_get(tree)))


def minus(a: Any, b: Any) -> Any:
    """The difference of two trees."""
    return jax.tree.map(jnp.subtract, a, b)


def moved(before: Any, after: Any, player: str) -> Any:
    """How far a step of gradient descent at rate 1 moved a player: the gradient."""
    return minus(before.params[player], after.params[player])


def same(a: Any, b: Any) -> None:
    """Asserts that two trees hold equal values."""
    jax.tree.map(np.testing.assert_array_equal, a, b)


def agree(found: dict[str, Any], expected: dict[str, Any], relative: float = 1e-4) -> None:
    """Asserts that two mappings have the same names, with values equal up to rounding."""
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=relative, err_msg=name)


def close(a: Any, b: Any, relative: float = 1e-4) -> None:
    """Asserts that two trees are equal up to rounding, measured against the largest value of each leaf."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        scale = max(1e-3, float(np.abs(x).max(initial=0.0)))
        np.testing.assert_allclose(x, y, atol=relative * scale, err_msg=jax.tree_util.keystr(path))


def shape(*sides: int) -> jax.ShapeDtypeStruct:
    """The shape of a float32 array."""
    return jax.ShapeDtypeStruct(sides, jnp.float32)


def abstract(module: Any, *sides: int) -> tuple[Any, Any]:
    """Shapes of (output, variables) of a Flax module on an image of these sides; nothing is computed."""
    return jax.eval_shape(lambda image: module.init_with_output(KEY, image), shape(*sides))


def drawn(shapes: Any, scale: float, *, positive: Collection[str] = ()) -> Any:
    """Values of which none is 0 or 1, as after training, drawn without compiling anything.

    Those of the leaves named in `positive` are the exponential of a draw.
    """
    rng = np.random.default_rng(0)

    def one(path: Any, leaf: Any) -> jax.Array:
        values = scale * rng.normal(size=leaf.shape)
        return jnp.asarray(np.exp(values) if path[-1].key in positive else values, jnp.float32)

    return jax.tree_util.tree_map_with_path(one, shapes)


def drawn_for(module: Any, *inputs: Any, scale: float, positive: Collection[str] = ()) -> Any:
    """Variables of a Flax module for these inputs, by `drawn`."""
    return drawn(jax.eval_shape(module.init, KEY, *inputs), scale, positive=positive)


def kept(function: Callable[..., Any], params: Any, *inputs: Any) -> list[Any]:
    """Shapes of all that the backward pass keeps of function(params, *inputs), exactly, without running either."""
    backward = jax.eval_shape(lambda p, *x: jax.vjp(lambda p: function(p, *x), p)[1], params, *inputs)
    return jax.tree.leaves(backward)


def kept_bytes(function: Callable[..., Any], params: Any, *inputs: Any) -> int:
    """The size of what `kept` tells."""
    return size_bytes(kept(function, params, *inputs))


def size_bytes(tree: Any) -> int:
    """The size of a tree of arrays or of their shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def kept_in_training(network: Any, image: Any) -> tuple[list[Any], Any]:
    """Returns what `kept` tells of a Flax module in training, and the shapes of its variables."""
    variables = jax.eval_shape(lambda x: network.init(KEY, x, train=False), image)

    def forward(params: Any, stats: Any, image: Any) -> Any:
        return network.apply({"params": params, "batch_stats": stats}, image, train=True, mutable=["batch_stats"])[0]

    return kept(forward, variables["params"], variables["batch_stats"], image), variables


def gradient_descent(*players: str) -> dict[str, optax.GradientTransformation]:
    """Optimizers whose updates are the gradients themselves, with the other sign."""
    return {player: optax.sgd(1.0) for player in players}


def adjustable() -> optax.GradientTransformation:
    """Gradient descent whose rate lies in its state, so that a compiled step can hold a player still."""

    def update(gradient: Any, rate: Any, params: Any = None) -> Any:
        return jax.tree.map(lambda g: -rate * g, gradient), rate

    return optax.GradientTransformation(lambda params: jnp.float32(1.0), update)


def with_rates(state: Any, **rates: float) -> Any:
    """The state with these rates of its players' `adjustable` optimizers."""
    return state.replace(opt_state={player: jnp.float32(rate) for player, rate in rates.items()})


def in_float32(system: Any, state: Any, batch: Any) -> list[str]:
    """Asserts that weights, statistics, losses and outputs are float32.

    Returns:
        Types and shapes of all convolutions in a prediction, such as "bf16[2,8,8,2]".
    """
    after, metrics = jax.eval_shape(system.train_step, state, batch)
    made = jax.eval_shape(system.predict, state, batch)
    leaves = jax.tree.leaves((state.params, state.stats, after.params, after.stats, metrics, made))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    return re.findall(r"(\w+\[[\d,]+\]) = convolve\[", str(jax.make_jaxpr(system.predict)(state, batch)))


def slopes(system: Any, state: Any, batch: Any, terms: Sequence[str]) -> dict[str, Any]:
    """By term of the evaluation, its gradient; compiled once, which takes less than all of them side by side."""

    @jax.jit
    def slope(params: Any, weights: Any) -> Any:
        def weighted(params: Any) -> jax.Array:
            metrics = system.eval_step(state.replace(params=params), batch)
            return sum(weights[name] * metrics[name] for name in weights)

        return jax.grad(weighted)(params)

    return {term: slope(state.params, {other: jnp.float32(other == term) for other in terms}) for term in terms}


def moving(system: Any, state: Any, batch: Any, terms: Sequence[str]) -> dict[str, set[str]]:
    """By term of the evaluation, the names of the networks that its gradient moves."""
    return {
        term: {part for part, tree in system.networks(found).items() if largest(tree) > 0}
        for term, found in slopes(system, state, batch, terms).items()
    }


def pictures(side: int, channels: int, classes: int, seed: int = 0) -> dict[str, jax.Array]:
    """A batch of two square images in [0, 1] with labels."""
    rng = np.random.default_rng(seed)
    return {
        "image": jnp.asarray(rng.uniform(size=(2, side, side, channels)), jnp.float32),
        "label": jnp.asarray(rng.integers(0, classes, (2, side, side)), jnp.int32),
    }


def made(make: Callable[..., Any], **options: Any) -> Any:
    """A System from flat options: each goes to every form that has such a field, and else to `make` itself."""
    parameters = inspect.signature(make).parameters
    forms = {name: p.default for name, p in parameters.items() if is_dataclass(p.default)}
    known = {name: {f.name for f in fields(form)} for name, form in forms.items()}
    own = {name: {key: options[key] for key in options if key in known[name]} for name in forms}
    filled = {name: replace(form, **own[name]) for name, form in forms.items()}
    rest = {key: value for key, value in options.items() if not any(key in names for names in known.values())}
    return make(**filled, **rest)


@dataclass(frozen=True)
class Valid:
    """`layers` convolutions of kernel 3 to `width` channels, the last one to `classes`; nothing is padded.

    Each output depends on the input around it and on nothing else.
    """

    layers: int
    width: int = 2
    classes: int = 2

    def init(self, rng, image):
        ndim, widths = image.ndim - 2, [image.shape[-1], *[self.width] * (self.layers - 1), self.classes]
        keys = jax.random.split(rng, self.layers)
        shapes = [((3,) * ndim, a, b) for a, b in itertools.pairwise(widths)]
        return {
            f"layer_{i}": jax.random.normal(key, (*kernel, a, b)) * (3**ndim * a) ** -0.5
            for i, (key, (kernel, a, b)) in enumerate(zip(keys, shapes, strict=True))
        }

    def __call__(self, params, image):
        for i in range(self.layers):
            # A bias, so that the background does not stay 0.
            image = jnp.sin(conv(image, params[f"layer_{i}"], strides=1, padding=0) + 0.3)
        return 3 * image


def valid_system(
    layers: int, *, ndim: int = 3, channels: Sequence[int] = (0,), classes: int = 2, divisor: int = 1
) -> Segmentation:
    """A System around `Valid`, of margin `layers`."""
    network, optimizers = Stateless(Valid(layers, classes=classes)), {"net": optax.sgd(0.1)}
    return Segmentation(network, channels, cross_entropy, optimizers, Geometry(ndim, divisor, layers), "valid")


class Pixelwise(nn.Module):
    """Logits of a pixel from its own normalized channels and their squares."""

    classes: int

    @nn.compact
    def __call__(self, image, *, train):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(image)
        return nn.Dense(self.classes)(jnp.concatenate([x, x**2], -1))


def make_system(*, optimizers, modalities, classes, loss):
    """The System of `Pixelwise`, from what a recipe gives."""
    network, channels = LinenNetwork(Pixelwise(classes)), tuple(range(len(modalities)))
    return Segmentation(network, channels, loss, optimizers, Geometry(2, 1), "segmentation")
