"""Fuses registered images of one subject into one image, by a trained fusion network.

    python -m jaxfuse.fuse --run RUN[:PHASE[@last|@best]] --output FILE --images A B [C [D]]
    python -m jaxfuse.fuse --run RUN[:PHASE[@last|@best]] --output DIR --pairs DIR

--images takes 2 to 4 files: PNG pictures, gray or RGB, or NIfTI volumes on one grid; the output is of the same kind.
--pairs takes a folder of the Harvard kind, MRI_CT, MRI_PET or MRI_SPECT or the folder around them, and writes one PNG
per pair. The images stand in the network's slots in the order given, whatever modality the run had there: its encoder
is one for all modalities, so that it can fuse modalities that it was not trained on; whether it does so well, only a
look or an evaluation can tell.

Of RGB pictures the luminance is fused, and their color put back onto the result. `--color PET=hot,SPECT=viridis` does
so with gray images, which are shown in these matplotlib color maps first; where two images have color, their hues mix,
so that what comes out may lie in neither map. Volumes are scaled between the 0.5 and the
99.5 percentile of their own non-zero voxels and fused slice by slice; what no volume shows stays 0. A volume is
written in the geometry of the first one, with levels of 8 bits, gray or RGB24.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from jaxfuse import cli
from jaxfuse.errors import UserError

_AXES = ("sagittal", "coronal", "axial")  # by the array axis of a canonical volume that is cut
_PAIRS_AT_ONCE = 16
# Options that only --images has; None where they are not given.
_OF_IMAGES = ("color", "axis", "preview")


def define_flags() -> None:
    """The options of the command; not defined on import, so that commands can be imported side by side."""
    flags.DEFINE_string("run", None, "The run that fuses: RUN, RUN:PHASE or RUN:PHASE@best.")
    flags.DEFINE_string("output", None, "File for the fused image, or with --pairs the folder for all.")
    flags.DEFINE_string("images", None, "The first image; the others follow it.")
    flags.DEFINE_string("pairs", None, "Folder of pairs, such as MRI_PET with the folders MRI and PET.")
    flags.DEFINE_list(
        "color",
        None,
        "Color maps of gray images: NUMBER=MAP or NAME=MAP, where NAME is a file's or the last part of it.",
    )
    flags.DEFINE_enum("axis", None, list(_AXES), "Which slices of volumes are fused; axial if not given.")
    flags.DEFINE_string("preview", None, "PNG file for a figure of all images and the fused one side by side.")
    for name in ("run", "output"):
        flags.mark_flag_as_required(name)


def main(argv: list[str]) -> int:
    options = flags.FLAGS
    if (options.images is None) == (options.pairs is None):
        raise UserError("give either --images A B, of one subject, or --pairs DIR, for a folder of pairs")
    if options.pairs is not None:
        cli.no_arguments(argv)
        for name in _OF_IMAGES:
            if getattr(options, name) is not None:
                raise UserError(f"--{name} is an option of --images, not of --pairs; leave it out")
        return _fuse_pairs(options.run, Path(options.pairs), options.output)
    return _fuse_images(options, [Path(path) for path in (options.images, *argv[1:])])


def _fuse_images(options: Any, paths: Sequence[Path]) -> int:
    from jaxfuse.data import registered
    from jaxfuse.engine.display import Display
    from jaxfuse.io.nifti import write_like, write_rgb_like
    from jaxfuse.io.png import write_png

    kind, output = registered.kind_of(paths), Path(options.output)
    _check_outputs(paths, kind, output, options.preview)
    volumes = kind == registered.NIFTI
    if options.axis is not None and not volumes:
        raise UserError("--axis says which slices of volumes are fused, and these are pictures; leave it out")
    maps = registered.chosen_maps(options.color or (), registered.names_of(paths))
    fuse, name, slots = _load(options.run, len(paths))
    images = (registered.read_volumes if volumes else registered.read_pictures)(paths, maps)
    display = Display()
    display.say(f"{name} fuses {', '.join(images.names)} in its slots {', '.join(slots)}")
    started = time.perf_counter()
    if volumes:
        fused = registered.fuse_volume(fuse, images, _AXES.index(options.axis or "axial"))
    else:
        fused = registered.fuse_picture(fuse, images)
    levels = registered.in_levels(fused, list(images.color.values()))
    seconds = time.perf_counter() - started
    if not volumes:
        write_png(output, levels)
    elif images.color:
        write_rgb_like(output, levels, paths[0])
    else:
        write_like(output, levels, paths[0])
    size = " x ".join(map(str, fused.shape))
    display.say(f"{output}: {'RGB' if images.color else 'gray'}, {size}, fused in {seconds:.1f} s")
    if options.preview is not None:
        _preview(Path(options.preview), images, levels, name)
        display.say(f"preview: {options.preview}")
    return 0


def _check_outputs(paths: Sequence[Path], kind: tuple[str, ...], output: Path, preview: str | None) -> None:
    """Before anything is computed: names that say the kind of file and are no image's, in folders that take files."""
    from jaxfuse.io.folders import writable_folder

    if not output.name.endswith(kind):
        raise UserError(f"--output {output} does not end in {' or '.join(kind)}, as the images do; name it so")
    written = [("--output", output)]
    if preview is not None:
        if not preview.endswith(".png"):
            raise UserError(f"--preview {preview} does not end in .png; name it so")
        written.append(("--preview", Path(preview)))
    taken = {path.resolve() for path in paths}
    for option, path in written:
        if path.resolve() in taken:
            raise UserError(f"{option} {path} would replace another file of this call; name another")
        taken.add(path.resolve())
        writable_folder(path.parent, option)


