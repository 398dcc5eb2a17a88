"""Cross-modality deep feature learning (Pattern Recognition 110, 2021): CMFT, then CMFF.

    python -m jaxfuse.train --config configs/cmff.py

trains both phases on phantoms: three minutes on two idle cores. Expected on new phantoms, over three seeds: Dice of the
whole tumor 0.938 +- 0.005, of the tumor core 0.877 +- 0.009, of enhancing tumor where present 0.890 +- 0.010
(`experiments/README.md`).

    python -m jaxfuse.train --config configs/cmff.py:paper --config.data.root=DIR

trains the paper's sizes on a BraTS folder, for a GPU; neither its hours nor its scores are measured. What the backward
pass keeps is 16 GB in float32, or 1.6 GB with `--config.network.unet.remat=on` (counted). `row=NAME` is a row of the
paper's tables.

    python -m jaxfuse.train --config configs/cmff.py --config.data.root=DIR --config.transition.data.root=MORE

pre-trains on the cases of MORE, which need no labels. `--config.data.unlabeled=keep` does so on cases without a label
among those of DIR; `--config.data.labeled=4` tries what four labels are worth.
"""

from dataclasses import dataclass, field

from jaxfuse.recipes import adam, brats_data, experiment, own_data, parse_argument, phase, volume_data

PRESETS = {
    "": "phantoms of 64 x 64 x 48 voxels, base 8, patches of 24^3: minutes on two CPU cores",
    "tiny": "phantoms of 32 x 32 x 24 voxels, a few steps: for tests",
    "paper": "the paper's sizes: base 16, five levels, patches of 128^3; needs data.root",
}
ROWS = {
    "ours": "CMFT, then CMFF with mask guidance",
    "S_A": "the branch of the first pair alone, from CMFT",
    "S_B": "the branch of the second pair alone, from CMFT",
    "S_A+S_B": "both branches trained apart, probabilities averaged",
    "wo_MG": "ours without mask guidance",
    "w_CA": "ours with CBAM in place of mask guidance",
    "plain": "ours with masks of 1: the layers and weights of mask guidance without the guidance",
    "random": "CMFF from random weights, without CMFT",
    "voc": "CMFF from a 2D U-Net trained on PASCAL VOC, inflated to 3D; needs voc.data.root",
    "self": "CMFF from two U-Nets that reconstruct their own input",
    "denoising": "CMFF from two U-Nets that reconstruct their own input from a noisy one",
    "paired": "CMFF from two U-Nets that translate each pair into the other by its voxels, without critics and cycles",
    "slow": "ours with a tenth of the rate for the trunks that CMFT hands over",
    "frozen": "ours with the trunks that CMFT hands over as they are",
    "other_pairs": "ours with the pairs T1+FLAIR and T2+T1c",
    "three_groups": "CMFT and CMFF of three groups: T1+T1c, T2 and FLAIR",
    "four_groups": "CMFT and CMFF of four groups of one modality each",
    "joint": "CMFT and CMFF trained at once on shared trunks",
    "mmformer": "mmFormer, a baseline for missing modalities, with the training of CMFF",
    "uhved": "U-HVED, a baseline for missing modalities, with the training of CMFF",
}
VARIANTS = {}
PAIRS = ("t1+t1ce", "t2+flair")
# Rows of other groups of modalities.
GROUPS = {
    "other_pairs": ("t1+flair", "t2+t1ce"),
    "three_groups": ("t1+t1ce", "t2", "flair"),
    "four_groups": ("t1", "t1ce", "t2", "flair"),
}
# Standard deviation of the noise that is added to what is reconstructed, in z-scores of the brain.
CORRUPTION = {"self": 0.0, "denoising": 0.5}
# The rate of the trunks beside that of the rest.
TRUNK_RATE = {"slow": 0.1, "frozen": 0.0}


