"""python -m jaxfuse.benchmark RECIPE [--phase NAME] [--steps N] [--convolution auto,native] [--json] [--trace DIR]

Times the training step of each phase: compilation, cold and from a cache; the step alone, on a batch that lies on the
device; the step on the batches of a training; the loader alone; memory, operations, and the share of what bounds it.
With several convolution forms, their steps alternate in one run: machines are noisy, ratios less.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import flags

from jaxfuse import cli, named_recipe


def define_flags() -> None:
    """Declares the options of the command."""
    named_recipe.define_flags()
    flags.DEFINE_string("phase", None, "One phase only; all phases of the schedule if not given.")
    flags.DEFINE_integer("steps", 10, "Steps of each way of timing, in each form.", lower_bound=1)
    flags.DEFINE_list("convolution", ["auto"], "Forms of convolution to compare: auto, products, native, folded.")
    flags.DEFINE_bool("json", False, "Print JSON.")
    flags.DEFINE_string("trace", None, "Folder for a profiler's trace of a few steps, for TensorBoard or Perfetto.")


def main(argv: list[str]) -> int:
    """Times steps and prints what came out; returns 0."""
    cli.no_arguments(argv)
    # Imported late: --help and a mistyped option need no JAX.
    from jaxfuse.engine.display import Display
    from jaxfuse.engine.step_times import Asked, time_steps

    options = flags.FLAGS
    say = (lambda *_: None) if options.json else Display().report
    trace = Path(options.trace) if options.trace else None
    results = time_steps(options.config, Asked(options.phase, options.steps, options.convolution, trace), say)
    print(json.dumps(results, indent=1) if options.json else "\n".join(_lines(results)))
    return 0


def _lines(results: Mapping[str, Any]) -> Iterator[str]:
    yield f"{results['config']} {results['preset']} on {results['device']}, {results['steps']} steps"
    for name, phase in results["phases"].items():
        patch = " x ".join(map(str, phase["patch"]))
        yield f"{name}, {phase['batch']} x {patch}: loader alone {phase['loader_batches_per_s']:.1f} batches/s"
        for form, found in phase["forms"].items():
            yield f"  {form} convolution, {found['ratio_to_first']:.2f} times the first form"
            yield from (f"    {title:<12}{text}" for title, text in _told(found, phase["ceiling"]).items())


def _told(found: Mapping[str, Any], ceiling: Mapping[str, Any]) -> dict[str, str]:
    """One line for each kind of figure."""
    bound = "nothing known of the device's bound"
    if found["bound_ms"] is not None:
        limit = "flops_per_s" in ceiling
        rate = f"{ceiling['flops_per_s'] / 1e9:.0f} GFLOP/s" if limit else f"{ceiling['bytes_per_s'] / 1e12:.2f} TB/s"
        bound = f"{found['share_of_bound']:.0%} of the bound, {found['bound_ms']:.1f} ms ({ceiling['kind']}: {rate})"
    peak = found["device_peak_bytes"]
    program = found["argument_bytes"] + found["temporary_bytes"]
    return {
        "compile": f"{found['compile_cold_s']:.1f} s, {found['compile_warm_s']:.1f} s from the cache",
        "step": f"{found['pipelined_ms']:.1f} ms pipelined, {found['blocked_ms']:.1f} ms each waited for; "
        f"{found['examples_per_s']:.2f} examples/s",
        "end to end": f"{found['end_to_end_examples_per_s']:.2f} examples/s, {found['wait_share']:.1%} of the time "
        "waiting for batches",
        "rate": f"{found['flops_per_s'] / 1e9:.1f} GFLOP/s, {bound}",
        "memory": f"{program / 1e9:.2f} GB for the program" + (f", device peak {peak / 1e9:.2f} GB" if peak else ""),
    }


if __name__ == "__main__":
    define_flags()
    cli.run(main)
