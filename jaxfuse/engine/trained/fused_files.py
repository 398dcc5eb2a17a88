"""Registered images in files, fused by a trained network into files: one subject, or a folder of pairs."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float, UInt8

from jaxfuse.case_by_case import CaseByCase
from jaxfuse.data import registered
from jaxfuse.data.brain import AUTO, background_rule
from jaxfuse.data.cases import CaseFiles
from jaxfuse.data.color import seen_in_color
from jaxfuse.data.registered import Registered
from jaxfuse.data.slices import AXES, gray_levels
from jaxfuse.data.sources.pairs2d import PARTNERS, Pair, collection_names, files_of, holds_all, load_pair, survey
from jaxfuse.engine.display import Display
from jaxfuse.engine.trained.phases import TrainedPhase
from jaxfuse.engine.trained.slice_fuser import FuseSlices, slice_fuser, untrained_count
from jaxfuse.errors import UserError
from jaxfuse.io.nifti import write_like, write_rgb_like
from jaxfuse.io.outputs import Outputs, open_outputs
from jaxfuse.io.png import write_png
from jaxfuse.learning.system import FUSED, FUSED_BY_NETWORK
from jaxfuse.prediction.conveyor import Work, conveyed
from jaxfuse.prediction.given_cases import reads_of
from jaxfuse.report.fusion import fusion_panel

Made = TypeVar("Made")
Levels = UInt8[np.ndarray, "*space_and_rgb"]
# By pair what came of it, or the error that refuses it.
Tried = Mapping[str, Made | UserError]

_PAIRS_AT_ONCE = 16
_UNTOLD = "no background can be told, and all voxels count as shown; state it by --background, or none"
_TAKEN_FOR_GRAY = "stored in color, with channels that differ by a few levels; taken for gray"


@dataclass(frozen=True)
class ImageFuser:
    """The fusion of images in the first slots of a network, whatever modalities these had in training.

    Attributes:
        name: name of the phase.
        slots: the modalities of the slots that are filled.
        width: how many slots the network has.
        output: which of the network's outputs is the image.
    """

    name: str
    slots: tuple[str, ...]
    width: int
    fuse_slices: FuseSlices
    output: str

    def __call__(
        self, pictures: Float[np.ndarray, "n h w count"], shown: Bool[np.ndarray, "n h w"]
    ) -> Float[np.ndarray, "n h w *rgb"]:
        """Fuses stacks of pictures in [0, 1], into color where the network does; 0 where nothing is shown."""
        count = len(self.slots)
        filled = np.zeros((*pictures.shape[:-1], self.width), np.float32)
        filled[..., :count] = pictures
        made = self.fuse_slices(filled, np.arange(self.width) < count, shown)[self.output]
        return seen_in_color(made) if self.colors else made[..., 0]

    @property
    def colors(self) -> bool:
        """Whether the network makes images in color, of its own."""
        return self.fuse_slices.channels > 1

    def levels(self, fused: Float[np.ndarray, "*space"], color: Mapping[Any, np.ndarray]) -> Levels:
        """Returns what was fused in levels of 8 bits: in the network's colors, or in those of these images."""
        return gray_levels(fused) if self.colors else registered.in_levels(fused, list(color.values()))

    def check_gray(self, color: Sequence[str]) -> None:
        """Refuses images in color, by their names, where the network makes colors of its own."""
        if color and self.colors:
            raise UserError(
                f"{self.name} fuses into colors of its own, and {', '.join(color)} came in color; give gray images "
                "without --color, or a run that fuses to gray"
            )


def image_fuser(
    phase: TrainedPhase, count: int, *, by_network: bool = False, devices: Sequence[Any] = ()
) -> ImageFuser:
    """Returns the fusion of `count` images; refuses more than the network has slots.

    Args:
        by_network: into the image of the network, where the run's scheme settles another one.
        devices: as of `slice_fuser`.
    """
    slots = phase.preparation.channels
    if count > len(slots):
        raise UserError(
            f"{count} images came, and {phase.name} has {len(slots)} slots ({', '.join(slots)}); give at "
            f"most {len(slots)} images, or a run on more modalities"
        )
    output = FUSED_BY_NETWORK if by_network else FUSED
    fuse_slices = slice_fuser(phase, outputs=(output,), devices=devices)
    return ImageFuser(phase.name, slots[:count], len(slots), fuse_slices, output)


