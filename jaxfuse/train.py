"""python -m jaxfuse.train --config configs/X.py[:PRESET][,row=NAME][,data=VARIANT] [--workdir DIR] [--config.a.b=v ...]

Runs the schedule of a config: trains its phases (going on where an earlier call stopped), judges them on whole
volumes and writes tables, figures and `report.html` into the workdir. One run at a time may do so in one workdir.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from jaxfuse import cli


def define_flags() -> None:
    """Declares the options of the command."""
    config_flags.DEFINE_config_file("config", None, "Recipe, such as configs/cmff.py:paper,row=S_A.", lock_config=True)
    flags.DEFINE_string("workdir", None, "Folder of the run; made from the config's name where not given.")
    flags.mark_flag_as_required("config")


def main(argv: list[str]) -> int:
    """Trains; returns 0."""
    cli.no_arguments(argv)
    # Imported late: --help and a mistyped option need no JAX.
    from jaxfuse.engine.run import train
    from jaxfuse.engine.run_folder.workdir import default_workdir

    config, folder = flags.FLAGS.config, flags.FLAGS.workdir
    overrides = config_flags.get_override_values(flags.FLAGS["config"])
    train(config, Path(folder) if folder else default_workdir(config, overrides))
    return 0


if __name__ == "__main__":
    define_flags()
    cli.run(main)
