"""Cross-modality deep feature learning (Pattern Recognition 110, 2021): CMFT, then CMFF.

    python -m jaxfuse.train --config configs/cmff.py

trains both phases on phantoms in minutes on two CPU cores.

    python -m jaxfuse.train --config configs/cmff.py:paper --config.data.root=DIR

trains the paper's sizes on a BraTS folder (a GPU with 24 GB; see `network.remat` for less). `row=NAME` is a row of
the paper's tables.
"""

from ml_collections import ConfigDict

from jaxfuse.recipes import adam, brats_data, parse_argument, phase

PRESETS = {
    "": "phantoms of 64 x 64 x 48 voxels, base 8, patches of 32^3: minutes on two CPU cores",
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
    "random": "CMFF from random weights, without CMFT",
    "voc": "CMFF from a 2D U-Net trained on PASCAL VOC, inflated to 3D; needs voc.data.root",
    "self": "CMFF from two U-Nets that reconstruct their own input",
    "other_pairs": "ours with the pairs T1+FLAIR and T2+T1c",
    "joint": "CMFT and CMFF trained at once on shared trunks",
}
VARIANTS = {}
PAIRS = ("t1+t1ce", "t2+flair")
OTHER_PAIRS = ("t1+flair", "t2+t1ce")
# Of the default preset; the paper's trains for epochs.
TRANSITION_STEPS, SEGMENTATION_STEPS = 150, 1000


def _sizes(preset):
    """Steps of both phases, patch, and the data's phantoms."""
    if preset == "tiny":
        network = {"base": 4, "levels": 3}
        return network, 8, 4, (16, 16, 16), {"shape": (32, 32, 24), "cases": 3, "spacing_mm": 6.0}
    if preset == "paper":
        network = {"base": 16, "levels": 5}
        return network, 16, 32, (128, 128, 128), {"shape": (64, 64, 48), "cases": 20, "spacing_mm": 3.0}
    return {"base": 8, "levels": 4}, 8, 16, (32, 32, 32), {"shape": (64, 64, 48), "cases": 20, "spacing_mm": 3.0}


