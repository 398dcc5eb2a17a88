"""HyperFusionNet, and HyperDense-Net, the baseline that it grew from.

Sources: "Multi-Modal Brain Segmentation Using Hyper-Fused Convolutional Neural Network" and "HyperDense-Net: A
hyper-densely connected CNN for multi-modal image segmentation", the latter as the public PyTorch code has it, which
the former compares with. One stream per modality; a convolution of any stream reads all earlier features of all
streams. Convolutions pad nothing: nine layers of kernel 3 take 9 voxels from each side, 27 -> 9.

Departs from them: He initialization, in a head without activations by the rule for linear maps (by that for rectified
ones its four layers multiply the logits by 4, which a short training spends its steps on); running variances are
those of the batch (divided by n, not n - 1). Where the paper is open: fused features are not fused again (`recursive`
does so), and what is concatenated are outputs of convolutions, which the printed widths ask for.

What is kept once. Each stream of the papers sorts the concatenated features with its own first. That is a permutation
of the input channels of its weights and of nothing else, so all streams read one tensor here, in the canonical order:
by layer, oldest first, and by stream within a layer (`jaxfuse.weights.hyperdense` translates weights). Without fusion
its batch statistics are shared too, and so is its product with the first layer of the head. With `remat`, what the
backward pass keeps is the output of each convolution, once (and fused tensors where they are read on); the
concatenated, normalized and rectified ones, the bulk otherwise, are made again. XLA for CPU merges both passes again,
so that memory is gained on accelerators only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxfuse.errors import UserError
from jaxfuse.learning.networks import LinenNetwork
from jaxfuse.learning.state import Optimizers
from jaxfuse.learning.system import Geometry, Segmentation, SegmentationLoss
from jaxfuse.models.hyperfusion.network import HyperDense
from jaxfuse.nn.channel_weights import SLOPE
from jaxfuse.nn.forms import check_choices
from jaxfuse.nn.initializers import KernelInit, he_normal
from jaxfuse.nn.precision import DTYPES, layer_dtype
from jaxfuse.nn.presence import MASKED, ZEROED

LAYERS = 9
FILTERS = ("stepped", "incremental")
HEAD_ACTIVATIONS = ("none", "prelu")
# He's rule for the slope of what follows: PReLU's at its start in the blocks, 1 where nothing is rectified.
RECTIFIED = he_normal(slope=SLOPE)
LINEAR = he_normal(slope=1.0)


@dataclass(frozen=True)
class HyperForm:
    """The form of the network; the defaults are HyperFusionNet's.

    Attributes:
        ndim: 3 for volumes; 2 for slices (the papers' ablation).
        filters: by layer l, "incremental" floor(width + (l - 1) width / 3), or "stepped" width, 2 width and 3 width,
            three layers each (HyperDense-Net).
        width: features of the first layer, 25 in both papers.
        resfuse: a ResFuse module after each layer.
        recursive: ResFuse modules read the fused features of the layers before; needs resfuse.
        head: widths of the hidden layers of the head (400, 200, 150 in HyperDense-Net).
        head_activation: between the layers of the head, "none" or "prelu".
        kernel_init: of all kernels but those of a head without activation, which keep the variance as they are.
        remat: makes the tensors between convolutions again in the backward pass.
        dtype: arithmetic of the convolutions, "float32" or "bfloat16"; weights, statistics and logits are float32.
        presence: what is made of absent modalities: "zeroed", or "masked": their streams are left out, and sums over
            the streams scaled up; not with `recursive`.
    """

    ndim: int = 3
    filters: str = "incremental"
    width: int = 25
    resfuse: bool = True
    recursive: bool = False
    head: tuple[int, ...] = (600, 300, 150)
    head_activation: str = "none"
    kernel_init: KernelInit = RECTIFIED
    remat: bool = False
    dtype: str = "float32"
    presence: str = ZEROED

    def module(self, streams: int, classes: int) -> HyperDense:
        """The network for so many modalities."""
        self._check()
        return HyperDense(
            streams=streams,
            classes=classes,
            filters=self.features(),
            fused=self.resfuse,
            recursive=self.recursive,
            head_widths=self.head,
            head_activation=self.head_activation,
            remat=self.remat,
            dtype=layer_dtype(self.dtype),
            kernel_init=self.kernel_init,
            head_init=LINEAR if self.head_activation == "none" else self.kernel_init,
            masked=self.presence == MASKED,
        )

    def features(self) -> tuple[int, ...]:
        """Filters of each layer."""
        if self.filters == "stepped":
            return tuple(self.width * (1 + layer // 3) for layer in range(LAYERS))
        return tuple(self.width + layer * self.width // 3 for layer in range(LAYERS))

    def _check(self) -> None:
        choices = {"filters": FILTERS, "head_activation": HEAD_ACTIVATIONS, "dtype": DTYPES, "ndim": (2, 3)}
        choices["presence"] = (ZEROED,) if self.recursive else (ZEROED, MASKED)
        check_choices(self, choices)
        if min((self.width, *self.head)) < 1:
            raise UserError(f"width is {self.width} and head {self.head}; give positive numbers")
        if self.recursive and not self.resfuse:
            raise UserError("recursive is True and resfuse False; there is nothing fused to read, set resfuse")


HYPER_FUSION_NET = HyperForm()


def make_system(
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    classes: int,
    loss: SegmentationLoss,
    form: HyperForm = HYPER_FUSION_NET,
) -> Segmentation:
    """HyperFusionNet, a stream for each of the modalities.

    HyperDense-Net is the form with `filters="stepped"`, `resfuse=False` and `head=(400, 200, 150)`.
    """
    return Segmentation(
        network=LinenNetwork(form.module(len(modalities), classes)),
        channels=tuple(range(len(modalities))),
        loss=loss,
        optimizers=optimizers,
        geometry=Geometry(form.ndim, divisor=1, margin=LAYERS),
        name="segmentation",
        parts=("blocks", "resfuse", "head") if form.resfuse else ("blocks", "head"),
        tells_presence=form.presence == MASKED,
    )
