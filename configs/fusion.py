"""Image fusion without labels: pairs of pictures, or two to four modalities of volumes, become one image.

    python -m jaxfuse.train --config configs/fusion.py

trains Fuse4Seg's fusion network, without segmentation, on made pairs of MRI and CT: minutes on two CPU cores. Held-out
pairs are scored by the eight metrics of papers on fusion, beside the mean and the maximum of their images.

    python -m jaxfuse.train --config configs/fusion.py:,row=cddfuse --config.data.root=DIR
    python -m jaxfuse.fuse --run RUN --pairs DIR --output DIR

trains on a folder of pairs, CT-MRI/train/{CT,MRI} or MRI_CT/{MRI,CT} or any folder that holds a folder of PNG pictures
for each modality, and fuses others, in color where an image has color. `data=pet`, `data=spect` and `data=ir` name
other pairs, `data=brats` slices of volumes, whose labels are not read; `--config.data.modalities="('a','b','c')"` names
any two to four. `row=NAME` is a network with its own losses; without a word on their numbers, those of `paper` are
their papers'; weights that a text counts are those of the network that fuses, in that preset. It is for a GPU; neither
its hours nor its scores are measured.
"""

from dataclasses import dataclass, field

from ml_collections import FieldReference

from jaxfuse.recipes import adam, experiment, parse_argument, phase, rmsprop, sgd, volume_data

PRESETS = {
    "": "40 made pairs of 80 x 80 pixels, patches of 48^2: minutes on two CPU cores",
    "tiny": "three made pairs of 64 x 64 pixels, patches of 32^2, a few steps: for tests",
    "paper": "the papers' sizes; needs data.root",
}
ROWS = {
    "fuse4seg": "Fuse4Seg's fusion network by its own terms: pre-training, then fusion, with critics in both",
    "cddfuse": "CDDFuse: the same network without cross-attention, in two stages without critics",
    "didfuse": "DIDFuse (260,935 weights): an auto-encoder parts background from detail, and decodes their sums",
    "tardal": "TarDAL (296,577): a critic of targets, which saliency masks, no trained network, and one of details",
    "ddcgan": "DDcGAN (1,097,665): a critic of each image; each player moves once a step, none catches up",
    "u2fusion": "U2Fusion (659,217): keeps each image by its gradients, not by those of a VGG; one kind of pairs",
    "rfn_nest": "RFN-Nest (7,524,249): an auto-encoder, then networks that fuse its maps; divides by 9",
    "mean": "the mean of the images: nothing is learned",
    "maximum": "their maximum: nothing is learned",
}
VARIANTS = {
    "pet": "MRI with PET, which has color",
    "spect": "MRI with SPECT, which has color",
    "ir": "pictures in visible light, which have color, with infrared; there are no made ones",
    "brats": "slices of volumes of four modalities, in pairs; labels are not read",
}
# Of pairs of pictures, by variant.
MODALITIES = {"": ("mri", "ct"), "pet": ("mri", "pet"), "spect": ("mri", "spect"), "ir": ("vis", "ir")}
BRATS, SHOWN = ("t1", "t1ce", "t2", "flair"), ("t1ce+flair",)
JUDGE, FOLLOWED = "engine.judging.fused_images:fused_images", "engine.judging.losses:losses"
# The correlation loss can jump to a hundred times its usual size.
CLIP_NORM = 1.0
BY_FAN_IN, AS_PUBLISHED = "nn.initializers:he_normal", "nn.initializers:truncated_normal"


