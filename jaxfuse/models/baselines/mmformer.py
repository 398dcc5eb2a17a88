"""mmFormer (Zhang et al., MICCAI 2022): brain tumors segmented from any subset of the modalities.

Source: "mmFormer: Multimodal Medical Transformer for Incomplete Multimodal Learning of Brain Tumor Segmentation", and
its public code, whose sizes are the defaults. Each modality has an encoder of its own: five levels of convolutions
(norm, LeakyReLU 0.2, convolution with bias, reflected beyond the edge), and a transformer between the tokens of its
coarsest level. What an example lacks becomes 0. A further transformer goes over the tokens of all modalities, and a
decoder fuses the maps of all of them level by level. Two regularizers act in training: one decoder with the same
weights for all modalities labels voxels by each modality alone, and every coarser level of the fusing decoder labels
them, too. The sum of all these losses is minimized, each with weight 1.

Departs from the code:

- Tokens of the modalities are laid side by side place by place before they become one map. The code reshapes an array
  whose tokens are sorted by modality first, so that the channels of a place are four neighbors of one modality.
- A modality that an example lacks is no term of the regularizer that labels by it alone; the code has its image still.
- The convolutions that bring each modality's tokens back to its encoder's width are left out: the code makes them, and
  never uses them (262,656 parameters of 36,654,416).
- Patches need not have sides of 128: the table of positions has the grid that it is given, and is interpolated where
  the map has another one. The number of levels is an option.
- Logits, not probabilities, of coarser levels are interpolated, since losses take logits; the loss is the recipe's.
- Dropout follows the attention once, where the code has it twice and on its weights, too. One initializer draws all
  kernels, those of the transformers included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfuse.arrays import Array, Bool, Float, Label, Logits, Metrics, Shown
from jaxfuse.errors import UserError
from jaxfuse.learning.several_terms import SegmentationByTerms, Terms
from jaxfuse.learning.state import Optimizers
from jaxfuse.learning.system import Geometry, SegmentationLoss
from jaxfuse.models.baselines.mmformer_layers import (
    HE,
    DecoderLevel,
    EncoderLevel,
    Map,
    Places,
    Positions,
    PreNormConv,
    Transformer,
)
from jaxfuse.nn.conv import Conv
from jaxfuse.nn.forms import check_choices, check_least, check_volume
from jaxfuse.nn.initializers import KernelInit
from jaxfuse.nn.interpolation import upsample_linear
from jaxfuse.nn.precision import DTYPES, layer_dtype
from jaxfuse.nn.presence import where_present
from jaxfuse.nn.restormer import check_heads


@dataclass(frozen=True)
class MmFormerForm:
    """The form of the network; the defaults are those of the public code.

    Attributes:
        base: channels of the finest level; they double at each coarser one.
        levels: resolutions; sides of a patch are multiples of 2**(levels - 1), and at least twice that.
        width: channels of a token, a multiple of `heads`.
        hidden: channels between the two layers of each transformer's MLP.
        depth: blocks of each transformer.
        dropout: rate within the transformers, in training.
        grid: sides of the table of positions, those of the coarsest level in training.
        remat: each level, and each transformer, is computed again in the backward pass.
        dtype: arithmetic, "float32" or "bfloat16"; weights, norms, logits and losses are float32.
    """

    base: int = 8
    levels: int = 5
    width: int = 512
    hidden: int = 4096
    heads: int = 8
    depth: int = 1
    dropout: float = 0.1
    grid: tuple[int, int, int] = (8, 8, 8)
    kernel_init: KernelInit = HE
    remat: bool = False
    dtype: str = "float32"

    def check(self) -> None:
        """Refuses a form that does not exist.

        Raises:
            UserError: an option has none of its values.
        """
        check_choices(self, {"dtype": DTYPES})
        check_least(self, {"base": 1, "levels": 2, "hidden": 1, "heads": 1, "depth": 1, "dropout": 0})
        check_heads(self.width, self.heads)
        if self.dropout >= 1 or len(self.grid) != 3 or min(self.grid) < 1:
            told = f"dropout is {self.dropout} and grid {self.grid}"
            raise UserError(f"{told}; give a rate below 1 and three sides of at least 1")

    @property
    def common(self) -> dict[str, Any]:
        """Options of every convolution."""
        return {"kernel_init": self.kernel_init, "dtype": layer_dtype(self.dtype)}

    @property
    def transformer(self) -> dict[str, Any]:
        """Options of every transformer."""
        own = {name: getattr(self, name) for name in ("depth", "heads", "hidden", "dropout", "remat")}
        return {**own, **self.common}

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.base * 2**level for level in range(self.levels))


class Made(NamedTuple):
    """Logits in training, of the image's size: of the answer, by each modality alone, and by coarser levels."""

    logits: Logits
    separate: Float[Array, "b m d h w k"]
    coarser: tuple[Logits, ...]


