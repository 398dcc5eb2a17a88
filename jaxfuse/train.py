"""python -m jaxfuse.train --config configs/X.py[:PRESET][,row=NAME][,data=VARIANT] [--workdir DIR] [--config.a.b=v ...]

Runs the schedule of a config: trains its phases (going on where an earlier call stopped), judges them on whole
volumes and writes tables, figures and `report.html` into the workdir.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from jaxfuse import cli


def define_flags() -> None:
    config_flags.DEFINE_config_file("config", None, "Recipe, such as configs/cmff.py:paper,row=S_A.", lock_config=True)
    flags.DEFINE_string("workdir", None, "Folder of the run; made from the config's name where not given.")
    flags.mark_flag_as_required("config")


def main(argv: list[str]) -> int:
    """Trains; returns 0."""
    cli.no_arguments(argv)
    # Imported late: --help and a mistyped option need no JAX.
    import jax

    from jaxfuse.config import parse
    from jaxfuse.engine.display import Display
    from jaxfuse.engine.run import Run
    from jaxfuse.engine.run_folder.workdir import compilation_cache, default_workdir, open_workdir, related_runs
    from jaxfuse.engine.stop_request import StopRequest
    from jaxfuse.report.html import write_report

    config = flags.FLAGS.config
    experiment = parse(config)
    overrides = config_flags.get_override_values(flags.FLAGS["config"])
    workdir = Path(flags.FLAGS.workdir) if flags.FLAGS.workdir else default_workdir(config, overrides)
    compilation_cache(experiment.data.cache_dir)
    workdir = open_workdir(workdir, config)
    display = Display()
    display.say(f"jaxfuse {experiment.name}: {len(jax.devices())} x {jax.devices()[0].device_kind}; workdir {workdir}")
    related = related_runs(workdir)
    with StopRequest() as stop:
        run = Run(experiment, workdir, display, stop)
        worked = run.execute()
        run.draw_rows(related)
    report = write_report(workdir, related=related)
    display.say(("Done" if worked else "This run was finished already; its report is written anew") + f": {report}")
    return 0


if __name__ == "__main__":
    define_flags()
    cli.run(main)
