"""Post-processing of a run's label maps: read from its folder, and refused where it was chosen for other weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from jaxfuse.data.facts import counted
from jaxfuse.engine.trained.phases import TrainedPhase, weights_digest
from jaxfuse.errors import UserError
from jaxfuse.postprocessing.option import AUTO, FILE, NONE, OPTION
from jaxfuse.postprocessing.plan import StoredPlan, read_plan
from jaxfuse.prediction.postprocessed import Postprocessing


def postprocessing_of(phases: Sequence[TrainedPhase], asked: str) -> Postprocessing | None:
    """Returns the post-processing that is asked for: auto, none, or a file; None where there is none.

    Raises:
        UserError: the file is no plan or of other labels; runs that are averaged hold different plans; or one was
            chosen for other weights.
    """
    if asked == NONE:
        return None
    if asked != AUTO:
        stored = read_plan(Path(asked))
        stored.plan.check(phases[0].scheme, asked)
        return Postprocessing(stored) if stored.plan.does_something else None
    held = {one.workdir: one.workdir / FILE for one in phases}
    if not any(path.is_file() for path in held.values()):
        return None
    plans = {workdir: read_plan(path) for workdir, path in held.items() if path.is_file()}
    first = next(iter(plans.values()))
    for workdir in held:
        if workdir not in plans or plans[workdir].plan != first.plan:
            there = "another" if workdir in plans else "none"
            raise UserError(
                f"{first.path} holds a post-processing and {workdir} {there}; choose one for all together by "
                f"{command_for(phases)}, or pass --{OPTION} {NONE}"
            )
    first.plan.check(phases[0].scheme, str(first.path))
    _check_weights(phases, plans)
    return Postprocessing(first) if first.plan.does_something else None


def _check_weights(phases: Sequence[TrainedPhase], plans: Mapping[Path, StoredPlan]) -> None:
    """Refuses plans that were chosen for other weights, or for a mean of more networks than label here."""
    digests = [weights_digest(one.weights()) for one in phases]
    for one, digest in zip(phases, digests, strict=True):
        stored = plans[one.workdir]
        groups = [group for group in stored.networks if digest in group]
        if stored.networks and not groups:
            fault = f"was chosen for other weights than those of {one.name}"
        elif groups and not any(set(group) <= set(digests) for group in groups):
            fault = f"was chosen for the mean of {counted(len(groups[0]), 'network')}, of which not all label here"
        else:
            continue
        raise UserError(f"{stored.path} {fault}; choose anew by {command_for(phases)}, or pass --{OPTION} {NONE}")


def command_for(phases: Iterable[TrainedPhase]) -> str:
    """The command that chooses a post-processing for these phases."""
    runs = [f"{one.workdir}:{one.phase.name}{'@best' if one.best else ''}" for one in phases]
    return f"python -m jaxfuse.postprocess --workdir {' '.join(runs)}"
