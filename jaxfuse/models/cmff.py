"""CMFF, cross-modality feature fusion (Zhang et al., Pattern Recognition 110, 2021).

Two segmentation branches S_A and S_B, one per group of modalities, start from the generators of
`jaxfuse.models.cmft`; a fusion branch S_F reads their last two feature maps and, guided by their predicted
masks, gives the result. All three learn by the Dice loss (Eqs. 7, 8).

Departs from the paper: its figures do not fix how masks act, so the fused features are multiplied by
(1 + whole-tumor probability) of each branch, in residual form, so that a tumor which both branches miss is not
erased. Joint training with CMFT is `jaxfuse.models.cmff_joint`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfuse.arrays import Array, Batch, Key, Label, Logits, Metrics, Params, Probs
from jaxfuse.errors import UserError
from jaxfuse.learning.part_rates import with_part_rates
from jaxfuse.learning.state import Aux, Optimizers, State, create_state, descend, initializer_key
from jaxfuse.learning.system import Defaults, Geometry, Segmentation, SegmentationLoss
from jaxfuse.losses.deep_supervision import supervised
from jaxfuse.models.cmft import Network, Pairing, UNetForm, pairing
from jaxfuse.nn.attention import CBAM
from jaxfuse.nn.conv import Conv, ConvNormAct
from jaxfuse.nn.forms import check_choices
from jaxfuse.nn.precision import cast_dtype
from jaxfuse.nn.presence import MASKED, ZEROED, or_background, or_nothing, where_present
from jaxfuse.nn.unet import Features

ATTENTION = ("mask", "plain", "none", "cbam")
MASK_MODES = ("whole", "class")
# Of each example, whether it has something of each group; None where all have all.
GroupsPresent = tuple[Array, ...] | None


class FusionBranch(nn.Module):
    """S_F: features and masks of all branches -> logits (b d h w k) (Fig. 4 of the paper, of two branches).

    Attributes:
        width: channels of every layer (32 in the paper's size).
        attention: "mask" (the paper's), "plain" (every mask is 1: the same layers and weights without guidance), "none"
            (row w/o MG: masks and the convolution that follows them are left out) or "cbam" (row w CA: CBAM in place of
            both).
        mask_mode: "whole" multiplies by the whole-tumor probability of each branch; "class" by the probability
            of each foreground class of each branch.
        residual_attention: multiply by 1 + probability rather than by the probability.
    """

    width: int
    classes: int
    attention: str
    mask_mode: str
    residual_attention: bool
    dtype: Any
    kernel_init: Any

    @nn.compact
    def __call__(self, *inputs: Any) -> Logits:
        """Takes the `Features` of each branch, and then the probabilities of each."""
        count = len(inputs) // 2
        features: Sequence[Features] = inputs[:count]

        def layer(x: Array, name: str) -> Array:
            return ConvNormAct(self.width, 3, dtype=self.dtype, kernel_init=self.kernel_init, name=name)(x)

        x = layer(jnp.concatenate([one.penultimate for one in features], -1), "fuse_penultimate")
        x = layer(jnp.concatenate([x, *(one.last for one in features)], -1), "fuse_last")
        x = layer(x, "mix")
        if self.attention in ("mask", "plain"):
            masks = [mask for probs in inputs[count:] for mask in self._masks(probs)]
            if self.attention == "plain":
                masks = [jnp.ones_like(mask) for mask in masks]
            x = layer(jnp.concatenate([x * mask.astype(x.dtype) for mask in masks], -1), "guided")
        elif self.attention == "cbam":
            x = CBAM(dtype=self.dtype, kernel_init=self.kernel_init, name="cbam")(x)
        head = Conv(self.classes, 1, use_bias=True, dtype=self.dtype, kernel_init=self.kernel_init, name="head")
        return head(x).astype(jnp.float32)

    def _masks(self, probs: Probs) -> list[Array]:
        tumor = 1.0 - probs[..., :1]
        masks = [tumor] if self.mask_mode == "whole" else [probs[..., k : k + 1] for k in range(1, self.classes)]
        return [1.0 + mask for mask in masks] if self.residual_attention else masks


@dataclass(frozen=True)
class Fusion:
    """All branches and S_F as one pure function of their parameters {"branch_a", "branch_b", ..., "fusion"}.

    `stop_gradient_masks` keeps S_F's loss from reaching the branches through the masks (through the features it
    always does, Eq. 7). No loss reaches `frozen_trunks`. With `masked`, S_F reads nothing of a branch of whose
    modalities an example has none: its features are 0, it guides nothing, and what S_F says stands in its place,
    without a gradient.
    """

    branches: tuple[Network, ...]
    fusion: nn.Module
    stop_gradient_masks: bool
    masked: bool = False
    frozen_trunks: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the branches' parameters."""
        return tuple(f"branch_{letter}" for letter in "abcd"[: len(self.branches)])

    def init(self, rng: Key[Array, ""], *images: Array) -> Params:
        *keys, last = jax.random.split(rng, len(self.branches) + 1)
        parts = zip(self.names, self.branches, keys, images, strict=True)
        params = {name: branch.init(key, image) for name, branch, key, image in parts}

        def inputs() -> tuple[Any, ...]:
            features = self.features(params, images)
            return *features, *self._read_out(params, features)

        return {**params, "fusion": self.fusion.lazy_init(last, *jax.eval_shape(inputs))["params"]}

    def features(self, params: Params, images: Sequence[Array]) -> tuple[Features, ...]:
        """The features of every branch's trunk."""
        parts = zip(self.names, self.branches, images, strict=True)
        return tuple(branch.features(params[name], image) for name, branch, image in parts)

    def _read_out(self, params: Params, features: Sequence[Features]) -> tuple[Logits, ...]:
        parts = zip(self.names, self.branches, features, strict=True)
        return tuple(branch.read_out(params[name], one) for name, branch, one in parts)

    def read(self, params: Params, features: Sequence[Features], present: GroupsPresent = None) -> dict[str, Logits]:
        """Logits S_A, S_B, ... and S_F from the trunks' features; an example may have nothing of a group."""
        logits = self._read_out(params, features)
        probs = tuple(map(jax.nn.softmax, logits))
        if self.stop_gradient_masks:
            probs = jax.lax.stop_gradient(probs)
        inputs: Any = (*features, *probs)
        if present is not None and self.masked:
            inputs = (*map(or_nothing, present, features), *map(or_background, present, probs))
        fused: Any = self.fusion.apply({"params": params["fusion"]}, *inputs)
        if present is not None and self.masked:
            held = (jax.lax.stop_gradient(fused),) * len(logits)
            logits = tuple(map(where_present, present, logits, held))
        return {**dict(zip(outputs_of(self.names), logits, strict=True)), "S_F": fused}

    def __call__(self, params: Params, *images: Array, present: GroupsPresent = None) -> dict[str, Logits]:
        features = self.features(params, images)
        return self.read(params, jax.lax.stop_gradient(features) if self.frozen_trunks else features, present)


def outputs_of(branches: Sequence[str]) -> tuple[str, ...]:
    """The names of branches' outputs: S_A of branch_a."""
    return tuple(f"S_{name[-1].upper()}" for name in branches)


def fusion_objective(logits: Mapping[str, Logits], label: Label, loss: SegmentationLoss) -> tuple[Array, Metrics]:
    """L_seg(S_A) + L_seg(S_B) + L_seg(S_F), equal weights (Eq. 7); with more branches, of all of them."""
    terms = {name: loss(value, label) for name, value in logits.items()}
    return sum(terms.values(), jnp.float32(0)), terms


@dataclass(frozen=True)
class FusionSegmentation(Defaults):
    """CMFF: one player `net` holds all branches and S_F, which learn together."""

    fusion: Fusion
    pairing: Pairing
    loss: SegmentationLoss
    optimizers: Optimizers
    geometry: Geometry

    primary = "S_F"
    reads_presence = True

    @property
    def probabilities(self) -> tuple[str, ...]:
        return *outputs_of(self.fusion.names), "S_F"

    def init(self, rng: Key[Array, ""], batch: Batch) -> State:
        params = self.fusion.init(initializer_key(rng), *self.pairing.split(batch))
        return create_state(rng, {"net": params}, self.optimizers)

    def train_step(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        def objective(params: Params) -> tuple[Array, Aux]:
            loss, terms = fusion_objective(self._logits(params, batch), batch["label"], self.loss)
            return loss, Aux(terms)

        state, aux = descend(state, "net", self.optimizers["net"], objective)
        return state.advance(), dict(aux.metrics)

    def _logits(self, params: Params, batch: Batch | Mapping[str, Array]) -> dict[str, Logits]:
        return self.fusion(params, *self.pairing.split(batch), present=self.pairing.present(batch))

    def eval_step(self, state: State, batch: Batch) -> Metrics:
        logits = self._logits(state.params["net"], batch)
        loss, terms = fusion_objective(logits, batch["label"], self.loss)
        return {f"net/{name}": value for name, value in {"loss": loss, **terms}.items()}

    def predict(self, state: State, inputs: Mapping[str, Array]) -> dict[str, Array]:
        logits = self._logits(state.params["net"], inputs)
        return {name: jax.nn.softmax(value) for name, value in logits.items()}

    def networks(self, params: Mapping[str, Params]) -> dict[str, Params]:
        net = params["net"]
        names = self.fusion.names
        return {**{o: net[n] for o, n in zip(outputs_of(names), names, strict=True)}, "S_F": net["fusion"]}


@dataclass(frozen=True)
class FusionForm:
    """The form of S_F; the defaults are the paper's. See `FusionBranch` and `Fusion` for the attributes.

    `presence` is "zeroed", or "masked" for the `masked` of `Fusion`.
    """

    fusion_width: int = 32
    attention: str = "mask"
    mask_mode: str = "whole"
    residual_attention: bool = True
    stop_gradient_masks: bool = False
    presence: str = ZEROED

    def fusion(self, classes: int, unet: UNetForm, groups: int = 2) -> Fusion:
        """A branch for each group, and S_F."""
        check_choices(self, {"attention": ATTENTION, "mask_mode": MASK_MODES, "presence": (ZEROED, MASKED)})
        branch = unet.network(classes)
        branch_type = nn.remat(FusionBranch) if unet.remat else FusionBranch
        fusion = branch_type(
            width=self.fusion_width,
            classes=classes,
            attention=self.attention,
            mask_mode=self.mask_mode,
            residual_attention=self.residual_attention,
            dtype=cast_dtype(unet.dtype),
            kernel_init=unet.kernel_init,
        )
        return Fusion((branch,) * groups, fusion, self.stop_gradient_masks, self.presence == MASKED)


def make_system(
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    classes: int,
    pairs: Sequence[str],
    loss: SegmentationLoss,
    unet: UNetForm = UNetForm(),
    fusion: FusionForm = FusionForm(),
    trunk_rate: float = 1.0,
) -> FusionSegmentation:
    """CMFF for the named groups, two to four of them.

    The rate at which the trunks learn is multiplied by `trunk_rate`; at 0 they stay as they were taken over, and no
    backward pass is made through them.
    """
    groups = pairing(pairs, modalities, most=4)
    parts = replace(fusion.fusion(classes, unet, len(groups.groups)), frozen_trunks=trunk_rate == 0)
    if trunk_rate != 1:
        rates = {f"{name}/trunk": trunk_rate for name in parts.names}
        optimizers = {**optimizers, "net": with_part_rates(optimizers["net"], rates)}
    return FusionSegmentation(parts, groups, loss, optimizers, unet.geometry(3))


def make_branch(
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    classes: int,
    pairs: Sequence[str],
    side: str,
    loss: SegmentationLoss,
    unet: UNetForm = UNetForm(),
    deep_supervision: int = 0,
) -> Segmentation:
    """The rows S_A and S_B: one branch trained by its own loss; `side` is "a" or "b".

    With `deep_supervision`, its loss counts so many coarser levels of the decoder, too.
    """
    if side not in ("a", "b"):
        raise UserError(f"side is {side!r}; choose a or b")
    channels = pairing(pairs, modalities).groups["ab".index(side)]
    network, name = unet.segmenter(classes, deep_supervision), f"S_{side.upper()}"
    learned = supervised(loss) if deep_supervision else loss
    own = ("trunk", "head", "presence", *(("coarser",) if deep_supervision else ()))
    parts = own if unet.conditioned else ()
    return Segmentation(network, channels, learned, optimizers, unet.geometry(3), name, parts, unet.conditioned)
