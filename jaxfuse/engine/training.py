"""One training of a run, of a phase or of several side by side: begun or resumed, carried out, kept and judged."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cached_property, partial

import jax
import numpy as np

from jaxfuse.engine.devices.agreement import agreement
from jaxfuse.engine.display import clock
from jaxfuse.engine.feed.ahead import Ahead
from jaxfuse.engine.feed.blocks import checked_length, in_blocks
from jaxfuse.engine.feed.resident import resident
from jaxfuse.engine.loop import Loop
from jaxfuse.engine.phase_run import PhaseRun, Setting
from jaxfuse.engine.run_folder.checkpoints import Checkpoints
from jaxfuse.engine.run_folder.metric_writer import MetricWriter
from jaxfuse.engine.run_folder.phase_lengths import note_length
from jaxfuse.engine.run_folder.stored import digest
from jaxfuse.engine.side_by_side import Group, Stream, check_alike, group_of
from jaxfuse.engine.validation import Judge, PhaseJudge, Progress
from jaxfuse.errors import UserError
from jaxfuse.learning.optim import with_total_steps
from jaxfuse.learning.state import State

Opened = Mapping[str, Checkpoints]


@dataclass(frozen=True)
class Training:
    """One training of a run.

    Attributes:
        phases: those that it trains.
        donors: every phase of the run by name, to take weights over from.
    """

    setting: Setting
    phases: tuple[PhaseRun, ...]
    donors: Mapping[str, PhaseRun]

    @property
    def name(self) -> str:
        """The name of the phase, or the names of all that stand side by side."""
        return "+".join(phase.name for phase in self.phases)

    @property
    def total_steps(self) -> int:
        return self.phases[0].total_steps

    @cached_property
    def group(self) -> Group:
        return group_of(self.phases[0].system, [phase.name for phase in self.phases])

    def check(self) -> None:
        """Refuses phases that cannot train side by side, and augmentation that makes no sense for their voxels."""
        if len({phase.augment for phase in self.phases}) > 1:
            raise UserError(
                f"{self.name.replace('+', ', ')} cannot train side by side: their voxels have other sides, by which "
                "augmentation turns; switch off augment.rotation, scaling, elastic and bias_field, or leave "
                "side_by_side False"
            )
        check_alike({p.name: (p.counted_facts, p.phase.weighs_classes, p.total_steps) for p in self.phases})

    def run(self, writer: MetricWriter) -> bool:
        """Trains what is left and judges it. Returns False where everything was there already."""
        led = self.setting.processes.led
        led(lambda: self.setting.stop.heed(f"before phase {self.name}"))
        with ExitStack() as stack:
            opened = self._open(stack)
            finished = led(lambda: self._finished_at(opened))
            opened[self.name].refuse_if_none_is_sound()
            self._complain(opened)
            if finished:
                self.setting.display.say(f"{self._called()}: all {finished} steps are there already")
                return False
            loop = self._loop(opened, writer)
            begun = opened[self.name].latest_step()
            state = self._state(opened[self.name], loop.judge)
            led(self._note_lengths)
            self._complain(opened)  # of best weights, too
            if (begun or 0) < self.total_steps and not loop.judge.ended:
                state = self._train(loop, state, begun or 0, opened, writer)
            own = {phase.name: self.group.member(state, phase.name) for phase in self.phases}
            self.group.keep(int(state.step), own, loop.judge, opened)
            for phase in self.phases:
                phase.judge(own[phase.name])
        return True

    def _note_lengths(self) -> None:
        for phase in self.phases:
            note_length(self.setting.workdir, phase.name, self.total_steps)

    def _open(self, stack: ExitStack) -> Opened:
        """Opens a checkpoint folder to resume the training, and one per phase; for a single phase both are the same."""
        root = self.setting.workdir / "checkpoints"
        names = dict.fromkeys([self.name, *(phase.name for phase in self.phases)])
        processes = self.setting.processes
        return {name: stack.enter_context(closing(Checkpoints(root / name, processes))) for name in names}

    def _complain(self, opened: Opened) -> None:
        """Says which checkpoints are damaged, each once."""
        for checkpoints in opened.values():
            for complaint in checkpoints.complaints:
                self.setting.display.say(f"{complaint}; it is left out")
            checkpoints.complaints.clear()

    def _finished_at(self, opened: Opened) -> int:
        """Returns the step at which the training came to its end; 0 where something is left to do."""
        steps = {checkpoints.latest_step() for checkpoints in opened.values()}
        if len(steps) > 1 or not all(phase.is_judged for phase in self.phases):
            return 0
        step = steps.pop() or 0
        ended = step == self.total_steps or all(self._ended(opened[p.name], p, step) for p in self.phases)
        return step if ended else 0

    def _ended(self, checkpoints: Checkpoints, phase: PhaseRun, step: int) -> bool:
        patience = phase.phase.validation.patience
        return bool(patience and step) and Progress(**checkpoints.progress(step)).ended(patience)

    def _validation_interval(self) -> int:
        """Returns the steps between two validations, and says where they are more than were asked for."""
        interval = max(phase.validation_interval for phase in self.phases)
        if 0 < (asked := max(phase.asked_interval for phase in self.phases)) < interval:
            self.setting.display.say(
                f"{self.name} is validated every {interval:,} steps, not every {asked:,} as asked: "
                f"{len(self.phases[0].watched)} cases would take over a tenth of the time; fewer validation.cases "
                "are looked at more often"
            )
        return interval

    def _loop(self, opened: Opened, writer: MetricWriter) -> Loop:
        first, group = self.phases[0], self.group
        interval = self._validation_interval()
        judges = {
            p.name: PhaseJudge(p.name, p.validation(), writer, opened[p.name], Progress(), p.phase.validation.patience)
            for p in self.phases
        }
        return Loop(
            phase=self.name,
            total_steps=self.total_steps,
            step=group.step(first.programs),
            stream=self._fed(interval, first.phase.checkpoint_every, self.setting.experiment.log_every),
            judge=group.judge(judges),
            validate_every=interval,
            checkpoint_every=first.phase.checkpoint_every,
            checkpoint_minutes=first.phase.checkpoint_minutes,
            log_every=self.setting.experiment.log_every,
            checkpoints=opened[self.name],
            writer=group.rows(writer),
            display=self.setting.display,
            stop=self.setting.stop,
            processes=self.setting.processes,
            agree=agreement(self.setting.processes, self.setting.placement),
        )

    def _fed(self, *every: int) -> Stream:
        """Returns the function next step -> the batches from there on, put on the device ahead or cut from cases there.

        Args:
            every: the intervals in steps at which something is due after a step; 0: never.
        """
        placement, loader = self.phases[0].programs.placement, self.setting.experiment.loader
        samplers, say = [phase.sampler for phase in self.phases], self.setting.display.say
        held = resident(samplers, loader.on_device, placement, say, self.setting.report)
        streams = {phase.name: phase.stream for phase in self.phases}
        for phase, one in zip(self.phases, held, strict=bool(held)):
            asked = {"batch": phase.phase.batch, "seed": phase.seed, "stop": phase.total_steps, "share": phase.share}
            streams[phase.name] = partial(one.stream, **asked)
        stream, total = self.group.stream(streams), self.total_steps
        backend = placement.backend
        length = checked_length(loader.steps_per_call, total, every, resident=bool(held), backend=backend)
        where = "on the device" if held else "on the host"
        self.setting.processes.refuse_differences({"where batches are made": where, "steps of a call": length})

        def fed(start: int) -> Ahead:
            blocks = in_blocks(stream(start), length=length, start=start, total=total, every=every)
            return Ahead(blocks, placement.put)

        return fed

    def _state(self, checkpoints: Checkpoints, judge: Judge) -> State:
        """Returns the state that the training begins with, or goes on from; then its judge goes on, too."""
        begun, keep = checkpoints.latest_step(), self.phases[0].programs.placement.keep
        fresh = {phase.name: phase.initial_state() for phase in self.phases}
        self._check_alike(fresh)
        self.setting.display.say(self._announcement(begun, fresh[self.phases[0].name]))
        if begun is None:
            return keep(self.group.stack({p.name: p.begin(fresh[p.name], self.donors) for p in self.phases}))
        state, found = checkpoints.restore(self.group.stack(fresh))
        judge.recall(found)
        if begun > self.total_steps:
            raise UserError(
                f"phase {self.name} has {begun} steps already and {self.total_steps} are asked for; "
                "name another --workdir"
            )
        return keep(state.replace(opt_state=with_total_steps(state.opt_state, self.total_steps)))

    def _check_alike(self, fresh: Mapping[str, State]) -> None:
        """Refuses processes that have drawn other numbers, as other processors may: each would go on with its own."""
        if self.setting.processes.several:
            self.setting.processes.refuse_differences(
                {f"what {name} begins with": digest(fresh[name]) for name in fresh}
            )

    def _train(self, loop: Loop, state: State, begun: int, opened: Opened, writer: MetricWriter) -> State:
        """Carries out the steps that are left, after what they outdate was forgotten."""
        later = self.setting.experiment.schedule[self.phases[-1].number + 1 :]
        # A phase that goes on from an earlier checkpoint, its last one being damaged, comes to the weights that a later
        # phase, which has begun, was given.
        later = [name for name in later if not self.donors[name].checkpoint_folder.is_dir()]
        for phase in self.phases:
            writer.truncate(phase.name, begun, later)
            opened[phase.name].forget_best_after(begun)
            phase.forget_judgment()
        started = time.perf_counter()
        state = loop.run(state)
        took, steps = clock(time.perf_counter() - started), int(state.step) - begun
        self.setting.display.say(f"Phase {self.name}: {steps} steps in {took}, validation and compilation included")
        if loop.judge.ended and state.step < self.total_steps:
            patience = self.phases[0].phase.validation.patience
            self.setting.display.say(
                f"Phase {self.name} ends after step {int(state.step)} of {self.total_steps}: {patience} validations "
                "brought no better score"
            )
        return state

    def _called(self, of: str = "") -> str:
        """Names the training for a person to read, with `of` after its numbers."""
        numbers = ", ".join(str(phase.number + 1) for phase in self.phases)
        if len(self.phases) == 1:
            return f"Phase {numbers}{of}, {self.name}"
        return f"Phases {numbers}{of}, {self.name} side by side"

    def _announcement(self, begun: int | None, state: State) -> str:
        """Says what is about to be trained, from which step, on which data, and how large its networks are."""
        first = self.phases[0]
        phase, networks = first.phase, first.system.networks(state.params)
        sizes = {name: sum(int(np.size(leaf)) for leaf in jax.tree.leaves(tree)) for name, tree in networks.items()}
        counts = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
        where = "" if begun is None else f" from step {begun}"
        told = {side: [p.data.facts.told(side) for p in self.phases] for side in ("train", "val")}
        trained, validated = (", ".join(filter(None, texts)) for texts in told.values())
        unlabeled = sum(not case.labeled for case in first.data.train)
        without = f", {unlabeled} of them without a label" if unlabeled and first.data.scheme else ""
        streams = first.sampler.streams
        apart = "" if streams is None else f" ({streams.told})"
        held_out = "".join(f"; held out: {p.data.facts.told('test')}" for p in self.phases[:1] if p.data.facts.test)
        return (
            f"{self._called(f' of {len(self.setting.experiment.schedule)}')}: {self.total_steps} steps{where} of "
            f"{phase.batch} x {' x '.join(map(str, phase.patch))} patches ({phase.sampling.name} sampling) on "
            f"{trained}{without}{apart}; validation: {validated or 'none'}{held_out}; parameters: {counts}"
        )
