"""Rows of configs/fuse4seg.py, and the parts that each one switches."""

import dataclasses

import jax
import numpy as np
import pytest

from configs import fuse4seg
from jaxfuse.config import parse
from jaxfuse.engine.build import build_system
from jaxfuse.learning.bilevel import SCHEMES
from jaxfuse.losses.overlap import cross_entropy
from jaxfuse.models.baselines.film import FilmForm
from jaxfuse.models.fuse4seg.plugin import NNUNetForm
from jaxfuse.nn.source_critic import SourceCritic
from tests.recipe_phases import argument, phases
from tests.refusals import refused


def built(row: str):
    return phases("fuse4seg", argument("tiny", row))


@pytest.mark.parametrize("row", fuse4seg.ALONE)
def test_rows_without_fusion_read_what_they_are_called_after(row):
    (phase,) = built(row).values()
    modalities, shown = fuse4seg.MODALITIES, fuse4seg.SHOWN[0].split("+")
    read = [modalities[channel] for channel in phase.system.channels]
    expected = {"mean": "mean", "maximum": "maximum", **dict.fromkeys(("both_channels", *fuse4seg.RIVALS), "channels")}
    assert (read, phase.system.fusion) == (shown, expected[row]) if row in expected else read == [row]
    if row not in fuse4seg.RIVALS:
        # The network that the paper's row trains, no other.
        assert phase.system.segmentation.form == built("full")["cooperative"].system.segmentation.form


@pytest.mark.parametrize("row", fuse4seg.RIVALS)
def test_rivals_are_as_published_and_as_much_narrower_as_the_preset_says(row):
    published, small, least = (
        phases("fuse4seg", argument(preset, row))["alone"].system.segmentation.network.form
        for preset in ("paper", "", "tiny")
    )
    assert published == type(published)()
    for name in ("base", "width", "widths"):
        if hasattr(published, name):
            theirs, ours, fewest = (np.atleast_1d(getattr(form, name)) for form in (published, small, least))
            np.testing.assert_array_equal(theirs, 8 * ours)
            np.testing.assert_array_equal(theirs, 16 * fewest)


@pytest.mark.parametrize("row", [row for row in fuse4seg.ROWS if row not in fuse4seg.ALONE])
def test_schemes_of_the_rows(row):
    scheme = built(row)["cooperative"].system.scheme
    expected = "detached" if row.endswith("_detached") else row
    assert type(scheme) is SCHEMES[expected if expected in SCHEMES else "joint"]
    # The recipe writes out what the schemes have by default.
    assert scheme == SCHEMES[type(scheme).__name__]()


@pytest.mark.parametrize(
    ("row", "pretrained", "cooperating"),
    [
        ("full", True, True),
        ("wo_adv_pretrain", False, True),
        ("wo_adv_coop", True, False),
        ("wo_decoder", True, False),
        ("wo_cross_attention", True, True),
    ],
)
def test_critics_of_the_rows_and_what_they_take_over(row, pretrained, cooperating):
    both = built(row)
    assert ("critics" in both["pretraining"].system.players) == pretrained
    assert ("critics" in both["cooperative"].system.players) == cooperating
    taken = {rule.target for rule in both["cooperative"].phase.rules}
    decoder = "fusion/decoder/merge" if row == "wo_decoder" else "fusion/decoder"
    assert taken == {"fusion/encoder", decoder, *(["critics"] if pretrained and cooperating else [])}


def test_rows_without_decoder_or_cross_attention_lack_them():
    full, plain = (built(row)["cooperative"] for row in ("full", "wo_cross_attention"))
    networks, fewer = (set(phase.system.networks(phase.state.params)) for phase in (full, plain))
    assert networks - fewer == {"cross_attention"}
    without = built("wo_decoder")["cooperative"]
    outputs = jax.eval_shape(without.system.predict, without.state, {"image": without.batch["image"]})
    assert {"S", "fused"} & set(outputs) == {"S"}