def fuse_images(
    phase: TrainedPhase,
    paths: Sequence[Path],
    output: Path,
    display: Display,
    *,
    color: Sequence[str] = (),
    axis: str | None = None,
    preview: Path | None = None,
    background: str = AUTO,
    by_network: bool = False,
    overwrite: bool = False,
) -> None:
    """Fuses images of one subject, in this order, into the file `output`.

    Args:
        paths: 2 to 4 PNG pictures, or as many NIfTI volumes on one grid; `output` is of their kind.
        color: IMAGE=MAP, the color maps of gray images (`jaxfuse.data.registered.chosen_maps`).
        axis: which slices of volumes are fused: "axial" (if None), "coronal" or "sagittal".
        preview: a PNG file for a figure of all images and the fused one.
        background: as of `jaxfuse.data.brain.BackgroundRule`, by the names of the images.
        by_network: as in `image_fuser`.
        overwrite: replace files that are not our own.
    """
    files = _open_files(paths, registered.kind_of(paths), output, preview, overwrite=overwrite)
    fuser = image_fuser(phase, len(paths), by_network=by_network)
    given = given_images(phase, paths, color=color, axis=axis, background=background)
    display.say(f"{fuser.name} fuses {', '.join(given.images.names)} in its slots {', '.join(fuser.slots)}")
    for sentence in given.remarks(phase):
        display.say(sentence)
    started = time.perf_counter()
    levels = given.fused(fuser)
    seconds = time.perf_counter() - started
    with files[output].together() as folder:
        given.write(folder / output.name, levels)
    size, kind = " x ".join(map(str, given.images.shown.shape)), "RGB" if fuser.colors or given.images.color else "gray"
    display.say(f"{output}: {kind}, {size}, fused in {seconds:.1f} s")
    if preview is not None:
        with files[preview].together() as folder:
            given.draw(folder / preview.name, levels, fuser.name)
        display.say(f"preview: {preview}")


@dataclass(frozen=True)
class GivenImages:
    """Registered images of one subject, read from files.

    Attributes:
        axis: the array axis across which slices of volumes are fused; None for pictures.
    """

    paths: Sequence[Path]
    images: Registered
    axis: int | None

    def remarks(self, phase: TrainedPhase) -> list[str]:
        """Says what was taken for granted, and what the network was not trained for."""
        found = [f"{', '.join(self.images.nearly_gray)}: {_TAKEN_FOR_GRAY}"] if self.images.nearly_gray else []
        found += [f"Warning: {', '.join(self.images.untold)}: {_UNTOLD}"] if self.images.untold else []
        return [*found, *filter(None, [untrained_count(phase, len(self.paths))])]

    def fused(self, fuser: ImageFuser) -> Levels:
        """Returns the fused image in levels of 8 bits, on the canonical axes, in color where one has color."""
        fuser.check_gray([self.images.names[place] for place in self.images.color])
        if self.axis is None:
            fused = registered.fuse_picture(fuser, self.images)
        else:
            fused = registered.fuse_volume(fuser, self.images, self.axis)
        return fuser.levels(fused, self.images.color)

    def write(self, path: Path, levels: Levels) -> None:
        """Writes a fused image in the geometry of the first one."""
        if self.axis is None:
            write_png(path, levels)
        else:
            (write_like if levels.ndim == self.images.shown.ndim else write_rgb_like)(path, levels, self.paths[0])

    def draw(self, path: Path, levels: Levels, name: str) -> None:
        """Draws all images and the fused one side by side; `name` is that of the network."""
        images = self.images
        sources = [gray_levels(images.color.get(i, images.gray[..., i])) for i in range(len(images.names))]
        fusion_panel(
            path,
            images=[*sources, levels],
            headers=[*images.names, "fused"],
            shown=images.shown,
            title=f"fused by {name}",
            spacing_mm=images.spacing_mm,
        )


