"""python -m jaxfuse.predict --workdir RUN[:PHASE[@last|@best]] [RUN ...] --input DIR --output DIR

Labels every case below DIR with a trained run, or with the mean of the probabilities of several runs or phases.
Cases lie there as in the data that the run was trained on: folders of BraTS or of stroke, or subjects of iSeg.
Each label map is written as OUTPUT/<case>.nii.gz on the grid of the input (affine, shape, orientation, header),
with the data set's own label values. A run whose result is made of several phases is averaged without being told.
--weighting, --mirror: how tiles are put together. --save_probabilities, --save_entropy: maps of the class probabilities
as well, in folders of their own below OUTPUT.

A run that synthesizes a modality, or several of one task, makes that modality instead; cases need only its sources.
It writes OUTPUT/<case>_<target>.nii.gz, on the grid of the first source, and a JSON file beside it with its origin. The
real image's range is not known; values lie in the median range of the training volumes.

Nothing is written among the cases, nor over a file that jaxfuse did not write, but with --overwrite. A case that cannot
be done is named and left out; the exit code is then 1, or 2 if none could be done. --zip FILE also puts all label maps
into one flat zip file, for the portal of a challenge; it is written only where no case was left out. --bids names the
label maps of cases of BIDS as derivatives, sub-01/anat/sub-01_dseg.nii.gz, with a dataset_description.json and a table
of their values. --side test labels the cases that the run's split holds out. --postprocessing none leaves out what
`jaxfuse.postprocess` chose for the run.
--missing zero also labels cases that lack modalities, whose images are 0; the header of a label map says so.
--missing impute --synthesis RUN has that run make them first of those that a case has; the header says that, too.

Cases are read ahead and written behind the device's work. --devices all shares them among the devices of the machine.
With --shared any number of calls, on any machines, do the cases of one output folder together: each takes the next one,
and what a call that was killed leaves is done by the others.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from jaxfuse import cli
from jaxfuse.data import presence
from jaxfuse.engine.trained import shared_cases
from jaxfuse.errors import UserError
from jaxfuse.io import outputs
from jaxfuse.postprocessing import option
from jaxfuse.prediction import conveyor, spacing


def define_flags() -> None:
    flags.DEFINE_string(
        "workdir",
        None,
        "Run: RUN, RUN:PHASE or RUN:PHASE@best, RUN also as a pattern for several; further ones may follow it.",
    )
    flags.DEFINE_string(
        "input", None, "Folder of cases, of the kind that the run was trained on; labels are not needed."
    )
    flags.DEFINE_string("output", None, "Folder for the label maps or volumes; made if need be.")
    flags.DEFINE_float(
        "overlap", None, "Least share of a tile in common with its neighbor; that of the run if not given."
    )
    flags.DEFINE_integer(
        "memory_mb",
        None,
        "Networks of valid convolutions: most memory for a tile in MB, 0 for tiles of the training patch; that of the "
        "run if not given.",
        lower_bound=0,
    )
    _define_passes()
    _define_missing()
    flags.DEFINE_bool(
        "whole_slices", False, "Runs that synthesize: each slice in one pass, not in patches of the size of training."
    )
    flags.DEFINE_string(
        "zip", None, "Zip file to write, of all label maps under their names, as the portals of challenges take it."
    )
    flags.DEFINE_enum(
        "side", None, ["val", "test"], "Only the cases on this side of the split that the run was made by."
    )
    flags.DEFINE_bool(
        "bids",
        False,
        "Cases of BIDS: make OUTPUT a data set of derivatives, sub-01/anat/sub-01_dseg.nii.gz with what describes it.",
    )
    flags.DEFINE_string(conveyor.DEVICES, "1", conveyor.DEVICES_HELP)
    flags.DEFINE_integer(
        "space",
        1,
        "Of --devices, how many share each tile of a 3D network, a slab of it on each, for what does not fit one.",
        lower_bound=1,
    )
    flags.DEFINE_string(option.OPTION, option.AUTO, option.HELP)
    flags.DEFINE_bool(shared_cases.SHARED, False, shared_cases.SHARED_HELP)
    flags.DEFINE_bool(spacing.ANY_SPACING, False, spacing.ANY_SPACING_HELP)
    flags.DEFINE_bool(outputs.OVERWRITE, False, outputs.OVERWRITE_HELP)
    for name in ("workdir", "input", "output"):
        flags.mark_flag_as_required(name)


def _define_missing() -> None:
    """Defines what is done with cases that lack modalities."""
    flags.DEFINE_enum(
        presence.MISSING, presence.REFUSE, [presence.REFUSE, presence.ZERO, presence.IMPUTE], presence.MISSING_HELP
    )
    flags.DEFINE_string(
        "synthesis", None, "With --missing impute: the run that makes what cases lack, such as of Hi-Net."
    )


def _define_passes() -> None:
    """Defines how tiles are put together, and which maps are kept of it."""
    flags.DEFINE_enum(
        "weighting",
        None,
        ["equal", "gaussian"],
        "How the voxels of overlapping tiles count: gaussian trusts the middle of a tile more; that of the run if not "
        "given.",
    )
    flags.DEFINE_string(
        "mirror",
        None,
        "Axes along which tiles are mirrored as well, for the mean of all 2^n passes: none, all, or such as 0 or 0,1 "
        "(0: left and right, 1: front and back, 2: up and down); those of the run if not given.",
    )
    flags.DEFINE_bool(
        "save_probabilities",
        False,
        "Write class probabilities as OUTPUT/probabilities/<case>.nii.gz as well: float32, classes along the fourth "
        "axis.",
    )
    flags.DEFINE_bool(
        "save_entropy",
        False,
        "Write the entropy of the class probabilities, in nats, as OUTPUT/entropy/<case>.nii.gz as well.",
    )


def main(argv: list[str]) -> int:
    from jaxfuse.engine.display import Display
    from jaxfuse.engine.run_folder.workdir import compilation_cache
    from jaxfuse.engine.trained.carried_out import Call
    from jaxfuse.engine.trained.case_names import CaseNames
    from jaxfuse.engine.trained.chosen_devices import chosen_devices
    from jaxfuse.engine.trained.incomplete import Missing
    from jaxfuse.engine.trained.labeled_cases import label_cases
    from jaxfuse.engine.trained.passes import Passes
    from jaxfuse.engine.trained.phases import MODALITIES, load
    from jaxfuse.engine.trained.synthesizer import synthesize_cases
    from jaxfuse.prediction.probability_maps import MAPS

    asked = flags.FLAGS
    phases, root, output = (
        load([asked.workdir, *argv[1:]], any_spacing=asked.any_spacing),
        Path(asked.input),
        Path(asked.output),
    )
    compilation_cache(phases[0].data.cache_dir)
    call = Call(chosen_devices(asked.devices, asked.space), asked.side or "", asked.overwrite, asked.shared)
    passes = Passes(asked.whole_slices, asked.overlap, asked.memory_mb, asked.weighting, asked.mirror)
    maps = tuple(name for name in MAPS if asked[f"save_{name}"].value)
    if phases[0].makes in MODALITIES:
        _check_options_of_synthesis(maps)
        synthesize_cases(phases, root, output, Display(), passes, call)
    elif asked.whole_slices:
        raise UserError("--whole_slices is an option of runs that synthesize a modality, and these label; leave it out")
    else:
        archive = Path(asked.zip) if asked.zip else None
        given = {"archive": archive, "postprocessing": asked.postprocessing, "call": call}
        makers = load([asked.synthesis], any_spacing=asked.any_spacing) if asked.synthesis else ()
        given["missing"] = Missing(asked.missing, makers)
        label_cases(phases, root, output, Display(), passes=passes, named=CaseNames(maps, asked.bids), **given)
    return 0


def _check_options_of_synthesis(maps: tuple[str, ...]) -> None:
    """Refuses options that mean something for label maps alone."""
    asked = flags.FLAGS
    if asked.space > 1:
        raise UserError("--space is for networks that label volumes, and these runs synthesize; leave it out")
    if asked.zip:
        raise UserError("--zip holds label maps, and these runs synthesize a modality; leave it out")
    if asked.bids:
        raise UserError("--bids names label maps, and these runs synthesize a modality; leave it out")
    if asked.missing != presence.REFUSE or asked.synthesis:
        name = "synthesis" if asked.synthesis else presence.MISSING
        raise UserError(f"--{name} is for runs that label, and these synthesize a modality; leave it out")
    if asked[option.OPTION].present:
        raise UserError(f"--{option.OPTION} is for label maps, and these runs synthesize a modality; leave it out")
    if maps:
        raise UserError(f"--save_{maps[0]} is for networks that label, and these runs synthesize; leave it out")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
