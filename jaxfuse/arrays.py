"""The shape alphabet and the types that networks, losses and learning rules share.

Letters: b batch, d h w volume axes in array-axis order (x, y, z of a canonical RAS volume), m modalities
(input channels), k classes (output channels). `*space` stands for `d h w` or `h w`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jax import Array, ShapeDtypeStruct
from jaxtyping import Bool, Float, Int, Key, PyTree

Image = Float[Array, "b *space m"]
Label = Int[Array, "b *space"]
Logits = Float[Array, "b *space k"]
Probs = Float[Array, "b *space k"]
# One batch: {"image": Image, "label": Label}, or a dictionary of such batches by stream.
Batch = Mapping[str, Any]
# Shapes stand in for arrays where a tree is only counted, traced or restored into.
Params = PyTree[Array | ShapeDtypeStruct]
Metrics = dict[str, Array]

__all__ = [
    "Array",
    "Batch",
    "Bool",
    "Float",
    "Image",
    "Int",
    "Key",
    "Label",
    "Logits",
    "Metrics",
    "Params",
    "Probs",
    "PyTree",
]
