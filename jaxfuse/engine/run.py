"""A whole run: its phases in order, trained and judged, its result, and its report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from jaxfuse.config import Experiment, Phase, parse
from jaxfuse.data.cache import make_cache
from jaxfuse.data.dataset import Dataset, open_dataset
from jaxfuse.data.prepared import PreparedCase
from jaxfuse.data.settings import Data
from jaxfuse.data.subjects import subjects_of
from jaxfuse.engine.build import check_systems, learned_from
from jaxfuse.engine.devices.agreement import compute_first
from jaxfuse.engine.devices.placement import Placement, idle_sentence, placed
from jaxfuse.engine.devices.processes import Processes
from jaxfuse.engine.display import Display
from jaxfuse.engine.judging.assessment import PredictCase
from jaxfuse.engine.judging.division import clear
from jaxfuse.engine.judging.other_runs import draw_rows, draw_synthesized
from jaxfuse.engine.judging.segmentation import SegmentationAssessment
from jaxfuse.engine.phase_run import RESULT, PhaseRun, Setting
from jaxfuse.engine.run_folder.lock import HOLDER, locked
from jaxfuse.engine.run_folder.metric_writer import FollowingWriter, MetricWriter
from jaxfuse.engine.run_folder.phase_lengths import check_lengths
from jaxfuse.engine.run_folder.workdir import (
    begun_config,
    check_workdir,
    compilation_cache,
    has_begun,
    note_environment,
    open_workdir,
    related_runs,
)
from jaxfuse.engine.settled import Machine, settled, settlements
from jaxfuse.engine.stop_request import StopRequest
from jaxfuse.engine.tracking.called_rows import Callback, CalledRows
from jaxfuse.engine.tracking.tracker import check_trackers, open_trackers
from jaxfuse.engine.training import Training
from jaxfuse.errors import OutputError, Stopped, UserError, machine_sentence
from jaxfuse.inference.tiling import Asked
from jaxfuse.io.tables import read_json, write_json
from jaxfuse.prediction.ensemble import Ensemble, Member
from jaxfuse.report.html import write_report


@dataclass(frozen=True)
class Run:
    """One run in one workdir."""

    experiment: Experiment
    workdir: Path
    display: Display
    stop: StopRequest
    placement: Placement
    processes: Processes = field(default_factory=Processes)
    track: Sequence[str] = ()
    callbacks: Sequence[Callback] = ()
    _datasets: dict[Data, Dataset] = field(default_factory=dict)
    _phases: dict[str, PhaseRun] = field(default_factory=dict)

    @cached_property
    def setting(self) -> Setting:
        return Setting(self.experiment, self.workdir, self.display, self.stop, self.placement, self.processes)

    def phase(self, name: str) -> PhaseRun:
        """Returns a phase of the schedule. Its data are opened when it is first asked for."""
        if name not in self._phases:
            phase = self.experiment.phases[name]
            self._phases[name] = PhaseRun(self.setting, phase, learned_from(phase, self._dataset(phase)))
        return self._phases[name]

    def _dataset(self, phase: Phase) -> Dataset:
        """Returns the data of a phase. Data that several phases share, or name alike, are opened once."""
        data = self.experiment.data_of(phase)
        if data not in self._datasets:
            sharing = [p for p in self.experiment.phases.values() if self.experiment.data_of(p) == data]
            labels_required = any(p.needs_label for p in sharing)
            with self.processes.in_turn():  # the others find all prepared
                opened = open_dataset(data, self.setting.report, labels_required=labels_required)
            self._datasets[data] = opened
            if warning := opened.untold_background():
                self.display.say(f"Warning: {warning}")
        return self._datasets[data]

    def execute(self) -> bool:
        """Trains what is left to train and judges it. Returns False where everything was there already."""
        phases = self._checked_phases()
        self.processes.refuse_differences({f"the data of {p.name}": p.data.document()["fingerprint"] for p in phases})
        self.processes.led(lambda: self._note_all_data(phases))
        self._check_result()
        trainings = self._checked_trainings()
        writer = self._writer() if self.processes.first else FollowingWriter()
        try:
            worked = [training.run(writer) for training in trainings]
            return any([*worked, self._combine()])
        finally:
            writer.close()

    def _writer(self) -> MetricWriter:
        config = read_json(self.workdir / "config.json") if self.track else {}
        called = [CalledRows(one, self.stop.ask) for one in self.callbacks]
        return MetricWriter(self.workdir, [*open_trackers(self.track, self.workdir, config), *called])

    def draw_rows(self, related: Sequence[Path]) -> None:
        """Sets this run's result beside those of other runs on the same data."""
        data = self.phase(self.experiment.schedule[-1]).data
        # Runs keep what they made of subjects, or of slices that they judged as cases.
        known = tuple({case.id: case for case in (*data.val, *subjects_of(data.val))}.values())
        if data.scheme is not None:
            draw_rows(self.workdir, related, known, data.scheme)
        draw_synthesized(self.workdir, related, known)

    # --- before the first step ----------------------------------------------------------------------------------

    def _checked_phases(self) -> list[PhaseRun]:
        """Returns the phases in order, with every mistake that can be found before the first step found."""
        phases = []
        for name in self.experiment.schedule:
            phase = self.phase(name)
            _ = phase.system, phase.sampler
            phase.check_start()
            for rule in phase.phase.rules:
                if rule.best and not self.phase(rule.donor).data.val:
                    raise UserError(
                        f"phase {name} takes over the best weights of {rule.donor}, none of whose cases validates; "
                        f"take its last ones, {rule.donor}@last"
                    )
            phases.append(phase)
        return phases

    def _note_all_data(self, phases: Sequence[PhaseRun]) -> None:
        """Writes what phases learn from: `dataset.json`, and `dataset_PHASE.json` of other data than the last one's."""
        result = phases[-1].data
        for phase in phases:
            if phase.data is not result:
                self._note_data(phase.data, f"dataset_{phase.name}.json")
                if known := sorted(set(phase.data.facts.train) & set(result.facts.val)):
                    self.display.say(
                        f"Phase {phase.name} learns from images of {len(known)} of the cases that validate the result, "
                        f"by their names: {', '.join(known[:5])}{' ...' if len(known) > 5 else ''}"
                    )
        self._note_data(result, "dataset.json")

    def _note_data(self, data: Dataset, name: str) -> None:
        """Writes a data set's facts; refuses to go on with other data or another split than the run began with."""
        path, now = self.workdir / name, data.document()
        before = read_json(path) if path.exists() and has_begun(self.workdir) else now
        if before["fingerprint"] != now["fingerprint"]:
            sides = [f"{len(d['train'])} training and {len(d['val'])} validation cases" for d in (before, now)]
            raise UserError(
                f"the data have changed since the run in {self.workdir} began ({sides[0]}, fingerprint "
                f"{before['fingerprint']} then, {sides[1]}, {now['fingerprint']} now); restore them or name "
                "another --workdir"
            )
        write_json(path, now)
        if data.overfit_check:
            self.display.say(f"One case only: {data.facts.train[0]} trains and validates. This is an overfit check.")

    def _check_result(self) -> None:
        """Refuses to average phases that read other volumes, or of which one has learned from another's subjects."""
        first, *others = map(self.phase, self.experiment.result)
        for other in others:
            if _read_by(first.data) != _read_by(other.data):
                raise UserError(
                    f"result averages the phases {first.name} and {other.name}, which read other modalities, or "
                    "validate on other cases or on other parts of them; give both the same data, of which slices of "
                    "whole volumes may differ in their axis, cut to the brain"
                )

    def _checked_trainings(self) -> list[Training]:
        """Returns the trainings in order. Their phases fit together, and their lengths fit to what has begun."""
        phases = {name: self.phase(name) for name in self.experiment.schedule}
        trainings = [
            Training(self.setting, tuple(map(self.phase, names)), phases) for names in self.experiment.trainings
        ]
        for training in trainings:
            training.check()
        lengths = [{p.name: p.total_steps for p in training.phases} for training in trainings]
        self.processes.led(lambda: check_lengths(self.workdir, lengths))
        return trainings

    # --- the result ---------------------------------------------------------------------------------------------

    def _combine(self) -> bool:
        """Judges the mean of several phases' probabilities, where the run's result is made of several."""
        members = [self.phase(name) for name in self.experiment.result]
        data = members[0].data
        if len(members) < 2 or not data.val or self.processes.led(lambda: self.setting.is_judged(RESULT)):
            return False
        if data.scheme is None:
            raise UserError("result averages several phases, which needs a label scheme")
        names = _output_names(members)
        primary = "+".join(names)
        assessment = SegmentationAssessment(data.scheme, primary, (*names, primary))
        self.setting.assess(RESULT, assessment, _labels_of(dict(zip(names, members, strict=True)), primary), data)
        return True


