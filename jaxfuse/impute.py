"""python -m jaxfuse.impute --synthesis RUN --segmentation RUN --input DIR --output DIR

Segments cases that lack modalities: these are synthesized from the others first.

Cases lie below DIR as in the data that the runs were trained on, and lack at most what the first run makes of what they
have; a case that lacks nothing is segmented as it is. For each case are written:

    OUTPUT/<case>.nii.gz    the label map, on the grid of the input
    OUTPUT/<case>.png       three planes with all modalities and the labels; synthesized modalities are marked
    OUTPUT/<case>/          where modalities were missing: the synthesized volumes, named as they would be in the input,
                            and a JSON file beside each with its origin

With --bids label maps and volumes bear the names of derivatives of BIDS, figures lie in OUTPUT/figures/.

OUTPUT/report.html and OUTPUT/cases.csv list, for each case, whether it rests on synthesized modalities and the volume
of each region in ml. The headers of such label maps say so, too.

Nothing is written among the cases, nor over a file that jaxfuse did not write, but with --overwrite. A case that cannot
be done is named and left out, in the report as well; the exit code is then 1, or 2 if none could be done. An image that
is 0 everywhere, in place of one that was not taken, is to be removed: it is taken for missing only where the second run
was trained with data.all_background=absent.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from jaxfuse import cli
from jaxfuse.io import outputs
from jaxfuse.prediction import conveyor, spacing


def define_flags() -> None:
    flags.DEFINE_string("synthesis", None, "The run that makes what cases lack: RUN, RUN:PHASE or RUN:PHASE@best.")
    flags.DEFINE_string("segmentation", None, "The run that labels: RUN, RUN:PHASE or RUN:PHASE@best.")
    flags.DEFINE_string("input", None, "Folder of cases that may lack modalities; labels are not needed.")
    flags.DEFINE_string("output", None, "Folder for label maps, figures and synthesized volumes; made if need be.")
    flags.DEFINE_bool(
        "bids", False, "Name label maps and synthesized volumes as derivatives of BIDS, as predict --bids."
    )
    flags.DEFINE_string(conveyor.DEVICES, "1", conveyor.DEVICES_HELP)
    flags.DEFINE_bool(spacing.ANY_SPACING, False, spacing.ANY_SPACING_HELP)
    flags.DEFINE_bool(outputs.OVERWRITE, False, outputs.OVERWRITE_HELP)
    for name in ("synthesis", "segmentation", "input", "output"):
        flags.mark_flag_as_required(name)


def main(argv: list[str]) -> int:
    from jaxfuse.engine.display import Display
    from jaxfuse.engine.run_folder.workdir import compilation_cache
    from jaxfuse.engine.trained.chosen_devices import chosen_devices
    from jaxfuse.engine.trained.missing_modality import impute
    from jaxfuse.engine.trained.phases import load

    cli.no_arguments(argv)
    asked, display = flags.FLAGS, Display()
    makers, segmenters = (load([run], any_spacing=asked.any_spacing) for run in (asked.synthesis, asked.segmentation))
    compilation_cache(segmenters[0].data.cache_dir)
    how = {"bids": asked.bids, "overwrite": asked.overwrite, "devices": chosen_devices(asked.devices)}
    report = impute(makers, segmenters, Path(asked.input), Path(asked.output), display, **how)
    display.say(f"Done: {report}")
    return 0


if __name__ == "__main__":
    define_flags()
    cli.run(main)
