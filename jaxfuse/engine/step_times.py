"""Times of training steps, of their batches and of their compilation, in one form of 3D convolution or several.

A step is timed on a batch that lies on the device: `blocked`, waited for each time, and `pipelined`, many handed over
and waited for once, as a training does. Then steps are timed end to end, on the batches that a training would get, and
the loader alone.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache
from jax.stages import Compiled, Wrapped
from ml_collections import ConfigDict

from jaxfuse.config import Experiment, Phase, parse
from jaxfuse.data.dataset import Dataset, Report, open_dataset
from jaxfuse.data.pipeline import batches
from jaxfuse.engine.build import (
    build_system,
    check_systems,
    initial_state,
    learned_from,
    make_augmentation,
    make_sampler,
)
from jaxfuse.engine.cost.ceilings import product_rate
from jaxfuse.engine.cost.gpus import GPUS
from jaxfuse.engine.cost.kernels import CompiledKernels
from jaxfuse.engine.devices.placement import Placement, placed
from jaxfuse.engine.feed.ahead import Ahead
from jaxfuse.engine.feed.blocks import checked_length, in_blocks
from jaxfuse.engine.feed.resident import resident
from jaxfuse.engine.loop import close_stream
from jaxfuse.engine.programs import Programs, program_memory
from jaxfuse.engine.settled import Machine, settled
from jaxfuse.errors import UserError
from jaxfuse.learning.state import State
from jaxfuse.nn.conv import implementation

# Rounds of pipelined steps; their median counts.
ROUNDS = 3
# Steps of each form that a profiler's trace shows.
TRACED = 3
# Side of the square matrices whose product is the measure of a CPU.
SIDE = 2048


@dataclass(frozen=True)
class Asked:
    """The choices of a measurement.

    Attributes:
        only: the one phase to time; None: all of the schedule.
        steps: of each way of timing.
        forms: of convolution.
        trace: folder for a profiler's trace; None: none is written.
    """

    only: str | None
    steps: int
    forms: Sequence[str]
    trace: Path | None = None

    def check(self, experiment: Experiment) -> None:
        """Refuses what is not there, before data are prepared and programs compiled."""
        if self.only is not None and self.only not in experiment.phases:
            known = ", ".join(experiment.schedule)
            raise UserError(f"phase {self.only!r} is not in the schedule; choose one of {known}")
        if not self.forms or len(set(self.forms)) < len(self.forms):
            raise UserError(
                f"--convolution is {','.join(self.forms)!r}; name each form to compare once, such as auto,native"
            )
        for form in self.forms:
            with implementation(form):
                pass
        if self.trace is not None and self.trace.exists() and not self.trace.is_dir():
            raise UserError(f"--trace is {self.trace}, which is a file; name a folder")


def time_steps(config: ConfigDict, asked: Asked, say: Report) -> dict[str, Any]:
    """Times the phases of a config, or one of them.

    Returns:
        {"config", "preset", "device", "steps", "phases": {phase: what `measure` returns of it}}.

    Raises:
        UserError: a phase or a form that is not there.
    """
    check_systems(parse(config))
    placement = placed(parse(config))
    experiment = parse(settled(config, Machine.of(placement)))
    asked.check(experiment)
    results, device = {}, ""
    for name in [asked.only] if asked.only else experiment.schedule:
        phase = experiment.phases[name]
        opened = open_dataset(experiment.data_of(phase), say, labels_required=phase.needs_label)
        data = learned_from(phase, opened)
        with fresh_cache():
            bench = bench_of(experiment, phase, data, placement, say)
            device = bench.placement.device_name
            results[name] = measure(bench, asked)
    return {"config": config.name, "preset": config.preset, "device": device, "steps": asked.steps, "phases": results}


@contextmanager
def fresh_cache() -> Iterator[None]:
    """Within the block, compiled programs are kept in a new folder and nowhere else: cold, then warm."""
    names = ("jax_compilation_cache_dir", "jax_enable_compilation_cache", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    with tempfile.TemporaryDirectory(prefix="jaxfuse-compiled-") as folder:
        try:
            for name, value in zip(names, (folder, True, 0.0), strict=True):
                jax.config.update(name, value)
            compilation_cache.reset_cache()
            yield
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()


@dataclass(frozen=True)
class Bench:
    """The things that a phase's steps are timed on.

    Attributes:
        host: start, stop -> the batches as the loader makes them.
        fed: start, stop -> those that a training gets: ahead on the device, or cut there from cases.
    """

    phase: Phase
    programs: Programs
    host: Callable[[int, int], Iterator[Any]]
    fed: Callable[[int, int], Ahead]
    new_state: Callable[[], State]

    @property
    def placement(self) -> Placement:
        return self.programs.placement


def bench_of(experiment: Experiment, phase: Phase, data: Dataset, placement: Placement, say: Report) -> Bench:
    """Builds the System of a phase, its sampler and its streams."""
    facts, subject = data.facts, experiment.data_of(phase).subject
    total = phase.total_steps(len(data.train))
    system = build_system(phase, facts.modalities, facts.classes, total, phase.counted(facts))
    augment = make_augmentation(phase, system, facts.modalities, facts.spacing_mm)
    programs = Programs(system, placement, phase.ema_decay, augment)
    sampler = make_sampler(phase, programs.system, data.train, seed=experiment.seed, subject=subject)

    def host(start: int, stop: int) -> Iterator[Any]:
        return batches(sampler, batch=phase.batch, seed=0, start=start, stop=stop, loader=experiment.loader)

    def new_state() -> State:
        state = initial_state(programs.system, phase, facts.modalities, seed=experiment.seed, number=0)
        return placement.keep(state)

    loader = experiment.loader
    held = resident([sampler], loader.on_device, placement, lambda text: None, say)

    def fed(start: int, stop: int) -> Ahead:
        # As in a training of that many steps in which nothing is due but its end.
        stream = held[0].stream(start, batch=phase.batch, seed=0, stop=stop) if held else host(start, stop)
        length = checked_length(loader.steps_per_call, stop, (), resident=bool(held), backend=placement.backend)
        return Ahead(in_blocks(stream, length=length, start=start, total=stop, every=(stop,)), placement.put)

    return Bench(phase, programs, host, fed, new_state)


def measure(bench: Bench, asked: Asked) -> dict[str, Any]:
    """Times the steps of a phase in each form, by turns, and its loader.

    Returns:
        {"batch", "patch", "loader_batches_per_s", "ceiling", "forms": {form: measurements}}. The ceiling is what the
        bound of a step is made of, as `ceiling_of` tells. Of each form:
        compile_cold_s, compile_warm_s: seconds to trace and compile the step with nothing kept, and to trace it again
            and read back what was kept;
        blocked_ms, pipelined_ms: a step on a batch that lies on the device, each waited for, and many waited for once;
        examples_per_s: by the latter;
        end_to_end_examples_per_s, wait_share: on the batches of a training, and the share of it spent waiting for them;
        flops, flops_per_s: of the step on each device, the same for every form, and pipelined;
        argument_bytes, temporary_bytes: of the compiled step on each device;
        bound_ms, share_of_bound: the least that a step takes by the ceiling, and its share of what it takes; None where
            nothing is known of the device;
        device_peak_bytes: of the process; None where the device does not count (CPU);
        ratio_to_first: the pipelined step in multiples of that of the first form.
    """
    steps = asked.steps
    with closing(_Closing(bench.host(0, steps + 1))) as stream:
        batch = bench.placement.put(next(stream))
        started = time.perf_counter()
        for _ in range(steps):
            next(stream)
        loader_s = time.perf_counter() - started
    timed = {form: compiled_step(bench, form, batch) for form in asked.forms}
    for _ in range(steps):
        for one in timed.values():
            one.run_blocked()
    ceiling = ceiling_of(bench.placement.backend, bench.placement.devices[0].device_kind)
    flops = bench.programs.step_operations(bench.new_state(), batch) // len(bench.placement.devices)
    for _ in range(ROUNDS):
        for one in timed.values():
            one.run_pipelined(steps)
    for one in timed.values():
        one.run_end_to_end(bench.fed, steps)
    if asked.trace is not None:
        _trace(asked.trace, timed)
    first = timed[asked.forms[0]].pipelined_s
    peak = {"device_peak_bytes": bench.placement.peak_bytes()}
    return {
        "batch": bench.phase.batch,
        "patch": list(bench.phase.patch),
        "loader_batches_per_s": steps / loader_s,
        "ceiling": ceiling,
        "forms": {
            form: {**one.measured(bench.phase.batch, ceiling, flops), **peak, "ratio_to_first": one.pipelined_s / first}
            for form, one in timed.items()
        },
    }


class _Closing:
    """A stream that `closing` can close, whatever it is."""

    def __init__(self, stream: Iterator[Any]) -> None:
        self._stream = stream

    def __next__(self) -> Any:
        return next(self._stream)

    def close(self) -> None:
        close_stream(self._stream)


def ceiling_of(backend: str, kind: str) -> dict[str, Any]:
    """Tells what bounds a step on a device of this kind.

    Returns:
        {"kind", "flops_per_s"} of a CPU, the best rate of five products of square matrices of `SIDE`, measured now;
        {"kind", "bytes_per_s"} of a card of `engine.cost.gpus`, its bandwidth; {"kind": "unknown"} of any other device.
    """
    if backend != "cpu":
        known = [gpu for gpu in GPUS.values() if gpu.name == kind]
        return {"kind": kind, "bytes_per_s": known[0].bandwidth} if known else {"kind": "unknown"}
    return {"kind": f"product of matrices of {SIDE} x {SIDE}", "flops_per_s": product_rate(SIDE)}


@dataclass
class TimedStep:
    """A compiled step, the state that it has come to, and the times that it took.

    Attributes:
        step: what `program` was compiled from; it takes what a training is fed, too.
        batch: on the device.
        compile_cold_s, compile_warm_s: seconds.
        blocked_s: of each step; rounds_s: of a step, for each round of pipelined ones.
        fed_s, waited_s, fed_steps: seconds end to end, those of waiting for batches, and steps made.
    """

    form: str
    step: Wrapped
    program: Compiled
    state: State
    batch: Any
    compile_cold_s: float
    compile_warm_s: float
    blocked_s: list[float] = field(default_factory=list)
    rounds_s: list[float] = field(default_factory=list)
    fed_s: float = 0.0
    waited_s: float = 0.0
    fed_steps: int = 0

    def run_blocked(self) -> None:
        """Carries out one step and waits for it."""
        started = time.perf_counter()
        self.state = jax.block_until_ready(self.program(self.state, self.batch)[0])
        self.blocked_s.append(time.perf_counter() - started)

    def run_pipelined(self, steps: int) -> None:
        """Hands over so many steps and waits for the last."""
        started = time.perf_counter()
        for _ in range(steps):
            self.state, _ = self.program(self.state, self.batch)
        jax.block_until_ready(self.state)
        self.rounds_s.append((time.perf_counter() - started) / steps)

    def run_end_to_end(self, fed: Callable[[int, int], Ahead], steps: int) -> None:
        """Carries out steps on the batches of a training, after those that a program has to be compiled for."""
        self._run_fed(fed(0, steps), steps, compiling=True)
        self.waited_s = 0.0
        started = time.perf_counter()
        self.fed_steps = self._run_fed(fed(0, steps), steps, compiling=False)
        self.fed_s = time.perf_counter() - started

    def _run_fed(self, stream: Ahead, steps: int, *, compiling: bool) -> int:
        """Carries out steps on what a stream gives; when compiling, single steps are all alike. Returns how many."""
        done = 0
        try:
            while done < steps:
                asked = time.perf_counter()
                batch = next(stream)
                self.waited_s += time.perf_counter() - asked
                with implementation(self.form):
                    self.state, metrics = self.step(self.state, batch)
                done += metrics.steps
                if compiling and metrics.steps == 1:
                    break
            jax.block_until_ready(self.state)
        finally:
            stream.close()
        return done

    @property
    def pipelined_s(self) -> float:
        return statistics.median(self.rounds_s)

    def bound_s(self, ceiling: Mapping[str, Any], flops: float) -> float | None:
        """Seconds that the step takes at least: operations at the rate of a CPU's product, or its kernels' floor."""
        if "flops_per_s" in ceiling:
            return flops / ceiling["flops_per_s"]
        known = [gpu for gpu in GPUS.values() if gpu.name == ceiling["kind"]]
        return CompiledKernels.of(self.program).floor_s(known[0]) if known else None

    def measured(self, examples: int, ceiling: Mapping[str, Any], flops: int) -> dict[str, Any]:
        """Returns the measurements of steps on so many examples each, of so many operations on each device."""
        bound_s = self.bound_s(ceiling, flops)
        return {
            "compile_cold_s": self.compile_cold_s,
            "compile_warm_s": self.compile_warm_s,
            "blocked_ms": 1000 * statistics.median(self.blocked_s),
            "pipelined_ms": 1000 * self.pipelined_s,
            "examples_per_s": examples / self.pipelined_s,
            "end_to_end_examples_per_s": examples * self.fed_steps / self.fed_s,
            "wait_share": self.waited_s / self.fed_s,
            **program_memory(self.program),
            "flops": flops,
            "flops_per_s": flops / self.pipelined_s,
            "bound_ms": None if bound_s is None else 1000 * bound_s,
            "share_of_bound": None if bound_s is None else bound_s / self.pipelined_s,
        }


def compiled_step(bench: Bench, form: str, batch: Any) -> TimedStep:
    """Compiles the step in a form of convolution, cold and warm, and carries out a first step that is not timed."""
    state = bench.new_state()
    seconds = []
    with implementation(form):
        for _ in ("cold", "warm"):
            step, started = bench.programs.traced_anew(), time.perf_counter()
            program = step.lower(state, batch).compile()
            seconds.append(time.perf_counter() - started)
    state = jax.block_until_ready(program(state, batch)[0])
    return TimedStep(form, step, program, state, batch, *seconds)


def _trace(folder: Path, timed: Mapping[str, TimedStep]) -> None:
    """Writes a profiler's trace of a few pipelined steps of each form."""
    with jax.profiler.trace(str(folder)):
        for form, one in timed.items():
            for number in range(TRACED):
                with jax.profiler.StepTraceAnnotation(f"{form} convolution", step_num=number):
                    one.state, _ = one.program(one.state, one.batch)
            jax.block_until_ready(one.state)
