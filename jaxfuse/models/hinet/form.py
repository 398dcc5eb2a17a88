"""The form of Hi-Net's networks: everything that a recipe may choose about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn

from jaxfuse.arrays import Array, Float
from jaxfuse.errors import UserError
from jaxfuse.nn.batch_norm import BatchNorm
from jaxfuse.nn.forms import check_choices
from jaxfuse.nn.initializers import KernelInit, near_one, normal
from jaxfuse.nn.precision import DTYPES, layer_dtype

KINDS = ("hybrid", "early", "late")
BLOCKS = ("mixed", "concatenate")

Map = Float[Array, "b h w c"]
Activation = Callable[[Array], Array]


def leaky_relu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns x where it is positive, 0.2 x elsewhere."""
    return nn.leaky_relu(x, 0.2)


ACTIVATIONS: dict[str, Activation] = {"leaky_relu": leaky_relu, "relu": nn.relu}


@dataclass(frozen=True)
class HiNetForm:
    """The form of generator and critic; the defaults are those of the public code.

    Attributes:
        width: channels of the first level (n); the next two have twice and four times as many.
        kind: "hybrid" fuses the sources level by level; "early" stacks them as channels of one encoder; "late" joins
            their deepest maps.
        fusion_block: how blocks of the fusion network join the sources' maps, "mixed" (sum, product and maximum) or
            "concatenate"; of "hybrid" alone.
        synthesis_block: the same for the blocks of the synthesis network.
        activation_fusion: of the fusion network and the first layer of the synthesis network, "leaky_relu" (slope 0.2)
            or "relu", the paper's word.
        norm_decay, norm_eps: batch normalization's decay of the running statistics, and what is added to the variance.
        critic_width: channels of the critic's first layer; they double at each of the next three.
        critic_norm_eps: added to the variance in the critic. The public code has 0.8, which softens the normalization
            strongly; 1e-5 is usual.
        critic_first_norm: normalizes the critic's first layer too, as the paper's text has it.
        conditional: the critic sees the sources beside the target (the paper's Eq. 4), else the target alone (Eq. 5).
        bn_batch_stats_at_test: `predict` normalizes by the statistics of the patches that it is given together, as the
            public code does, so that a patch's answer depends on its company.
        dtype: arithmetic, "float32" or "bfloat16"; weights, statistics, images and scores are float32.
        remat: every block of the generator is computed again in the backward pass.
    """

    width: int = 32
    kind: str = "hybrid"
    fusion_block: str = "mixed"
    synthesis_block: str = "mixed"
    activation_fusion: str = "leaky_relu"
    norm_decay: float = 0.9
    norm_eps: float = 1e-5
    critic_width: int = 32
    critic_norm_eps: float = 0.8
    critic_first_norm: bool = False
    conditional: bool = False
    bn_batch_stats_at_test: bool = False
    dtype: str = "float32"
    remat: bool = False
    kernel_init: KernelInit = normal()

    def check(self) -> None:
        """Refuses a form that does not exist.

        Raises:
            UserError: an option has none of its values, or one that this kind of network does not read.
        """
        known = {"kind": KINDS, "fusion_block": BLOCKS, "synthesis_block": BLOCKS}
        known |= {"activation_fusion": tuple(ACTIVATIONS), "dtype": DTYPES}
        check_choices(self, known)
        for name in ("width", "critic_width", "norm_eps", "critic_norm_eps"):
            if (value := getattr(self, name)) <= 0:
                raise UserError(f"{name} is {value}; give a positive number")
        if not 0.0 <= self.norm_decay < 1.0:
            raise UserError(f"norm_decay is {self.norm_decay}; give a rate from 0 to below 1")
        for name in ("fusion_block", "synthesis_block"):
            if self.kind != "hybrid" and (value := getattr(self, name)) != "mixed":
                raise UserError(
                    f"{name} is {value!r}, but a network of kind {self.kind!r} has no such block; remove it"
                )

    @property
    def reconstructs(self) -> bool:
        """Whether every source has an encoder of its own, whose decoder gives the source back."""
        return self.kind != "early"

    @property
    def fusion_activation(self) -> Activation:
        return ACTIVATIONS[self.activation_fusion]

    @property
    def common(self) -> dict[str, Any]:
        """Options of every convolution between the first map and the last."""
        return {"kernel_init": self.kernel_init, "dtype": layer_dtype(self.dtype)}

    def norm(self, name: str, train: bool, eps: float | None = None) -> BatchNorm:
        """Batch normalization with scale and shift, by the batch's own statistics in training."""
        return BatchNorm(
            train,
            name=name,
            decay=self.norm_decay,
            eps=self.norm_eps if eps is None else eps,
            dtype=layer_dtype(self.dtype),
            scale_init=near_one,
        )

    def block(self, module: type[nn.Module], train: bool, *options: Any) -> Any:
        """A block, to be computed again in the backward pass where the form says so."""
        return partial(nn.remat(module) if self.remat else module, self, train, *options)