def given_images(
    phase: TrainedPhase, paths: Sequence[Path], *, color: Sequence[str], axis: str | None, background: str
) -> GivenImages:
    """Reads images of one subject; the arguments are those of `fuse_images`.

    Raises:
        UserError: they cannot be read, lie on several grids, or are volumes of other voxels than those of the training.
    """
    volumes, names = registered.kind_of(paths) == registered.NIFTI, registered.names_of(paths)
    if axis is not None and not volumes:
        raise UserError("--axis says which slices of volumes are fused, and these are pictures; leave it out")
    if axis is not None and axis not in AXES:
        raise UserError(f"--axis is {axis!r}; choose {', '.join(AXES)}")
    maps, rule = registered.chosen_maps(color, names), background_rule(background, names)
    if not volumes:
        return GivenImages(paths, registered.read_pictures(paths, maps, rule), None)
    images, across = registered.read_volumes(paths, maps, rule), AXES[axis or "axial"]
    phase.preparation.check_shown(paths[0].name, images.spacing_mm, images.shown.shape, across)
    return GivenImages(paths, images, across)


def open_fused(paths: Sequence[Path], output: Path, *, overwrite: bool) -> Outputs:
    """Returns the place of the file of a fused image; refuses names that do not say its kind, and taken ones."""
    return _open_files(paths, registered.kind_of(paths), output, None, overwrite=overwrite)[output]


def _open_files(
    paths: Sequence[Path], kind: tuple[str, ...], output: Path, preview: Path | None, *, overwrite: bool
) -> dict[Path, Outputs]:
    """Returns the places of the files that are written; refuses names that do not say their kind, and taken ones."""
    if not output.name.endswith(kind):
        raise UserError(f"--output {output} does not end in {' or '.join(kind)}, as the images do; name it so")
    written = {output: "--output"}
    if preview is not None:
        if not preview.name.endswith(".png"):
            raise UserError(f"--preview {preview} does not end in .png; name it so")
        if preview.resolve() == output.resolve():
            raise UserError(f"--preview {preview} would replace --output, the fused image; name another")
        written[preview] = "--preview"
    reads = [("--images", path) for path in paths]
    return {
        path: open_outputs(path.parent, option, reads=reads, names=[path.name], overwrite=overwrite)
        for path, option in written.items()
    }


def fuse_pairs(
    phase: TrainedPhase,
    root: Path,
    output: Path,
    display: Display,
    *,
    by_network: bool = False,
    overwrite: bool = False,
    devices: Sequence[Any] = (),
) -> None:
    """Fuses every pair of the Harvard kind below `root` into a PNG file below `output`; else as `fuse_images`.

    Args:
        devices: they share the pairs; none: the first one fuses them all.

    Raises:
        UserError: nothing can be done, or an output is not to be written (`jaxfuse.io.outputs`).
        CasesLeftOut: some pairs cannot be fused; the others are.
    """
    collections = pair_collections(root, phase)
    found = {
        # A collection that was named itself needs no folder of its own.
        name: {one.id if root.name == name else f"{name}/{one.id}": one for one in survey(root, modalities)}
        for name, modalities in collections.items()
    }
    batch = CaseByCase([pair for pairs in found.values() for pair in pairs], display.say)
    files = {name: batch.sound(pairs, files_of) for name, pairs in found.items()}
    reads = reads_of(root, (one for pairs in files.values() for one in pairs.values()), "--pairs")
    names = [f"{pair}.png" for pairs in files.values() for pair in pairs]
    outputs = open_outputs(output, "--output", reads=reads, names=names, overwrite=overwrite)
    count, at_once = len(next(iter(collections.values()))), _PAIRS_AT_ONCE * len(devices or "1")
    fuser = image_fuser(phase, count, by_network=by_network, devices=devices)
    for name, pairs in files.items():
        display.say(f"{fuser.name} fuses {len(pairs)} pairs of {name} in its slots {', '.join(fuser.slots)}")
        nearly, gone, named = list[Path](), 0, list(pairs.items())
        chunks = (dict(named[start : start + at_once]) for start in range(0, len(named), at_once))
        # One token for all devices: the fuser gives each its part of a chunk.
        with closing(conveyed(chunks, _work(fuser, collections[name], outputs), ("",))) as belt:
            for chunk, result in belt:
                for pair, tried in result().items():
                    with batch.case(pair):
                        nearly += _found(tried)
                gone += len(chunk)
                display.report(f"fused into {output}", gone, len(pairs))
        if nearly:
            display.say(f"{len(nearly)} images of {name}, the first {nearly[0]}: {_TAKEN_FOR_GRAY}")
    batch.end()