@dataclass(frozen=True)
class Sizes:
    """Everything in which presets differ; the defaults are those of the preset for phantoms."""

    base: int = 8
    levels: int = 4
    remat: str = "off"
    dtype: str = "float32"
    kernel_init: str = "nn.initializers:he_normal"
    critic_base: int = 8
    critic_layers: int = 2
    pool_size: int = 50
    fusion_width: int = 16
    patch: tuple = (24, 24, 24)
    phantom: dict = field(default_factory=lambda: {"shape": (64, 64, 48), "cases": 20, "spacing_mm": 3.0})
    transition_length: dict = field(default_factory=lambda: {"steps": 80})
    segmentation_length: dict = field(default_factory=lambda: {"steps": 800})
    transition_rate: float = 2e-3
    segmentation_rate: float = 3e-3
    schedule: str = "cosine"
    flip: float = 0.5
    # The paper's loss has no background term; at a few hundred steps it lets a rare class absorb the background.
    loss: str = "losses.overlap:dice_and_cross_entropy"
    # Patches of 24^3 around the tumor never show the rest of the brain; those of 128^3 show most of it.
    sampling: str = "mixed"
    overlap: float = 0.25
    validate_every: int = 100
    checkpoint_every: int = 0
    log_every: int = 20
    voc: dict = field(default_factory=lambda: {"patch": (64, 64), "batch": 2, "steps": 300})
    voc_rate: float = 1e-3
    # Half of the published widths, as of CMFF, and as many levels as patches of 24^3 can be halved to.
    mmformer: dict = field(default_factory=lambda: {"base": 4, "levels": 4, "width": 256, "hidden": 2048, "heads": 8})
    uhved: dict = field(default_factory=lambda: {"base": 4, "levels": 4})

    @property
    def common(self):
        """Options of every 3D phase."""
        return {
            "patch": self.patch,
            "validate_every": self.validate_every,
            "checkpoint_every": self.checkpoint_every,
        }

    @property
    def unet(self):
        """The form of every U-Net."""
        return {
            "arch": "residual",
            "base": self.base,
            "levels": self.levels,
            "kernel_init": self.kernel_init,
            "remat": self.remat,
            "dtype": self.dtype,
        }

    @property
    def baselines(self):
        """The forms of the baselines for missing modalities, by row; both papers draw kernels as He et al. do."""
        common = {"kernel_init": "nn.initializers:he_normal", "remat": self.remat, "dtype": self.dtype}
        grid = tuple(side // 2 ** (self.mmformer["levels"] - 1) for side in self.patch)
        return {"mmformer": {**self.mmformer, "grid": grid, **common}, "uhved": {**self.uhved, **common}}

    @property
    def cycle(self):
        """The form of critics and cycles."""
        return {
            "critic_base": self.critic_base,
            "critic_layers": self.critic_layers,
            "pool_size": self.pool_size,
            "cycle_weight": 10.0,
        }

    def gan_adam(self):
        return adam(self.transition_rate, b1=0.5)


SIZES = {
    # Departs from the paper, which has 1e-4 in both phases: what is pre-trained at 2e-3 is trained on at 3e-3.
    "": Sizes(),
    "tiny": Sizes(
        base=4,
        levels=3,
        pool_size=4,
        fusion_width=4,
        patch=(16, 16, 16),
        phantom={"shape": (32, 32, 24), "cases": 3, "spacing_mm": 6.0},
        transition_length={"steps": 4},
        segmentation_length={"steps": 4},
        transition_rate=1e-3,
        flip=0.0,
        validate_every=0,
        checkpoint_every=2,
        log_every=2,
        voc={"patch": (32, 32), "batch": 2, "steps": 4},
        mmformer={"base": 2, "levels": 3, "width": 8, "hidden": 16, "heads": 2},
        uhved={"base": 2, "levels": 3},
    ),
    "paper": Sizes(
        base=16,
        levels=5,
        remat="auto",
        dtype="auto",
        kernel_init="nn.initializers:normal",
        critic_base=16,
        critic_layers=4,
        fusion_width=32,
        patch=(128, 128, 128),
        transition_length={"epochs": 100},
        segmentation_length={"epochs": 100},
        transition_rate=1e-4,
        segmentation_rate=1e-4,
        schedule="constant",
        flip=0.0,
        loss="losses.overlap:dice_loss_of_logits",
        sampling="tumor",
        overlap=0.0,
        validate_every=2000,
        voc={"patch": (256, 256), "batch": 8, "epochs": 100},
        voc_rate=1e-4,
        mmformer={"base": 8, "levels": 5, "width": 512, "hidden": 4096, "heads": 8},
        uhved={"base": 8, "levels": 4},
    ),
}


def get_config(argument=None):
    called = parse_argument(argument, presets=PRESETS, rows=ROWS, variants=VARIANTS, default_row="ours")
    preset, row, _ = called
    sizes, pairs = SIZES[preset], GROUPS.get(row, PAIRS)
    data = brats_data(modalities=tuple("+".join(pairs).split("+")), paper_split="cmff", **sizes.phantom)
    phases = row_phases(row, sizes, data)
    return experiment(
        "cmff",
        called,
        pairs=pairs,
        data=data,
        network={"form": sizes.baselines[row]} if row in sizes.baselines else {"unet": sizes.unet},
        phases=phases,
        # The mean of both branches where a row trains them apart.
        result=tuple(name for name in phases if name.startswith("branch_")),
        log_every=sizes.log_every,
    )


def row_phases(row, sizes, data):
    """The phases of a row, in order; those that learn from images alone may have more of them than `data`."""
    if row == "random":
        return {"fusion": fusion(sizes, row, ())}
    if row == "voc":
        init = both_branches("voc", "net", "net", "models.baselines.unet:inflate")
        return {"voc": voc(sizes), "fusion": fusion(sizes, row, init)}
    if row in CORRUPTION:
        init = both_branches("reconstruction", "generators/a", "generators/b")
        return {"reconstruction": reconstruction(sizes, data, row), "fusion": fusion(sizes, row, init)}
    if row == "paired":
        init = both_branches("translation", "generators/ab", "generators/ba")
        return {"translation": paired_translation(sizes, data), "fusion": fusion(sizes, row, init)}
    if row == "joint":
        return {"joint": joint(sizes)}
    if row in sizes.baselines:
        return {"segmentation": segmentation(sizes, f"baselines.{row}", {}, ())}
    if row in ("three_groups", "four_groups"):
        sides = "abcd"[: len(GROUPS[row])]
        init = tuple(
            (f"net/branch_{side}/trunk", f"transition:generators/{side}{sides.replace(side, '')}/trunk")
            for side in sides
        )
        model = "cmft_groups:make_group_translation"
        return {"transition": transition(sizes, data, model), "fusion": fusion(sizes, row, init)}
    phases = {"transition": transition(sizes, data)}
    if row == "S_A" or row == "S_A+S_B":
        phases["branch_a"] = branch(sizes, "a", "ab")
    if row == "S_B" or row == "S_A+S_B":
        phases["branch_b"] = branch(sizes, "b", "ba")
    if len(phases) == 1:
        init = both_branches("transition", "generators/ab", "generators/ba")
        phases["fusion"] = fusion(sizes, row, init)
    return phases


def both_branches(donor, source_a, source_b, *transform):
    """Both branches take over everything but the output convolution."""
    return (
        ("net/branch_a/trunk", f"{donor}:{source_a}/trunk", *transform),
        ("net/branch_b/trunk", f"{donor}:{source_b}/trunk", *transform),
    )


def transition(sizes, data, model="cmft"):
    """CMFT, which needs no labels: cases of `transition.data.root` may lack them."""
    return phase(
        model=model,
        args={"cycle": sizes.cycle},
        assess="engine.judging.translation:translation",
        optimizers={"generators": sizes.gan_adam(), "discriminators": sizes.gan_adam()},
        sampling="tumor_or_brain",
        data=own_data(data),
        **sizes.transition_length,
        **sizes.common,
    )


def reconstruction(sizes, data, row):
    """The first phase of the rows "self" and "denoising", in place of CMFT."""
    return images_alone(sizes, data, "cmft_rivals:make_reconstruction", {"corruption": CORRUPTION[row]})


def paired_translation(sizes, data):
    """The first phase of row "paired", in place of CMFT."""
    return images_alone(sizes, data, "cmft_rivals:make_paired_translation", {})


def images_alone(sizes, data, model, args):
    """A first phase that learns from images alone and is judged by its loss."""
    return phase(
        model=model,
        args=args,
        assess="engine.judging.losses:losses",
        optimizers={"generators": adam(sizes.transition_rate)},
        sampling="tumor_or_brain",
        data=own_data(data),
        **sizes.transition_length,
        **sizes.common,
    )


def segmentation(sizes, model, args, init, **more_optimizers):
    """Any phase that labels whole volumes."""
    return phase(
        model=model,
        args=args,
        assess="engine.judging.segmentation:segmentation",
        optimizers={"net": adam(sizes.segmentation_rate, schedule=sizes.schedule), **more_optimizers},
        init=init,
        loss=sizes.loss,
        loss_args={"include_background": False, "squared": False},
        sampling=sizes.sampling,
        overlap=sizes.overlap,
        flip=sizes.flip,
        **sizes.segmentation_length,
        **sizes.common,
    )


def fusion_form(sizes, row):
    return {
        "fusion_width": sizes.fusion_width,
        "attention": {"plain": "plain", "wo_MG": "none", "w_CA": "cbam"}.get(row, "mask"),
        "mask_mode": "whole",
        "residual_attention": True,
        "stop_gradient_masks": False,
        "presence": "zeroed",
    }


def fusion(sizes, row, init):
    """CMFF."""
    args = {"fusion": fusion_form(sizes, row), "trunk_rate": TRUNK_RATE.get(row, 1.0)}
    return segmentation(sizes, "cmff", args, init)


def branch(sizes, side, generator):
    """S_A or S_B alone."""
    init = (("net/trunk", f"transition:generators/{generator}/trunk"),)
    return segmentation(
        sizes, "cmff:make_branch", {"side": side, "deep_supervision": 0, "unet": {"presence": "zeroed"}}, init
    )


def joint(sizes):
    """CMFT and CMFF at once."""
    args = {"cycle": sizes.cycle, "fusion": fusion_form(sizes, "joint")}
    args |= {"segmentation_weight": 1.0, "share_trunk": True}
    found = segmentation(sizes, "cmff_joint:make_joint", args, (), discriminators=sizes.gan_adam())
    if found.sampling == "tumor":
        found.sampling = "tumor_or_brain"  # of cases without a label, which it learns from as well
    return found


def voc(sizes):
    """Pre-training on PASCAL VOC: its own data, patches of pixels, 21 classes, unlabeled border pixels ignored."""
    return phase(
        model="baselines.unet",
        assess="engine.judging.losses:losses",
        optimizers={"net": adam(sizes.voc_rate)},
        loss="losses.overlap:cross_entropy",
        sampling="brain",
        pad=True,  # photographs come in all sizes
        data=volume_data(source="voc", modalities=("r", "g", "b"), shape=(64, 64, 48), cases=1, spacing_mm=3.0),
        **sizes.voc,
    )