def train(
    config: ConfigDict,
    workdir: Path,
    processes: Processes | None = None,
    *,
    track: Sequence[str] = (),
    callbacks: Sequence[Callback] = (),
    quiet: bool = False,
) -> Path:
    """Trains, judges and reports what a config asks for. Returns the path of the report.

    It holds the lock on the workdir all the while.

    Args:
        processes: those of the run, which `joined` gives; all train, and process 0 writes.
        track: names of trackers (`jaxfuse.engine.tracking`) that are told the metrics, too.
        callbacks: functions that process 0 calls with each row of metrics; a true answer stops the run.
        quiet: says nothing.

    Raises:
        UserError: another run is going on in the workdir, or config, data or folder are wrong.
        Stopped: a signal came, or numbers are no longer finite; the same call goes on.
    """
    processes, workdir = processes or Processes(), workdir.absolute()
    check_trackers(track)
    with processes.in_turn():
        placement = _checked(config, workdir)
    compute_first(processes, placement)
    display = Display() if processes.first and not quiet else Display(Console(quiet=True))
    with ExitStack() as held:
        holder = processes.led(lambda: _take(held, workdir))
        processes.await_visible(workdir / HOLDER, holder)
        chosen = _settled(config, placement, workdir, processes)
        experiment = parse(chosen)
        compilation_cache(experiment.data.cache_dir)
        processes.led(lambda: _begin(chosen, workdir, placement))
        _introduce(display, experiment, placement, workdir, settlements(config, chosen))
        related = related_runs(workdir)
        minutes = experiment.time_limit
        with StopRequest(processes, minutes=minutes) as stop, _reported_as_far_as_it_went(workdir, related, processes):
            run = Run(experiment, workdir, display, stop, placement, processes, track, callbacks)
            worked = run.execute()
            processes.led(lambda: run.draw_rows(related))
            processes.led(lambda: clear(workdir))
        report = processes.led(lambda: str(_report(workdir, related)))
    display.say(("Done" if worked else "This run was finished already; its report is written anew") + f": {report}")
    return Path(report)


