"""Fuse4Seg (arXiv 2409.10328, 2024): the fusion network is pre-trained, then fusion and segmentation cooperate.

    python -m jaxfuse.train --config configs/fuse4seg.py

trains both phases on slices of phantoms: some four minutes on two CPU cores. Trained on the pair T1c and FLAIR alone,
over three seeds and on new phantoms: Qabf 0.696 +- 0.001, mean Dice 0.781 +- 0.006 (`experiments/README.md`).

    python -m jaxfuse.train --config configs/fuse4seg.py:paper --config.data.root=DIR

trains the paper's sizes on a BraTS folder, for a GPU; neither its hours nor its scores are measured. `row=NAME` is a
row of the paper's ablation, a control that it lacks, or another bi-level scheme. The first of `pairs` is the
combination of modalities that validation shows. The `dtype` of all forms is one choice: set in one, it is that of all.
"""

from dataclasses import dataclass, field

from ml_collections import FieldReference

from jaxfuse.recipes import adam, experiment, parse_argument, phase, sgd, volume_data

PRESETS = {
    "": "one slice of each of 60 phantoms of 64 x 64 x 48 voxels, patches of 48^2: minutes on two CPU cores",
    "tiny": "one slice of each of three phantoms, patches of 32^2, a few steps: for tests",
    "paper": "the paper's sizes: 64 channels, TransUNet with adapters, patches of 224^2; needs data.root",
}
ROWS = {
    "full": "pre-training, then cooperative training on the paper's final objective",
    "wo_decoder": "segmentation reads the fused embedding: no fused image, no critics in the second phase",
    "wo_adv_pretrain": "no critics in pre-training",
    "wo_adv_coop": "no critics in cooperative training",
    "wo_cross_attention": "bands of the modalities are summed without attending to each other",
    "detached": "fusion never feels the task: the control that the paper lacks",
    "pixel": "the task judges the image that a smoothing energy makes of the fused one; implicit gradient by pixel",
    "fusion_leader": "fusion leads on a held-out half of the batch; implicit gradient through segmentation",
    "rank_one": "the same with outer products of gradients in place of second derivatives",
    "weights": "segmentation leads, fusion follows; implicit gradient through the fusion network: slow",
    "film_nnunet": "FILM fuses and a 2D nnU-Net segments in place of the paper's networks, without pre-training",
    "film_nnunet_p": "the same with the paper's pre-trained encoder in place of FILM's",
    "film_nnunet_detached": "film_nnunet without the task: its plain form, which the paper mentions and does not show",
    "mean": "segmentation alone, on the mean of the two modalities that validation shows",
    "maximum": "the same on their maximum",
    "both_channels": "the same on both as channels, which a fused image has to be compared with: nothing is lost",
}
# Channels of fused images: red and cyan; red, green and blue.
COLORS = {"two_colors": 2, "color": 3}
ROWS.update({name: f"full, fused into {n} channels; hues are left to the task" for name, n in COLORS.items()})
# Networks of the paper's Table 1 in the place of its own, with the sizes of their public codes.
PYRAMID = {"widths": (64, 128, 320, 512), "depths": (3, 4, 6, 3), "heads": (1, 2, 5, 8), "patch": 4, "drop_path": 0.1}
RIVALS = {
    "attention_unet": {"base": 64, "levels": 5},
    "unet_3plus": {"base": 64, "levels": 5},
    "swin_unet": {"width": 96, "depths": (2,) * 4, "heads": (3, 6, 12, 24), "window": 7, "patch": 4, "drop_path": 0.2},
    "cascade": PYRAMID,
    "emcad": {**PYRAMID, "sizes": (1, 3, 5), "expansion": 2},
}
ROWS.update({name: f"both_channels by {name}, without weights of ImageNet" for name in RIVALS})
MODALITIES = ("t1", "t1ce", "t2", "flair")
ROWS.update({name: f"segmentation alone, on {name}" for name in MODALITIES})
TRIPLES = ("t1+t1ce+flair", "t1+t1ce+t2", "t1+t2+flair", "t1ce+t2+flair")
TOGETHER = {"triples": TRIPLES, "quadruple": ("t1+t1ce+t2+flair",), "all_combos": ("all",)}
ROWS.update({name: f"full on combinations: {', '.join(combos)}" for name, combos in TOGETHER.items()})
VARIANTS = {}
COMBINATIONS = ("t1+t1ce", "t1+t2", "t1+flair", "t1ce+t2", "t1ce+flair", "t2+flair")
SHOWN = ("t1ce+flair",)
SOLVE = {"steps": 10, "damping": 0.03, "damping_scale": "trace", "warm_start": True}
PAIR = tuple(SHOWN[0].split("+"))
# The options of each scheme, written out so that a command can change them.
SCHEMES = {
    "pixel": {"gamma": 0.01, "kappa": 1.0, "width": 0.01, "inner_steps": 4, "steps": 20, "curvature": "gauss_newton"},
    "fusion_leader": {**SOLVE, "weight_decay": 1e-4, "curvature": "hessian", "entropy_weight": 0.5},
    "rank_one": {"memory_decay": 0.99, "weight_decay": 1e-4},
    "weights": {"coupling": 1.0, "steps": 10, "damping": 0.01},
}
# FILM and a 2D nnU-Net in the places of the paper's networks.
PLUGINS = ("film_nnunet", "film_nnunet_p", "film_nnunet_detached")
# Segmentation without a fusion network: the modalities it reads, and how they become one image, or none.
ALONE = {
    **{name: ((name,), "mean") for name in MODALITIES},
    **{name: (PAIR, name) for name in ("mean", "maximum")},
    **dict.fromkeys(("both_channels", *RIVALS), (PAIR, "channels")),
}
FUSION = ("dim", "front", "decoder_blocks", "heads", "high_nodes", "cell")
FILM = ("dim", "heads", "expansion", "rounds", "hidden", "text_dim", "decoder_blocks")
TRANSUNET = ("stem", "widths", "units", "vit_width", "vit_depth", "vit_heads", "vit_hidden", "decoder_widths")
# The correlation loss can jump to a hundred times its usual size.
CLIP_NORM = 1.0

