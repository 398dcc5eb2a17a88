"""Cases that lack modalities: who takes them, what a network was shown, and what is said of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from configs import cmff
from jaxfuse.config import parse
from jaxfuse.data.cases import CaseFiles, Image
from jaxfuse.data.prepared import with_absent
from jaxfuse.data.presence import ModalityDropout
from jaxfuse.engine.trained.incomplete import check_policy, seen_subsets, told
from jaxfuse.engine.trained.segmenter import ensemble_of
from jaxfuse.learning.system import Geometry
from jaxfuse.prediction.labeler import description
from tests.engine.valid_phases import TINY, volume
from tests.refusals import refused
from tests.untrained_run import fixed_system, held, state_of

THREE = ("t1", "t2", "flair")
DATA = replace(parse(cmff.get_config("tiny")).data, modalities=THREE)
GEOMETRY = Geometry(3, 1)


def network(name="net", dropout=None, subsets=(), modalities=THREE, reads_presence=True, answer=None):
    system = fixed_system(GEOMETRY, "S", answer, channels=tuple(range(len(modalities))))
    if not reads_presence:
        object.__setattr__(system, "reads_presence", False)
    phase = replace(TINY, patch=(8, 8, 8), modality_dropout=dropout)
    made = held(name, system, phase, replace(DATA, modalities=modalities), state_of())
    return replace(made, facts=replace(made.facts, subsets=subsets))


def files(name, *modalities):
    return CaseFiles(name, {one: Image(Path(f"{name}_{one}.nii.gz")) for one in modalities})


def test_only_networks_that_are_told_of_it_take_incomplete_cases():
    check_policy([network()], "zero")
    check_policy([network(reads_presence=False)], "refuse")
    refused(
        "--missing is zero, and old labels cases that have all",
        check_policy,
        [network("old", reads_presence=False)],
        "zero",
    )


def test_a_network_was_shown_the_subsets_of_its_data_and_of_its_dropout():
    whole = "t1+t2+flair"
    assert seen_subsets(network()) == {whole}
    assert len(seen_subsets(network(dropout=ModalityDropout(1.0)))) == 7
    assert seen_subsets(network(dropout=ModalityDropout(1.0, ("t1", "t1+flair=2")))) == {whole, "t1", "t1+flair"}
    # Of cases that lack t2 nothing with it is ever shown.
    without = network(dropout=ModalityDropout(1.0), subsets=("t1+flair",))
    assert seen_subsets(without) == {"t1", "flair", "t1+flair"}


def test_what_lacks_is_said_and_what_was_never_shown_is_warned_of_by_name():
    cases = [files("whole", *THREE), files("some", "flair", "t1")]
    lacks = "case some has t1+flair alone; its other modalities are 0"
    assert told(cases, [network(dropout=ModalityDropout(1.0))]) == [lacks]
    warning = "Warning: case some has t1+flair alone, which net was never shown in training"
    assert told(cases, [network()]) == [lacks, warning]
    assert told(cases[:1], [network()]) == []


def test_a_header_says_what_its_case_lacks():
    assert description(()) is None
    assert description((), "note") == "note"
    assert description(("t2", "flair"), "note") == "without t2, flair; note"
    assert len(description(("t2",), "n" * 100)) == 80


def test_absent_channels_are_zero_for_each_network_in_its_own_order():
    """One of the networks has the channels the other way round; neither sees what stands in that of t2."""
    case = volume((8, 8, 8))
    prepared = with_absent(replace(case, facts=replace(case.facts, modalities=("t1", "flair"))), THREE)
    assert prepared.facts.lacks == ("t2",)
    garbage = replace(prepared, image=prepared.image.copy())
    garbage.image[..., 1] = np.nan

    def answer(image):
        return image * np.array([1.0, 3.0, 9.0], np.float32)[: image.shape[-1]]

    forward = network(answer=answer)
    backward = network("other", modalities=THREE[::-1], answer=lambda image: answer(image)[..., ::-1])
    for ones in ([forward], [backward], [forward, backward]):
        ensemble = ensemble_of(ones)
        found = ensemble.probabilities(prepared)
        assert np.isfinite(found).all()
        np.testing.assert_array_equal(ensemble.probabilities(garbage), found)
