"""One phase of a run: its data, System, stream of batches, weights and judgment."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from jaxfuse.arrays import Params
from jaxfuse.augment.batch import Augmentation
from jaxfuse.config import Experiment, Phase
from jaxfuse.data.dataset import Dataset
from jaxfuse.data.facts import DatasetFacts
from jaxfuse.data.pipeline import PatchSampler, Share, batches
from jaxfuse.data.prepared import PreparedCase
from jaxfuse.data.slices import AXES
from jaxfuse.engine.build import (
    abstract_state,
    build_system,
    initial_state,
    make_augmentation,
    make_sampler,
    without_optimizers,
)
from jaxfuse.engine.conversion.sources import sources_of
from jaxfuse.engine.conversion.started import start_arrays, started
from jaxfuse.engine.devices.placement import Placement, one_device
from jaxfuse.engine.devices.processes import Processes
from jaxfuse.engine.display import Display
from jaxfuse.engine.judging.assessment import Assessment, Judged, Needs, PredictCase
from jaxfuse.engine.judging.division import judged_by_all
from jaxfuse.engine.judging.losses import LossAssessment
from jaxfuse.engine.programs import Programs
from jaxfuse.engine.run_folder.checkpoints import newest_step, read_weights
from jaxfuse.engine.stop_request import StopRequest
from jaxfuse.engine.trained.predictor import case_predictor
from jaxfuse.engine.validation import Validation, fixed_batches, spread, validation_interval
from jaxfuse.inference.tiling import Asked
from jaxfuse.io.metric_rows import read_metrics, seconds_of_training
from jaxfuse.io.tables import write_json
from jaxfuse.learning.averaging import begun
from jaxfuse.learning.state import State
from jaxfuse.learning.system import System
from jaxfuse.learning.transfer import apply_rules
from jaxfuse.prediction.predictor import CasePredictor
from jaxfuse.report.kinds import kind_of

Found = TypeVar("Found")
# The name of a run's result where it is made of several phases.
RESULT = "result"


@dataclass(frozen=True)
class Setting:
    """The things that all phases of a run share.

    Those are the config, the folder, the display, the request to stop, the devices, and the processes.
    """

    experiment: Experiment
    workdir: Path
    display: Display
    stop: StopRequest
    placement: Placement
    processes: Processes

    def results(self, name: str) -> Path:
        """Returns the folder for the tables of a phase, or of the whole run by the name `result`."""
        return self.workdir / "results" / name

    def is_judged(self, name: str) -> bool:
        """Tells whether the judgment of a phase, or of the run's result, is on disk as a whole."""
        return (self.results(name) / "summary.json").exists()

    def report(self, what: str, done: int, total: int, worked: int | None = None) -> None:
        """Says how far counted work on the data is, and heeds a signal. Cases that were prepared stay so."""
        self.display.report(what, done, total, worked)
        self.stop.heed(f"while {what}")

    def judged(self, needs: Needs, predict: PredictCase, judging: Callable[[PredictCase], Found]) -> Found:
        """Judges in process 0 what all processes of the run predict; all get what it returns."""
        return judged_by_all(self.processes, self.workdir, needs, predict, judging)

    def assess(self, name: str, assessment: Assessment, predict: PredictCase, data: Dataset) -> None:
        """Judges predictions of all validation cases, writes tables and figures, and prints the table.

        All processes predict their part of the cases.
        """
        needs = assessment.needs(data.val, at_end=True)
        self.judged(needs, predict, lambda predict: self._assess(name, assessment, predict, data))

    def _assess(self, name: str, assessment: Assessment, predict: PredictCase, data: Dataset) -> None:
        def heeding(case: PreparedCase, asked: Asked) -> Mapping[str, np.ndarray]:
            self.stop.heed(f"while {name} was judged")
            return predict(case, asked)

        document = assessment.full(
            heeding, data.val, results=self.results(name), figures_dir=self.workdir / "figures" / name, title=name
        )
        if document:
            # Nothing that is held out is looked at here.
            phases = self.experiment.schedule if name == RESULT else (name,)
            took = seconds_of_training(read_metrics(self.workdir), phases)
            document = {**document, "side": "val", "seconds_of_training": took}
            write_json(self.results(name) / "summary.json", document)
        if document and (render := kind_of(document).render) is not None:
            self.display.say(render(document))


