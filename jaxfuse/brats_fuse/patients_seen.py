"""Patients that a run has learned from, whom it must not fuse for a data set that others evaluate on."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from jaxfuse.data.cache import case_key
from jaxfuse.data.cases import CaseFiles
from jaxfuse.data.dataset import recipe_of
from jaxfuse.data.digests import Digests
from jaxfuse.data.sources.volumes import CUTS
from jaxfuse.data.subject_names import likely_subject
from jaxfuse.engine.trained.phases import TrainedPhase

# Grade folders are part of a key; a copy of a case may have lost its own.
_GROUPS = ("", "HGG", "LGG")


def training_keys(phase: TrainedPhase) -> dict[str, str]:
    """Returns case id -> key of the cases that the run was trained on; slices are traced back to their cases."""
    facts, sliced = phase.facts, phase.data.source in CUTS
    return {re.sub(r"_[xyz]\d{3,}$", "", one) if sliced else one: facts.keys[one] for one in facts.train}


def seen_in_training(phase: TrainedPhase, files: Sequence[CaseFiles], digests: Digests) -> tuple[str, ...]:
    """Returns the ids of cases whose patient the run was trained on.

    A patient is recognized by the name, as the run tells subjects apart, or by files that are equal byte for byte
    under another name: a case's key in the run's `dataset.json` stands for the content of the images and of the label.
    A case that lacks one of the run's modalities can be recognized by the name only.
    """
    keys = training_keys(phase)
    pattern = phase.data.subject
    subjects, known = {likely_subject(case, pattern) for case in keys}, set(keys.values())
    modalities = phase.data.modalities
    recipe = recipe_of(phase.data, phase.scheme, phase.facts)

    def equals_one(one: CaseFiles) -> bool:
        if not set(modalities) <= set(one.images):
            return False
        renamed = (dataclasses.replace(one, id=id_, group=group) for id_ in keys for group in {*_GROUPS, one.group})
        return any(case_key(as_trained, recipe, modalities, True, digests) in known for as_trained in renamed)

    return tuple(one.id for one in files if likely_subject(one.id, pattern) in subjects or equals_one(one))
