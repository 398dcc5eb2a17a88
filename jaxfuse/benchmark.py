"""python -m jaxfuse.benchmark --config C [--phase NAME] [--steps N] [--convolution auto,native] [--json]

Times the training step of each phase on its real stream of batches: compilation, time per step (median), examples
per second, share of time waiting for data, memory, and achieved operations per second. With several convolution
forms, their steps alternate in one run and the ratios of the medians are printed: machines are noisy, ratios less.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from absl import flags
from ml_collections import config_flags

from jaxfuse import cli


def define_flags() -> None:
    """Declares the options of the command."""
    config_flags.DEFINE_config_file("config", None, "Recipe, such as configs/cmff.py.", lock_config=True)
    flags.DEFINE_string("phase", None, "One phase only; all phases of the schedule if not given.")
    flags.DEFINE_integer("steps", 20, "Steps timed in each form.", lower_bound=1)
    flags.DEFINE_list("convolution", ["auto"], "Forms of the 3D convolution to compare: auto, native, folded.")
    flags.DEFINE_bool("json", False, "Print JSON.")
    flags.mark_flag_as_required("config")


def main(argv: list[str]) -> int:
    """Times steps and prints what came out; returns 0."""
    cli.no_arguments(argv)
    # Imported late: --help and a mistyped option need no JAX.
    from jaxfuse.engine.display import Display
    from jaxfuse.engine.step_times import time_steps

    options = flags.FLAGS
    say = (lambda *_: None) if options.json else Display().report
    results = time_steps(options.config, only=options.phase, steps=options.steps, forms=options.convolution, say=say)
    print(json.dumps(results, indent=1) if options.json else _as_text(results))
    return 0


def _as_text(results: Mapping[str, Any]) -> str:
    lines = [f"{results['config']} {results['preset']} on {results['device']}"]
    for phase, forms in results["phases"].items():
        lines += [f"{phase}, {form} convolution: {_measured(found)}" for form, found in forms.items()]
    return "\n".join(lines)


def _measured(found: Mapping[str, Any]) -> str:
    peak = found["device_peak_bytes"]
    memory = f"device peak {peak / 1e9:.2f} GB" if peak else f"program {found['temporary_bytes'] / 1e9:.2f} GB"
    return (
        f"compile {found['compile_s']:.1f} s, step {found['step_ms']:.1f} ms, "
        f"{found['examples_per_s']:.2f} examples/s, data wait {found['wait_share']:.1%}, {memory}, "
        f"{found['flops_per_s'] / 1e9:.1f} GFLOP/s, {found['ratio_to_first']:.2f} times the first form"
    )


if __name__ == "__main__":
    define_flags()
    cli.run(main)
