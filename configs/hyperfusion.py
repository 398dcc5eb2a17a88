"""HyperFusionNet (Multi-Modal Brain Segmentation Using Hyper-Fused Convolutional Neural Network) and its baseline.

    python -m jaxfuse.train --config configs/hyperfusion.py
    python -m jaxfuse.train --config configs/hyperfusion.py:,data=stroke

train on phantoms: infant tissue from T1 and T2 in some seven minutes on one CPU core, stroke lesions from T2 and
diffusion. Expected on new phantoms: mean Dice of tissues 0.872 +- 0.004 over three seeds (HyperDense-Net 0.861), of the
stroke lesion 0.889, one seed (`experiments/README.md`).

    python -m jaxfuse.train --config configs/hyperfusion.py:paper --config.data.root=DIR

trains the paper's sizes on an iSeg-2017 folder, with data=stroke on a folder of stroke cases, for a GPU; neither its
hours nor its scores are measured. `row=NAME` is a row of the paper's tables.
"""

from dataclasses import dataclass, field

from jaxfuse.recipes import adam, experiment, parse_argument, phase, volume_data

PRESETS = {
    "": "phantoms, a sixth of the widths, patches of 27^3, a short training",
    "tiny": "small phantoms, a few steps: for tests",
    "paper": "the paper's sizes; needs data.root",
}
VARIANTS = {
    "iseg": "infant tissue from T1 and T2 (iSeg-2017)",
    "stroke": "stroke lesions from T2, DWI at b = 1000 and at b = 0, thick slices",
}
ROWS = {
    "full": "HyperFusionNet: incremental filters, ResFuse, Combo loss",
    "baseline": "HyperDense-Net with cross-entropy",
    "incremental": "the baseline with incremental filters and the wider head",
    "resfuse": "the same with ResFuse modules: HyperFusionNet with cross-entropy",
    "dice": "HyperFusionNet with Dice loss",
    "focal": "HyperFusionNet with focal loss",
    "tversky": "HyperFusionNet with Tversky loss",
}
# The paper's Table 3 has these rows in two dimensions.
ROWS.update({f"{name}_2d": f"{text}, on slices" for name, text in tuple(ROWS.items())})

LOSSES = {
    "full": ("losses.imbalance:combo", {"alpha": 0.5, "beta": 0.5, "form": "weighted"}),
    "dice": ("losses.overlap:dice_loss_of_logits", {"over_batch": True, "eps": 1.0}),
    "focal": ("losses.imbalance:focal", {"gamma": 2.0, "alpha": 0.25}),
    "tversky": ("losses.imbalance:tversky", {"a": 0.3, "b": 0.7}),
}
CROSS_ENTROPY = ("losses.overlap:cross_entropy", {})
MODALITIES = {"iseg": ("t1", "t2"), "stroke": ("t2", "dwi_b1000", "dwi_b0")}


@dataclass(frozen=True)
class Sizes:
    """Everything in which presets differ; the defaults are those of the preset for phantoms."""

    infant: dict = field(default_factory=lambda: {"shape": (64, 72, 56), "cases": 10, "spacing_mm": 2.3})
    stroke: dict = field(default_factory=lambda: {"shape": (64, 64, 16), "cases": 16, "spacing_mm": 3.0})
    width: int = 4
    dense_head: tuple = (64, 32, 24)
    fusion_head: tuple = (96, 48, 24)
    batch: dict = field(default_factory=lambda: {"iseg": 2, "stroke": 2})
    steps: dict = field(default_factory=lambda: {"iseg": 700, "stroke": 250})
    validate_every: dict = field(default_factory=lambda: {"iseg": 350, "stroke": 350})
    validation_cases: int = 2
    # 0 is tiles of the training patch: small heads have few, and no further program is compiled. Slices have many.
    memory_mb: int = 0
    flat_memory_mb: int = 300
    remat: str = "off"
    dtype: str = "float32"
    checkpoint_every: int = 0
    log_every: int = 10

    def optimizer(self, data):
        # Faster, and the small lesion is never found.
        return adam({"iseg": 5e-4, "stroke": 2e-4}[data], schedule="cosine")


