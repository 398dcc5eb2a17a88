"""Fuses registered images of one subject into one image, by a trained fusion network.

    python -m jaxfuse.fuse --run RUN[:PHASE[@last|@best]] --output FILE --images A B [C [D]]
    python -m jaxfuse.fuse --run RUN[:PHASE[@last|@best]] --output DIR --pairs DIR

--images takes 2 to 4 files: PNG pictures, gray or RGB, or NIfTI volumes on one grid; the output is of the same kind.
--pairs takes a folder of the Harvard kind, MRI_CT, MRI_PET or MRI_SPECT or the folder around them, and writes one PNG
per pair. The images stand in the network's slots in the order given, whatever modality the run had there. All
modalities share one encoder, so that the network can fuse modalities that it was not trained on; how well, only a look
or an evaluation can tell.

RGB pictures are fused by their luminance, and get their color back. `--color PET=hot,SPECT=viridis` gives gray images
these matplotlib color maps first. Where two images have color, their hues mix, so that the result may lie in neither
map. Volumes are scaled between the 0.5 and the 99.5 percentile of what they show and fused slice by slice. What is
background in all images (`jaxfuse.data.brain`, or `--background`) is 0 in the fused one. A volume is written in the
geometry of the first one, with levels of 8 bits, gray or RGB24.

No image is replaced, nor any other file that jaxfuse did not write, but with --overwrite. A pair that cannot be fused
is named and left out; the exit code is then 1, or 2 if none could be fused.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from jaxfuse import cli
from jaxfuse.data.slices import AXES
from jaxfuse.errors import UserError
from jaxfuse.io import outputs
from jaxfuse.prediction import conveyor, spacing

# Options of --images alone; None where they are not given.
_OF_IMAGES = ("color", "axis", "preview", "background")


def define_flags() -> None:
    """Defines the options of the command, not on import, so that commands can be imported side by side."""
    flags.DEFINE_string("run", None, "The run that fuses: RUN, RUN:PHASE or RUN:PHASE@best.")
    flags.DEFINE_string("output", None, "File for the fused image, or with --pairs the folder for all.")
    flags.DEFINE_string("images", None, "The first image; the others follow it.")
    flags.DEFINE_string("pairs", None, "Folder of pairs, such as MRI_PET with the folders MRI and PET.")
    flags.DEFINE_list(
        "color",
        None,
        "Color maps of gray images: NUMBER=MAP or NAME=MAP, where NAME is a file's or the last part of it.",
    )
    flags.DEFINE_enum("axis", None, list(AXES), "Which slices of volumes are fused; axial if not given.")
    flags.DEFINE_string("preview", None, "PNG file for a figure of all images and the fused one side by side.")
    flags.DEFINE_string(
        "background", None, "The stored value around the head: auto (if not given), none, a number, or NAME=NUMBER,..."
    )
    flags.DEFINE_bool(
        "by_network",
        False,
        "Write the image of the network itself, of runs whose scheme settles another one (row=pixel of Fuse4Seg).",
    )
    flags.DEFINE_string(conveyor.DEVICES, None, f"With --pairs: {conveyor.DEVICES_HELP} One if not given.")
    flags.DEFINE_bool(outputs.OVERWRITE, False, outputs.OVERWRITE_HELP)
    flags.DEFINE_bool(spacing.ANY_SPACING, False, spacing.ANY_SPACING_HELP)
    for name in ("run", "output"):
        flags.mark_flag_as_required(name)


def main(argv: list[str]) -> int:
    asked = flags.FLAGS
    if (asked.images is None) == (asked.pairs is None):
        raise UserError("give either --images A B, of one subject, or --pairs DIR, for a folder of pairs")
    if asked.pairs is not None:
        cli.no_arguments(argv)
        for name in _OF_IMAGES:
            if getattr(asked, name) is not None:
                raise UserError(f"--{name} is an option of --images, not of --pairs; leave it out")
    if asked.devices is not None and asked.pairs is None:
        raise UserError("--devices shares the pairs of a folder, and --images names one subject; leave it out")
    if asked.any_spacing and (asked.pairs is not None or asked.images.endswith(".png")):
        raise UserError("--any_spacing is an option of volumes, and pictures have no voxel size; leave it out")

    from jaxfuse.engine.display import Display
    from jaxfuse.engine.run_folder.workdir import compilation_cache
    from jaxfuse.engine.trained.chosen_devices import chosen_devices
    from jaxfuse.engine.trained.fused_files import fuse_images, fuse_pairs
    from jaxfuse.engine.trained.slice_fuser import load_fuser

    phase, output = load_fuser(asked.run, any_spacing=asked.any_spacing), Path(asked.output)
    compilation_cache(phase.data.cache_dir)
    how = {"by_network": asked.by_network, "overwrite": asked.overwrite}
    if asked.pairs is not None:
        devices = chosen_devices(asked.devices or "1")
        fuse_pairs(phase, Path(asked.pairs), output, Display(), devices=devices, **how)
        return 0
    paths, preview = [Path(path) for path in (asked.images, *argv[1:])], asked.preview and Path(asked.preview)
    how |= {"color": asked.color or (), "axis": asked.axis, "preview": preview}
    fuse_images(phase, paths, output, Display(), background=asked.background or "auto", **how)
    return 0


if __name__ == "__main__":
    define_flags()
    cli.run(main)
