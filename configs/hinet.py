"""Hi-Net: Hybrid-fusion Network for Multi-modal MR Image Synthesis (2020): FLAIR from T1 and T2, slice by slice.

    python -m jaxfuse.train --config configs/hinet.py

trains the network and its critic on slices of phantoms: a minute and a half on two CPU cores. Expected on new phantoms:
PSNR 24.0 +- 0.1 dB and SSIM 0.860 +- 0.004 over three seeds, where a copy of T1 has 20.4 dB (`experiments/README.md`).

    python -m jaxfuse.train --config configs/hinet.py:paper --config.data.root=DIR

trains the paper's sizes on a BraTS folder, for a GPU; neither its hours nor its scores are measured. `row=NAME` is a
row of the paper's tables, `data=NAME` another target. `pairs` names the sources and the target, and any others that the
data has may be given, such as `--config.pairs="('t1+t1ce','t2')"`. Labels are not needed.

    python -m jaxfuse.train --config configs/hinet.py:,row=any

trains one network that makes any of the four modalities of any of the others. `data=t2` and the like limit it to one
target, and `pairs` to other sources and targets. `jaxfuse.impute` fills with it whatever a case lacks.

    python -m jaxfuse.predict --workdir RUN --input DIR --output DIR

writes the synthesized volumes of cases that need to have the sources only.
"""

from dataclasses import dataclass, field

from jaxfuse.recipes import adam, experiment, parse_argument, phase, volume_data

PRESETS = {
    "": "phantoms of 64 x 64 x 48 voxels, 16 channels, patches of 64^2, a short training",
    "tiny": "small phantoms, patches of 40^2, a few steps: for tests",
    "paper": "the paper's sizes: 32 channels, patches of 128^2 of a window of 160 x 180; needs data.root",
}
ROWS = {
    "full": "Hi-Net: mixed blocks in the fusion and in the synthesis network",
    "degraded1": "both networks concatenate in place of mixing (ConcateFusion)",
    "degraded2": "the synthesis network concatenates",
    "degraded3": "the fusion network concatenates",
    "early": "sources stacked as channels of one encoder (earlyFusion)",
    "late": "the deepest maps of two encoders concatenated (lateFusion)",
    "pix2pix": "pix2pix from the first source alone",
    "pix2pix_second": "pix2pix from the second source alone",
    "cyclegan": "CycleGAN from the first source alone",
    "cyclegan_second": "CycleGAN from the second source alone",
    "mmsyns": "MM-Syns: one latent space for all sources",
    "any": "one Hi-Net from any sources to any target: for data of which cases lack this or that",
}
# Target -> (its sources, itself), on BraTS; FLAIR is the target where no variant is named.
TASKS = {
    "": ("t1+t2", "flair"),
    "t2": ("t1+flair", "t2"),
    "t1": ("t2+flair", "t1"),
    "t1ce": ("t1+t2+flair", "t1ce"),
    "isles": ("t1+flair", "t2"),
}
VARIANTS = {
    "t2": "T2 from T1 and FLAIR",
    "t1": "T1 from T2 and FLAIR",
    "t1ce": "contrast-enhanced T1 from T1, T2 and FLAIR: three sources, which the paper does not show",
    "isles": "T2 from T1 and FLAIR of ISLES 2015",
}
# Of the row `any`: what may be a source, and what is made.
ALL, ISLES = "t1+t1ce+t2+flair", "t1+t2+dwi+flair"
ANY = {"": (ALL, ALL), "isles": (ISLES, ISLES)}
SINGLE = {"pix2pix": 0, "pix2pix_second": 1, "cyclegan": 0, "cyclegan_second": 1}
BLOCKS = {
    "degraded1": ("concatenate", "concatenate"),
    "degraded2": ("mixed", "concatenate"),
    "degraded3": ("concatenate", "mixed"),
}


