"""python -m jaxfuse.train RECIPE [--preset P] [--row NAME] [--data VARIANT] [--workdir DIR] [--config.a.b=v ...]

RECIPE is the name of a recipe of jaxfuse, such as cmff, or a file, such as configs/cmff.py; in one word it is --config
configs/X.py[:PRESET][,row=NAME][,data=VARIANT].

Runs the schedule of a config: trains its phases (going on where an earlier call stopped), judges them on whole
volumes and writes tables, figures and `report.html` into the workdir. One run at a time may do so in one workdir; it
may consist of several processes, on several machines (--distributed).
"""

from __future__ import annotations

import os
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from jaxfuse import cli, named_recipe
from jaxfuse.api.called import callable_module


def define_flags() -> None:
    """Declares the options of the command."""
    named_recipe.define_flags()
    flags.DEFINE_string("workdir", None, "Folder of the run; made from the config's name where not given.")
    flags.DEFINE_string(
        "distributed",
        "",
        "Trains in several processes: auto, in a job of SLURM, Open MPI or Kubernetes, or HOST:PORT,N,I: where process "
        "0 can be reached, the number of processes, and the number of this one, from 0.",
    )
    flags.DEFINE_float("distributed_wait", 300.0, "Seconds to wait for the other processes.")
    flags.DEFINE_list(
        "track",
        [],
        "Programs that are told the metrics as well: mlflow, wandb. They write below WORKDIR/tracking, unless their "
        "own environment variables name a server.",
    )


def main(argv: list[str]) -> int:
    """Trains; returns 0."""
    cli.no_arguments(argv)
    if flags.FLAGS.distributed:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # JAX would tell of each process that goes, line by line
    # Imported late: --help and a mistyped option need no JAX.
    from jaxfuse.engine.devices.joining import joined
    from jaxfuse.engine.run import train
    from jaxfuse.engine.run_folder.workdir import default_workdir, statement

    config, folder = flags.FLAGS.config, flags.FLAGS.workdir
    overrides = config_flags.get_override_values(flags.FLAGS["config"])
    workdir = Path(folder) if folder else default_workdir(config, overrides)
    with joined(flags.FLAGS.distributed, statement(config, workdir), wait_s=flags.FLAGS.distributed_wait) as processes:
        train(config, workdir, processes, track=flags.FLAGS.track)
    return 0


callable_module(__name__, "jaxfuse.api.training:train")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
