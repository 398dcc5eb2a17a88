"""Examples that lack modalities: what cannot be learned from them is refused before anything is read."""

from dataclasses import replace

from configs import cmff, hinet
from jaxfuse.config import parse
from jaxfuse.data.cases import without_blank
from jaxfuse.data.sources.brats import SOURCE
from jaxfuse.engine.build import build_system, check_systems, make_sampler
from jaxfuse.engine.trained.incomplete import Missing
from tests.faults.catalogue import given, table
from tests.made_cases import head, without_arrays, write_case
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


@table(
    "policy,told",
    (
        "what lacks is to be synthesized, and no run is named that does",
        "refused: both options go together",
        "impute",
        "--missing is impute and --synthesis not given; give --missing impute together with --synthesis RUN, or",
    ),
)
def test_policies_that_make_no_sense(policy, told):
    refused(told, Missing, policy)


@table(
    "options,told",
    (
        "images of one value everywhere count as absent, and cases that lack something are refused",
        "refused: nothing would come of it",
        {"all_background": "absent"},
        "data.all_background is 'absent' and data.incomplete 'refuse', so that a case with such an image is refused",
    ),
)
def test_absence_that_makes_no_sense(options, told):
    config = cmff.get_config("tiny")
    config.data.update(options)
    refused(told, parse, config)


@given("a case of nothing but volumes of 0, where these count as absent", "refused by its name: it has no modality")
def test_a_case_of_background_alone(tmp_path):
    images = head((8, 8, 8), 0)
    write_case(tmp_path, "blank", {name: 0 * images[name] for name in ("t1", "flair")})
    (files,) = SOURCE.find(tmp_path, ("t1", "flair"), labels_required=False)
    refused("case blank has images of one value everywhere alone .t1, flair.; leave the case out", without_blank, files)


@given("one Hi-Net from any sources to any target, of a single source", "refused, with what pairs must name")
def test_one_source_is_no_choice():
    config = hinet.get_config("tiny,row=any")
    config.pairs = ("t1", "t2")
    refused("it must name the two to 8 modalities that may be sources", lambda: check_systems(parse(config)))
