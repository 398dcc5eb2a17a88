"""Post-processing of a run's label maps: read from its folder, and refused where it was chosen for other weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxfuse.data.facts import CaseFacts, counted
from jaxfuse.data.prepared import Prepared
from jaxfuse.data.preprocess import uncrop
from jaxfuse.engine.trained.phases import TrainedPhase, weights_digest
from jaxfuse.errors import UserError
from jaxfuse.postprocessing.note import note_of
from jaxfuse.postprocessing.option import AUTO, FILE, NONE, OPTION
from jaxfuse.postprocessing.plan import Images, Plan, StoredPlan, read_plan
from jaxfuse.postprocessing.steps import Labels


@dataclass(frozen=True)
class Postprocessing:
    """A plan as it is applied to label maps of cases, on the grid of their files, where it was chosen as well."""

    stored: StoredPlan

    @property
    def plan(self) -> Plan:
        """The steps that are applied."""
        return self.stored.plan

    def __call__(self, labels: Labels, case: Prepared) -> Labels:
        """Returns class indices on a case's crop after all steps."""
        return on_whole_grid(self.plan, labels, case)

    def chosen_on(self, facts: CaseFacts) -> bool:
        """Tells whether the plan was chosen on this case, by what its images measure; names may be those of others."""
        own = images_of(facts)
        return any(_same(own, images) for images in self.stored.images.values())

    def note(self, facts: CaseFacts) -> str:
        """Returns what the header of the case's label map says of it."""
        return note_of(self.plan, on_it=self.chosen_on(facts))

    def told(self) -> str:
        """Says what is applied, and from where."""
        return f"post-processing of {self.stored.path}: {self.plan.told()}"


def on_whole_grid(plan: Plan, labels: Labels, case: Prepared) -> Labels:
    """Applies a plan to class indices on a case's crop, as to the whole of its grid."""
    facts = case.facts
    whole = plan(uncrop(labels, case, 0), facts.steps_mm)
    return whole[tuple(slice(a, a + n) for a, n in zip(facts.crop_start, facts.shape, strict=True))]


def images_of(facts: CaseFacts) -> Images:
    """Returns what tells the images of a case from those of others: mean and standard deviation of each, as stored."""
    return {
        name: (float(mean), float(std)) for name, mean, std in zip(facts.modalities, facts.mean, facts.std, strict=True)
    }


def _same(one: Images, other: Images) -> bool:
    shared = one.keys() & other.keys()
    return bool(shared) and all(one[name] == other[name] for name in shared)


def warning_of(cases: Sequence[str]) -> str:
    """Says which cases a plan was chosen on, so that their scores say too much for it; empty where none."""
    if not cases:
        return ""
    more = f" and {len(cases) - 5} more" if len(cases) > 5 else ""
    return (
        f"Warning: the post-processing was chosen on {counted(len(cases), 'case')} of these "
        f"({', '.join(cases[:5])}{more}); report scores of others"
    )


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
