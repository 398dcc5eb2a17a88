"""Examples that lack modalities: what cannot be learned from them is refused before anything is read."""

from dataclasses import replace

from configs import cmff, hinet
from jaxfuse.config import parse
from jaxfuse.engine.build import build_system, check_systems, make_sampler
from tests.faults.catalogue import given, table
from tests.made_cases import without_arrays
from tests.refusals import refused


@table(
    "phase,options,told",
    (
        "modalities dropped for a network that translates them",
        "refused: what is not shown would have no translation",
        "transition",
        {"probability": 1.0},
        "phase transition: modality_dropout is asked for, and its model learns from examples that have all",
    ),
    (
        "a table of subsets with a modality that the data have not",
        "refused, with those that they have",
        "fusion",
        {"probability": 1.0, "subsets": ("t1+dwi",)},
        r"phase fusion: the subset 't1\+dwi' names dwi; the modalities are t1, t1ce, t2, flair",
    ),
    (
        "a table of subsets, of which none is ever drawn",
        "refused: it would be ignored",
        "fusion",
        {"subsets": ("t1",)},
        "fusion.modality_dropout.subsets is .* and its probability 0",
    ),
    (
        "modalities dropped in 150 of 100 examples",
        "refused, with the range",
        "fusion",
        {"probability": 1.5},
        "fusion.modality_dropout.probability is 1.5; it must be at least 0 and at most 1",
    ),
)
def test_dropout_that_makes_no_sense(phase, options, told):
    config = cmff.get_config("tiny")
    config[phase].modality_dropout.update(options)
    refused(told, lambda: check_systems(parse(config)))


@given("cases that lack modalities, of which several devices share each", "refused: examples are shared that have all")
def test_incomplete_examples_are_not_shared():
    config = cmff.get_config("tiny")
    config.space, config.data.incomplete = 2, "zero"
    refused("space is 2 and the data of phase transition may be incomplete", lambda: check_systems(parse(config)))


@given("a case without FLAIR, for a network that synthesizes", "refused, with the case's name and what it lacks")
def test_synthesis_learns_from_complete_cases():
    phase = parse(hinet.get_config("tiny")).phases["synthesis"]
    system = build_system(phase, ("t1", "t2", "flair"), (), 4)
    (case,) = without_arrays("some")
    case = replace(case, facts=replace(case.facts, modalities=("t1", "t2", "flair"), presence=(True, True, False)))
    refused(
        "case some has no flair image, and its model learns from examples that have all",
        make_sampler,
        phase,
        system,
        [case],
        seed=0,
    )