@dataclass(frozen=True)
class PhaseRun:
    """One phase of a run, and all that it makes of its data. Each thing is made when it is first asked for."""

    setting: Setting
    phase: Phase
    data: Dataset

    @property
    def name(self) -> str:
        return self.phase.name

    @property
    def number(self) -> int:
        """The place in the schedule, from 0."""
        return self.setting.experiment.schedule.index(self.name)

    @property
    def total_steps(self) -> int:
        return self.phase.total_steps(len(self.data.train))

    @property
    def checkpoint_folder(self) -> Path:
        return self.setting.workdir / "checkpoints" / self.name

    @property
    def counted_facts(self) -> DatasetFacts:
        """The facts of its data, with voxels per class as its loss counts them."""
        facts = self.data.facts
        return dataclasses.replace(facts, voxels_per_class=self.phase.counted(facts))

    @cached_property
    def system(self) -> System:
        facts = self.data.facts
        return build_system(self.phase, facts.modalities, facts.classes, self.total_steps, self.phase.counted(facts))

    @cached_property
    def programs(self) -> Programs:
        return Programs(self.system, self.setting.placement, self.phase.ema_decay, self.augment)

    @cached_property
    def augment(self) -> Augmentation | None:
        """The augmentation of batches in the step; None where there is none."""
        facts = self.data.facts
        return make_augmentation(self.phase, self.system, facts.modalities, facts.spacing_mm)

    @cached_property
    def predict(self) -> CasePredictor:
        """The prediction of cases. 2D networks go over volumes along the axis of their slices."""
        axis = AXES[self.setting.experiment.data_of(self.phase).axis]
        return case_predictor(self.system, self.phase, axis=axis)

    # --- batches ------------------------------------------------------------------------------------------------

    @cached_property
    def sampler(self) -> PatchSampler:
        """The sampler of training patches. Making it refuses cases that it cannot serve."""
        run = self.setting.experiment
        subject = run.data_of(self.phase).subject
        return make_sampler(self.phase, self.system, self.data.train, seed=run.seed, subject=subject)

    @property
    def seed(self) -> int:
        """The seed of the phase's batch stream, from the run's seed and the phase's number."""
        words = [self.setting.experiment.seed, self.number]
        return int(np.random.SeedSequence(words).generate_state(1)[0])

    def stream(self, start: int) -> Iterator[Mapping[str, Any]]:
        """Returns the batches from step `start` to the end, of several processes the rows of this one."""
        loader, share = self.setting.experiment.loader, self.share
        size, seed, stop = self.phase.batch, self.seed, self.total_steps
        return batches(self.sampler, batch=size, seed=seed, start=start, stop=stop, loader=loader, share=share)

    @property
    def share(self) -> Share:
        """The rows of each batch that this process makes."""
        return Share(self.setting.processes.number, self.setting.processes.count)

    # --- weights ------------------------------------------------------------------------------------------------

    def initial_state(self) -> State:
        """Draws the state that the phase begins with, before anything is taken over from others."""
        run_seed, modalities = self.setting.experiment.seed, self.data.facts.modalities
        return initial_state(self.system, self.phase, modalities, seed=run_seed, number=self.number)

    def check_start(self) -> None:
        """Refuses files that the phase cannot start from, before anything is trained; one that has begun reads none."""
        if self.phase.start and not self.checkpoint_folder.is_dir():
            like = abstract_state(self.system, self.phase, self.data.facts.modalities)
            start_arrays(like, self.phase.start, sources_of(self.setting.experiment.pairs))

    def begin(self, state: State, donors: Mapping[str, PhaseRun]) -> State:
        """Puts into a state the weights of the files that the phase starts from, and then those of other phases."""
        if not self.phase.start:
            return self.transfer(state, donors)
        state, told = started(state, self.phase.start, sources_of(self.setting.experiment.pairs))
        self.setting.display.say(told)
        return self.transfer(self.setting.placement.keep(begun(state, self.phase.ema_decay)), donors)

    def transfer(self, state: State, donors: Mapping[str, PhaseRun]) -> State:
        """Puts into a state the weights that the phase's rules take over from other phases, and says so."""
        rules = self.phase.rules
        if not rules:
            return state
        given: dict[tuple[str, bool], Mapping[str, Params]] = {}
        for rule in rules:
            if (rule.donor, rule.best) not in given:
                given[rule.donor, rule.best] = donors[rule.donor].weights(best=rule.best).params
        params, moved = apply_rules(state.params, rules, given)
        taken = "; ".join(f"{rule.donor}:{rule.source} -> {rule.target}" for rule in rules)
        self.setting.display.say(f"{moved:,} values are taken over: {taken}")
        # What was read is bound to a device; where the rest is not, the step is compiled again for its own output.
        return self.setting.placement.keep(begun(state.replace(params=params), self.phase.ema_decay))

    def weights(self, *, best: bool) -> State:
        """Reads the trained weights, the best or the last, without optimizers."""
        like = abstract_state(self.system, self.phase, self.data.facts.modalities)
        processes, folder = self.setting.processes, self.checkpoint_folder
        if (newest := processes.led(lambda: newest_step(folder, best=best))) is not None:
            processes.await_visible(folder / ("best" if best else "last") / str(newest))
        with processes.in_turn():
            return read_weights(folder, like, one_device(), best=best)

    # --- judgment -----------------------------------------------------------------------------------------------

    @cached_property
    def assessment(self) -> Assessment:
        system, pairs = self.system, self.setting.experiment.pairs
        masked = self.phase.mask_to_brain
        return self.phase.assess(Judged(self.data.scheme, system.primary, system.probabilities, pairs, masked))

    @cached_property
    def watched(self) -> tuple[PreparedCase, ...]:
        """The cases that the phase is validated on while it trains."""
        return spread(self.data.val, self.phase.validation.cases)

    @property
    def validation_interval(self) -> int:
        """Steps between two validations; 0: at the end only."""
        margin = self.system.geometry.margin
        return validation_interval(self.phase, self.watched, asked=self.asked_interval, margin=margin)

    @property
    def asked_interval(self) -> int:
        """Steps between two validations that the config asks for; 0: at the end only."""
        return self.phase.validation_steps(len(self.data.train))

    def validation(self) -> Validation:
        """Makes the validation of the phase while it trains; its fixed batches lie on the device from here on."""
        fixed = fixed_batches(self.phase, self.watched, seed=self.seed, margin=self.system.geometry.margin)
        fixed = [one_device().put(batch) for batch in fixed]
        local = self.setting.placement.local
        evaluate, judged = self.programs.evaluate, self.setting.judged
        return Validation(evaluate, self.predict, self.assessment, self.watched, fixed, local, judged)

    @property
    def is_judged(self) -> bool:
        """True where nothing of the judgment at the end is left to do."""
        unjudged = not self.data.val or isinstance(self.assessment, LossAssessment)
        return unjudged or self.setting.is_judged(self.name)

    def judge(self, state: State) -> None:
        """Judges the last state on all validation cases, if there are any."""
        if not self.data.val:
            return
        weights = self.setting.placement.local(without_optimizers(state))
        self.setting.assess(self.name, self.assessment, partial(self.predict, weights), self.data)

    def forget_judgment(self) -> None:
        """Removes judgments that training outdates. A run killed in between would take them for its own."""
        for outdated in (self.name, RESULT) if self.setting.processes.first else ():
            (self.setting.results(outdated) / "summary.json").unlink(missing_ok=True)