def pair_collections(root: Path, phase: TrainedPhase) -> dict[str, tuple[str, ...]]:
    """Returns the modalities of each collection that `root` is or holds, by the name of its folder.

    A folder of any other name that holds a folder for each modality of the run is such a collection, too.
    """
    both: list[tuple[str, ...]] = [*(("mri", partner) for partner in PARTNERS), ("vis", "ir")]
    known = {name: modalities for modalities in both for name in collection_names(modalities)}
    if root.name in known:
        return {root.name: known[root.name]}
    if held := {name: modalities for name, modalities in known.items() if (root / name).is_dir()}:
        return held
    own = phase.data.modalities
    if not holds_all(root, own):
        raise UserError(
            f"{root} is and holds none of the folders {', '.join(known)}, nor those of {' and '.join(own)}; check the "
            "path of --pairs"
        )
    return {root.name: own}


def _work(
    fuser: ImageFuser, modalities: tuple[str, ...], outputs: Outputs
) -> Work[Mapping[str, CaseFiles], Tried[Pair], Tried[tuple[Pair, np.ndarray]], Tried[Sequence[Path]]]:
    """Returns the stages of some pairs at once; of each that is refused the error goes on in its place."""

    def read(chunk: Mapping[str, CaseFiles]) -> Tried[Pair]:
        return {name: _tried(lambda one: load_pair(one, modalities), files) for name, files in chunk.items()}

    def fuse(pairs: Tried[Pair], _: object) -> Tried[tuple[Pair, np.ndarray]]:
        """Fuses neighbors of one size together."""
        fused: Tried[tuple[Pair, np.ndarray]] = {name: one for name, one in pairs.items() if isinstance(one, UserError)}
        sound = [(name, one) for name, one in pairs.items() if isinstance(one, Pair)]
        for _, alike in itertools.groupby(sound, key=lambda named: named[1].shown.shape):
            group = list(alike)
            stack = np.stack([np.stack([pair.gray[m] for m in modalities], axis=-1) for _, pair in group])
            made = np.clip(fuser(np.clip(stack, 0, 1), np.stack([pair.shown for _, pair in group])), 0, 1)
            fused |= {name: (pair, picture) for (name, pair), picture in zip(group, made, strict=True)}
        return {name: fused[name] for name in pairs}

    def write(_: object, fused: Tried[tuple[Pair, np.ndarray]]) -> Tried[Sequence[Path]]:
        def written(name: str, pair: Pair, picture: np.ndarray) -> Sequence[Path]:
            fuser.check_gray(list(pair.color))
            with outputs.together() as folder:
                write_png(folder / f"{name}.png", fuser.levels(picture, pair.color))
            return pair.nearly_gray

        return {
            name: one if isinstance(one, UserError) else _tried(partial(written, name), *one)
            for name, one in fused.items()
        }

    return Work(read, fuse, write)


def _tried(make: Callable[..., Made], *given: Any) -> Made | UserError:
    """Returns what is made, or the error that refuses it."""
    try:
        return make(*given)
    except UserError as error:
        return error


def _found(tried: Made | UserError) -> Made:
    if isinstance(tried, UserError):
        raise tried
    return tried
