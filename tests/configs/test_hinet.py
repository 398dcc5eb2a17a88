"""Networks of configs/hinet.py by their counts, its tasks, its schedule, and what rows change."""

from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import pytest

from configs import hinet
from jaxfuse.config import parse
from jaxfuse.describe import choices
from jaxfuse.engine.description import describe
from jaxfuse.models.hinet.form import HiNetForm
from tests.recipe_phases import argument, phases
from tests.refusals import refused

# Trainable values of the paper's networks and of its ablations and baselines.
COUNTS = {
    "full": {"generator": 3_872_259, "discriminator": 391_041},
    "degraded1": {"generator": 3_485_187, "discriminator": 391_041},
    "degraded2": {"generator": 3_678_723, "discriminator": 391_041},
    "degraded3": {"generator": 3_678_723, "discriminator": 391_041},
    "early": {"generator": 1_377_697, "discriminator": 391_041},
    "late": {"generator": 3_022_755, "discriminator": 391_041},
    "pix2pix": {"generator": 41_822_849, "discriminator": 2_764_609},
    "cyclegan": {"generators": 2 * 7_825_153, "discriminators": 2 * 2_762_689},
    "mmsyns": {"net": 1_080_561},
    "any": {"generator": 5_350_565, "discriminator": 392_193},
}


def paper(row="", variant=""):
    return hinet.get_config(argument("paper", row, variant))


@pytest.mark.parametrize("row", COUNTS)
def test_counts_of_the_paper_preset(row):
    (phase,) = describe(paper(row), cost=False)["phases"].values()
    assert phase["players"] == COUNTS[row]


def test_networks_of_the_paper_preset_one_by_one():
    (phase,) = describe(paper(), cost=False)["phases"].values()
    assert phase["networks"] == {
        **dict.fromkeys(("encoder_t1", "encoder_t2"), 287_328),
        **dict.fromkeys(("decoder_t1", "decoder_t2"), 434_785),
        "fusion": 46_368 + 258_624 + 738_048,
        "synthesis": 295_680 + 295_296 + 590_400 + 147_744 + 46_272 + 9_601,
        "discriminator": 391_041,
    }
    form = phases("hinet", "paper")["synthesis"].system.generator.module.form
    assert form == replace(HiNetForm(), kernel_init=form.kernel_init)


def test_tasks_are_those_of_the_variants_and_single_sources_those_of_the_rows():
    tasks = {name: hinet.get_config(argument("", "", name)).pairs for name in ("", *hinet.VARIANTS)}
    assert tasks == {
        "": ("t1+t2", "flair"),
        "t2": ("t1+flair", "t2"),
        "t1": ("t2+flair", "t1"),
        "t1ce": ("t1+t2+flair", "t1ce"),
        "isles": ("t1+flair", "t2"),
    }
    second = phases("hinet", "tiny,row=cyclegan_second,data=t2")["synthesis"].system.task
    assert (second.sources, second.target) == (("flair",), 2)
    assert phases("hinet", "tiny,row=pix2pix,data=t1")["synthesis"].system.task.sources == ("t2",)
    assert set(choices(Path("configs/hinet.py"))["rows"]) == {*COUNTS, "pix2pix_second", "cyclegan_second"}


def test_the_row_any_makes_all_or_the_target_of_the_variant():
    tasks = {name: hinet.get_config(argument("", "any", name)).pairs for name in ("", "t2", "isles")}
    every, isles = "t1+t1ce+t2+flair", "t1+t2+dwi+flair"
    assert tasks == {"": (every, every), "t2": ("t1+t1ce+flair", "t2"), "isles": (isles, isles)}
    for name in tasks:
        config = hinet.get_config(argument("", "any", name))
        assert {modality for pair in config.pairs for modality in pair.split("+")} == set(config.data.modalities)


