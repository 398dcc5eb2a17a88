"""How inputs are prepared, as a record that survives JSON."""

import json
from dataclasses import replace

import numpy as np

from jaxfuse.data.preprocess import prepare_case
from jaxfuse.prediction.preparation import Preparation
from tests.refusals import refused
from tests.untrained_run import case_of

SLICES = Preparation(("t1", "t2"), ("t1", "t1ce", "t2"), "brain", axis="axial", spacing_mm=(1.0, 2.0))
WINDOW = ((2, 9), (1, 8))


def test_equal_preparations_are_those_that_make_the_same_of_a_case_and_survive_json():
    changes = {"axis": "coronal", "window": WINDOW, "blank_slices": True, "landmarks": {"t1": (0.5, 1.0)}}
    given = replace(SLICES, normalize="histmatch", **changes)
    assert vars(Preparation.from_document(json.loads(json.dumps(given.document())))) == vars(given)
    windowed = replace(SLICES, window=WINDOW)
    assert replace(SLICES, modalities=("t2", "t1"), channels=("t2", "t1"), spacing_mm=(3.0,)) == SLICES
    assert replace(SLICES, axis="coronal") == SLICES
    assert windowed == replace(windowed, spacing_mm=())
    changes = {"modalities": ("t1", "t2", "flair"), "normalize": "volume", "landmarks": {"t1": (1.0,)}}
    for name, value in {**changes, "blank_slices": True, "window": WINDOW}.items():
        assert replace(SLICES, **{name: value}) != SLICES
    assert windowed != replace(windowed, axis="coronal")


def test_slices_keep_their_window_and_volumes_the_brain():
    case = case_of((14, 12, 10))
    windowed = replace(SLICES, window=WINDOW, blank_slices=True)
    read_back = Preparation.from_document(windowed.document()).prepare(case)
    expected = prepare_case(case, extent=(slice(2, 9), slice(1, 8), slice(None)))
    assert read_back.facts == expected.facts
    np.testing.assert_array_equal(read_back.image, expected.image)
    for preparation in (SLICES, replace(SLICES, axis="")):
        assert preparation.prepare(case).facts == prepare_case(case).facts
    matched = replace(SLICES, normalize="histmatch")
    refused(r"dataset\.json has no landmarks to match intensities to; train it again", matched.prepare, case)
    # Channels stand where the network has them.
    prepared = SLICES.prepare(case)
    np.testing.assert_array_equal(SLICES.in_channels(prepared).image, np.insert(prepared.image, 1, 0, axis=-1))
    turned = replace(SLICES, channels=("t2", "t1")).in_channels(prepared)
    np.testing.assert_array_equal(turned.image, prepared.image[..., ::-1])
    assert replace(SLICES, channels=("t1", "t2")).in_channels(prepared) is prepared
