"""Class probabilities that are none, or not of these cases and classes."""

import numpy as np

from jaxfuse import evaluate
from tests.faults.catalogue import given, table
from tests.scoring.test_calibration import FOLDER, SHAPE, _save_probabilities, _written

CASE = "Brats18_A_1"


def _told(sentence_of, root):
    folders = {"pred": root / "pred", "ref": root / "ref", "out": root / "out"}
    told = sentence_of(evaluate, **folders, protocol="brats", labels="brats", pictures=0, calibration=True)
    assert not (root / "out").exists()
    return told


@given("`evaluate --calibration`: label maps without probabilities beside them", "refused: predict with them")
def test_no_folder(sentence_of, tmp_path):
    _written(tmp_path, CASE, 0.9)
    (tmp_path / "pred" / FOLDER).rename(tmp_path / "elsewhere")
    assert "holds no folder probabilities, which --calibration reads" in _told(sentence_of, tmp_path)


@given("`evaluate --calibration`: a case whose probabilities are absent", "refused, by name")
def test_no_map_of_a_case(sentence_of, tmp_path):
    for case in (CASE, "Brats18_B_1"):
        _written(tmp_path, case, 0.9)
    (tmp_path / "pred" / FOLDER / f"{CASE}.nii.gz").unlink()
    assert f"holds no probabilities of {CASE}; predict" in _told(sentence_of, tmp_path)


@table(
    "chances, words",
    (
        "`evaluate --calibration`: logits in place of probabilities",
        "refused",
        np.full((*SHAPE, 4), 3.0),
        "do not sum to 1",
    ),
    ("`evaluate --calibration`: undefined probabilities", "refused", np.full((*SHAPE, 4), np.nan), "do not sum to 1"),
    (
        "`evaluate --calibration`: a class too few",
        "refused",
        np.full((*SHAPE, 3), 1 / 3),
        "channel 3 of a four-dimensional",
    ),
    (
        "`evaluate --calibration`: a class too many",
        "refused",
        np.full((*SHAPE, 5), 0.2),
        "holds 5 volumes, and the scheme",
    ),
    ("`evaluate --calibration`: a grid of their own", "refused", np.full((7, 5, 4, 4), 0.25), "do not fit: shape"),
)
def test_no_probabilities_of_this_case(sentence_of, tmp_path, chances, words):
    _written(tmp_path, CASE, 0.9)
    _save_probabilities(tmp_path / "pred" / FOLDER / f"{CASE}.nii.gz", chances)
    assert words in _told(sentence_of, tmp_path)
