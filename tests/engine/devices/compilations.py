"""Compilations of a training on four devices, as a process of its own that prints JSON.

    python -m tests.engine.devices.compilations WORKDIR RECIPE ARGUMENT PHASE STEPS EVERY BATCH

Prints, in their order, the names of programs that XLA compiled and the rows that were written, as "train 3".
"""

import json
import sys
from pathlib import Path

import jax

# Before anything is imported that reads it.
jax.config.update("jax_num_cpu_devices", 4)

from jaxfuse.engine import run  # noqa: E402
from jaxfuse.engine.run_folder.metric_writer import MetricWriter  # noqa: E402
from tests.recipe_phases import RECIPES  # noqa: E402

happened: list[str] = []


def heard(name: str, _: float, **told: object) -> None:
    """Notes a compilation."""
    if name.endswith("backend_compile_duration"):
        happened.append(str(told.get("fun_name", "?")))


def noted(write):
    """Notes the rows, too."""

    def written(self, step, phase, split, values):
        happened.append(f"{split} {step}")
        return write(self, step, phase, split, values)

    return written


def main(workdir: str, recipe: str, argument: str, phase: str, *numbers: str) -> None:
    steps, every, batch = map(int, numbers)
    config = RECIPES[recipe].get_config(argument)
    options = {"devices": "all", "log_every": 1, f"{phase}.steps": steps, f"{phase}.batch": batch}
    config.update_from_flattened_dict({**options, f"{phase}.validation.every": every, "data.phantom.cases": 4})
    jax.monitoring.register_event_duration_secs_listener(heard)
    MetricWriter.write = noted(MetricWriter.write)
    run.train(config, Path(workdir))
    print(json.dumps(happened))


if __name__ == "__main__":
    main(*sys.argv[1:])
