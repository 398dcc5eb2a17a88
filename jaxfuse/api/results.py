"""Predictions of one case, on the grid of what was given: a label map, a synthesized modality, or a fused image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from jaxtyping import Float, UInt8

from jaxfuse.api.sentences import told_in_python
from jaxfuse.data.cases import CaseFiles, HeldImage, Image
from jaxfuse.engine.trained.fused_files import GivenImages, Levels, open_fused
from jaxfuse.engine.trained.phases import TrainedPhase
from jaxfuse.errors import UserError
from jaxfuse.io.nifti import Volume, as_stored, read_volume
from jaxfuse.io.outputs import open_outputs
from jaxfuse.labels import LabelScheme
from jaxfuse.prediction.labeler import write_label_values
from jaxfuse.prediction.maker import Task, origin_file, write_synthesized
from jaxfuse.prediction.probability_maps import ENTROPY, PROBABILITIES, entropy_nats, write_maps
from jaxfuse.report.embedded import data_uri
from jaxfuse.report.notebook import table, three_planes

NIFTI = (".nii", ".nii.gz")


@dataclass(frozen=True)
class Place:
    """The grid of a case, as its first image is stored, and the files that nothing is to replace.

    Attributes:
        modality: that of the image.
        reference: the image without its voxels.
    """

    modality: str
    image: Image
    reference: Volume
    reads: Sequence[Path]

    @classmethod
    def of(cls, image: Image, files: CaseFiles) -> Place:
        """Reads the grid of an image of a case."""
        found = image.read(as_it_lies=True)
        nothing = np.broadcast_to(np.zeros((), found.array.dtype), found.array.shape)
        modality = next(name for name, one in files.images.items() if one is image)
        paths = [one.path for one in files.images.values() if not isinstance(one, HeldImage)]
        return cls(modality, image, replace(found, array=nothing), paths)

    @contextmanager
    def opened(self, path: Path, names: Sequence[str], *, overwrite: bool) -> Iterator[Path]:
        """Gives a folder for files that appear beside each other in that of `path`, all or none.

        Raises:
            UserError: the name ends otherwise than a volume's, or a file is read or somebody else's.
        """
        if not path.name.endswith(NIFTI):
            raise UserError(f"{path} does not end in .nii or .nii.gz; name the output so")
        reads = [("the image", one) for one in self.reads]
        with told_in_python():
            outputs = open_outputs(path.parent, "path", reads=reads, names=names, overwrite=overwrite)
            with outputs.together() as folder:
                yield folder


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The label map of one case.

    Attributes:
        case: its name.
        scheme: the meaning of the values: `scheme.classes` are named, `scheme.decode` has the value of each.
        volumes_ml: the volume of each region.
        lacks: modalities that the case was given without.
        note: what the header of a saved file says of it; None where there is nothing to say.
    """

    case: str
    scheme: LabelScheme
    volumes_ml: Mapping[str, float]
    lacks: tuple[str, ...]
    note: str | None
    _place: Place = field(repr=False)
    _values: UInt8[np.ndarray, "d h w"] = field(repr=False)
    _again: Callable[[], Float[np.ndarray, "d h w k"]] = field(repr=False)

    @property
    def file_name(self) -> str:
        """The name that the command gives its file."""
        return f"{self.case}.nii.gz"

    @cached_property
    def labels(self) -> UInt8[np.ndarray, "_ _ _"]:
        """Label values, those of the data set's files, on the axes of the first image as it is stored."""
        return as_stored(self._values, self._place.reference)

    @property
    def affine(self) -> Float[np.ndarray, "4 4"]:
        """Voxel to world in mm, of these axes."""
        return self._place.reference.stored_affine

    @cached_property
    def probabilities(self) -> Float[np.ndarray, "_ _ _ k"]:
        """Class probabilities on the same axes, float32, in the order of `scheme.classes`.

        Unless they were asked for in `predict`, the networks work on the case once more.
        """
        return as_stored(self._canonical, self._place.reference)

    @cached_property
    def entropy(self) -> Float[np.ndarray, "_ _ _"]:
        """The entropy of the class probabilities in nats."""
        return entropy_nats(self.probabilities)

    @cached_property
    def _canonical(self) -> Float[np.ndarray, "d h w k"]:
        return self._again()

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Writes the label map as the command does, byte for byte, and returns its path.

        Args:
            path: the file, .nii or .nii.gz.
            overwrite: replace a file there that jaxfuse did not write.

        Raises:
            UserError: the name ends otherwise, or there is such a file, or it is one that was read.
        """
        path = Path(path)
        with self._place.opened(path, [path.name], overwrite=overwrite) as folder:
            place = self._place
            write_label_values(folder / path.name, self._values, place.reference, place.image.channel, self.note)
        return path

    def save_probabilities(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Writes the class probabilities, classes along the fourth axis; else as `save`."""
        return self._save_map(PROBABILITIES, Path(path), overwrite=overwrite)

    def save_entropy(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Writes the entropy of the class probabilities; else as `save`."""
        return self._save_map(ENTROPY, Path(path), overwrite=overwrite)

    def _save_map(self, name: str, path: Path, *, overwrite: bool) -> Path:
        with self._place.opened(path, [path.name], overwrite=overwrite) as folder:
            write_maps({name: folder / path.name}, self._canonical, like=self._place.image)
        return path

    def _repr_html_(self) -> str:
        volume = self._place.image.read(as_it_lies=True)
        index = np.zeros(256, np.uint8)
        index[list(self.scheme.decode)] = np.arange(len(self.scheme.decode))
        images, labels = {self._place.modality: volume.array}, {"labels": index[self._values]}
        picture = three_planes(images, labels, self.scheme, title=self.case, spacing_mm=volume.spacing_mm)
        return picture + table([{"region": name, "ml": ml} for name, ml in self.volumes_ml.items()])


@dataclass(frozen=True, eq=False)
class Synthesis:
    """A modality of one case, made of others.

    Attributes:
        case: its name.
        target: the modality.
        sources: those that it was made of.
    """

    case: str
    target: str
    sources: tuple[str, ...]
    _place: Place = field(repr=False)
    _volume: Float[np.ndarray, "d h w"] = field(repr=False)
    _files: CaseFiles = field(repr=False)
    _made_by: tuple[Sequence[TrainedPhase], bool] = field(repr=False)

    @property
    def file_name(self) -> str:
        """The name that the command gives its file."""
        return f"{self.case}_{self.target}.nii.gz"

    @cached_property
    def image(self) -> Float[np.ndarray, "_ _ _"]:
        """Intensities in the median range of the training's volumes, on the axes of the first source as stored."""
        return as_stored(self._volume, self._place.reference)

    @property
    def affine(self) -> Float[np.ndarray, "4 4"]:
        """Voxel to world in mm, of these axes."""
        return self._place.reference.stored_affine

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Writes the volume and a JSON file beside it with its origin, as the command does, and returns the path.

        Args:
            path: the file, .nii.gz.
            overwrite: replace files there that jaxfuse did not write.

        Raises:
            UserError: the name ends otherwise, or there is such a file, or it is one that was read.
        """
        path = Path(path)
        if not path.name.endswith(".nii.gz"):
            raise UserError(f"{path} does not end in .nii.gz; name the output so")
        with self._place.opened(path, [path.name, origin_file(path.name)], overwrite=overwrite) as folder:
            task = Task(self.sources, self.target)
            write_synthesized(folder / path.name, self._volume, self._files, task, *self._made_by)
        return path

    def _repr_html_(self) -> str:
        source = self._place.image.read(as_it_lies=True)
        images = {self.sources[0]: source.array, f"{self.target} (synthesized)": self._volume}
        return three_planes(images, {}, None, title=self.case, spacing_mm=source.spacing_mm)


@dataclass(frozen=True, eq=False)
class Fusion:
    """An image that was fused of several.

    Attributes:
        names: those of the images, in the network's slots.
        made_by: the name of the network.
    """

    names: tuple[str, ...]
    made_by: str
    _given: GivenImages = field(repr=False)
    _levels: Levels = field(repr=False)

    @cached_property
    def image(self) -> Levels:
        """Levels of 8 bits: a picture (h w), or a volume on the axes of the first one as stored; color comes last."""
        return self._levels if self._reference is None else as_stored(self._levels, self._reference)

    @property
    def affine(self) -> Float[np.ndarray, "4 4"] | None:
        """Voxel to world in mm of a volume's axes; None for a picture."""
        return None if self._reference is None else self._reference.stored_affine

    @cached_property
    def _reference(self) -> Volume | None:
        return None if self._given.axis is None else read_volume(self._given.paths[0], as_it_lies=True)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Writes the image as the command does, byte for byte, and returns its path.

        Args:
            path: the file, .png for pictures, .nii or .nii.gz for volumes.
            overwrite: replace a file there that jaxfuse did not write.

        Raises:
            UserError: the name ends otherwise, or there is such a file, or it is one that was read.
        """
        path = Path(path)
        with told_in_python(), open_fused(self._given.paths, path, overwrite=overwrite).together() as folder:
            self._given.write(folder / path.name, self._levels)
        return path

    def _repr_html_(self) -> str:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "fused.png"
            self._given.draw(path, self._levels, self.made_by)
            return f'<img alt="fused" src="{data_uri(path)}">'