# Eq. 14 with TransUNet's Dice.
HALVES = {"dice_weight": 0.5, "entropy_weight": 0.5, "include_background": True, "squared": True, "over_batch": True}
SEGMENTATION_LOSS = {"loss": "losses.overlap:dice_and_cross_entropy", "loss_args": HALVES}


def named(names, *sizes):
    """Sizes by their names, which stand in the same order."""
    return dict(zip(names, sizes, strict=True))


@dataclass(frozen=True)
class Sizes:
    """Everything in which presets differ; the defaults are those of the preset for phantoms."""

    # Of every phantom the slice with the largest tumor: a minute's training sees tumor in every picture.
    source: str = "one_slice"
    phantom: dict = field(default_factory=lambda: {"shape": (64, 64, 48), "cases": 60, "spacing_mm": 3.0})
    side: int = 48
    batch: int = 2
    fusion: dict = field(default_factory=lambda: named(FUSION, 16, 1, 1, 2, 1, 6))
    critic_base: int = 8
    segmentation: dict = field(
        default_factory=lambda: named(TRANSUNET, 16, (32, 64, 128), (1, 1, 1), 64, 2, 2, 128, (64, 32, 32, 16))
    )
    film: dict = field(default_factory=lambda: named(FILM, 16, 2, 2.0, 2, 64, 8, 1))
    nnunet: dict = field(default_factory=lambda: {"stages": 4, "base": 8, "most": 64})
    # Of rivals: published widths are divided by `part`; and what else differs from them.
    rival: dict = field(default_factory=lambda: {"part": 8, "patch": 2, "window": 3})
    remat: str = "off"
    dtype: str = "float32"
    # Twice that of the long recipe: in a short training edges come late.
    gradient_weight: float = 20.0
    pretraining_length: dict = field(default_factory=lambda: {"steps": 800})
    cooperative_length: dict = field(default_factory=lambda: {"steps": 900})
    film_length: dict = field(default_factory=lambda: {"steps": 900})
    film_batch: int = 2
    warmup_steps: int = 30
    sampling: str = "mixed"
    validate_every: int = 200
    validation_cases: int = 6
    overlap: float = 0.25
    checkpoint_every: int = 0
    log_every: int = 20

    def fusion_adam(self, phase_name):
        """For the fusion network and for the critics."""
        del phase_name
        return adam(1e-3, schedule="cosine", clip_norm=CLIP_NORM)

    def segmentation_optimizer(self):
        """For the segmentation network."""
        return adam(3e-3, schedule="cosine", clip_norm=CLIP_NORM)

    def alone_optimizer(self, row):
        """For the segmentation network of a row without fusion."""
        return self.segmentation_optimizer()

    def film_adam(self):
        """For FILM, where it takes the place of the fusion network."""
        return self.fusion_adam("cooperative")

    def nnunet_optimizer(self):
        """For the nnU-Net, where it takes the place of the segmentation network."""
        return self.segmentation_optimizer()