def get_config(argument=None):
    preset, row, variant = parse_argument(argument, presets=PRESETS, rows=ROWS, variants=VARIANTS, default_row="ours")
    paper, tiny = preset == "paper", preset == "tiny"
    network, critic_base, width, patch, phantom = _sizes(preset)
    pairs = OTHER_PAIRS if row == "other_pairs" else PAIRS

    config = ConfigDict()
    config.name, config.preset, config.row, config.variant = "cmff", preset, row, variant
    config.seed = 0
    config.pairs = pairs
    config.data = brats_data(modalities=tuple("+".join(pairs).split("+")), **phantom)
    config.network = ConfigDict(
        {
            **network,
            "arch": "residual",
            "kernel_init": "nn.initializers:normal" if paper else "nn.initializers:he_normal",
            "remat": "none",
            "dtype": "float32",
        }
    )
    config.loader = ConfigDict({"workers": 0, "threads": 2, "prefetch": 4})
    config.log_every = 2 if tiny else 20

    common = {
        "patch": patch,
        "validate_every": 0 if tiny else 2000 if paper else 100,
        "checkpoint_every": 2 if tiny else 500 if paper else 100,
    }
    cycle = {
        "critic_base": critic_base,
        "critic_layers": 3 if tiny else 4,
        "pool_size": 4 if tiny else 50,
        "cycle_weight": 10.0,
    }
    fusion = {
        "fusion_width": width,
        "attention": {"wo_MG": "none", "w_CA": "cbam"}.get(row, "mask"),
        "mask_mode": "whole",
        "residual_attention": True,
        "stop_gradient_masks": False,
    }
    # The paper's loss has no background term; at a few hundred steps it lets a rare class absorb the background.
    loss = {
        "loss": "losses.overlap:" + ("dice_loss_of_logits" if paper else "dice_and_cross_entropy"),
        "loss_args": {"include_background": False, "squared": False},
    }

    # Patches of 32^3 around the tumor never show the rest of the brain; those of 128^3 show most of it.
    volumes = {"sampling": "tumor" if paper else "mixed", "overlap": 0.0 if paper else 0.25}

    def length(demo_steps):
        return {"epochs": 100} if paper else {"steps": 4 if tiny else demo_steps, "epochs": 0}

    transition_rate = 1e-4 if paper else 1e-3
    fusion_adam = adam(1e-4) if paper else adam(3e-3, schedule="cosine")
    gan_adam = {player: adam(transition_rate, b1=0.5) for player in ("generators", "discriminators")}

    def transition():
        return phase(
            model="cmft",
            args=cycle,
            assess="engine.assess:translation",
            optimizers=gan_adam,
            **length(TRANSITION_STEPS),
            **common,
        )

    def segmentation(model, init, *, args, steps):
        return phase(
            model=model,
            args=args,
            assess="engine.assess:segmentation",
            optimizers={"net": fusion_adam},
            init=init,
            **loss,
            **length(steps),
            **common,
            **volumes,
        )

    def fused(init):
        return segmentation("cmff", init, args=fusion, steps=SEGMENTATION_STEPS)

    def branch(side, generator):
        init = (("net/trunk", f"transition:generators/{generator}/trunk"),)
        return segmentation("cmff:make_branch", init, args={"side": side}, steps=SEGMENTATION_STEPS)

    def both(donor, source_a, source_b, *transform):
        return (
            ("net/branch_a/trunk", f"{donor}:{source_a}/trunk", *transform),
            ("net/branch_b/trunk", f"{donor}:{source_b}/trunk", *transform),
        )

    if row in ("S_A", "S_B", "S_A+S_B"):
        config.transition = transition()
        if "S_A" in row:
            config.branch_a = branch("a", "ab")
        if "S_B" in row:
            config.branch_b = branch("b", "ba")
        config.result = tuple(name for name in ("branch_a", "branch_b") if name in config)
        config.schedule = ("transition", *config.result)
        return config
    if row == "random":
        config.fusion = fused(())
        config.schedule = ("fusion",)
    elif row == "voc":
        config.voc = _voc(paper, tiny)
        inflate = "models.baselines.unet:inflate"
        config.fusion = fused(both("voc", "net", "net", inflate))
        config.schedule = ("voc", "fusion")
    elif row == "self":
        config.reconstruction = phase(
            model="cmft:make_reconstruction",
            args={"corruption": 0.0},
            assess="engine.assess:losses",
            optimizers={"generators": adam(transition_rate)},
            **length(TRANSITION_STEPS),
            **common,
        )
        config.fusion = fused(both("reconstruction", "generators/a", "generators/b"))
        config.schedule = ("reconstruction", "fusion")
    elif row == "joint":
        config.joint = phase(
            model="cmff:make_joint",
            args={**cycle, **fusion, "segmentation_weight": 1.0, "share_trunk": True},
            assess="engine.assess:segmentation",
            optimizers={"net": fusion_adam, "discriminators": adam(transition_rate, b1=0.5)},
            **loss,
            **length(SEGMENTATION_STEPS),
            **common,
            **volumes,
        )
        config.schedule = ("joint",)
    else:
        config.transition = transition()
        config.fusion = fused(both("transition", "generators/ab", "generators/ba"))
        config.schedule = ("transition", "fusion")
    config.result = (config.schedule[-1],)
    return config


def _voc(paper, tiny):
    """Pre-training on PASCAL VOC: its own data, patches of pixels, 21 classes, unlabelled border pixels ignored."""
    side = 256 if paper else 32 if tiny else 64
    voc = phase(
        model="baselines.unet",
        assess="engine.assess:losses",
        optimizers={"net": adam(1e-4 if paper else 1e-3)},
        loss="losses.overlap:cross_entropy",
        loss_args={"ignore": 255},
        patch=(side, side),
        batch=8 if paper else 2,
        sampling="brain",
        steps=0 if paper else 4 if tiny else 300,
        epochs=100 if paper else 0,
        checkpoint_every=500,
    )
    voc.pad = True  # photographs come in all sizes
    voc.data = brats_data(modalities=("r", "g", "b"), shape=(64, 64, 48), cases=1, spacing_mm=3.0)
    voc.data.source = "voc"
    return voc