@dataclass(frozen=True)
class Sizes:
    """Everything in which presets differ; the defaults are those of the preset for made pairs."""

    pairs: dict = field(default_factory=lambda: {"shape": (80, 80, 1), "cases": 40, "spacing_mm": 2.7})
    volumes: dict = field(
        default_factory=lambda: {"source": "one_slice", "shape": (64, 64, 48), "cases": 60, "spacing_mm": 3.0}
    )
    side: int = 48
    batch: int = 2
    fusion: dict = field(
        default_factory=lambda: {"dim": 16, "front": 1, "decoder_blocks": 1, "heads": 2, "high_nodes": 1}
    )
    critic_base: int = 8
    # The other papers' networks, here a quarter as wide: kernels whose spread is the published one at any width would
    # let little through.
    didfuse: dict = field(default_factory=lambda: {"width": 16})
    tardal: dict = field(default_factory=lambda: {"width": 8, "depth": 3, "critic_base": 8})
    ddcgan: dict = field(
        default_factory=lambda: {
            "growth": 12,
            "layers": 4,
            "narrowing": (60, 32, 16, 8),
            "critic_widths": (4, 8, 16),
            "kernel_init": BY_FAN_IN,
        }
    )
    u2fusion: dict = field(
        default_factory=lambda: {"growth": 11, "layers": 5, "narrowing": (32, 16, 8), "kernel_init": BY_FAN_IN}
    )
    rfn_nest: dict = field(default_factory=lambda: {"enter": 4, "widths": (16, 28, 40, 52), "kernel_init": BY_FAN_IN})
    remat: str = "off"
    dtype: str = "float32"
    first_length: dict = field(default_factory=lambda: {"steps": 600})
    length: dict = field(default_factory=lambda: {"steps": 900})
    validate_every: int = 300
    validation_cases: int = 4
    checkpoint_every: int = 0
    log_every: int = 20
    # Twice that of the papers: in a short training edges come late.
    gradient_weight: float = 20.0

    def of_row(self, row):
        """The rows' own patches, batches and lengths; those of this preset are the same for all."""
        del row
        return self

    def optimizer(self, row, player, first):
        """For a player of a row, in its first phase or in its last."""
        del row, player, first
        return adam(1e-3, schedule="cosine", clip_norm=CLIP_NORM)


@dataclass(frozen=True)
class PaperSizes(Sizes):
    """Patches, batches, lengths and rates of the papers."""

    def of_row(self, row):
        return ROW_SIZES.get(row, self)

    def optimizer(self, row, player, first):
        if row in RATES:
            return RATES[row](player)
        if row == "cddfuse":
            # Halved every 20 epochs of 120, of which 40 are the first stage.
            rate, stages = (1e-4, 2) if first else (2.5e-5, 4)
            return adam(rate, schedule="halving", stages=stages, clip_norm=0.01)
        return adam(1e-4, schedule="halving", stages=4 if first else 7, clip_norm=CLIP_NORM)


# Optimizers of the other papers, by player.
RATES = {
    "didfuse": lambda player: adam(1e-3, schedule="stepwise", stages=3, factor=0.1),
    "tardal": lambda player: rmsprop(1e-4),
    "ddcgan": lambda player: sgd(2e-4, momentum=0.0) if player == "critics" else rmsprop(2e-4, decay=0.9),
    "u2fusion": lambda player: rmsprop(1e-4, decay=0.6, momentum=0.15),
    "rfn_nest": lambda player: adam(1e-4),
}
# Of both papers: the network is one.
_PAPER_NETWORK = {
    "fusion": {"dim": 64, "front": 4, "decoder_blocks": 4, "heads": 8, "high_nodes": 3},
    "critic_base": 32,
    "volumes": {"source": "slices", "shape": (64, 64, 48), "cases": 60, "spacing_mm": 3.0},
    "remat": "auto",
    "dtype": "auto",
    "gradient_weight": 10.0,
    "validate_every": 2000,
    "validation_cases": 16,
    "batch": 16,
    "didfuse": {"width": 64},
    "tardal": {"width": 32, "depth": 3, "critic_base": 32},
    "ddcgan": {
        "growth": 48,
        "layers": 4,
        "narrowing": (240, 128, 64, 32),
        "critic_widths": (16, 32, 64),
        "kernel_init": AS_PUBLISHED,
    },
    "u2fusion": {"growth": 44, "layers": 5, "narrowing": (128, 64, 32), "kernel_init": AS_PUBLISHED},
    "rfn_nest": {"enter": 16, "widths": (64, 112, 160, 208), "kernel_init": "nn.initializers:fan_in_uniform"},
}


def paper_sizes(side, batch, length, first_length=None):
    """The sizes of a row of another paper."""
    own = {"side": side, "batch": batch, "length": length, "first_length": first_length or {}}
    return PaperSizes(**{**_PAPER_NETWORK, **own})