def _load(run: str, count: int) -> tuple[Callable[[Any], Any], str, tuple[str, ...]]:
    """A function from pictures (n h w count) to fused ones (n h w), whose it is, and the slots that they take."""
    import numpy as np

    from jaxfuse.engine.run_folder.workdir import compilation_cache
    from jaxfuse.engine.trained.phases import load_members
    from jaxfuse.engine.trained.slice_fuser import FUSED, slice_fuser

    members = load_members([run])
    if len(members) > 1:
        raise UserError(f"{run} has the results {', '.join(m.name for m in members)}; name one of them as RUN:PHASE")
    (member,) = members
    slots = len(member.data.modalities)
    if count > slots:
        raise UserError(
            f"{count} images came, and {member.name} has {slots} slots ({', '.join(member.data.modalities)}); give at "
            f"most {slots} images, or a run on more modalities"
        )
    compilation_cache(member.data.cache_dir)
    fuser = slice_fuser(member)

    def fuse(pictures: Any) -> Any:
        filled = np.zeros((*pictures.shape[:-1], slots), np.float32)
        filled[..., :count] = pictures
        return fuser(filled, np.arange(slots) < count)[FUSED][..., 0]

    return fuse, member.name, tuple(member.data.modalities[:count])


def _preview(path: Path, images: Any, levels: Any, name: str) -> None:
    from jaxfuse.data.slices import gray_levels
    from jaxfuse.report.fusion import fusion_panel

    sources = [gray_levels(images.color.get(i, images.gray[..., i])) for i in range(len(images.names))]
    fusion_panel(
        path,
        images=[*sources, levels],
        headers=[*images.names, "fused"],
        shown=images.shown,
        title=f"fused by {name}",
        spacing_mm=images.spacing_mm,
    )


def _fuse_pairs(run: str, root: Path, output: str) -> int:
    from jaxfuse.data.sources.pairs2d import find_pairs
    from jaxfuse.engine.display import Display
    from jaxfuse.io.folders import writable_folder

    collections = _collections(root)
    found = {name: find_pairs(root, modalities) for name, modalities in collections.items()}
    folder = writable_folder(output, "--output")
    fuse, member, slots = _load(run, 2)
    display = Display()
    for name, files in found.items():
        # A collection that was named itself needs no folder of its own.
        into = folder if root.name == name else folder / name
        display.say(f"{member} fuses {len(files)} pairs of {name} in its slots {', '.join(slots)}")
        for done in _each_fused(fuse, files, collections[name], into):
            display.report(f"fused into {into}", done, len(files))
    return 0


def _collections(root: Path) -> dict[str, tuple[str, str]]:
    """The modalities of each collection that `root` is or holds, by the name of its folder."""
    from jaxfuse.data.sources.pairs2d import PARTNERS

    known = {f"MRI_{partner.upper()}": ("mri", partner) for partner in PARTNERS}
    if root.name in known:
        return {root.name: known[root.name]}
    held = {name: modalities for name, modalities in known.items() if (root / name).is_dir()}
    if not held:
        raise UserError(f"{root} is and holds none of the folders {', '.join(known)}; check the path of --pairs")
    return held


def _each_fused(
    fuse: Callable[[Any], Any], files: Sequence[Any], modalities: tuple[str, str], folder: Path
) -> Iterator[int]:
    """Fuses and writes all pairs, neighbors of one size at once; yields how many are done."""
    import numpy as np

    from jaxfuse.data.registered import in_levels
    from jaxfuse.data.sources.pairs2d import load_pair
    from jaxfuse.io.png import write_png

    done = 0
    for start in range(0, len(files), _PAIRS_AT_ONCE):
        chunk = files[start : start + _PAIRS_AT_ONCE]
        pairs = [(one.id, load_pair(one, modalities)) for one in chunk]
        for _, alike in itertools.groupby(pairs, key=lambda named: named[1].gray["mri"].shape):
            group = list(alike)
            stack = np.stack([np.stack([pair.gray[m] for m in modalities], axis=-1) for _, pair in group])
            fused = np.clip(fuse(np.clip(stack, 0, 1)), 0, 1)
            for (name, pair), picture in zip(group, fused, strict=True):
                write_png(folder / f"{name}.png", in_levels(picture, list(pair.color.values())))
            done += len(group)
            yield done


if __name__ == "__main__":
    define_flags()
    cli.run(main)
