"""Fuse4Seg's fusion without segmentation: what its terms move, and the cooperative step that it is a part of."""

from dataclasses import replace
from functools import partial

import jax
import pytest

from jaxfuse.learning.combinations import combinations
from jaxfuse.learning.fusing import FusionCritics, Lesson, Seen, fusion_system
from jaxfuse.models.fuse4seg.make import LossForm, fusion_loss
from jaxfuse.models.fuse4seg.unlabeled import FusedImage, SourceCritics, make_fusion
from tests.models.fuse4seg.small_forms import (
    CLASSES,
    CRITICS,
    NAMES,
    NO_CRITICS,
    Banded,
    Pixelwise,
    moved_by_terms,
    small_system,
)
from tests.refusals import refused
from tests.tiny_systems import KEY, close, gradient_descent, pictures


def test_each_term_moves_what_it_can_see():
    judged = fusion_loss(CRITICS, LossForm(), NAMES)
    lesson, choice = FusedImage(Banded(), judged), combinations("pairs", NAMES).choice(1)
    image = jax.random.uniform(jax.random.key(1), (2, 12, 12, len(NAMES)))
    seen = Seen(*choice.of(image), choice, None, True)
    critics = SourceCritics(judged.critics)
    assert isinstance(lesson, Lesson)
    assert isinstance(critics, FusionCritics)
    everything = {"encoder", "fusion", "decoder"}
    assert moved_by_terms(lesson, seen, Banded().init(KEY, None), critics.init(KEY, image)) == {
        "correlation": {"encoder"},
        "content": everything,
        "intensity": everything,
        "gradient": everything,
        "adversarial": everything,
    }
    made = lesson.make(Banded().init(KEY, None), seen).values
    assert lesson.fakes(made, seen).shape == (2, 12, 12, 2)
    assert FusedImage(Banded(), fusion_loss(NO_CRITICS, LossForm(), NAMES)).fakes(made, seen) is None


@pytest.mark.slow
def test_a_step_is_that_of_cooperation_without_the_task():
    cooperation = small_system(combos="pairs", bilevel="detached")
    judged = cooperation.fusion_loss
    alone = fusion_system(
        Pixelwise(),
        FusedImage(Pixelwise(), judged),
        SourceCritics(judged.critics),
        optimizers=gradient_descent("fusion", "critics"),
        modalities=NAMES,
        combos="pairs",
        pairs=("t1+t1ce",),
    )
    alone = replace(alone, optimizers={name: cooperation.optimizers[name] for name in alone.players})
    batch = pictures(16, len(NAMES), CLASSES)
    both = cooperation.init(KEY, batch)
    state = alone.init(KEY, batch)
    state = state.replace(params={name: both.params[name] for name in alone.players})
    for _ in range(3):
        both, _ = jax.jit(cooperation.train_step)(both, batch)
        state, _ = jax.jit(alone.train_step)(state, batch)
        for name in alone.players:
            close(both.params[name], state.params[name], 1e-5)


def test_options_are_refused_as_in_cooperation():
    make = partial(make_fusion, optimizers=gradient_descent("fusion", "critics"), modalities=NAMES[:2])
    refused("correlation_weight is 2", make, losses=LossForm(correlation_weight=2))
    assert make().players == ("fusion", "critics")
    assert make(critics=NO_CRITICS).players == ("fusion",)
