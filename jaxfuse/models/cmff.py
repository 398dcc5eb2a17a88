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
from jaxfuse.models.cmft import ImageA, ImageB, Network, Pairing, UNetForm, pairing
from jaxfuse.nn.attention import CBAM
from jaxfuse.nn.conv import Conv, ConvNormAct
from jaxfuse.nn.forms import check_choices
from jaxfuse.nn.precision import cast_dtype
from jaxfuse.nn.presence import MASKED, ZEROED, or_background, or_nothing, where_present
from jaxfuse.nn.unet import Features

ATTENTION = ("mask", "plain", "none", "cbam")
MASK_MODES = ("whole", "class")
# Of each example, whether it has something of group A, and of B; None where all have all.
GroupsPresent = tuple[Array, Array] | None


class FusionBranch(nn.Module):
    """S_F: features and masks of both branches -> logits (b d h w k) (Fig. 4 of the paper).

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
    def __call__(self, a: Features, b: Features, probs_a: Probs, probs_b: Probs) -> Logits:
        def layer(x: Array, name: str) -> Array:
            return ConvNormAct(self.width, 3, dtype=self.dtype, kernel_init=self.kernel_init, name=name)(x)

        x = layer(jnp.concatenate([a.penultimate, b.penultimate], -1), "fuse_penultimate")
        x = layer(jnp.concatenate([x, a.last, b.last], -1), "fuse_last")
        x = layer(x, "mix")
        if self.attention in ("mask", "plain"):
            masks = [mask for probs in (probs_a, probs_b) for mask in self._masks(probs)]
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
    """Both branches and S_F as one pure function of their parameters {"branch_a", "branch_b", "fusion"}.

    `stop_gradient_masks` keeps S_F's loss from reaching the branches through the masks (through the features it
    always does, Eq. 7). No loss reaches `frozen_trunks`. With `masked`, S_F reads nothing of a branch of whose
    modalities an example has none: its features are 0, it guides nothing, and what S_F says stands in its place,
    without a gradient.
    """

    branch_a: Network
    branch_b: Network
    fusion: nn.Module
    stop_gradient_masks: bool
    masked: bool = False
    frozen_trunks: bool = False

    def init(self, rng: Key[Array, ""], image_a: ImageA, image_b: ImageB) -> Params:
        key_a, key_b, key_f = jax.random.split(rng, 3)
        params = {"branch_a": self.branch_a.init(key_a, image_a), "branch_b": self.branch_b.init(key_b, image_b)}

        def inputs() -> tuple[Any, ...]:
            a = self.branch_a.features(params["branch_a"], image_a)
            b = self.branch_b.features(params["branch_b"], image_b)
            return a, b, self.branch_a.read_out(params["branch_a"], a), self.branch_b.read_out(params["branch_b"], b)

        return {**params, "fusion": self.fusion.lazy_init(key_f, *jax.eval_shape(inputs))["params"]}

    def read(
        self, params: Params, features_a: Features, features_b: Features, present: GroupsPresent = None
    ) -> dict[str, Logits]:
        """Logits S_A, S_B and S_F from the trunks' features; an example may have nothing of a group."""
        logits_a = self.branch_a.read_out(params["branch_a"], features_a)
        logits_b = self.branch_b.read_out(params["branch_b"], features_b)
        probs_a, probs_b = jax.nn.softmax(logits_a), jax.nn.softmax(logits_b)
        if self.stop_gradient_masks:
            probs_a, probs_b = jax.lax.stop_gradient((probs_a, probs_b))
        inputs: Any = (features_a, features_b, probs_a, probs_b)
        if present is not None and self.masked:
            inputs = (*map(or_nothing, present, inputs[:2]), *map(or_background, present, inputs[2:]))
        fused: Any = self.fusion.apply({"params": params["fusion"]}, *inputs)
        if present is not None and self.masked:
            held = jax.lax.stop_gradient(fused)
            logits_a, logits_b = map(where_present, present, (logits_a, logits_b), (held, held))
        return {"S_A": logits_a, "S_B": logits_b, "S_F": fused}

    def __call__(
        self, params: Params, image_a: ImageA, image_b: ImageB, present: GroupsPresent = None
    ) -> dict[str, Logits]:
        features_a = self.branch_a.features(params["branch_a"], image_a)
        features_b = self.branch_b.features(params["branch_b"], image_b)
        if self.frozen_trunks:
            features_a, features_b = jax.lax.stop_gradient((features_a, features_b))
        return self.read(params, features_a, features_b, present)