class ModalityEncoder(nn.Module):
    """One modality (b d h w 1) -> the maps of its levels, the finest first, and its tokens after their transformer."""

    form: MmFormerForm

    @nn.compact
    def __call__(self, x: Float[Array, "b d h w 1"], positions: Places) -> tuple[tuple[Map, ...], Map]:
        form, maps = self.form, []
        level = nn.remat(EncoderLevel) if form.remat else EncoderLevel
        for number, width in enumerate(form.widths, start=1):
            x = level(width, number == 1, **form.common, name=f"level_{number}")(x)
            maps.append(x)
        tokens = Conv(form.width, 1, **form.common, name="embed")(x)
        return tuple(maps), Transformer(**form.transformer, name="transformer")(tokens, positions)


class Decoder(nn.Module):
    """Maps of all levels, the finest first -> logits by every level, the finest first and of its own size.

    Attributes:
        fusing: maps of several modalities, side by side, are fused at each level before they are joined, and coarser
            levels have logits of their own. Without it one map of one modality is read, and one map of logits made.
    """

    form: MmFormerForm
    classes: int
    fusing: bool

    @nn.compact
    def __call__(self, maps: Sequence[Map]) -> tuple[Logits, ...]:
        form, logits = self.form, []
        level = nn.remat(DecoderLevel) if form.remat else DecoderLevel
        x = self._fused(maps[-1], form.levels)
        for number in range(form.levels - 1, 0, -1):
            logits += [self._read(x, number + 1)] if self.fusing else []
            skip = self._fused(maps[number - 1], number)
            x = level(form.widths[number - 1], **form.common, name=f"level_{number}")(x, skip)
        return (self._read(x, 1), *reversed(logits))

    def _read(self, x: Map, number: int) -> Logits:
        head = Conv(self.classes, 1, kernel_init=self.form.kernel_init, name=f"head_{number}")
        # In float32 even on bfloat16 features, so that losses start from full precision.
        return head(x.astype(jnp.promote_types(x.dtype, jnp.float32)))

    def _fused(self, x: Map, number: int) -> Map:
        if not self.fusing:
            return x
        for layer, size in enumerate((1, 3, 1), start=1):
            name = f"fuse_{number}_{layer}"
            x = PreNormConv(self.form.widths[number - 1], size, **self.form.common, name=name)(x)
        return x


