"""Weights by the names of public codes: our networks make of them what PyTorch makes."""

from dataclasses import replace

import numpy as np
import pytest

from jaxfuse.weights.film import FUSION as FILM
from jaxfuse.weights.lines import COUNTERS, Ours
from jaxfuse.weights.matching import read_part, write_part
from jaxfuse.weights.tables import TABLES, table_of
from tests.refusals import refused
from tests.weights import here, sizes
from tests.weights.make_outputs import stored
from tests.weights.rule import image, state_dict

CASES = here.cases()
_END = COUNTERS.removeprefix("*")


# Like others, which take as long.
_LIKE_OTHERS = ("hinet_apart", "hyperdense_2", "pix2pix_critic")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in _LIKE_OTHERS)) for name in CASES]
)
def test_outputs_are_those_of_pytorch(name):
    case, (shapes, expected) = CASES[name], stored(name)
    part = replace(case.part, partial=False, ignored=(*case.part.ignored, "decoder.*"))
    if name == "transunet":
        part = replace(part, lines=lambda ours: [line for line in case.part.lines(ours) if "decoder" not in line.ours])
    arrays = read_part(part, state_dict(shapes), here.ours(case, sizes.IMAGES[name]), "a file")
    made = here.applied(case, arrays, image(name, sizes.IMAGES[name]))
    assert made.shape == expected.shape
    assert np.abs(made - expected).max() <= 1e-4 * np.abs(expected).max()
    assert expected.std() > 0.02


@pytest.mark.parametrize("name", [name for name in CASES if name != "transunet"])
def test_what_is_written_is_read_again_bit_by_bit(name):
    case = CASES[name]
    ours = here.ours(case, sizes.IMAGES[name])
    part = CASES["hinet_apart"].part if name == "hinet" else case.part
    random = np.random.default_rng(0)
    arrays = {path: random.random(shape, np.float32) + 0.1 for path, shape in ours.shapes.items()}
    written = write_part(part, arrays, ours.sources)
    again = read_part(part, written, ours, "a file")
    assert arrays.keys() == again.keys()
    assert all(np.array_equal(arrays[path], again[path]) for path in arrays)
    # It has all that strict loading asks for.
    assert {name: one.shape for name, one in written.items()} == stored(name)[0]


def test_public_file_is_written_as_it_was():
    shapes, _ = stored("hyperdense_3")
    given = state_dict(shapes)
    ours = here.ours(CASES["hyperdense_3"], sizes.IMAGES["hyperdense_3"])
    once = write_part(CASES["hyperdense_3"].part, read_part(CASES["hyperdense_3"].part, given, ours, "a file"))
    twice = write_part(CASES["hyperdense_3"].part, read_part(CASES["hyperdense_3"].part, once, ours, "a file"))
    assert all(np.array_equal(once[name], twice[name]) for name in once)
    # Kernels never change; scale and shift do where streams had statistics of their own.
    same = {name for name in given if np.array_equal(given[name], once[name]) and not name.endswith(_END)}
    assert {name for name in given if name.endswith(("2.weight", "3.weight"))} <= same
    assert {name for name in given if name.endswith("Top.0.running_var")} <= same


def test_one_convolution_for_three_images_is_not_written_for_three():
    ours = here.ours(CASES["hinet"], sizes.IMAGES["hinet"])
    random = np.random.default_rng(0)
    arrays = {path: random.random(shape, np.float32) for path, shape in ours.shapes.items()}
    refused("one tensor out.0.* --to jaxfuse", write_part, CASES["hinet"].part, arrays, ours.sources)


def test_a_start_of_film_takes_thirds_of_one_tensor():
    attention = "restormerca1.cross_attentionA1.multihead_attn"
    lines = {line.ours: line for line in FILM.lines(Ours({"guidance/round_1/text": ()}))}
    value = lines["guidance/round_1/weights/value/kernel"]
    assert value.theirs == f"{attention}.in_proj_weight"
    tensor = np.arange(24.0).reshape(6, 2, 2)[:, 0]
    assert np.array_equal(value.read(tensor, (2, 2)), tensor[4:].T)
    bias = lines["guidance/round_1/weights/key/bias"]
    assert bias.read(np.arange(6.0), (2,)).tolist() == [2, 3]


def test_tables_are_found_by_their_names():
    assert table_of("hinet") is TABLES["hinet"]
    refused("'hi_net' is no table", table_of, "hi_net")