def test_a_command_may_name_any_pairs_of_the_data():
    config = hinet.get_config("tiny")
    config.pairs = ("t1+t1ce", "t2")
    build = parse(config).phases["synthesis"].build
    assert build(config.data.modalities, (), 1).task.sources == ("t1", "t1ce")
    config.pairs = ("t1+dwi", "t2")
    build = parse(config).phases["synthesis"].build
    refused("pairs names dwi, but the data has t1, t1ce, t2, flair", build, config.data.modalities, (), 1)


def test_training_of_the_paper_preset():
    """228 subjects of 155 slices, of which an epoch of the paper shows all four patches."""
    (phase,) = parse(paper()).phases.values()
    assert phase.total_steps(228 * 155) == 300 * 228 * 155 * 4 // 512
    assert (phase.patch, phase.sampling.name, phase.labeled) == ((128, 128), "tiles", False)
    options = paper().synthesis.optimizers
    for player in ("generator", "discriminator"):
        kept = {name: value for name, value in options[player].items() if value is not None}
        assert kept == {"learning_rate": 2e-4, "b1": 0.5, "b2": 0.999, "schedule": "linear_after_third"}
    loss = phases("hinet", "paper")["synthesis"].system
    assert (loss.target_weight, loss.reconstruction_weight) == (100, 20)
    assert not parse(paper()).phases["synthesis"].pad


def test_baselines_of_the_paper_preset_train_as_their_authors_do():
    # 200 epochs of four patches a slice, or 100 of whole slices.
    for row, batch, steps in (("pix2pix", 1, 800 * 480), ("cyclegan", 1, 800 * 480), ("mmsyns", 16, 100 * 480 // 16)):
        (phase,) = parse(paper(row)).phases.values()
        assert (phase.batch, phase.total_steps(480)) == (batch, steps)
    assert (phase.patch, phase.sampling.name) == ((180, 160), "whole")
    assert paper("mmsyns").synthesis.optimizers.net.learning_rate == 1e-4


def test_pictures_of_the_paper_preset():
    """The window of the public code, and of ISLES the middle of 230 x 230."""
    brats, isles = parse(paper()).data, parse(paper(variant="isles")).data
    assert (brats.source, brats.window, brats.blank_slices) == ("slices", ((40, 200), (20, 200)), True)
    assert (isles.source, isles.window, isles.blank_slices) == ("isles_slices", ((35, 195), (25, 205)), True)
    for first, last in isles.window:
        assert first == 230 - last
    assert {brats.normalize, isles.normalize} == {"minmax"}


def test_every_row_of_a_preset_for_phantoms_is_trained_alike():
    for preset in ("", "tiny"):
        alike = set()
        for row in hinet.ROWS:
            group = hinet.get_config(argument(preset, row)).synthesis
            rates = {(player.learning_rate, player.schedule) for player in group.optimizers.values()}
            # The row `any` learns many tasks, and takes longer.
            steps = group.steps / (1.5 if row == "any" and not preset else 1)
            alike.add((steps, group.batch, group.patch, group.sampling, *sorted(rates)))
        assert len(alike) == 1


@pytest.mark.parametrize(
    ("group", "option", "value", "read"),
    [
        ("losses", "gan", "bce", lambda system: float(system.game.maker(jnp.zeros(())))),
        ("form", "conditional", True, lambda system: system.conditional),
        ("form", "activation_fusion", "relu", lambda system: system.generator.module.form.activation_fusion),
        ("form", "critic_norm_eps", 1e-5, lambda system: system.critic.module.form.critic_norm_eps),
        ("losses", "reconstruction_weight", 5.0, lambda system: system.reconstruction_weight),
    ],
)
def test_options_of_the_forms_are_options_of_the_phase(group, option, value, read):
    config = hinet.get_config("tiny")

    def built():
        return parse(config).phases["synthesis"].build(config.data.modalities, (), 1)

    before = read(built())
    config.synthesis.args[group][option] = value
    assert read(built()) != before
    if isinstance(value, bool | float):
        assert read(built()) == value
