"""Times of training steps on their real batches, in one form of 3D convolution or in several by turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from jax.stages import Compiled
from ml_collections import ConfigDict

from jaxfuse.config import Experiment, Phase, parse
from jaxfuse.data.dataset import Dataset, Report, open_dataset
from jaxfuse.data.pipeline import batches
from jaxfuse.engine.build import build_system, initial_state, make_sampler
from jaxfuse.engine.loop import close_stream
from jaxfuse.engine.programs import Programs, one_device, program_cost
from jaxfuse.errors import UserError
from jaxfuse.learning.state import State
from jaxfuse.nn.conv import implementation

Batches = Iterator[Mapping[str, Any]]


def time_steps(
    config: ConfigDict, *, only: str | None, steps: int, forms: Sequence[str], say: Report
) -> dict[str, Any]:
    """Times the phases of a config, or `only` one.

    The compilation cache is out of use from here on, for compilation is timed, too.

    Returns:
        {"config", "preset", "device", "phases": {phase: {form: what `measure` returns of it}}}.

    Raises:
        UserError: a phase or a form that is not there, found before data are prepared and programs compiled.
    """
    experiment = parse(config)
    if only is not None and only not in experiment.phases:
        raise UserError(f"phase {only!r} is not in the schedule; choose one of {', '.join(experiment.schedule)}")
    _check_forms(forms)
    jax.config.update("jax_enable_compilation_cache", False)
    results = {}
    for name in [only] if only else experiment.schedule:
        phase = experiment.phases[name]
        data = open_dataset(experiment.data_of(phase), say, labels_required=phase.needs_label)
        results[name] = measure(experiment, phase, data, steps=steps, forms=forms)
    device = one_device().device_name
    return {"config": config.name, "preset": config.preset, "device": device, "phases": results}


def _check_forms(forms: Sequence[str]) -> None:
    if not forms or len(set(forms)) < len(forms):
        raise UserError(f"--convolution is {','.join(forms)!r}; name each form to compare once, such as auto,native")
    for form in forms:
        with implementation(form):
            pass


def measure(
    experiment: Experiment, phase: Phase, data: Dataset, *, steps: int, forms: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Times `steps` steps of a phase in each form, by turns.

    Returns:
        Per form: compile_s, step_ms (median), examples_per_s, wait_share, flops, flops_per_s, argument_bytes,
        temporary_bytes, device_peak_bytes (None where the device does not count them), and ratio_to_first, the median
        step in multiples of that of the first form.
    """
    facts = data.facts
    total = phase.total_steps(len(data.train))
    programs = Programs(build_system(phase, facts.modalities, facts.classes, total, phase.counted(facts)))
    subject = experiment.data_of(phase).subject
    sampler = make_sampler(phase, programs.system, data.train, seed=experiment.seed, subject=subject)
    stop = (steps + 2) * len(forms)
    stream = batches(sampler, batch=phase.batch, seed=0, start=0, stop=stop, loader=experiment.loader)
    try:
        timed = {}
        for form in forms:
            state = initial_state(programs.system, phase, facts.modalities, seed=experiment.seed, number=0)
            timed[form] = _begun(programs, state, form, stream)
        for _ in range(steps):
            for one in timed.values():
                one.step(stream)
    finally:
        close_stream(stream)
    first, peak = timed[forms[0]].median_s, programs.placement.peak_bytes()
    ratios = {form: {"ratio_to_first": one.median_s / first, "device_peak_bytes": peak} for form, one in timed.items()}
    return {form: {**one.measured(phase.batch), **ratios[form]} for form, one in timed.items()}


@dataclass
class TimedStep:
    """A compiled step, the state that it has come to, and the time that it took.

    Attributes:
        compile_s: seconds of tracing and compilation.
        steps_s: seconds of each step, waiting for its batch included.
        waited_s: seconds of waiting for batches in all.
    """

    program: Compiled
    state: State
    compile_s: float
    steps_s: list[float] = field(default_factory=list)
    waited_s: float = 0.0

    def step(self, stream: Batches) -> None:
        """Carries out one step on the next batch, and times it."""
        started = time.perf_counter()
        batch = next(stream)
        self.waited_s += time.perf_counter() - started
        self.state = jax.block_until_ready(self.program(self.state, batch)[0])
        self.steps_s.append(time.perf_counter() - started)

    @property
    def median_s(self) -> float:
        return statistics.median(self.steps_s)

    def measured(self, examples: int) -> dict[str, Any]:
        """Returns the measurements of steps on so many examples each."""
        cost = program_cost(self.program)
        return {
            "compile_s": self.compile_s,
            **cost,
            "step_ms": 1000 * self.median_s,
            "examples_per_s": examples / self.median_s,
            "wait_share": self.waited_s / sum(self.steps_s),
            "flops_per_s": cost["flops"] / self.median_s,
        }


def _begun(programs: Programs, state: State, form: str, stream: Batches) -> TimedStep:
    """Compiles the step in a form of convolution, and carries out a first step that is not timed."""
    batch = next(stream)
    with implementation(form):
        started = time.perf_counter()
        program = programs.traced_anew().lower(state, batch).compile()
        compile_s = time.perf_counter() - started
    return TimedStep(program, jax.block_until_ready(program(state, batch)[0]), compile_s)
