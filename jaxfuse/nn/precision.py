"""The arithmetic of layers, by the names that a recipe's option `dtype` gives it.

Weights, statistics of normalizations, logits and losses are float32 whatever the name.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxfuse.errors import UserError

# None leaves the arithmetic to inputs and weights. These are float32 in every run; float64 ones stay float64.
DTYPES: Mapping[str, DTypeLike | None] = {"float32": None, "bfloat16": jnp.bfloat16}


def layer_dtype(name: str) -> DTypeLike | None:
    """Returns the `dtype` of layers: bfloat16, or for "float32" None, which follows inputs and weights.

    Raises:
        UserError: the name is not one of DTYPES.
    """
    if name not in DTYPES:
        raise UserError(f"dtype is {name!r}; choose one of {', '.join(DTYPES)}")
    return DTYPES[name]


def cast_dtype(name: str) -> DTypeLike:
    """Returns the `dtype` of layers that cast to it: bfloat16, or for "float32" that very type.

    Raises:
        UserError: the name is not one of DTYPES.
    """
    return layer_dtype(name) or jnp.float32