@dataclass(frozen=True)
class PaperSizes(Sizes):
    """Rates and schedules as in the paper, and in TransUNet's code, whose gradient descent the paper copies."""

    def fusion_adam(self, phase_name):
        # Halved every 20 epochs, of 80 and of 140.
        stages = {"pretraining": 4, "cooperative": 7}[phase_name]
        return adam(1e-4, schedule="halving", stages=stages, clip_norm=CLIP_NORM)

    def segmentation_optimizer(self):
        return sgd(0.01, momentum=0.9, weight_decay=1e-4, schedule="poly", clip_norm=1.0)

    def alone_optimizer(self, row):
        # Those of the public codes; the paper tells none for the networks that it compares with.
        if row in ("cascade", "emcad"):
            return adam(1e-4, weight_decay=1e-4)
        if row == "swin_unet":
            return sgd(0.05, momentum=0.9, weight_decay=1e-4, schedule="poly")
        return self.segmentation_optimizer()

    def film_adam(self):
        # As released: 0.6 of the rate after each 50 of 150 epochs.
        return adam(1e-5, schedule="stepwise", stages=3, factor=0.6)

    def nnunet_optimizer(self):
        # Decay and clipping as in nnU-Net's code.
        return sgd(0.01, momentum=0.99, nesterov=True, weight_decay=3e-5, schedule="poly", clip_norm=12.0)


SIZES = {
    "": Sizes(),
    "tiny": Sizes(
        phantom={"shape": (48, 48, 36), "cases": 3, "spacing_mm": 4.0},
        side=32,
        batch=2,
        fusion=named(FUSION, 8, 1, 1, 2, 1, 8),
        critic_base=4,
        segmentation=named(TRANSUNET, 4, (8, 16, 32), (1, 1, 1), 16, 1, 2, 32, (16, 8, 8, 4)),
        film=named(FILM, 8, 2, 1.0, 1, 16, 2, 1),
        nnunet={"stages": 3, "base": 4, "most": 8},
        rival={"part": 16, "patch": 2, "window": 2, "depths": (1, 1, 1, 1), "levels": 3},
        pretraining_length={"steps": 2},
        cooperative_length={"steps": 4},
        film_length={"steps": 4},
        warmup_steps=1,
        validate_every=0,
        validation_cases=1,
        checkpoint_every=2,
        log_every=1,
    ),
    "paper": PaperSizes(
        source="slices",
        side=224,
        batch=16,
        fusion=named(FUSION, 64, 4, 4, 8, 3, 8),
        critic_base=32,
        segmentation=named(TRANSUNET, 64, (256, 512, 1024), (3, 4, 9), 768, 12, 12, 3072, (256, 128, 64, 16)),
        film=named(FILM, 32, 8, 4.0, 3, 256, 32, 2),
        nnunet={"stages": 6, "base": 32, "most": 512},
        rival={"part": 1},
        remat="auto",
        dtype="auto",
        gradient_weight=10.0,
        pretraining_length={"epochs": 80},
        cooperative_length={"epochs": 140},
        film_length={"epochs": 150},
        warmup_steps=1000,
        sampling="brain",
        validate_every=2000,
        validation_cases=16,
    ),
}


