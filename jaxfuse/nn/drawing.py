"""Initial values, drawn all together by one small program.

A program that draws every parameter of a network apart compiles for a tenth of a second each, which is most of the time
before a first step. Here the function that makes a state is traced, and what it draws by the laws of this module is
cut into blocks of one size, which one program makes whatever the network. The rest, such as zeros and orthogonal
matrices, is computed operation by operation. Values are those that the function gives when it is compiled as a whole.

It rests on the counter of XLA's generator: a block further on are the numbers of a key whose counter is further on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun
from jax.typing import ArrayLike

from jaxfuse.arrays import Array, Key

# Values of a block, and blocks of one call of the program.
_BLOCK, _TOGETHER = 4096, 64
# Values that one count of the generator makes.
_PER_COUNT = 4


@partial(jax.jit, static_argnames="shape")
def drawn_normal(key: Key[Array, ""], scale: ArrayLike, center: ArrayLike, shape: tuple[int, ...]) -> Array:
    """Draws center + scale * N(0, 1), float32."""
    return jnp.add(center, scale * jax.random.normal(key, shape, jnp.float32))


@partial(jax.jit, static_argnames="shape")
def drawn_uniform(key: Key[Array, ""], scale: ArrayLike, center: ArrayLike, shape: tuple[int, ...]) -> Array:
    """Draws center + scale * U(-1, 1), float32."""
    return jnp.add(center, scale * jax.random.uniform(key, shape, jnp.float32, -1.0))


@partial(jax.jit, static_argnames="shape")
def drawn_truncated(key: Key[Array, ""], scale: ArrayLike, center: ArrayLike, shape: tuple[int, ...]) -> Array:
    """Draws center + scale * N(0, 1) without what lies beyond two standard deviations, float32."""
    return jnp.add(center, scale * jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32))


_LAWS = (drawn_normal, drawn_uniform, drawn_truncated)
# The names by which calls of them stand in a trace.
_NAMES = ("drawn_normal", "drawn_uniform", "drawn_truncated")


@dataclass(frozen=True)
class _Draw:
    """Values to be drawn: by which law, from which key (four words), and where they are to go."""

    variable: Any
    law: int
    words: np.ndarray
    scale: float
    center: float


def carried_out(init: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that gives what `init` gives, without compiling it."""

    def compute(*args: Any) -> Any:
        closed, shapes = jax.make_jaxpr(init, return_shape=True)(*args)
        return jax.tree.unflatten(jax.tree.structure(shapes), _values(closed, jax.tree.leaves(args)))

    return compute


def _values(closed: ClosedJaxpr, args: Sequence[Any]) -> list[Array]:
    """Evaluates a trace; results are arrays of their own, on the default device."""
    jaxpr = closed.jaxpr
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*closed.consts, *args), strict=True))
    waiting: dict[Any, _Draw] = {}

    def read(variable: Any) -> Any:
        if variable in waiting:
            values.update(_drawn(list(waiting.values())))
            waiting.clear()
        return values[variable]

    for equation in _needed(jaxpr):
        given = [one.val if isinstance(one, Literal) else read(one) for one in equation.invars]
        name = equation.params.get("name")
        if name in _NAMES and _is_rbg(given[0]):
            (out,) = equation.outvars
            waiting[out] = _Draw(out, _NAMES.index(name), _words(given[0]), float(given[1]), float(given[2]))
            continue
        if equation.primitive is jax.lax.broadcast_in_dim_p and np.ndim(given[0]) == 0:
            (out,) = equation.outvars
            # Not by a program for each shape: half of a state are zeros.
            values[out] = jnp.array(np.full(out.aval.shape, given[0], out.aval.dtype))
            continue
        values.update(zip(equation.outvars, _computed(jaxpr, equation, given), strict=True))
    return [jnp.asarray(one.val if isinstance(one, Literal) else read(one)) for one in jaxpr.outvars]


def _needed(jaxpr: Any) -> list[Any]:
    """Returns the equations of a trace that its results depend on, in order."""
    wanted = {one for one in jaxpr.outvars if not isinstance(one, Literal)}
    kept = []
    for equation in reversed(jaxpr.eqns):
        if wanted.intersection(equation.outvars):
            kept.append(equation)
            wanted.update(one for one in equation.invars if not isinstance(one, Literal))
    return kept[::-1]


def _computed(jaxpr: Any, equation: Any, given: Sequence[Any]) -> Sequence[Any]:
    """Returns the results of one equation, by a program that further ones like it share."""
    variables = [one for one in equation.invars if not isinstance(one, Literal)]
    values = [value for one, value in zip(equation.invars, given, strict=True) if not isinstance(one, Literal)]
    alone = jaxpr.replace(constvars=[], invars=variables, outvars=equation.outvars, eqns=[equation])
    return jaxpr_as_fun(ClosedJaxpr(alone, ()))(*values)


def _is_rbg(key: Array) -> bool:
    return jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and jax.random.key_impl(key) == "rbg"


def _words(key: Array) -> np.ndarray:
    return np.asarray(jax.random.key_data(key), np.uint32)


def _drawn(draws: Sequence[_Draw]) -> dict[Any, Array]:
    """Draws values, block by block."""
    counts = [-(-one.variable.aval.size // _BLOCK) for one in draws]
    words = np.concatenate([_keys(one.words, count) for one, count in zip(draws, counts, strict=True)])
    laws, scales, centers = (
        np.repeat(np.array([getattr(one, name) for one in draws], dtype), counts)
        for name, dtype in (("law", np.int32), ("scale", np.float32), ("center", np.float32))
    )
    blocks = np.concatenate([*_blocks(words, laws, scales, centers)])
    values, start = {}, 0
    for one, count in zip(draws, counts, strict=True):
        own = blocks[start : start + count].reshape(-1)[: one.variable.aval.size]
        values[one.variable] = jnp.array(own.reshape(one.variable.aval.shape))
        start += count
    return values


def _keys(words: np.ndarray, blocks: int) -> np.ndarray:
    """Returns the keys of successive blocks: their counter, of two words, goes on."""
    first = int(words[2]) + (int(words[3]) << 32)
    counters = np.uint64(first) + np.arange(blocks, dtype=np.uint64) * np.uint64(_BLOCK // _PER_COUNT)
    low, high = (counters & np.uint64(0xFFFFFFFF), counters >> np.uint64(32))
    return np.stack([np.full(blocks, words[0]), np.full(blocks, words[1]), low, high], -1).astype(np.uint32)


def _blocks(*rows: np.ndarray) -> list[np.ndarray]:
    """Returns the values of every row's block, a fixed number of blocks at a time."""
    made, total = [], len(rows[0])
    for start in range(0, total, _TOGETHER):
        part = [row[start : start + _TOGETHER] for row in rows]
        missing = _TOGETHER - len(part[0])
        padded = [np.concatenate([one, np.repeat(one[-1:], missing, 0)]) for one in part]
        made.append(np.asarray(_made(*padded))[: len(part[0])])
    return made


@jax.jit
def _made(words: Array, laws: Array, scales: Array, centers: Array) -> Array:
    def block(row: tuple[Array, Array, Array, Array]) -> Array:
        words, law, scale, center = row
        key = jax.random.wrap_key_data(words, impl="rbg")
        return jax.lax.switch(law, [partial(one, shape=(_BLOCK,)) for one in _LAWS], key, scale, center)

    return jax.lax.map(block, (words, laws, scales, centers))
