"""python -m jaxfuse.benchmark --config C [--phase NAME] [--steps N] [--convolution auto,native] [--json]

Times the training step of each phase on its real stream of batches: compilation, time per step (median), examples
per second, share of time waiting for data, memory, and achieved operations per second. With several convolution
forms, their steps alternate in one run and the ratios of the medians are printed: machines are noisy, ratios less.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

from absl import flags
from ml_collections import config_flags

from jaxfuse import cli
from jaxfuse.errors import UserError


def define_flags() -> None:
    config_flags.DEFINE_config_file("config", None, "Recipe, such as configs/cmff.py.", lock_config=True)
    flags.DEFINE_string("phase", None, "One phase only; all phases of the schedule if not given.")
    flags.DEFINE_integer("steps", 20, "Steps timed in each form.", lower_bound=1)
    flags.DEFINE_list("convolution", ["auto"], "Forms of the 3D convolution to compare: auto, native, folded.")
    flags.DEFINE_bool("json", False, "Print JSON.")
    flags.mark_flag_as_required("config")


def benchmark(config: Any, *, only: str | None, steps: int, forms: list[str], say: Any) -> dict[str, Any]:
    """{"device", "phases": {phase: {form: measurements}}}; see `measure`."""
    import jax

    from jaxfuse.config import parse
    from jaxfuse.data.dataset import open_dataset
    from jaxfuse.engine.programs import one_device
    from jaxfuse.nn.conv import implementation

    experiment = parse(config)
    if only is not None and only not in experiment.phases:
        raise UserError(f"phase {only!r} is not in the schedule; choose one of {', '.join(experiment.schedule)}")
    if not forms or len(set(forms)) < len(forms):
        raise UserError(f"--convolution is {','.join(forms)!r}; name each form to compare once, such as auto,native")
    for form in forms:
        with implementation(form):
            pass  # an unknown form is refused before data are prepared and programs compiled
    jax.config.update("jax_enable_compilation_cache", False)  # compile time is measured
    results = {}
    for name in [only] if only else experiment.schedule:
        phase = experiment.phases[name]
        data = open_dataset(experiment.data_of(phase), say)
        results[name] = measure(experiment, phase, data, steps=steps, forms=forms)
    return {
        "config": config.name,
        "preset": config.preset,
        "device": one_device().device_name,
        "phases": results,
    }


def measure(experiment: Any, phase: Any, data: Any, *, steps: int, forms: list[str]) -> dict[str, dict[str, Any]]:
    """Per form: compile_s, step_ms (median), examples_per_s, wait_share, memory in bytes, flops, flops_per_s."""
    import jax

    from jaxfuse.data.pipeline import batches
    from jaxfuse.engine.build import build_system, initial_state, make_sampler
    from jaxfuse.engine.programs import Programs, program_cost
    from jaxfuse.nn.conv import implementation

    total = phase.total_steps(len(data.train))
    system = build_system(phase, data.facts.modalities, data.facts.classes, total, data.facts.voxels_per_class)
    sampler = make_sampler(phase, data.train, margin=system.geometry.margin)
    stream = batches(
        sampler, batch=phase.batch, seed=0, start=0, stop=(steps + 2) * len(forms), loader=experiment.loader
    )
    programs_of, programs, states, found = Programs(system), {}, {}, {}
    for form in forms:
        states[form] = initial_state(system, phase, data.facts.modalities, seed=experiment.seed, number=0)
        batch = next(stream)
        with implementation(form):  # pyright: ignore[reportArgumentType]
            step = programs_of.traced_anew()
            started = time.perf_counter()
            programs[form] = step.lower(states[form], batch).compile()
        found[form] = {"compile_s": time.perf_counter() - started, **program_cost(programs[form])}
        states[form] = jax.block_until_ready(programs[form](states[form], batch)[0])
    times: dict[str, list[float]] = {form: [] for form in forms}
    waits: dict[str, float] = dict.fromkeys(forms, 0.0)
    for _ in range(steps):
        for form in forms:
            started = time.perf_counter()
            batch = next(stream)
            waits[form] += time.perf_counter() - started
            states[form] = jax.block_until_ready(programs[form](states[form], batch)[0])
            times[form].append(time.perf_counter() - started)
    _close(stream)
    for form in forms:
        median = statistics.median(times[form])
        found[form] |= {
            "step_ms": 1000 * median,
            "examples_per_s": phase.batch / median,
            "wait_share": waits[form] / sum(times[form]),
            "flops_per_s": found[form]["flops"] / median,
            "ratio_to_first": median / statistics.median(times[forms[0]]),
            "device_peak_bytes": programs_of.placement.peak_bytes(),
        }
    return found


def _close(stream: Any) -> None:
    if hasattr(stream, "close"):
        stream.close()


def _as_text(results: dict[str, Any]) -> str:
    lines = [f"{results['config']} {results['preset']} on {results['device']}"]
    for phase, forms in results["phases"].items():
        for form, m in forms.items():
            peak = m["device_peak_bytes"]
            memory = f"device peak {peak / 1e9:.2f} GB" if peak else f"program {m['temporary_bytes'] / 1e9:.2f} GB"
            lines.append(
                f"{phase}, {form} convolution: compile {m['compile_s']:.1f} s, step {m['step_ms']:.1f} ms, "
                f"{m['examples_per_s']:.2f} examples/s, data wait {m['wait_share']:.1%}, {memory}, "
                f"{m['flops_per_s'] / 1e9:.1f} GFLOP/s, {m['ratio_to_first']:.2f} times the first form"
            )
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    cli.no_arguments(argv)
    from jaxfuse.engine.display import Display

    options = flags.FLAGS
    say = (lambda *_: None) if options.json else Display().report
    results = benchmark(options.config, only=options.phase, steps=options.steps, forms=options.convolution, say=say)
    print(json.dumps(results, indent=1) if options.json else _as_text(results))
    return 0


if __name__ == "__main__":
    define_flags()
    cli.run(main)
