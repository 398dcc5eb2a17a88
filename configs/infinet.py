"""InfiNet: Fully Convolutional Networks for Infant Brain MRI Segmentation (2017): three views, aggregated.

    python -m jaxfuse.train --config configs/infinet.py

trains a network for each of the three views on phantoms of infant heads, and averages their probabilities: three to
five minutes on one CPU core. Expected on new phantoms: mean Dice of tissues 0.885 +- 0.001 over three seeds, a single
view 0.867 to 0.869 (`experiments/README.md`).

    python -m jaxfuse.train --config configs/infinet.py:paper --config.data.root=DIR

trains the paper's sizes on an iSeg-2017 folder, for a GPU; neither its hours nor its scores are measured. `row=NAME` is
a row of the paper's tables, or an ablation that its text announces.

    python -m jaxfuse.train --config configs/infinet.py --config.side_by_side=True \
        --config.coronal.count_classes=crop --config.axial.count_classes=crop --config.sagittal.count_classes=crop

trains the three networks side by side as one program, with class weights that all three share, to the same weights up
to rounding as one after another. It is off by itself: on a CPU of two cores a step of all three took about three times
as long as their steps one after another (`experiments/side_by_side`).
"""

from dataclasses import dataclass, field

from ml_collections import ConfigDict

from jaxfuse.recipes import experiment, parse_argument, phase, sgd, volume_data

PRESETS = {
    "": "phantoms of 64 x 72 x 56 voxels, 16 channels, slices of 72^2, a short training",
    "tiny": "small phantoms, a few steps: for tests",
    "paper": "the paper's sizes: 64 channels, slices of 256^2; needs data.root",
}
VIEWS = ("sagittal", "coronal", "axial")
ROWS = {
    "aggregated": "InfiNet on slices of all three views, probabilities averaged",
    "sagittal": "InfiNet on sagittal slices alone",
    "coronal": "InfiNet on coronal slices alone",
    "axial": "InfiNet on axial slices alone",
    "single_encoder": "one encoder for both modalities, stacked; three views",
    "unet_single": "coronal U-Net, modalities stacked",
    "unet_double": "coronal U-Net, a contracting path for each modality",
}
VARIANTS = {}
UNETS = {"unet_single": False, "unet_double": True}


@dataclass(frozen=True)
class Sizes:
    """Everything in which presets differ; the defaults are those of the preset for phantoms."""

    phantom: dict = field(default_factory=lambda: {"shape": (64, 72, 56), "cases": 10, "spacing_mm": 2.3})
    side: int = 72
    width: int = 16
    # Running statistics of a short run must follow faster than the paper's 0.99.
    norm_decay: float = 0.9
    unet: dict = field(default_factory=lambda: {"base": 8, "levels": 4})
    batch: int = 8
    length: dict = field(default_factory=lambda: {"steps": 300})
    validate_every: int = 100
    validation_cases: int = 8
    remat: str = "off"
    dtype: str = "float32"
    checkpoint_every: int = 0
    log_every: int = 10

    def optimizer(self):
        return sgd(0.01, momentum=0.95, schedule="cosine")


@dataclass(frozen=True)
class PaperSizes(Sizes):
    """The paper's rate and its steps."""

    def optimizer(self):
        # Divided by 10 every 10 of 40 epochs.
        return sgd(0.01, momentum=0.95, schedule="stepwise", stages=4, factor=0.1)


SIZES = {
    "": Sizes(),
    "tiny": Sizes(
        phantom={"shape": (24, 28, 20), "cases": 3, "spacing_mm": 6.2},
        side=32,
        width=4,
        unet={"base": 4, "levels": 3},
        batch=2,
        length={"steps": 2},
        validate_every=0,
        validation_cases=1,
        checkpoint_every=1,
        log_every=1,
    ),
    "paper": PaperSizes(
        side=256,
        width=64,
        norm_decay=0.99,
        unet={"base": 16, "levels": 5},
        length={"epochs": 40},
        validate_every=500,
        validation_cases=64,
        remat="auto",
        dtype="auto",
        log_every=50,
    ),
}


def get_config(argument=None):
    called = parse_argument(argument, presets=PRESETS, rows=ROWS, variants=VARIANTS, default_row="aggregated")
    preset, row, _ = called
    sizes, views = SIZES[preset], (row,) if row in VIEWS else ("coronal",) if row in UNETS else VIEWS
    sides = {"axis": views[-1], "paper_split": "infinet"}
    data = volume_data(source="iseg_slices", modalities=("t1", "t2"), **sides, **sizes.phantom)
    return experiment(
        "infinet",
        called,
        data=data,
        network={"form": form(sizes, row)},
        phases={view: slices(sizes, row, seen_from(view, data)) for view in views},
        result=views,
        log_every=sizes.log_every,
        side_by_side=False,
    )


def seen_from(view, shared):
    """The data of one view: those of all, which a command may change for all at once, along its own axis."""
    own = ConfigDict({name: shared.get_ref(name) for name in shared if name not in ("axis", "phantom")})
    own.phantom = ConfigDict({name: shared.phantom.get_ref(name) for name in shared.phantom})
    own.axis = view
    return own


def form(sizes, row):
    """The form of the network of a row."""
    if row in UNETS:
        return {**sizes.unet, "double_arm": UNETS[row], "remat": sizes.remat, "dtype": sizes.dtype}
    return {
        "width": sizes.width,
        "ties": "first",
        "norm_decay": sizes.norm_decay,
        "single_encoder": row == "single_encoder",
        "presence": "zeroed",
        "remat": sizes.remat,
        "dtype": sizes.dtype,
    }


def slices(sizes, row, data):
    """The phase of one view. U-Nets are trained with cross-entropy balanced by median frequency, as in the paper."""
    unet = row in UNETS
    return phase(
        model="baselines.unet2d" if unet else "infinet",
        assess="engine.judging.segmentation:segmentation_both_ways",
        optimizers={"net": sizes.optimizer()},
        loss="losses.imbalance:weighted_cross_entropy" if unet else "losses.imbalance:generalized_dice",
        **sizes.length,
        patch=(sizes.side, sizes.side),
        batch=sizes.batch,
        sampling="whole",
        pad=True,
        count_classes="seen",
        validate_every=sizes.validate_every,
        validation_cases=sizes.validation_cases,
        checkpoint_every=sizes.checkpoint_every,
        data=data,
    )
