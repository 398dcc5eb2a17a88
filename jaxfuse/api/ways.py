"""The ways in which a run predicts: options, checked as those of the commands, become what does the work."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypedDict

import jax

from jaxfuse.api.predicting import Making, Segmenting
from jaxfuse.data.presence import IMPUTE, REFUSE
from jaxfuse.data.sources.volumes import source_of
from jaxfuse.engine.run_folder.workdir import compilation_cache
from jaxfuse.engine.trained.incomplete import Missing
from jaxfuse.engine.trained.labeling import Labeling
from jaxfuse.engine.trained.passes import Passes
from jaxfuse.engine.trained.phases import MODALITIES, TrainedPhase
from jaxfuse.engine.trained.postprocessed import postprocessing_of
from jaxfuse.engine.trained.segmenter import case_labeler, check_labels
from jaxfuse.engine.trained.synthesizer import check_synthesis, volume_maker
from jaxfuse.errors import UserError
from jaxfuse.io.outputs import standing
from jaxfuse.postprocessing.option import AUTO, FILE, NONE
from jaxfuse.prediction.maker import Synthesizing

# Options of label maps alone.
_OF_LABELS = ("missing", "synthesis", "postprocessing")
# Option -> the types of its values, and what they are called.
_TEXT = (str,), "a text"
_KINDS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "missing": _TEXT,
    "postprocessing": ((str, os.PathLike), "a text or a path"),
    "overlap": ((Real,), "a number"),
    "memory_mb": ((Integral,), "a whole number"),
    "weighting": _TEXT,
    "mirror": _TEXT,
    "whole_slices": ((bool,), "True or False"),
}


class Options(TypedDict, total=False):
    """The way in which cases are predicted, as the options of the command of the same names.

    Attributes:
        missing: "refuse", "zero" or "impute": what is done with cases that lack modalities.
        synthesis: with "impute": the run that makes them, loaded or named.
        postprocessing: "auto", "none", or the file of a plan.
        overlap, memory_mb, weighting, mirror: how tiles are put together; those of the run where not given.
        whole_slices: of runs that synthesize: each slice in one pass.
    """

    missing: str
    synthesis: Any
    postprocessing: str | os.PathLike[str]
    overlap: float
    memory_mb: int
    weighting: str
    mirror: str
    whole_slices: bool


def way_of(
    phases: Sequence[TrainedPhase], devices: Sequence[Any], options: Options, makers: Sequence[TrainedPhase]
) -> Segmenting | Making:
    """Returns what predicts by these phases and options.

    Args:
        makers: the phases of the option `synthesis`.

    Raises:
        UserError: an option means nothing for them, or they do not go together.
    """
    source_of(phases[0].data.source)  # others have no volumes
    if jax.config.values["jax_compilation_cache_dir"] is None:  # else whoever set it has chosen
        compilation_cache(phases[0].data.cache_dir)
    passes = Passes(
        whole=options.get("whole_slices", False),
        overlap=options.get("overlap"),
        memory_mb=options.get("memory_mb"),
        weighting=options.get("weighting"),
        mirror=options.get("mirror"),
    )
    if phases[0].makes in MODALITIES:
        return _making(phases, devices, options, passes)
    if passes.whole:
        raise UserError("whole_slices is an option of runs that synthesize a modality, and these label; leave it out")
    policy = options.get("missing", IMPUTE if makers else REFUSE)
    scheme, after = check_labels(phases), postprocessing_of(phases, os.fspath(options.get("postprocessing", AUTO)))
    missing = Missing(policy, tuple(makers))
    completer = missing.completer(phases, devices)
    labeler = case_labeler(phases, devices, passes=passes, postprocessing=after)
    return Segmenting(phases, Labeling(labeler, scheme, completer), missing, devices[0])


def check_options(options: Mapping[str, Any]) -> None:
    """Refuses names of no option, as Python refuses those of no argument, and values of another kind.

    Raises:
        TypeError: a name is no option.
        UserError: a value is of another type than those of its option.
    """
    if unknown := sorted(options.keys() - Options.__annotations__.keys()):
        raise TypeError(f"predict has no option {unknown[0]!r}; it has {', '.join(Options.__annotations__)}")
    for name in options.keys() & _KINDS.keys():
        value, (kinds, called) = options[name], _KINDS[name]
        if not isinstance(value, kinds) or isinstance(value, bool) != (bool in kinds):
            raise UserError(f"{name} is {value!r}, of type {type(value).__name__}; give {called}, or leave it out")


def plans_of(phases: Sequence[TrainedPhase], options: Options) -> tuple[Any, ...]:
    """Returns what tells whether the files of a post-processing are those that they were."""
    asked = options.get("postprocessing", AUTO)
    if asked == NONE:
        return ()
    files = [one.workdir / FILE for one in phases] if asked == AUTO else [Path(asked)]
    return tuple(tuple(standing(file.parent, [file.name]).items()) for file in files)


def _making(phases: Sequence[TrainedPhase], devices: Sequence[Any], options: Options, passes: Passes) -> Making:
    for name in _OF_LABELS:
        if name in options:
            raise UserError(f"{name} is for runs that label, and these synthesize a modality; leave it out")
    task = check_synthesis(phases)
    return Making(Synthesizing(volume_maker(phases, passes, devices), task), passes)
