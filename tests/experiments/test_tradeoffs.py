"""Two experiments on Dice against Qabf: their pictures, their rows, and tables of made scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import fuse4seg
from experiments import dice_against_qabf
from experiments.fuse4seg_tradeoff import choice
from experiments.fuse4seg_tradeoff import rows as phantoms
from experiments.fuse4seg_tradeoff import run as phantoms_run
from experiments.fuse4seg_tradeoff.frozen import frozen
from experiments.shared import finished, told_briefly, workfile
from experiments.two_lesions import rows as lesions
from experiments.two_lesions import run as lesions_run
from experiments.two_lesions import training
from experiments.two_lesions.networks import FusionNet
from experiments.two_lesions.pictures import CONTRAST, pictures
from experiments.two_lesions.training import kind_of
from jaxfuse.io.tables import write_json
from jaxfuse.learning.bilevel import scheme_of
from jaxfuse.losses.fusion import in_gray


def test_each_lesion_is_bright_in_its_own_picture_alone():
    made = jax.device_get(jax.jit(lambda key: pictures(key, 16))(jax.random.key(0)))
    image, label = made["image"], made["label"]
    assert image.min() >= 0
    assert image.max() <= 1
    for lesion, own in ((1, 0), (2, 1)):
        inside = np.where(label == lesion, 1.0, np.nan)
        between = image[..., own] - image[..., 1 - own]
        np.testing.assert_allclose(np.nanmean(between * inside), CONTRAST, atol=0.01)
    # All four are as large, and decoys are bright in both: a picture alone shows three alike.
    counts = [(label == kind).sum(axis=(1, 2)) for kind in (1, 2)]
    assert all(one.min() > 20 and one.max() < 85 for one in counts)
    bright = (image.min(-1) > 0.4 + CONTRAST / 2).sum() / len(image)
    assert bright > np.concatenate(counts).mean()


def test_rows_name_what_they_build_on_and_share_programs():
    for experiment in (lesions, phantoms):
        assert set(experiment.REFERENCES) - {"better single"} <= set(experiment.ROWS)
        assert {row.part for row in experiment.ROWS.values()} == set(experiment.PARTS)
    for row in lesions.ROWS.values():
        if row.reads.startswith("frozen"):
            assert lesions.ROWS[row.reads.removeprefix("frozen ")].scheme
    assert all(phantoms.ROWS[row.donor].scheme for row in phantoms.ROWS.values() if row.donor)
    for name, recipe in (("two channels, 1", "two_colors"), ("three channels, 1", "color")):
        assert fuse4seg.COLORS[recipe] == lesions.ROWS[name].channels
        assert phantoms.ROWS[name].recipe == recipe
    kinds = {kind_of(lesions.ROWS[f"joint, {weight:g}"], 10) for weight in lesions.LAMBDAS}
    assert len(kinds) == 1, "one compiled program for all weights"


@pytest.mark.parametrize(("name", "channels"), [("joint, 1", 1), ("two channels, 1", 2), ("three channels, 1", 3)])
def test_the_task_sees_all_channels_of_a_fused_image_and_qabf_its_luminance(name, channels, monkeypatch):
    compared = []
    monkeypatch.setattr(training, "qabf", lambda image, sources: compared.append(image) or 1.0)
    row = lesions.ROWS[name]
    state = training.first_state(row, 0, 1000)
    assert state.params["segmentation"]["Conv_0"]["kernel"].shape[-2] == channels
    given = pictures(jax.random.key(5), 2)
    scores = training.scored(row, state, 1000, 2, 5)
    image = FusionNet(channels).apply({"params": state.params["fusion"]}, given["image"])
    assert image.shape[-1] == channels
    np.testing.assert_allclose(np.stack(compared), 255 * in_gray(image)[..., 0], atol=1e-3)
    assert scores["qabf"] == [1.0, 1.0]


def test_a_frozen_fusion_network_has_no_gradient():
    scheme = scheme_of(frozen, {})
    phi = {"a": jnp.ones(3)}
    lead = scheme(None, phi, {}, {})
    np.testing.assert_array_equal(lead.gradient["a"], np.zeros(3))
    assert scheme.follower_part == "all"


@pytest.mark.parametrize(("run", "steps"), [(lesions_run, 30), (lesions_run, 0), (phantoms_run, 0)])
def test_a_trial_of_no_steps_is_refused(run, steps, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["run", "--steps", str(steps)])
    with pytest.raises(SystemExit):
        run.main()
    assert f"--steps is {steps}; give" in capsys.readouterr().err


def test_a_row_stands_in_the_table_once_all_of_its_seeds_are_done(tmp_path):
    for name, seed in (("joint, 1", 0), ("joint, 1", 1), ("joint, 0.1", 0)):
        write_json(workfile(tmp_path, name, seed), {"scores": seed})
    names = ("joint, 1", "joint, 0.1", "detached")
    assert finished(tmp_path, (0, 1), names) == {"joint, 1": {"0": {"scores": 0}, "1": {"scores": 1}}}
    assert list(finished(tmp_path, (0,), names)) == ["joint, 1", "joint, 0.1"]


def test_scores_are_told_in_four_digits_with_the_late_mean_of_a_log():
    one = {"seconds": 1.23456, "log": [{"a": 9.0}, {"a": 1.0, "b": 0.5}], "scores": {"all": {"dice": [0.98765432, 1]}}}
    brief = {"seconds": 1.2346, "log": {"a": 1.0, "b": 0.5}, "scores": {"all": {"dice": [0.9877, 1]}}}
    assert told_briefly({"row": {"0": one}}) == {"row": {"0": brief}}


def made_scores(level, image):
    scores = {name: [level, level + 0.1] for name in ("lesion 1", "lesion 2", "WT", "TC", "ET")}
    return scores | ({"qabf": [image, image]} if image else {})


def test_the_knee_is_the_largest_weight_that_no_smaller_one_is_ahead_of():
    noise = np.random.default_rng(0).normal(0, 0.05, (3, 24))
    dice = {1.0: 0.6 + noise, 0.1: 0.7 + noise[:, ::-1], 0.01: 0.75 + noise, 0.0: 0.752 + noise[:, ::-1]}
    assert choice.knee(dice) == 0.01
    assert choice.knee({weight: dice[weight] for weight in (0.01, 0.0)}) == 0.01, "0 is ahead by less than its interval"
    assert choice.knee({1.0: dice[0.0], 0.1: dice[1.0]}) == 1.0


def test_no_weight_is_chosen_before_all_are_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["choice", "--folder", str(tmp_path)])
    with pytest.raises(SystemExit):
        choice.main()
    assert "18 trainings are not in" in capsys.readouterr().err


def test_choices_are_told_with_the_difference_from_the_chosen_weight():
    names = ("joint, 1", "joint, 0.1")
    found = {name: {"0": {"scores": {phantoms.AS_TRAINED: made_scores(n / 10, 0.5)}}} for n, name in enumerate(names)}
    lines = choice.table(found, "joint, 0.1").splitlines()
    assert "less joint, 0.1" in lines[0]
    assert "-0.100 [-0.100, -0.100]" in lines[2]


@pytest.mark.parametrize("of", ["lesions", "phantoms"])
def test_tables_and_figures_are_of_the_scores(of, tmp_path):
    singles = ("A", "B") if of == "lesions" else ("T1c", "FLAIR")
    levels = {singles[0]: (0.3, 0.0), singles[1]: (0.4, 0.0), "joint, 1": (0.5, 0.7), "joint, 0.1": (0.6, 0.5)}
    log = [{"fusion/share/task": 0.25, "fusion/share_cosine": -0.5}]
    found = {}
    for name, (level, image) in levels.items():
        scores = made_scores(level, image)
        whole = scores if of == "lesions" else dict.fromkeys(phantoms.CONDITIONS, scores)
        found[name] = {str(seed): {"scores": whole, "log": log if "joint" in name else [{}]} for seed in (0, 1)}
    run = lesions_run if of == "lesions" else phantoms_run
    table = run.table(found)
    assert "+0.200 [+0.200, +0.200]" in table, "joint, 0.1 less the better single one"
    assert "-0.50 ± 0.00" in table
    arguments = (
        (tmp_path / "figure.png",) if of == "lesions" else ({"mean": 0.5, "maximum": 0.6}, tmp_path / "figure.png")
    )
    run.figure(found, *arguments)
    assert (tmp_path / "figure.png").stat().st_size > 5_000
    dice_against_qabf.draw({}, [], {}, tmp_path / "empty.png")