def test_colors_are_channels_of_the_fused_image_in_both_phases():
    for row, channels in {"full": 1, **fuse4seg.COLORS}.items():
        pretraining, cooperative = built(row).values()
        assert pretraining.system.form.image_channels == channels
        assert cooperative.system.fusion.form.image_channels == channels


def test_rows_of_three_and_four_modalities_show_what_they_train():
    counts = {"full": {2: 6}, "triples": {3: 4}, "quadruple": {4: 1}, "all_combos": {2: 6, 3: 4, 4: 1}}
    shown = {"triples": "t1+t1ce+flair", "quadruple": "t1+t1ce+t2+flair"}
    for row, expected in counts.items():
        for phase in built(row).values():
            members = phase.system.combinations.members
            assert {count: sum(len(one) == count for one in members) for count in expected} == expected
            assert len(members) == sum(expected.values())
            name = "+".join(fuse4seg.MODALITIES[member] for member in members[phase.system.shown])
            assert name == shown.get(row, "t1ce+flair")


def test_film_and_nnunet_stand_in_and_the_variant_takes_over_the_encoder():
    networks = {"encoder", "guidance", "decoder", "segmentation"}
    for row in ("film_nnunet", "film_nnunet_p", "film_nnunet_detached"):
        *earlier, (last, phase) = built(row).items()
        assert last == "cooperative"
        assert set(phase.system.networks(phase.state.params)) == networks
        taken = [(rule.target, rule.donor, rule.source) for rule in phase.phase.rules]
        if row == "film_nnunet_p":
            assert [name for name, _ in earlier] == ["pretraining"]
            assert taken == [("fusion/encoder", "pretraining", "fusion/encoder")]
        else:
            assert (earlier, taken) == ([], [])


def test_the_first_of_the_pairs_is_shown_and_nothing_else_names_it():
    config = fuse4seg.get_config("tiny")
    config.pairs = ("flair+t2", "t1+t2")
    config.network.shown = ""
    for phase in parse(config).phases.values():
        system = build_system(phase, fuse4seg.MODALITIES, ("a", "b"), 4)
        assert fuse4seg.COMBINATIONS[system.shown] == "t2+flair"
    config.network.shown = "t1+t2"
    phase, sentence = (
        parse(config).phases["cooperative"],
        r"shown is 't1\+t2' and pairs begins with 'flair\+t2'; give one",
    )
    refused(sentence, build_system, phase, fuse4seg.MODALITIES, ("a", "b"), 4)


def test_sizes_of_the_paper_are_the_defaults_of_the_forms():
    cooperative = phases("fuse4seg", "paper")["cooperative"].system
    for form in (cooperative.fusion.form, cooperative.segmentation.form):
        assert form == type(form)()
    critic, default = cooperative.fusion_loss.critics.network, SourceCritic()
    assert (critic.base, critic.head, critic.dtype) == (default.base, default.head, default.dtype)
    weights = {f.name: f.default for f in dataclasses.fields(cooperative.fusion_loss) if f.name != "critics"}
    assert {name: getattr(cooperative.fusion_loss, name) for name in weights} == weights


def test_film_and_nnunet_of_the_paper_preset_are_as_released():
    built = phases("fuse4seg", argument("paper", "film_nnunet"))["cooperative"]
    assert built.system.fusion.network.form == FilmForm()
    assert built.system.segmentation.network == NNUNetForm().part(4, cross_entropy).network
    assert (built.phase.epochs, built.phase.batch) == (150, 2)
    config = fuse4seg.get_config(argument("paper", "film_nnunet")).cooperative
    film = {name: value for name, value in config.optimizers.fusion.items() if value is not None}
    schedule = {"schedule": "stepwise", "stages": 3, "factor": 0.6}
    assert film == {"learning_rate": 1e-5, "b1": 0.9, "b2": 0.999, **schedule}
    nnunet = config.optimizers.segmentation
    assert (nnunet.kind, nnunet.learning_rate, nnunet.momentum, nnunet.nesterov) == ("sgd", 0.01, 0.99, True)
    assert nnunet.schedule == "poly"
