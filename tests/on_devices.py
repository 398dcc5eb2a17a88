"""Steps on eight devices beside those on one, in a process of its own: `python -m tests.on_devices WHAT ...`.

All of it is float64, so that what differs is wrong: `jnp.float32`, by which networks and losses name their arithmetic,
is float64 here. Prints a line of JSON.
"""

import json
import math
import re
import sys
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Before anything is imported that reads it.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_x64", True)
jnp.float32 = jnp.float64

import flax.linen as nn  # noqa: E402
import optax  # noqa: E402

from jaxfuse.engine.build import initial_state  # noqa: E402
from jaxfuse.engine.devices.placement import on_mesh, one_device  # noqa: E402
from jaxfuse.engine.feed.windows import Block, Places, Windows, cut_all  # noqa: E402
from jaxfuse.engine.programs import Programs, donating  # noqa: E402
from jaxfuse.learning.bilevel import SCHEMES  # noqa: E402
from jaxfuse.learning.game import part_of  # noqa: E402
from jaxfuse.learning.networks import LinenNetwork  # noqa: E402
from jaxfuse.learning.optim import by_part  # noqa: E402
from jaxfuse.learning.side_by_side import SideBySide  # noqa: E402
from jaxfuse.learning.system import Geometry, Segmentation  # noqa: E402
from jaxfuse.losses.overlap import cross_entropy  # noqa: E402
from jaxfuse.nn.batch_norm import BatchNorm  # noqa: E402
from jaxfuse.nn.conv import Conv, implementation  # noqa: E402
from jaxfuse.nn.onednn import convolutions as onednn  # noqa: E402
from tests.models.fuse4seg.small_forms import ALL, CLASSES, NAMES, small_system  # noqa: E402
from tests.recipe_phases import phases, random_batch  # noqa: E402

# It knows float32 alone, under its true name.
onednn.available = lambda: False

_COLLECTIVE = re.compile(r"= (.*?) (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(")


def collectives(text: str) -> list[tuple[str, int]]:
    """Returns the exchanges between devices in a compiled program, each by its kind and the values that come out."""
    found = []
    for made, kind in _COLLECTIVE.findall(re.sub(r"/\*.*?\*/", "", text)):
        shapes = re.findall(r"\w+\[([0-9,]*)\]", made)
        found.append((kind, sum(math.prod(int(side) for side in shape.split(",") if side) for shape in shapes)))
    return sorted(found)


def wide(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(np.float64) if leaf.dtype == np.float32 else leaf, tree)


def moved_a_little(params: Any) -> Any:
    """Takes weights off the places where a derivative jumps, such as a bias of 0 before a ReLU."""
    rng = np.random.default_rng(5)
    return jax.tree.map(lambda leaf: leaf + 0.05 * rng.normal(size=leaf.shape), params)


def apart(a: Any, b: Any, start: Any) -> float:
    """How far two states lie apart, weights or statistics, relative to how far they came."""
    parts = [[(state.params, state.stats)[part] for state in (a, b, start)] for part in (0, 1)]
    return max(_length(one, other) / (_length(one, begun) or 1) for one, other, begun in parts)


def _length(a: Any, b: Any) -> float:
    """The length of the difference of two trees."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return math.sqrt(sum(float(np.square(np.asarray(x) - np.asarray(y)).sum()) for x, y in pairs))


def compared(train_step: Any, state: Any, batches: list[Any]) -> dict[str, Any]:
    """Makes a step of each batch on one device and on eight; distances are relative to how far one device came."""
    start, after, told = jax.device_get(state), {}, {}
    for placement in (one_device(), on_mesh(jax.devices())):
        step, here = donating(train_step, placement), placement.keep(_copied(start))
        if placement.mesh is not None:
            step = step.lower(here, placement.put(batches[0])).compile()
            told["collectives"] = collectives(step.as_text())
        after[placement.parts] = []
        for batch in batches:
            here, measured = step(here, placement.put(batch))
            after[placement.parts].append(jax.device_get(here))
            told.setdefault("metrics", []).append(measured.rows())
    one, many = after[1], after[8]
    memory = [_kept(states[-1].memory) for states in (one, many)]
    return told | {
        "first": apart(one[0], many[0], start),
        "last": apart(one[-1], many[-1], start),
        "memory": all(_alike(_plain(x), _plain(y)) for x, y in zip(*memory, strict=True)),
        "weights": sum(leaf.size for leaf in jax.tree.leaves(start.params)),
    }


def _kept(memory: Any) -> list[Any]:
    """Returns what a state remembers; of the start of a solve, which is made of many sums, its size."""
    adjoint = memory.get("bilevel", {}).get("adjoint", {})
    solved = {**memory.get("bilevel", {}), "adjoint": np.array(_length(adjoint, jax.tree.map(np.zeros_like, adjoint)))}
    return jax.tree.leaves({**memory, "bilevel": solved})


def _alike(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether pools hold the same fakes, to the bit, and numbers that were summed agree but for the order of sums."""
    return np.array_equal(x, y) if x.ndim else bool(np.isclose(x, y, rtol=1e-8, atol=0))


def _plain(leaf: Any) -> np.ndarray:
    return np.asarray(leaf).astype(np.float64)


