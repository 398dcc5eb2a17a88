"""The choice of a post-processing for trained runs, on the cases that validate them and on no others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxfuse.data.cases import CaseFiles, load_case
from jaxfuse.data.facts import CaseFacts, counted
from jaxfuse.data.phantom.roots import phantom_root
from jaxfuse.data.prepared import Prepared, brain_mask
from jaxfuse.data.preprocess import uncrop
from jaxfuse.data.presence import ZERO
from jaxfuse.data.sources.case_folders import files_of
from jaxfuse.data.sources.volumes import volume_root
from jaxfuse.engine.display import Display
from jaxfuse.engine.run_folder.lock import locked
from jaxfuse.engine.trained.chosen_devices import first_device
from jaxfuse.engine.trained.phases import TrainedPhase, weights_digest
from jaxfuse.engine.trained.postprocessed import command_for
from jaxfuse.engine.trained.segmenter import case_labeler, check_labels
from jaxfuse.engine.trained.sides import cases_on
from jaxfuse.errors import UserError
from jaxfuse.io.tables import render, write_json
from jaxfuse.labels import LabelScheme
from jaxfuse.postprocessing.choice import Choice, Labeled, Scores, choose, labeled
from jaxfuse.postprocessing.option import FILE
from jaxfuse.postprocessing.thresholds import unsure_of
from jaxfuse.prediction.conveyor import Work, conveyed
from jaxfuse.prediction.postprocessed import images_of


@dataclass(frozen=True)
class Group:
    """Networks that validate on the same cases, and label them by their mean, as `predict` does."""

    phases: tuple[TrainedPhase, ...]
    cases: frozenset[str]

    @property
    def names(self) -> list[str]:
        """The networks, for files and sentences."""
        return [one.name for one in self.phases]


@dataclass(frozen=True)
class Seen:
    """One validation case of one group, labeled."""

    group: Group
    facts: CaseFacts
    labeled: Labeled


def choose_postprocessing(phases: Sequence[TrainedPhase], display: Display, devices: Sequence[Any] = ()) -> Choice:
    """Chooses a plan on the validation cases of these phases, and writes it into the folders of their runs.

    Phases that validate on the same cases label them by their mean. Others, as those of folds, label each their own;
    the plan is chosen on all of them together. The runs are locked all the while.

    Raises:
        UserError: the phases label in different ways, validate nobody, or one would be judged on what another holds
            out; a case is not there any more, or cannot be labeled; or a run goes on in one of the folders.
    """
    scheme, groups = check_labels(phases), groups_of(phases)
    with ExitStack() as held:
        folders = [held.enter_context(locked(one)) for one in dict.fromkeys(one.workdir for one in phases)]
        total = sum(len(group.cases) for group in groups)
        seen: list[Seen] = []
        for group in groups:
            for one in _labeled(group, scheme, display, devices or first_device()):
                seen.append(one)
                display.report("labeling validation cases", len(seen), total)

        def trying(done: int, of: int) -> None:
            display.report("trying steps", done, of)

        choice = choose([one.labeled for one in seen], scheme, trying)
        document = _document(choice, groups, seen, command_for(phases))
        for folder in folders:
            write_json(folder / FILE, document)
    display.say(table(choice))
    told = ", ".join(str(folder / FILE) for folder in folders)
    display.say(f"Chosen on {counted(len(seen), 'case')}: {choice.plan.told()}. Written: {told}")
    return choice


def groups_of(phases: Sequence[TrainedPhase]) -> tuple[Group, ...]:
    """Groups phases by the cases that they validate on; refuses those without any, and what others hold out."""
    found: dict[frozenset[str], list[TrainedPhase]] = {}
    for one in phases:
        cases = frozenset(cases_on(one, "val"))
        if not cases:
            raise UserError(
                f"{one.name} has no validation case, on which a post-processing is chosen; train with a split that has "
                "some, or write a plan by hand"
            )
        found.setdefault(cases, []).append(one)
    for one in phases:
        for cases in found:
            if both := sorted(cases & set(cases_on(one, "test"))):
                raise UserError(
                    f"case {both[0]} validates one of these runs and is held out for testing by {one.name}; nothing is "
                    "chosen on such cases: choose for each run alone"
                )
    return tuple(Group(tuple(members), cases) for cases, members in found.items())


def _labeled(group: Group, scheme: LabelScheme, display: Display, devices: Sequence[Any]) -> Iterable[Seen]:
    """Yields the cases of a group with the labels that `predict` would write, on the grid of their files."""
    first = group.phases[0]
    labeler = case_labeler(group.phases, devices)

    def read(files: CaseFiles) -> tuple[Prepared, Any]:
        there = [name for name in first.preparation.modalities if name in files.images]
        case = load_case(files, there, scheme)
        return first.preparation.prepare(replace(case, label=None)), case.label

    def label(given: tuple[Prepared, Any], device: Any) -> Seen:
        case, truth = given
        made = labeler.labeled(case, device, keep=True)
        facts, unsure = made.case.facts, None
        if made.probabilities is not None:
            inside = uncrop(brain_mask(made.case), made.case, False) if labeler.masked else None
            unsure = unsure_of(made.probabilities, inside)
        return Seen(group, facts, labeled(uncrop(made.labels, made.case, 0), truth, facts.steps_mm, unsure))

    work = Work(read, label, lambda files, seen: seen)
    for _, result in conveyed(_validation_files(first, group.cases, display), work, devices):
        yield result()


def _validation_files(phase: TrainedPhase, cases: frozenset[str], display: Display) -> list[CaseFiles]:
    """Finds the files of these cases; no file of any other is opened."""
    data = phase.data
    root = Path(data.root).expanduser() if data.root else phantom_root(data, display.report)
    there = volume_root(root, source=data.source, layout=data.layout, entities=data.entities)
    listed = there.look(phase.preparation.modalities)
    found = [one for one in listed if one.id in cases]
    if absent := sorted(cases - {one.id for one in found}):
        raise UserError(f"case {absent[0]}, which validates {phase.name}, is not below {root} any more; restore it")
    files = [files_of(one, labels_required=True, incomplete=data.incomplete == ZERO) for one in found]
    for one in files:
        if one.label is None:
            raise UserError(f"case {one.id}, which validates {phase.name}, has no label; restore it")
    return [data.there(one) for one in files]


def _document(choice: Choice, groups: Sequence[Group], seen: Sequence[Seen], command: str) -> dict[str, Any]:
    """The content of the file: the plan, and all that a reader needs to see what it was chosen on."""
    return {
        **choice.plan.document(),
        "side": "val",
        "command": command,
        "grid": "that of the files of each case",
        "dice": {"before": choice.before, "after": choice.after},
        "networks": [
            [{"name": one.name, "weights": weights_digest(one.weights())} for one in group.phases] for group in groups
        ],
        "cases": [
            {"case": one.facts.id, "labeled_by": one.group.names, "images": images_of(one.facts)} for one in seen
        ],
        "tried": [trial.document() for trial in choice.trials],
    }


def table(choice: Choice) -> str:
    """Renders the Dice of each region before any step, after each that was taken, and in all."""
    lines = [_line("no step", choice.before)]
    lines += [_line(trial.step.told(), trial.dice) for trial in choice.trials if trial.taken]
    told = f"{len(choice.trials)} steps were tried; each line holds those above it. Mean Dice of validation cases."
    return f"{render(lines, list(lines[0]))}\n\n{told}"


def _line(name: str, dice: Scores) -> dict[str, str]:
    mean = sum(dice.values()) / len(dice)
    return {"Step": name, **{region: f"{value:.4f}" for region, value in dice.items()}, "mean": f"{mean:.4f}"}