@dataclass(frozen=True)
class PaperSizes(Sizes):
    """600 epochs of 1000 patches."""

    def optimizer(self, data):
        # Of the stroke network no schedule is told; that of iSeg is halved every 100 epochs.
        return adam(1e-3, schedule="halving", stages=6) if data == "iseg" else adam(2e-4)


SIZES = {
    "": Sizes(),
    "tiny": Sizes(
        infant={"shape": (24, 28, 20), "cases": 3, "spacing_mm": 6.2},
        stroke={"shape": (32, 32, 8), "cases": 3, "spacing_mm": 6.0},
        width=3,
        dense_head=(8, 6, 4),
        fusion_head=(8, 6, 4),
        batch={"iseg": 1, "stroke": 1},
        steps={"iseg": 2, "stroke": 2},
        validate_every={"iseg": 0, "stroke": 0},
        validation_cases=1,
        checkpoint_every=1,
        log_every=1,
    ),
    "paper": PaperSizes(
        width=25,
        dense_head=(400, 200, 150),
        fusion_head=(600, 300, 150),
        batch={"iseg": 5, "stroke": 10},
        steps={"iseg": 600 * 1000 // 5, "stroke": 600 * 1000 // 10},
        # Every 10 of 600 epochs (Fig. 3).
        validate_every={"iseg": 10 * 1000 // 5, "stroke": 10 * 1000 // 10},
        validation_cases=10,
        memory_mb=16_000,
        flat_memory_mb=16_000,
        remat="auto",
        dtype="auto",
        log_every=50,
    ),
}


def get_config(argument=None):
    called = parse_argument(argument, presets=PRESETS, rows=ROWS, variants=VARIANTS, default_row="full")
    preset, row, variant = called
    sizes, data, flat, kind = SIZES[preset], variant or "iseg", row.endswith("_2d"), row.removesuffix("_2d")
    phantom = sizes.infant if data == "iseg" else sizes.stroke
    return experiment(
        "hyperfusion",
        called,
        data=volume_data(
            source=f"{data}_slices" if flat else data,
            modalities=MODALITIES[data],
            paper_split=f"hyperfusion_{data}",
            **phantom,
        ),
        network={"form": form(sizes, kind, flat)},
        phases={"segmentation": segmentation(sizes, data, kind, flat)},
        log_every=sizes.log_every,
    )


def form(sizes, kind, flat):
    """The form of the network of a row."""
    return {
        "ndim": 2 if flat else 3,
        "width": sizes.width,
        "filters": "stepped" if kind == "baseline" else "incremental",
        "resfuse": kind not in ("baseline", "incremental"),
        "head": sizes.dense_head if kind == "baseline" else sizes.fusion_head,
        "remat": sizes.remat,
        "dtype": sizes.dtype,
        "presence": "zeroed",
    }


def segmentation(sizes, data, kind, flat):
    """The only phase of any row."""
    loss, loss_args = LOSSES.get(kind, CROSS_ENTROPY)
    return phase(
        model="hyperfusion",
        assess="engine.judging.segmentation:segmentation_both_ways",
        optimizers={"net": sizes.optimizer(data)},
        loss=loss,
        loss_args=loss_args,
        steps=sizes.steps[data],
        # 9 voxels are lost on each side: the network labels the middle 9 of 27.
        patch=(27, 27) if flat else (27, 27, 27),
        batch=sizes.batch[data],
        sampling="foreground",
        sampling_args={"grid": 5},
        pad=True,
        validate_every=sizes.validate_every[data],
        validation_cases=sizes.validation_cases,
        memory_mb=sizes.flat_memory_mb if flat else sizes.memory_mb,
        checkpoint_every=sizes.checkpoint_every,
    )
