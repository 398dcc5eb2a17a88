"""A whole run: phases in order, each resumed or begun, transferred into, trained, judged; then the report."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxfuse.arrays import Params
from jaxfuse.config import Experiment, Phase
from jaxfuse.data.dataset import Dataset, open_dataset
from jaxfuse.data.pipeline import batches
from jaxfuse.data.prepared import Prepared, PreparedCase
from jaxfuse.data.slices import AXES
from jaxfuse.data.subjects import subjects_of
from jaxfuse.engine.build import (
    CasePredictor,
    abstract_state,
    build_system,
    case_predictor,
    fixed_batches,
    initial_state,
    make_sampler,
    mean_losses,
    spread,
    validation_interval,
    without_optimizers,
)
from jaxfuse.engine.display import Display, clock
from jaxfuse.engine.judging.assessment import Assessment, Judged
from jaxfuse.engine.judging.losses import LossAssessment
from jaxfuse.engine.judging.other_runs import draw_rows, draw_synthesized
from jaxfuse.engine.judging.segmentation import SegmentationAssessment
from jaxfuse.engine.loop import Loop
from jaxfuse.engine.programs import Programs, donating, one_device
from jaxfuse.engine.run_folder.checkpoints import Checkpoints, read_weights
from jaxfuse.engine.run_folder.metric_writer import MetricWriter
from jaxfuse.engine.run_folder.phase_lengths import check_lengths, note_length
from jaxfuse.engine.run_folder.workdir import has_begun
from jaxfuse.engine.side_by_side import MemberJudges, MemberRows, Stream, check_alike, in_step
from jaxfuse.engine.stop_request import StopRequest
from jaxfuse.engine.validation import PhaseJudge, Progress, Validate
from jaxfuse.errors import UserError
from jaxfuse.io.tables import read_json, render_segmentation, write_json
from jaxfuse.learning.optim import with_total_steps
from jaxfuse.learning.side_by_side import SideBySide
from jaxfuse.learning.state import State
from jaxfuse.learning.system import System
from jaxfuse.learning.transfer import apply_rules
from jaxfuse.report.synthesis_table import render_synthesis


@dataclasses.dataclass
class Run:
    """One run in one workdir."""

    experiment: Experiment
    workdir: Path
    display: Display
    stop: StopRequest

    def __post_init__(self) -> None:
        self._datasets: dict[str, Dataset] = {}
        self._systems: dict[str, System] = {}
        self._predictors: dict[str, CasePredictor] = {}

    def checkpoint_folder(self, name: str) -> Path:
        return self.workdir / "checkpoints" / name

    def dataset(self, phase: Phase) -> Dataset:
        """The data of a phase, opened once."""
        key = phase.name if phase.data else ""
        if key not in self._datasets:
            sharing = [phase] if phase.data else [p for p in self.experiment.phases.values() if not p.data]
            labels_required = any(p.needs_label for p in sharing)
            data = self.experiment.data_of(phase)
            self._datasets[key] = open_dataset(data, self._report, labels_required=labels_required)
        return self._datasets[key]

    def _report(self, what: str, done: int, total: int) -> None:
        self.display.report(what, done, total)
        self.stop.heed(f"while {what}")  # cases that were prepared stay so

    def system(self, phase: Phase) -> System:
        if phase.name not in self._systems:
            facts = self.dataset(phase).facts
            self._systems[phase.name] = build_system(
                phase, facts.modalities, facts.classes, self.total_steps(phase), facts.voxels_per_class
            )
        return self._systems[phase.name]

    def predictor(self, phase: Phase) -> CasePredictor:
        """The prediction of cases by a phase, compiled once; 2D networks go over volumes along their slices' axis."""
        if phase.name not in self._predictors:
            axis = AXES[self.experiment.data_of(phase).axis]
            self._predictors[phase.name] = case_predictor(self.system(phase), phase, axis=axis)
        return self._predictors[phase.name]

    def total_steps(self, phase: Phase) -> int:
        return phase.total_steps(len(self.dataset(phase).train))

    def execute(self) -> bool:
        """Trains what is left to train and judges it. Returns False where everything was there already."""
        phases = [self.experiment.phases[name] for name in self.experiment.schedule]
        for phase in phases:  # every mistake that can be found early is found before the first step
            self.system(phase)
            make_sampler(phase, self.dataset(phase).train, margin=self.system(phase).geometry.margin)
        main = self.dataset(phases[-1])
        self._note_data(main)
        if main.overfit_check:
            self.display.say(f"One case only: {main.facts.train[0]} trains and validates. This is an overfit check.")
        self._check_result()
        trainings = [[self.experiment.phases[name] for name in names] for names in self.experiment.trainings]
        for training in trainings:
            check_alike({p.name: (self.dataset(p).facts, p.weighs_classes, self.total_steps(p)) for p in training})
        check_lengths(self.workdir, [{p.name: self.total_steps(p) for p in training} for training in trainings])
        writer = MetricWriter(self.workdir)
        worked = False
        try:
            for training in trainings:
                worked |= self._train(training, writer)
            worked |= self._combined(phases)
        finally:
            writer.close()
        return worked

    def _note_data(self, data: Dataset) -> None:
        """Writes `dataset.json`; refuses to go on with other data or another split than the run began with."""
        path, now = self.workdir / "dataset.json", data.document()
        before = read_json(path) if path.exists() and has_begun(self.workdir) else now
        if before["fingerprint"] != now["fingerprint"]:
            sides = [
                "{} training and {} validation cases".format(len(d["train"]), len(d["val"])) for d in (before, now)
            ]
            raise UserError(
                f"the data have changed since the run in {self.workdir} began ({sides[0]}, fingerprint "
                f"{before['fingerprint']} then, {sides[1]}, {now['fingerprint']} now); restore them or name "
                "another --workdir"
            )
        write_json(path, now)

    def draw_rows(self, related: Sequence[Path]) -> None:
        """Sets this run's result beside those of other runs on the same data."""
        data = self.dataset(self.experiment.phases[self.experiment.schedule[-1]])
        # Runs keep what they made of subjects, or of slices that they judged as cases.
        known = tuple({case.id: case for case in (*data.val, *subjects_of(data.val))}.values())
        if data.scheme is not None:
            draw_rows(self.workdir, related, known, data.scheme)
        draw_synthesized(self.workdir, related, known)

    def _check_result(self) -> None:
        """Phases whose predictions are averaged read the same volumes, and none has learned from another's subjects."""
        first, *others = (self.experiment.phases[name] for name in self.experiment.result)
        for other in others:
            seen = [
                (
                    data.facts.modalities,
                    {(case.id, case.facts.crop_start, case.facts.shape) for case in subjects_of(data.val)},
                )
                for data in map(self.dataset, (first, other))
            ]
            if seen[0] != seen[1]:
                raise UserError(
                    f"result averages the phases {first.name} and {other.name}, which read other modalities, or "
                    "validate on other cases or on other parts of them; give both the same data, of which slices of "
                    "whole volumes may differ in their axis, cut to the brain"
                )

    def _train(self, phases: Sequence[Phase], writer: MetricWriter) -> bool:
        """One training, of a phase or of several side by side, and its judgment; False where all was there already."""
        name, total = _title(phases), self.total_steps(phases[0])
        self.stop.heed(f"before phase {name}")
        with ExitStack() as stack:
            # Those of the training, which resume it, and those of each phase: the same where it is alone.
            opened = {
                folder: stack.enter_context(closing(Checkpoints(self.checkpoint_folder(folder))))
                for folder in dict.fromkeys([name, *(phase.name for phase in phases)])
            }
            latest = opened[name].latest_step()
            if {c.latest_step() for c in opened.values()} == {total} and all(map(self._judged, phases)):
                self.display.say(f"{self._called(phases)}: all {total} steps are there already")
                return False
            side = SideBySide(self.system(phases[0]), tuple(p.name for p in phases)) if len(phases) > 1 else None
            loop = self._loop(phases, side, total, opened, writer)
            state = self._state(phases, side, total, opened[name], loop)
            for phase in phases:
                note_length(self.workdir, phase.name, total)
            if latest is None or latest < total:
                for phase in phases:
                    writer.truncate(phase.name, latest or 0, self.experiment.schedule[self._number(phases[-1]) + 1 :])
                    self._forget_results(phase.name)
                started = time.perf_counter()
                state = loop.run(state)
                took, steps = clock(time.perf_counter() - started), total - (latest or 0)
                self.display.say(f"Phase {name}: {steps} steps in {took}, validation and compilation included")
            for phase in phases:
                own = state
                if side is not None:
                    own = side.member(state, phase.name)
                    opened[phase.name].save(total, own, loop.judge.document()[phase.name])
                self._full(phase.name, phase, self.dataset(phase), own)
        return True

    def _number(self, phase: Phase) -> int:
        return self.experiment.schedule.index(phase.name)

    def _called(self, phases: Sequence[Phase], of: str = "") -> str:
        """A training for a person to read, `of` after its numbers."""
        numbers = ", ".join(str(self._number(phase) + 1) for phase in phases)
        alone = len(phases) == 1
        return f"Phase{'' if alone else 's'} {numbers}{of}, {_title(phases)}{'' if alone else ' side by side'}"

    def _state(
        self, phases: Sequence[Phase], side: SideBySide | None, total: int, checkpoints: Checkpoints, loop: Loop
    ) -> State:
        """The state that a training begins with or goes on from; in the latter case its judge goes on, too."""
        seed, latest = self.experiment.seed, checkpoints.latest_step()
        fresh = {
            p.name: initial_state(
                self.system(p), p, self.dataset(p).facts.modalities, seed=seed, number=self._number(p)
            )
            for p in phases
        }
        self.display.say(self._announcement(phases, total, latest, fresh[phases[0].name]))
        if latest is None:
            fresh = {p.name: self._transferred(p, fresh[p.name]) for p in phases}
        state = fresh[phases[0].name] if side is None else side.stack(fresh)
        if latest is None:
            return state
        state, found = checkpoints.restore(state)
        loop.judge.recall(found)
        if latest > total:
            raise UserError(
                f"phase {_title(phases)} has {latest} steps already and {total} are asked for; name another --workdir"
            )
        return dataclasses.replace(state, opt_state=with_total_steps(state.opt_state, total))

    def _forget_results(self, name: str) -> None:
        """A phase that goes on to more steps outgrows what was judged; a killed run would take that for its own."""
        for outdated in (name, "result"):
            (self.workdir / "results" / outdated / "summary.json").unlink(missing_ok=True)

    def _announcement(self, phases: Sequence[Phase], total: int, latest: int | None, state: State) -> str:
        phase, data = phases[0], [self.dataset(p) for p in phases]
        counts = ", ".join(
            f"{name} {sum(int(np.size(leaf)) for leaf in jax.tree.leaves(tree)):,}"
            for name, tree in self.system(phase).networks(state.params).items()
        )
        where = "" if latest is None else f" from step {latest}"
        return (
            f"{self._called(phases, f' of {len(self.experiment.schedule)}')}: {total} steps{where} of "
            f"{phase.batch} x {' x '.join(map(str, phase.patch))} patches ({phase.sampling.name} sampling) on "
            f"{', '.join(str(len(d.train)) for d in data)} training cases, {', '.join(str(len(d.val)) for d in data)} "
            f"for validation; parameters: {counts}"
        )

    def _transferred(self, phase: Phase, state: State) -> State:
        if not phase.rules:
            return state
        donors: dict[tuple[str, bool], Mapping[str, Params]] = {}
        for rule in phase.rules:
            if (rule.donor, rule.best) not in donors:
                donors[rule.donor, rule.best] = self.weights(rule.donor, best=rule.best).params
        params, moved = apply_rules(state.params, phase.rules, donors)
        self.display.say(
            f"{moved:,} values are taken over: " + "; ".join(f"{r.donor}:{r.source} -> {r.target}" for r in phase.rules)
        )
        # What was read is bound to a device; where the rest is not, the step is compiled again for its own output.
        return jax.device_put(dataclasses.replace(state, params=params), jax.devices()[0])

    def weights(self, name: str, *, best: bool) -> State:
        """The trained weights of a phase."""
        phase = self.experiment.phases[name]
        like = abstract_state(self.system(phase), phase, self.dataset(phase).facts.modalities)
        return read_weights(self.checkpoint_folder(name), like, one_device(), best=best)

    def _loop(
        self,
        phases: Sequence[Phase],
        side: SideBySide | None,
        total: int,
        opened: Mapping[str, Checkpoints],
        writer: MetricWriter,
    ) -> Loop:
        first, name = phases[0], _title(phases)
        judges = {p.name: PhaseJudge(p.name, self._validate(p), writer, opened[p.name], Progress()) for p in phases}
        streams = {p.name: self._stream(p, total) for p in phases}
        if side is None:
            step, stream, judge, rows = self.system(first).train_step, streams[name], judges[name], writer
        else:
            step, stream = side.train_step, in_step(streams)
            judge, rows = MemberJudges(judges, side.member), MemberRows(writer, side.members)
        return Loop(
            phase=name,
            total_steps=total,
            step=donating(step),
            stream=stream,
            judge=judge,
            validate_every=max(
                validation_interval(p, self._watched(p), margin=self.system(p).geometry.margin) for p in phases
            ),
            checkpoint_every=first.checkpoint_every,
            log_every=self.experiment.log_every,
            checkpoints=opened[name],
            writer=rows,
            display=self.display,
            stop=self.stop,
        )

    def _seed(self, phase: Phase) -> int:
        """Of its batches."""
        return int(np.random.SeedSequence([self.experiment.seed, self._number(phase)]).generate_state(1)[0])

    def _stream(self, phase: Phase, total: int) -> Stream:
        sampler = make_sampler(phase, self.dataset(phase).train, margin=self.system(phase).geometry.margin)
        seed, loader = self._seed(phase), self.experiment.loader
        return lambda start: batches(sampler, batch=phase.batch, seed=seed, start=start, stop=total, loader=loader)

    def _watched(self, phase: Phase) -> tuple[PreparedCase, ...]:
        """The cases that a phase is validated on while it trains."""
        return spread(self.dataset(phase).val, phase.validation.cases)

    def _validate(self, phase: Phase) -> Validate:
        system, watched = self.system(phase), self._watched(phase)
        fixed = fixed_batches(phase, watched, seed=self._seed(phase), margin=system.geometry.margin)
        assessment = self._assessment(phase)
        evaluate = Programs(system).evaluate
        predict = self.predictor(phase)

        def validate(state: State) -> dict[str, float]:
            weights = without_optimizers(state)
            losses = mean_losses(evaluate, weights, fixed)
            return {**losses, **assessment.quick(lambda case: predict(weights, case), watched)}

        return validate

    def _assessment(self, phase: Phase) -> Assessment:
        system = self.system(phase)
        scheme = self.dataset(phase).scheme
        return phase.assess(Judged(scheme, system.primary, system.probabilities, self.experiment.pairs))

    def _judged(self, phase: Phase) -> bool:
        done = (self.workdir / "results" / phase.name / "summary.json").exists()
        return done or isinstance(self._assessment(phase), LossAssessment)

    def _full(self, name: str, phase: Phase, data: Dataset, state: State) -> None:
        predict, weights, assessment = self.predictor(phase), without_optimizers(state), self._assessment(phase)
        self._assess(name, assessment, lambda case: predict(weights, case, alongside=assessment.alongside), data)

    def _assess(self, name: str, assessment: Assessment, predict: Any, data: Dataset) -> None:
        def heeding(case: PreparedCase) -> Mapping[str, np.ndarray]:
            self.stop.heed(f"while {name} was judged")
            return predict(case)

        document = assessment.full(
            heeding,
            data.val,
            results=self.workdir / "results" / name,
            figures_dir=self.workdir / "figures" / name,
            title=name,
        )
        rendered = {"segmentation": render_segmentation, "synthesis": render_synthesis}
        if document and document["kind"] in rendered:
            self.display.say(rendered[document["kind"]](document))

    def _combined(self, phases: Sequence[Phase]) -> bool:
        """The mean of several phases' probabilities, where the run's result is made of several."""
        members = [self.experiment.phases[name] for name in self.experiment.result]
        if len(members) < 2 or (self.workdir / "results" / "result" / "summary.json").exists():
            return False
        names = [self.system(phase).primary for phase in members]
        if len(set(names)) < len(names):
            names = [phase.name for phase in members]
        primary = "+".join(names)
        predictors = {
            name: (self.system(phase).primary, self.predictor(phase), self.weights(phase.name, best=False))
            for name, phase in zip(names, members, strict=True)
        }

        def predict(case: PreparedCase | Prepared) -> dict[str, np.ndarray]:
            outputs = {name: predictor(weights, case)[own] for name, (own, predictor, weights) in predictors.items()}
            return {**outputs, primary: np.mean(list(outputs.values()), axis=0)}

        data = self.dataset(members[0])
        if data.scheme is None:
            raise UserError("result averages several phases, which needs a label scheme")
        self._assess("result", SegmentationAssessment(data.scheme, primary, (*names, primary)), predict, data)
        return True


def _title(phases: Sequence[Phase]) -> str:
    """The name of a training: that of its phase, or of all that stand side by side in it."""
    return "+".join(phase.name for phase in phases)