# DDcGAN, U2Fusion and RFN-Nest count passes through sets of patches and of photographs: here about as many steps.
ROW_SIZES = {
    "cddfuse": paper_sizes(128, 16, {"epochs": 80}, {"epochs": 40}),
    "didfuse": paper_sizes(128, 24, {"epochs": 120}),
    "tardal": paper_sizes(224, 8, {"epochs": 200}),
    "ddcgan": paper_sizes(84, 26, {"steps": 1000}),
    "u2fusion": paper_sizes(64, 18, {"steps": 3000}),
    "rfn_nest": paper_sizes(256, 4, {"steps": 40_000}, {"steps": 40_000}),
}
SIZES = {
    "": Sizes(),
    "tiny": Sizes(
        pairs={"shape": (64, 64, 1), "cases": 3, "spacing_mm": 3.4},
        volumes={"source": "one_slice", "shape": (48, 48, 36), "cases": 3, "spacing_mm": 4.0},
        side=32,
        fusion={"dim": 4, "front": 1, "decoder_blocks": 1, "heads": 2, "high_nodes": 1},
        critic_base=2,
        didfuse={"width": 2},
        tardal={"width": 2, "depth": 1, "critic_base": 2},
        ddcgan={"growth": 2, "layers": 1, "narrowing": (2,), "critic_widths": (2, 2), "kernel_init": BY_FAN_IN},
        u2fusion={"growth": 2, "layers": 1, "narrowing": (2,), "kernel_init": BY_FAN_IN},
        rfn_nest={"enter": 4, "widths": (4, 4, 4, 4), "kernel_init": BY_FAN_IN},
        first_length={"steps": 2},
        length={"steps": 4},
        validate_every=0,
        validation_cases=1,
        checkpoint_every=2,
        log_every=1,
    ),
    "paper": PaperSizes(side=224, first_length={"epochs": 80}, length={"epochs": 140}, **_PAPER_NETWORK),
}


def get_config(argument=None):
    called = parse_argument(argument, presets=PRESETS, rows=ROWS, variants=VARIANTS, default_row="fuse4seg")
    preset, row, variant = called
    sizes = SIZES[preset].of_row(row)
    return experiment(
        "fusion",
        called,
        pairs=SHOWN if variant == "brats" else (),
        data=data_of(sizes, variant),
        network={"combos": ("pairs",)},
        phases=PHASES[row](sizes, row, FieldReference(sizes.dtype)),
        log_every=sizes.log_every,
    )


def data_of(sizes, variant):
    """Pictures, or slices of volumes."""
    if variant == "brats":
        return volume_data(modalities=BRATS, normalize="percentiles", **sizes.volumes)
    return volume_data(source="pairs2d", modalities=MODALITIES[variant], normalize="levels", **sizes.pairs)


def fuse4seg(sizes, row, dtype):
    """Fuse4Seg's two phases; the second without segmentation, so that images alone are learned from."""
    shared = {
        "fusion": fusion_form(sizes, dtype, cross_attention="tokens", cell=8),
        "critics": {
            "adversarial_weight": 0.1,
            "gan": "nonsaturating",
            "critic_base": sizes.critic_base,
            "critic_head": "patch",
            "dtype": dtype,
        },
    }
    players, kept = ("fusion", "critics"), ("fusion/encoder", "fusion/decoder", "critics")
    losses = {"correlation_weight": 0.25, "intensity_weight": 1.0, "gradient_weight": sizes.gradient_weight}
    first = {**shared, "correlation_weight": 0.25}
    return {
        "pretraining": first_phase(sizes, row, "fuse4seg:make_pretraining", first, players),
        "fusion": last_phase(sizes, row, "fuse4seg:make_fusion", {**shared, "losses": losses}, players, kept),
    }


def cddfuse(sizes, row, dtype):
    """CDDFuse's two stages."""
    shared = {"fusion": fusion_form(sizes, dtype, cross_attention="none")}
    first = {"ssim_weight": 5.0, "difference_weight": 5.0, "decomposition_weight": 2.0}
    last = {"intensity_weight": 1.0, "gradient_weight": sizes.gradient_weight, "decomposition_weight": 2.0}
    model, players = "baselines.cddfuse", ("fusion",)
    return {
        "reconstruction": first_phase(sizes, row, f"{model}:make_reconstruction", {**shared, "losses": first}, players),
        "fusion": last_phase(sizes, row, f"{model}:make_fusion", {**shared, "losses": last}, players, players),
    }


