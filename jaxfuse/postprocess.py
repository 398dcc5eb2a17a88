"""python -m jaxfuse.postprocess --workdir RUN[:PHASE[@last|@best]] [RUN ...]

Chooses a post-processing of label maps for a trained run, on the cases that validate it, and stores it with the run.

The validation cases are labeled as `jaxfuse.predict` labels. First the probability of each class in turn is weighed by
factors, which moves its threshold. Then steps are tried one after the other: for each region small parts are removed,
or all but the largest, and holes are filled; at the end regions that are too small in all become what is around them. A
factor or step is taken where the mean Dice rises and that of no region falls. What was taken, what it was chosen on and
all that was tried stand in RUN/postprocessing.json; `jaxfuse.predict` applies it from then on.

Several runs that validate on the same cases are averaged, as `jaxfuse.predict` averages them. Runs of different folds
label each its own cases; the choice is made on all of them, and stored with each. Cases that are held out (the side
`test`) are never opened. Scores of cases on which a plan was chosen say too much for it: report those of others.
"""

from __future__ import annotations

from absl import flags

from jaxfuse import cli
from jaxfuse.prediction import conveyor


def define_flags() -> None:
    flags.DEFINE_string(
        "workdir",
        None,
        "Run: RUN, RUN:PHASE or RUN:PHASE@best, RUN also as a pattern for several; further ones may follow it.",
    )
    flags.DEFINE_string(conveyor.DEVICES, "1", conveyor.DEVICES_HELP)
    flags.mark_flag_as_required("workdir")


def main(argv: list[str]) -> int:
    from jaxfuse.engine.display import Display
    from jaxfuse.engine.run_folder.workdir import compilation_cache
    from jaxfuse.engine.trained.chosen_devices import chosen_devices
    from jaxfuse.engine.trained.chosen_plan import choose_postprocessing
    from jaxfuse.engine.trained.phases import load

    asked = flags.FLAGS
    # Validation cases are the run's own, whatever their voxels.
    phases = load([asked.workdir, *argv[1:]], any_spacing=True)
    compilation_cache(phases[0].data.cache_dir)
    choose_postprocessing(phases, Display(), chosen_devices(asked.devices))
    return 0


if __name__ == "__main__":
    define_flags()
    cli.run(main)
