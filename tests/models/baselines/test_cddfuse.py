"""CDDFuse: the terms of both stages, what they move, and the network that PyTorch's outputs are stored of."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.learning.combinations import combinations
from jaxfuse.learning.fusing import Lesson, Seen
from jaxfuse.losses.image import ssim
from jaxfuse.models.baselines.cddfuse import FORM, Fusing, GivingBack, Weights, make_fusion, make_reconstruction
from jaxfuse.models.fuse4seg.fusion import FusionForm
from tests.models.fuse4seg.small_forms import Banded, moved_by_terms
from tests.refusals import refused
from tests.tiny_systems import KEY, count, gradient_descent, shape
from tests.weights import here

NAMES = ("mri", "ct")


@pytest.fixture(scope="module")
def seen():
    choice = combinations("pairs", NAMES).choice(0)
    image = jax.random.uniform(jax.random.key(1), (2, 12, 12, 2))
    return Seen(*choice.of(image), choice, None, True)


@pytest.fixture(scope="module")
def params():
    return Banded().init(KEY, None)


def test_the_first_stage_gives_each_image_back(seen, params):
    lesson = GivingBack(Banded(), Weights())
    assert isinstance(lesson, Lesson)
    made = lesson.make(params, seen).values
    loss, terms = lesson.loss(made, None, seen)
    both = [(seen.sources[..., i : i + 1], made.images[..., i : i + 1]) for i in range(2)]
    content = sum(jnp.square(a - b).mean() + 5 * (1 - ssim(a, b).mean()) / 2 for a, b in both)
    expected = content + 5 * terms["difference"] + 2 * terms["decomposition"]
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    moves = moved_by_terms(lesson, seen, params)
    content = {"encoder", "decoder"}
    assert moves == {
        "squared": content,
        "structure": content,
        "difference": content,
        "decomposition": {"encoder"},
    }
    assert lesson.fakes(made, seen) is None


def test_the_second_stage_fuses(seen, params):
    lesson = Fusing(Banded(), Weights())
    made = lesson.make(params, seen).values
    loss, terms = lesson.loss(made, None, seen)
    brightest = np.abs(np.asarray(made.images) - np.asarray(seen.sources).max(-1, keepdims=True)).mean()
    assert float(terms["intensity"]) == pytest.approx(brightest, rel=1e-5)
    expected = terms["intensity"] + 10 * terms["gradient"] + 2 * terms["decomposition"]
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    everything = {"encoder", "fusion", "decoder"}
    assert moved_by_terms(lesson, seen, params) == {
        "intensity": everything,
        "gradient": everything,
        "decomposition": {"encoder"},
    }


def test_its_network_is_the_one_whose_outputs_pytorch_has_made():
    """`tests/weights` compares those of a small form of the public code with this module's, value by value."""
    case = here.cases()["cddfuse"].module
    make = partial(make_fusion, optimizers=gradient_descent("fusion"), modalities=NAMES)
    assert make(fusion=case.form).network.form.network() == case
    drawn = jax.eval_shape(lambda: make().network.init(KEY, shape(1, 16, 16, 2)))
    assert count(drawn) == 1_188_272
    first = make_reconstruction(optimizers=gradient_descent("fusion"), modalities=NAMES)
    assert first.network == make().network
    assert make().network.form == FORM


def test_other_forms_are_refused():
    make = partial(make_fusion, optimizers=gradient_descent("fusion"), modalities=NAMES)
    refused("cross_attention is 'tokens'", make, fusion=FusionForm())
    refused("decoder False", make, fusion=FusionForm(cross_attention="none", decoder=False))