def get_config(argument=None):
    called = parse_argument(argument, presets=PRESETS, rows=ROWS, variants=VARIANTS, default_row="full")
    preset, row, _ = called
    sizes, dtype = SIZES[preset], FieldReference(SIZES[preset].dtype)
    data = volume_data(source=sizes.source, modalities=MODALITIES, normalize="percentiles", **sizes.phantom)
    return experiment(
        "fuse4seg",
        called,
        pairs=TOGETHER[row][:1] if row in ("triples", "quadruple") else SHOWN,
        data=data,
        network=network(sizes, row, dtype),
        phases=phases_of(sizes, row, dtype),
        log_every=sizes.log_every,
    )


def network(sizes, row, dtype):
    """Forms that both phases share."""
    if row in ALONE:
        return {}
    critics = {"gan": "nonsaturating", "critic_base": sizes.critic_base, "critic_head": "patch", "dtype": dtype}
    shared = {"combos": TOGETHER.get(row, COMBINATIONS), "critics": critics}
    return {**shared, "fusion": fusion_form(sizes, row, dtype)} if pretrained(row) else shared


def phases_of(sizes, row, dtype):
    """The phases of a row, in order."""
    if row in ALONE:
        return {"alone": alone(sizes, row, dtype)}
    phases = {"cooperative": (plugged_in if row in PLUGINS else cooperative)(sizes, row, dtype)}
    return {"pretraining": pretraining(sizes, row), **phases} if pretrained(row) else phases


def pretrained(row):
    """Whether there is anything of the fusion module to pre-train."""
    return row not in (*PLUGINS, *ALONE) or row == "film_nnunet_p"


def fusion_form(sizes, row, dtype):
    """The fusion module in both phases; its encoder and decoder alone where nothing else is drawn."""
    form = {**sizes.fusion, "low_block": "cddfuse", "remat": sizes.remat, "dtype": dtype}
    if row in PLUGINS:
        return {**{name: value for name, value in form.items() if name != "cell"}, "cross_attention": "none"}
    attention = "none" if row == "wo_cross_attention" else "tokens"
    shared = {"direction": "both", "combine": "all", "image_channels": COLORS.get(row, 1)}
    return {**form, "cross_attention": attention, **shared}


def segmentation_form(sizes, dtype):
    """The segmentation network."""
    further = {"train_side": sizes.side, "adapter": "depthwise", "dropout": 0.1}
    return {**sizes.segmentation, **further, "remat": sizes.remat, "dtype": dtype}


def pretraining(sizes, row):
    """Encoder and decoder, and a critic of each modality."""
    adversarial_weight = 0.0 if row == "wo_adv_pretrain" else 0.1
    return phase(
        model="fuse4seg:make_pretraining",
        args={"correlation_weight": 0.25, "critics": {"adversarial_weight": adversarial_weight}},
        assess="engine.judging.losses:losses",
        optimizers=players(sizes, "pretraining", adversarial_weight),
        **sizes.pretraining_length,
        **common(sizes),
    )


def cooperative(sizes, row, dtype):
    """Fusion, critics and segmentation, with what pre-training has of them."""
    adversarial_weight = 0.0 if row in ("wo_adv_coop", "wo_decoder") else 0.1
    return phase(
        model="fuse4seg",
        args={
            "fusion": {"decoder": row != "wo_decoder"},
            "critics": {"adversarial_weight": adversarial_weight},
            "losses": {"correlation_weight": 0.25, "intensity_weight": 1.0, "gradient_weight": sizes.gradient_weight},
            "segmentation": segmentation_form(sizes, dtype),
            "scheme": scheme(sizes, row if row in (*SCHEMES, "detached") else "joint"),
        },
        assess="engine.judging.fusion:fusion",
        optimizers={
            **players(sizes, "cooperative", adversarial_weight),
            "segmentation": sizes.segmentation_optimizer(),
        },
        init=taken_over(row),
        **SEGMENTATION_LOSS,
        overlap=sizes.overlap,
        **sizes.cooperative_length,
        **common(sizes),
    )