@dataclass(frozen=True)
class Sizes:
    """Everything in which presets differ; the defaults are those of the preset for phantoms."""

    phantom: dict = field(default_factory=lambda: {"shape": (64, 64, 48), "cases": 20, "spacing_mm": 3.0})
    # The part of a volume that pictures show, by source; () is the box of the brain.
    window: dict = field(default_factory=lambda: {"slices": (), "isles_slices": ()})
    blank_slices: bool = False
    side: int = 64
    width: int = 16
    remat: str = "off"
    dtype: str = "float32"
    pix2pix: dict = field(default_factory=lambda: {"width": 16, "downs": 6, "critic_width": 16, "critic_layers": 3})
    cyclegan: dict = field(default_factory=lambda: {"width": 8, "blocks": 3, "critic_width": 8, "critic_layers": 3})
    mmsyns: dict = field(default_factory=lambda: {"width": 8, "latent": 8})
    batch: int = 4
    length: dict = field(default_factory=lambda: {"steps": 1000})
    # Of the row `any`, which learns 28 tasks in place of one.
    any_length: dict = field(default_factory=lambda: {"steps": 1500})
    validate_every: int = 200
    validation_cases: int = 12
    tile_batch: int = 8
    checkpoint_every: int = 0
    log_every: int = 20

    def training(self, kind):
        """Rate, length and patches of a row; all are trained alike here, but that `any` takes longer."""
        length = self.any_length if kind == "any" else self.length
        return {"rate": 2e-3, "schedule": "cosine", "batch": self.batch, **length, **self.patches()}

    def patches(self):
        """Tiles of slices."""
        return {"patch": (self.side, self.side), "sampling": "tiles"}


@dataclass(frozen=True)
class PaperSizes(Sizes):
    """Each row as its own authors train it."""

    def training(self, kind):
        if kind == "mmsyns":
            # Whole slices, of 180 rows and 160 columns; at most 100 epochs, which end earlier there where validation
            # says so.
            whole = {"patch": (180, 160), "sampling": "whole"}
            return {"rate": 1e-4, "schedule": "constant", "batch": 16, "epochs": 100, **whole}
        # An epoch shows all four patches of each slice, where an epoch here takes one.
        if kind in ("hinet", "any"):
            length = {"schedule": "linear_after_third", "epochs": 4 * 300}
            return {"rate": 2e-4, "batch": self.batch, **length, **self.patches()}
        return {"rate": 2e-4, "schedule": "linear_second_half", "batch": 1, "epochs": 4 * 200, **self.patches()}


SIZES = {
    "": Sizes(),
    "tiny": Sizes(
        phantom={"shape": (48, 48, 36), "cases": 3, "spacing_mm": 4.0},
        side=40,
        width=2,
        pix2pix={"width": 2, "downs": 3, "critic_width": 2, "critic_layers": 1},
        cyclegan={"width": 2, "blocks": 1, "critic_width": 2, "critic_layers": 1},
        mmsyns={"width": 2, "latent": 2},
        batch=2,
        length={"steps": 4},
        any_length={"steps": 4},
        validate_every=0,
        validation_cases=1,
        checkpoint_every=2,
        log_every=1,
    ),
    "paper": PaperSizes(
        # The window of the public code loses less of the brain than the middle; of ISLES the middle.
        window={"slices": ((40, 200), (20, 200)), "isles_slices": ((35, 195), (25, 205))},
        blank_slices=True,
        side=128,
        width=32,
        remat="auto",
        dtype="auto",
        pix2pix={"width": 64, "downs": 7, "critic_width": 64, "critic_layers": 3},
        cyclegan={"width": 64, "blocks": 6, "critic_width": 64, "critic_layers": 3},
        mmsyns={"width": 32, "latent": 16},
        # Four patches of each of 128 slices.
        batch=4 * 128,
        validate_every=2000,
        validation_cases=64,
        log_every=50,
    ),
}


def get_config(argument=None):
    called = parse_argument(argument, presets=PRESETS, rows=ROWS, variants=VARIANTS, default_row="full")
    preset, row, variant = called
    sizes = SIZES[preset]
    return experiment(
        "hinet",
        called,
        pairs=pairs(row, variant),
        data=data(sizes, isles=variant == "isles"),
        network={"form": {"dtype": sizes.dtype}},
        phases={"synthesis": synthesis(sizes, row)},
        log_every=sizes.log_every,
    )


