"""What the rows of configs/fuse4seg.py switch."""

import dataclasses

import jax
import pytest
from recipe_phases import argument, phases

from configs import fuse4seg
from jaxfuse.config import parse
from jaxfuse.engine.build import build_system
from jaxfuse.errors import UserError
from jaxfuse.learning.bilevel import SCHEMES
from jaxfuse.models.fuse4seg.critics import SourceCritic


def built(row: str):
    return phases("fuse4seg", argument("tiny", row))


@pytest.mark.parametrize("row", fuse4seg.ROWS)
def test_schemes_of_the_rows(row):
    scheme = built(row)["cooperative"].system.scheme
    assert type(scheme) is SCHEMES[row if row in SCHEMES else "joint"]
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
    networks = {
        row: set(built(row)["cooperative"].system.networks(built(row)["cooperative"].state.params))
        for row in ("full", "wo_decoder", "wo_cross_attention")
    }
    assert networks["full"] - networks["wo_cross_attention"] == {"cross_attention"}
    without = built("wo_decoder")["cooperative"]
    image = {"image": without.batch["image"]}
    assert set(jax.eval_shape(without.system.predict, without.state, image)) == {"S"}


def test_the_first_of_the_pairs_is_shown_and_nothing_else_names_it():
    config = fuse4seg.get_config("tiny")
    config.pairs = ("flair+t2", "t1+t2")
    config.network.shown = ""
    for phase in parse(config).phases.values():
        system = build_system(phase, fuse4seg.MODALITIES, ("a", "b"), 4)
        assert fuse4seg.COMBINATIONS[system.shown] == "t2+flair"
    config.network.shown = "t1+t2"
    with pytest.raises(UserError, match="shown is 't1\\+t2' and pairs begins with 'flair\\+t2'; give one"):
        build_system(parse(config).phases["cooperative"], fuse4seg.MODALITIES, ("a", "b"), 4)


def test_sizes_of_the_paper_are_the_defaults_of_the_forms():
    cooperative = phases("fuse4seg", "paper")["cooperative"].system
    form = cooperative.fusion.form
    assert form == type(form)(remat=True)
    form = cooperative.segmentation.form
    assert form == type(form)(remat=True)
    critic, default = cooperative.fusion_loss.critics.network, SourceCritic()
    assert (critic.base, critic.head, critic.dtype) == (default.base, default.head, default.dtype)
    weights = {f.name: f.default for f in dataclasses.fields(cooperative.fusion_loss) if f.name != "critics"}
    assert {name: getattr(cooperative.fusion_loss, name) for name in weights} == weights
