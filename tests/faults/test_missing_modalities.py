"""Examples that lack modalities: what cannot be learned from them is refused before anything is read."""

from configs import cmff
from jaxfuse.config import parse
from jaxfuse.engine.build import check_systems
from tests.faults.catalogue import table
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