def scheme(sizes, bilevel):
    """A bi-level scheme with its own options."""
    # Fewer, and an implicit gradient points away from the exact one (experiments/fuse4seg_rows, the toy).
    follower_steps = 10 if bilevel == "fusion_leader" else 1
    pace = {"warmup_steps": sizes.warmup_steps, "follower_steps": follower_steps, "leader_every": 1, "share_every": 0}
    return {"bilevel": bilevel, "fusion_weight": 1.0, **pace, "options": SCHEMES.get(bilevel, {})}


def alone(sizes, row, dtype):
    """The segmentation network as in cooperative training, for as many steps."""
    reads, fusion = ALONE[row]
    own = {"fusion": fusion, "segmentation": segmentation_form(sizes, dtype)}
    return phase(
        model=f"fuse4seg.rivals:make_{row}" if row in RIVALS else "fuse4seg.alone",
        args={"reads": reads, **({"segmentation": rival(sizes, row, dtype)} if row in RIVALS else own)},
        assess="engine.judging.segmentation:segmentation",
        optimizers={"segmentation": sizes.alone_optimizer(row)},
        **SEGMENTATION_LOSS,
        overlap=sizes.overlap,
        **sizes.cooperative_length,
        **common(sizes),
    )


def rival(sizes, row, dtype):
    """A network of others at the share of its published widths that the preset asks for."""
    own, part = {**RIVALS[row], "remat": sizes.remat, "dtype": dtype}, sizes.rival["part"]
    own.update({name: own[name] // part for name in ("base", "width") if name in own})
    own.update({name: tuple(width // part for width in own[name]) for name in ("widths",) if name in own})
    return {name: sizes.rival.get(name, value) for name, value in own.items()}


def plugged_in(sizes, row, dtype):
    """FILM and nnU-Net; in row film_nnunet_p, what pre-training has of the encoder."""
    return phase(
        model="fuse4seg.plugin:make_film_p" if row == "film_nnunet_p" else "fuse4seg.plugin:make_film",
        args={
            "film": {**sizes.film, "remat": sizes.remat, "dtype": dtype},
            "critics": {"adversarial_weight": 0.0},
            "losses": {"correlation_weight": 0.0, "intensity_weight": 1.0, "gradient_weight": 20.0},
            "segmentation": {**sizes.nnunet, "remat": sizes.remat, "dtype": dtype},
            "scheme": scheme(sizes, "detached" if row == "film_nnunet_detached" else "joint"),
        },
        assess="engine.judging.fusion:fusion",
        optimizers={"fusion": sizes.film_adam(), "segmentation": sizes.nnunet_optimizer()},
        init=(("fusion/encoder", "pretraining:fusion/encoder"),) if row == "film_nnunet_p" else (),
        loss="losses.overlap:dice_and_cross_entropy",
        loss_args={"dice_weight": 1.0, "entropy_weight": 1.0, "include_background": False, "over_batch": True},
        overlap=sizes.overlap,
        **sizes.film_length,
        **{**common(sizes), "batch": sizes.film_batch},
    )


def players(sizes, name, adversarial_weight):
    """Optimizers of the fusion network, and of the critics where there are any."""
    present = ("fusion", "critics") if adversarial_weight else ("fusion",)
    return {player: sizes.fusion_adam(name) for player in present}


def common(sizes):
    """Options of every phase."""
    return {
        "patch": (sizes.side, sizes.side),
        "batch": sizes.batch,
        "sampling": sizes.sampling,
        # Of augmentation the paper says nothing; TransUNet's code, whose training it copies, mirrors too.
        "flip": 0.5,
        "validate_every": sizes.validate_every,
        "validation_cases": sizes.validation_cases,
        "checkpoint_every": sizes.checkpoint_every,
    }


def taken_over(row):
    """The weights that the second phase begins with; without decoder, of that the layer alone that joins the bands."""
    kept = ("fusion/encoder", "fusion/decoder/merge" if row == "wo_decoder" else "fusion/decoder")
    if row not in ("wo_adv_pretrain", "wo_adv_coop", "wo_decoder"):
        kept += ("critics",)
    return tuple((part, f"pretraining:{part}") for part in kept)