def fusion_objective(logits: Mapping[str, Logits], label: Label, loss: SegmentationLoss) -> tuple[Array, Metrics]:
    """L_seg(S_A) + L_seg(S_B) + L_seg(S_F), equal weights (Eq. 7)."""
    terms = {name: loss(value, label) for name, value in logits.items()}
    return sum(terms.values(), jnp.float32(0)), terms


@dataclass(frozen=True)
class FusionSegmentation(Defaults):
    """CMFF: one player `net` holds both branches and S_F, and all three learn together."""

    fusion: Fusion
    pairing: Pairing
    loss: SegmentationLoss
    optimizers: Optimizers
    geometry: Geometry

    primary = "S_F"
    probabilities = ("S_A", "S_B", "S_F")
    reads_presence = True

    def init(self, rng: Key[Array, ""], batch: Batch) -> State:
        params = self.fusion.init(initializer_key(rng), *self.pairing.split(batch))
        return create_state(rng, {"net": params}, self.optimizers)

    def train_step(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        inputs = self._inputs(batch)

        def objective(params: Params) -> tuple[Array, Aux]:
            loss, terms = fusion_objective(self.fusion(params, *inputs), batch["label"], self.loss)
            return loss, Aux(terms)

        state, aux = descend(state, "net", self.optimizers["net"], objective)
        return state.advance(), dict(aux.metrics)

    def _inputs(self, batch: Batch | Mapping[str, Array]) -> tuple[Any, ...]:
        return *self.pairing.split(batch), self.pairing.present(batch)

    def eval_step(self, state: State, batch: Batch) -> Metrics:
        logits = self.fusion(state.params["net"], *self._inputs(batch))
        loss, terms = fusion_objective(logits, batch["label"], self.loss)
        return {f"net/{name}": value for name, value in {"loss": loss, **terms}.items()}

    def predict(self, state: State, inputs: Mapping[str, Array]) -> dict[str, Array]:
        logits = self.fusion(state.params["net"], *self._inputs(inputs))
        return {name: jax.nn.softmax(value) for name, value in logits.items()}

    def networks(self, params: Mapping[str, Params]) -> dict[str, Params]:
        net = params["net"]
        return {"S_A": net["branch_a"], "S_B": net["branch_b"], "S_F": net["fusion"]}


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

    def fusion(self, classes: int, unet: UNetForm) -> Fusion:
        """Both branches and S_F."""
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
        return Fusion(branch, branch, fusion, self.stop_gradient_masks, self.presence == MASKED)


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
    """CMFF for the named pairs.

    The rate at which both trunks learn is multiplied by `trunk_rate`; at 0 they stay as they were taken over, and no
    backward pass is made through them.
    """
    groups = pairing(pairs, modalities)
    parts = replace(fusion.fusion(classes, unet), frozen_trunks=trunk_rate == 0)
    if trunk_rate != 1:
        rates = dict.fromkeys(("branch_a/trunk", "branch_b/trunk"), trunk_rate)
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
    channels = getattr(pairing(pairs, modalities), side)
    network, name = unet.segmenter(classes, deep_supervision), f"S_{side.upper()}"
    learned = supervised(loss) if deep_supervision else loss
    own = ("trunk", "head", "presence", *(("coarser",) if deep_supervision else ()))
    parts = own if unet.conditioned else ()
    return Segmentation(network, channels, learned, optimizers, unet.geometry(3), name, parts, unet.conditioned)