class MmFormer(nn.Module):
    """An image and which of its modalities are there -> logits; in training `Made`.

    Raises (when traced):
        UserError: sides of the image are no multiples of 2**(levels - 1), or less than twice that.
    """

    form: MmFormerForm
    classes: int

    @nn.compact
    def __call__(self, shown: Shown, *, train: bool) -> Logits | Made:
        image, presence = shown
        check_volume(image, self.form.levels, called="an mmFormer")
        count, divisor = image.shape[-1], 2 ** (self.form.levels - 1)
        sides = [side // divisor for side in image.shape[1:-1]]
        table = partial(Positions, self.form.grid, self.form.width)
        positions = [table(name=f"positions_{number}")(sides) for number in range(1, count + 1)]
        by_modality, tokens = [], []
        for place in range(count):
            encoder = ModalityEncoder(self.form, name=f"encoder_{place + 1}")
            maps, found = encoder(image[..., place : place + 1], positions[place])
            by_modality.append(maps)
            tokens.append(where_present(presence[:, place], found))
        fused = self._between(tokens, positions)
        there = [[where_present(presence[:, place], one) for one in maps] for place, maps in enumerate(by_modality)]
        skips = [jnp.concatenate(level, axis=-1) for level in list(zip(*there, strict=True))[:-1]]
        finest, *coarser = Decoder(self.form, self.classes, True, name="decoder")([*skips, fused])
        if not train:
            return finest
        enlarged = tuple(upsample_linear(one, 2**level) for level, one in enumerate(coarser, start=1))
        return Made(finest, self._separate(by_modality), enlarged)

    def _between(self, tokens: Sequence[Map], positions: Sequence[Places]) -> Map:
        """Tokens of all modalities -> what they make of each other, as the fusing decoder's coarsest map."""
        # One modality after the other along the first axis of space.
        all_tokens, all_positions = jnp.concatenate(tokens, axis=1), jnp.concatenate(positions, axis=1)
        x = Transformer(**self.form.transformer, name="between")(all_tokens, all_positions)
        x = jnp.concatenate(jnp.split(x, len(tokens), axis=1), axis=-1)
        return Conv(len(tokens) * self.form.widths[-1], 1, **self.form.common, name="leave")(x)

    def _separate(self, by_modality: Sequence[Sequence[Map]]) -> Float[Array, "b m d h w k"]:
        """Logits by each modality alone: a batch with the modalities in the place of examples."""
        stacked = [jnp.stack(level, axis=1) for level in zip(*by_modality, strict=True)]
        flat = [level.reshape(-1, *level.shape[2:]) for level in stacked]
        (logits,) = Decoder(self.form, self.classes, False, name="separate_decoder")(flat)
        return logits.reshape(*stacked[0].shape[:2], *logits.shape[1:])


def terms_of(loss: SegmentationLoss) -> Terms:
    """Returns the terms "fused", "separate" and "coarser", sums over modalities and over levels."""

    def terms(made: Made, shown: Shown, label: Label) -> Metrics:
        return {
            "fused": loss(made.logits, label),
            "separate": _by_those_present(loss, made.separate, label, shown.presence),
            "coarser": sum((loss(one, label) for one in made.coarser), jnp.float32(0)),
        }

    return terms


def _by_those_present(
    loss: SegmentationLoss, logits: Float[Array, "b m d h w k"], label: Label, presence: Bool[Array, "b m"]
) -> Float[Array, ""]:
    """The mean over examples of the sum of the losses by each of their modalities."""

    def one(logits: Array, label: Array) -> Array:
        return loss(logits[None], label[None])

    values = jax.vmap(jax.vmap(one, (0, None)))(logits, label)
    return jnp.where(presence, values, 0.0).sum(axis=1).mean()


def make_system(
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    classes: int,
    loss: SegmentationLoss,
    form: MmFormerForm = MmFormerForm(),
) -> SegmentationByTerms:
    """mmFormer over all modalities of the data."""
    form.check()
    parts = [f"{part}_{place + 1}" for part in ("encoder", "positions") for place in range(len(modalities))]
    return SegmentationByTerms(
        module=MmFormer(form, classes),
        draws="dropout",
        terms=terms_of(loss),
        weights=dict.fromkeys(("fused", "separate", "coarser"), 1.0),
        channels=tuple(range(len(modalities))),
        optimizers=optimizers,
        geometry=Geometry(3, 2 ** (form.levels - 1)),
        name="segmentation",
        parts=(*parts, "between", "leave", "decoder", "separate_decoder"),
    )