def _copied(state: Any) -> Any:
    """A step uses up what it is given."""
    clone = lambda leaf: jax.random.clone(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf + 0
    return jax.tree.map(clone, state)


def of_recipe(recipe: str, text: str, name: str, batch: int, form: str, scheme: str = "") -> dict[str, Any]:
    """Compares three steps of a phase by gradient descent with momentum, convolutions in one form.

    Args:
        scheme: a bi-level one in place of the row's, with its own options.
    """
    built = phases(recipe, text)[name]
    built = replace(built, phase=replace(built.phase, batch=batch))
    descent = optax.sgd(1e-2, momentum=0.9)
    optimizers = {player: by_part(descent) if player == "critics" else descent for player in built.system.players}
    own = {"scheme": SCHEMES[scheme]()} if scheme else {}
    system = replace(built.system, optimizers=optimizers, **own)
    with nullcontext() if form == "auto" else implementation(form):
        state = wide(initial_state(system, built.phase, built.modalities, seed=0, number=0))
        state = state.replace(params=moved_a_little(state.params))
        batches = [wide(random_batch(built, seed)) for seed in range(3)]
        # What is shown to each pool of fakes in a step: a fake of every other side for each example.
        pools = [leaf for leaf in jax.tree.leaves({**state.memory, "bilevel": {}}) if leaf.ndim > 2]
        shown = sorted(batch * (len(pools) - 1) * math.prod(pool.shape[1:]) for pool in pools)
        return compared(system.train_step, state, batches) | {"shown": shown}


class Normalized(nn.Module):
    """Two convolutions with a batch norm each."""

    @nn.compact
    def __call__(self, image, *, train=False):
        x = image
        for width in (3, 2):
            x = Conv(width, 3)(x)
            x = nn.sigmoid(BatchNorm(train=train, decay=0.9, eps=1e-5, dtype=None)(x))
        return x


def small() -> dict[str, Any]:
    """Compares steps of a small System: alone, two side by side, and on data that lie on the devices."""
    optimizers = {"net": optax.sgd(1e-2, momentum=0.9)}
    system = Segmentation(LinenNetwork(Normalized()), (0,), cross_entropy, optimizers, Geometry(2, 1), "segmentation")
    rng = np.random.default_rng(0)
    data = {"image": rng.normal(size=(5, 9, 9, 1)), "label": rng.integers(0, 2, (5, 9, 9)).astype(np.uint8)}

    def places(*steps: int) -> Places:
        return Places(
            rng.integers(0, 5, (*steps, 8)).astype(np.int32),
            rng.integers(0, 2, (*steps, 8, 2)).astype(np.int32),
            rng.random((*steps, 8, 2)) < 0.5,
        )

    def windows(placement: Any, places: Places) -> Windows:
        return Windows(*(placement.keep(data[name]) for name in ("image", "label")), places, (8, 8), 0)

    drawn = [places() for _ in range(3)]
    here = one_device()
    batches = [jax.device_get(cut_all(here.put(windows(here, place)))) for place in drawn]
    state = wide(Programs(system).init(jax.random.key(0), batches[0]))
    state = state.replace(params=moved_a_little(state.params))
    members = SideBySide(system, ("a", "b"))
    both = members.stack({"a": state, "b": state.replace(params=moved_a_little(state.params))})
    sides = [{"a": batch, "b": other} for batch, other in zip(batches, reversed(batches), strict=True)]
    found = {"alone": compared(system.train_step, state, batches), "members": compared(members.train_step, both, sides)}

    many, cut = on_mesh(jax.devices()), jax.jit(cut_all)
    given = [many.put(windows(many, place)) for place in drawn]
    made = [cut(one) for one in given]
    found["cut"] = collectives(cut.lower(given[0]).compile().as_text())
    found["lies"] = sorted({str(leaf.sharding.spec) for leaf in jax.tree.leaves(made)})
    found["equal"] = all(
        (leaf.dtype, np.asarray(leaf).tobytes()) == (wanted.dtype, wanted.tobytes())
        for one, other in zip(made, batches, strict=True)
        for leaf, wanted in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )
    joined = jax.tree.map(lambda *leaves: np.stack(leaves), *drawn)
    block = many.put(Block(windows(many, joined)))
    step = donating(system.train_step, many).lower(many.keep(_copied(state)), block).compile()
    found["block"] = collectives(step.as_text())
    after, _ = step(many.keep(_copied(state)), block)
    # The gradient of what both halves of a batch with two examples on each device come to.
    halves = jax.jit(jax.grad(lambda image: sum(jnp.sin(part_of(image, part)).mean() for part in ("lower", "upper"))))
    shape = jax.ShapeDtypeStruct((16, 9, 9, 1), np.float64, sharding=many.batch)
    found["halves"] = collectives(halves.lower(shape).compile().as_text())
    alone, here_now = donating(system.train_step, here), here.keep(_copied(state))
    for batch in batches:
        here_now, _ = alone(here_now, here.put(batch))
    found["block_apart"] = apart(here_now, after, state)
    return found


def schemes(*names: str) -> dict[str, Any]:
    """Compares steps of bi-level schemes, of two networks of a few weights each: they compile in seconds."""
    found = {}
    for name in names:
        system = small_system(optimizers=dict.fromkeys(ALL, optax.sgd(1e-2, momentum=0.9)), bilevel=name)
        system = replace(system, optimizers={**system.optimizers, "critics": by_part(optax.sgd(1e-2))})
        rng, batches = np.random.default_rng(0), []
        for _ in range(3):
            label = rng.integers(0, CLASSES, (16, 16, 16)).astype(np.uint8)
            batches.append({"image": rng.uniform(size=(16, 16, 16, len(NAMES))), "label": label})
        state = wide(Programs(system).init(jax.random.key(0), batches[0]))
        found[name] = compared(system.train_step, state.replace(params=moved_a_little(state.params)), batches)
    return found


if __name__ == "__main__":
    what, *more = sys.argv[1:]
    parts = {"small": small, "schemes": schemes}
    print(json.dumps(parts[what](*more) if what in parts else of_recipe(what, *more[:2], int(more[2]), *more[3:])))