def pairs(row, variant):
    """The sources of a row, and its target; of `any` the modalities that may be either."""
    sources, target = TASKS[variant]
    if row == "any":
        return ANY.get(variant) or ("+".join(name for name in ALL.split("+") if name != target), target)
    return (sources.split("+")[SINGLE[row]] if row in SINGLE else sources, target)


def data(sizes, *, isles):
    """All modalities, whichever are the sources, so that runs on one data set share what is prepared of it."""
    source = "isles_slices" if isles else "slices"
    return volume_data(
        source=source,
        modalities=("t1", "t2", "dwi", "flair") if isles else ("t1", "t1ce", "t2", "flair"),
        normalize="minmax",
        paper_split="hinet_isles" if isles else "hinet_brats",
        window=sizes.window[source],
        blank_slices=sizes.blank_slices,
        **sizes.phantom,
    )


def synthesis(sizes, row):
    """The only phase of any row."""
    kind = row.removesuffix("_second") if row in (*SINGLE, "mmsyns", "any") else "hinet"
    model, args, players = {
        "hinet": ("hinet", hinet_args(sizes, row), ("generator", "discriminator")),
        "any": ("hinet.any_to_any", hinet_args(sizes, row), ("generator", "discriminator")),
        "pix2pix": ("baselines.pix2pix", pix2pix_args(sizes), ("generator", "discriminator")),
        "cyclegan": ("baselines.cyclegan", cyclegan_args(sizes), ("generators", "discriminators")),
        "mmsyns": ("baselines.mmsyns", {"form": {**sizes.mmsyns, "slope": 0.3}, "variance_weight": 1.0}, ("net",)),
    }[kind]
    training = sizes.training(kind)
    rate, schedule = training.pop("rate"), training.pop("schedule")
    b1 = 0.9 if kind == "mmsyns" else 0.5
    return phase(
        model=model,
        args=args,
        assess="engine.judging.completion:completion" if kind == "any" else "engine.judging.synthesis:synthesis",
        optimizers={player: adam(rate, b1=b1, schedule=schedule) for player in players},
        validate_every=sizes.validate_every,
        validation_cases=sizes.validation_cases,
        tile_batch=sizes.tile_batch,
        checkpoint_every=sizes.checkpoint_every,
        **training,
    )


def hinet_args(sizes, row):
    """Networks and losses of the paper and of its ablations; what a row does not have is left out."""
    kind = row if row in ("early", "late") else "hybrid"
    form = {
        "width": sizes.width,
        "kind": kind,
        "activation_fusion": "leaky_relu",
        "norm_decay": 0.9,
        "norm_eps": 1e-5,
        "critic_width": sizes.width,
        "critic_norm_eps": 0.8,
        "critic_first_norm": False,
        "conditional": False,
        "bn_batch_stats_at_test": False,
        "remat": sizes.remat,
        "kernel_init": "nn.initializers:normal",
    }
    if kind == "hybrid":
        form["fusion_block"], form["synthesis_block"] = BLOCKS.get(row, ("mixed", "mixed"))
    losses = {"target_weight": 100.0, "gan": "lsgan"}
    if kind != "early":
        losses["reconstruction_weight"] = 20.0
    return {"form": form, "losses": losses}


def pix2pix_args(sizes):
    """Networks and losses of the public code."""
    form = {
        **sizes.pix2pix,
        "dropout": 0.5,
        "norm_decay": 0.9,
        "norm_eps": 1e-5,
        "bn_batch_stats_at_test": False,
        "kernel_init": "nn.initializers:normal",
    }
    return {"form": form, "target_weight": 100.0}


def cyclegan_args(sizes):
    """Networks and losses of the public code."""
    form = {**sizes.cyclegan, "kernel_init": "nn.initializers:normal"}
    return {"form": form, "cycle_weight": 10.0, "identity_weight": 0.5, "pool_size": 50}