def _checked(config: ConfigDict, workdir: Path) -> Placement:
    """Checks what can be checked before anything is written but the folders of caches; returns the devices."""
    experiment = parse(config)
    check_systems(experiment)
    placement = placed(experiment)
    every = {experiment.data_of(phase) for phase in experiment.phases.values()}
    check_workdir(workdir, {data.root for data in every})
    for data in every:
        make_cache(data.cache_dir)
    return placement


def _take(held: ExitStack, workdir: Path) -> str:
    """Takes the lock on the workdir; returns what its file says, which all processes have to see."""
    return (held.enter_context(locked(workdir)) / HOLDER).read_text()


def _settled(config: ConfigDict, placement: Placement, workdir: Path, processes: Processes) -> ConfigDict:
    """Settles what is `auto`, in all processes as for process 0."""
    machine = Machine(**processes.led(lambda: asdict(Machine.of(placement))))
    return settled(config, machine, processes.led(lambda: begun_config(workdir)))


def _begin(config: ConfigDict, workdir: Path, placement: Placement) -> None:
    open_workdir(workdir, config)
    clear(workdir)
    note_environment(workdir, placement, config)


def _introduce(
    display: Display, experiment: Experiment, placement: Placement, workdir: Path, chosen: Mapping[str, str]
) -> None:
    """Says what runs, on what, and where."""
    display.say(f"jaxfuse {experiment.name}: {placement.device_name}; workdir {workdir}")
    if idle := idle_sentence(placement):
        display.say(idle)
    if chosen:
        display.say("Settled, as auto: " + ", ".join(f"{name} {value}" for name, value in chosen.items()))


def _report(workdir: Path, related: Sequence[Path]) -> Path:
    """Writes the report of a finished run; what it reports on is there, whatever becomes of the report."""
    try:
        return write_report(workdir, related=related)
    except (UserError, OSError) as error:
        reason = machine_sentence(error) or str(error)
        raise Stopped(
            f"every phase is trained and judged, and kept in {workdir}, but its report could not be made: {reason}; "
            "the same command makes the report alone",
            1,
        ) from error


@contextmanager
def _reported_as_far_as_it_went(workdir: Path, related: Sequence[Path], processes: Processes) -> Iterator[None]:
    """Writes the report of a run that ends because it cannot write, where a report still has room."""
    try:
        yield
    except (OutputError, OSError):
        if processes.first:
            with suppress(UserError, OSError):
                write_report(workdir, related=related)
        raise


def _read_by(data: Dataset) -> tuple[object, ...]:
    """Returns the modalities of a data set, and its validation subjects with the parts of them that are kept."""
    parts = {(case.id, case.facts.crop_start, case.facts.shape) for case in subjects_of(data.val)}
    return data.facts.modalities, parts


def _output_names(members: Sequence[PhaseRun]) -> list[str]:
    """Returns the names of the phases' outputs, or of the phases where two outputs bear one name."""
    names = [phase.system.primary for phase in members]
    return names if len(set(names)) == len(names) else [phase.name for phase in members]


def _labels_of(members: Mapping[str, PhaseRun], primary: str) -> PredictCase:
    """Returns a function: case -> the labels of each phase by its last weights, and those of their mean `primary`."""
    ensemble = Ensemble(
        {name: Member(phase.predict, phase.weights(best=False), lambda case: case) for name, phase in members.items()}
    )

    def predict(case: PreparedCase, asked: Asked) -> dict[str, np.ndarray]:
        found = dict(zip((*members, primary), ensemble.all_labels(case), strict=True))
        return {name: found[name] for name in asked.labels}

    return predict