def didfuse(sizes, row, dtype):
    """DIDFuse's one phase; it is the last, as the rule by which it fuses has no weights."""
    weights = {
        "detail_weight": 0.5,
        "first_weight": 2.0,
        "second_weight": 2.0,
        "gradient_weight": 10.0,
        "likeness_weight": 5.0,
    }
    form = {**sizes.didfuse, "addition": "sum", "dtype": dtype}
    return {"fusion": last_phase(sizes, row, "baselines.didfuse", {"didfuse": form, "weights": weights}, ("fusion",))}


def tardal(sizes, row, dtype):
    """TarDAL's direct training."""
    weights = {"likeness_weight": 1.0, "pixel_weight": 20.0, "target_weight": 0.1, "detail_weight": 0.1}
    form = {**sizes.tardal, "critic_head": "flatten", "dtype": dtype}
    args = {"tardal": form, "weights": weights}
    return {"fusion": last_phase(sizes, row, "baselines.tardal", args, ("fusion", "critics"))}


def ddcgan(sizes, row, dtype):
    """DDcGAN's one phase."""
    weights = {"content_weight": 0.6, "gradient_weight": 1.2}
    args = {"ddcgan": {**sizes.ddcgan, "dtype": dtype}, "weights": weights}
    return {"fusion": last_phase(sizes, row, "baselines.ddcgan", args, ("fusion", "critics"))}


def u2fusion(sizes, row, dtype):
    """U2Fusion's one phase, of one kind of pairs."""
    args = {"u2fusion": {**sizes.u2fusion, "dtype": dtype}, "keeping": {"constant": 0.003, "error_weight": 20.0}}
    return {"fusion": last_phase(sizes, row, "baselines.u2fusion", args, ("fusion",))}


def rfn_nest(sizes, row, dtype):
    """RFN-Nest's auto-encoder, then its residual fusion networks."""
    form = {**sizes.rfn_nest, "first_times": 3.0, "second_times": 6.0, "dtype": dtype}
    shared, model, players = {"rfn_nest": form}, "baselines.rfn_nest", ("fusion",)
    first, last = {**shared, "likeness_weight": 100.0}, {**shared, "detail_weight": 700.0}
    return {
        "reconstruction": first_phase(sizes, row, f"{model}:make_reconstruction", first, players),
        "fusion": last_phase(sizes, row, f"{model}:make_fusion", last, players, players),
    }


def pointwise(sizes, row, dtype):
    """One step, in which nothing moves."""
    del dtype
    args = {"rule": row}
    return {
        "fusion": one_phase(sizes, row, "baselines.pointwise", args, ("fusion",), assess=JUDGE, length={"steps": 1})
    }


# What makes the phases of a row, in order.
PHASES = {
    "fuse4seg": fuse4seg,
    "cddfuse": cddfuse,
    "didfuse": didfuse,
    "tardal": tardal,
    "ddcgan": ddcgan,
    "u2fusion": u2fusion,
    "rfn_nest": rfn_nest,
    "mean": pointwise,
    "maximum": pointwise,
}


def first_phase(sizes, row, model, args, players):
    """A phase that only prepares weights for the last one."""
    return one_phase(sizes, row, model, args, players, assess=FOLLOWED, length=sizes.first_length, first=True)


def last_phase(sizes, row, model, args, players, kept=()):
    """The phase that learns to fuse; it begins with what the first one has of the parts in `kept`."""
    name = {"fuse4seg": "pretraining"}.get(row, "reconstruction")
    init = tuple((part, f"{name}:{part}") for part in kept)
    return one_phase(sizes, row, model, args, players, assess=JUDGE, length=sizes.length, init=init)


def one_phase(sizes, row, model, args, players, *, assess, length, first=False, init=()):
    """A phase of patches of the brain, or of all that a picture shows, mirrored or not."""
    return phase(
        model=model,
        args=args,
        assess=assess,
        optimizers={player: sizes.optimizer(row, player, first) for player in players},
        init=init,
        patch=(sizes.side, sizes.side),
        batch=sizes.batch,
        sampling="brain",
        # Patches of some papers are larger than slices of BraTS.
        pad=True,
        flip=0.5,
        validate_every=sizes.validate_every,
        validation_cases=sizes.validation_cases,
        checkpoint_every=sizes.checkpoint_every,
        **length,
    )


def fusion_form(sizes, dtype, **further):
    """The network of Fuse4Seg and CDDFuse."""
    return {**sizes.fusion, "low_block": "cddfuse", "remat": sizes.remat, "dtype": dtype, **further}
