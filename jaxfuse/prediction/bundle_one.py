"""One case by an exported bundle, in memory."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from jaxfuse.data.cases import CaseFiles, HeldImage, Image
from jaxfuse.data.presence import REFUSE, ZERO
from jaxfuse.errors import UserError
from jaxfuse.io.nifti import Volume, as_stored, write_like
from jaxfuse.io.outputs import Read, open_outputs
from jaxfuse.labels import LabelScheme
from jaxfuse.prediction.bundle import LABELS, Bundle, devices
from jaxfuse.prediction.given import Placing, case_of
from jaxfuse.prediction.labeler import CaseLabeler, label_values
from jaxfuse.prediction.maker import Synthesizing
from jaxfuse.prediction.shown import WARNING

NIFTI = (".nii", ".nii.gz")


@dataclass(frozen=True, eq=False)
class Predicted:
    """The result of one case, on the axes of its first image as it is stored.

    Attributes:
        case: its name.
        values: label values, those of the data set's files; or the volume of a modality.
        probabilities: of the classes, along the last axis, where they were asked for; else None.
        affine: voxel to world in mm, of these axes.
        scheme: the meaning of label values; None of a modality.
    """

    case: str
    values: Shaped[np.ndarray, "_ _ _"]
    probabilities: Float[np.ndarray, "_ _ _ k"] | None
    affine: Float[np.ndarray, "4 4"]
    scheme: LabelScheme | None
    _canonical: Shaped[np.ndarray, "d h w"]
    _image: Image
    _reads: Sequence[Read]

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Writes the values, and returns their path.

        Raises:
            UserError: the name ends otherwise than a volume's, or the file is one that is read or somebody else's.
        """
        path = Path(path)
        if not path.name.endswith(NIFTI):
            raise UserError(f"{path} does not end in .nii or .nii.gz; name the output so")
        outputs = open_outputs(path.parent, "path", reads=self._reads, names=[path.name], overwrite=overwrite)
        dtype = "float32" if self.scheme is None else "uint8"
        with outputs.together() as folder:
            write_like(folder / path.name, self._canonical, self._image.grid, channel=self._image.channel, dtype=dtype)
        return path


@dataclass(frozen=True)
class OneByOne:
    """A bundle whose programs and weights are loaded, for one case after the other."""

    bundle: Bundle
    device: Any
    way: CaseLabeler | Synthesizing

    @property
    def reads(self) -> tuple[str, ...]:
        """The modalities of a case."""
        return self.way.task.sources if isinstance(self.way, Synthesizing) else self.way.preparation.modalities

    def predict(
        self,
        given: Mapping[str, Any],
        affine: Any = None,
        spacing_mm: Sequence[float] = (),
        *,
        probabilities: bool = False,
        missing: str = REFUSE,
    ) -> Predicted:
        """Predicts a case that is given as modality -> image; the rest is that of `Bundle.predict`."""
        by, own = ", ".join(one.name for one in self.bundle.phases), self.bundle.phases[0].preparation
        if missing not in (REFUSE, ZERO):
            raise UserError(f"missing is {missing!r}; choose {REFUSE} or {ZERO}")
        placing = Placing(affine, tuple(spacing_mm), own.assumed_mm)
        placing.check(given)
        files = case_of(given, self.reads, placing, by=by)
        if missing == ZERO and not self.bundle.takes_incomplete:
            raise UserError("missing is zero, and the networks label cases that have all modalities; leave it out")
        if missing != ZERO and (absent := [name for name in self.reads if name not in files.images]):
            raise UserError(f"the case has no {' and no '.join(absent)} image; give one")
        if isinstance(self.way, Synthesizing):
            if probabilities:
                raise UserError("probabilities are of bundles that label, and this one makes a modality; leave it out")
            volume, _ = self.way.make(self.way.read(files), self.device)
            return self._predicted(files, volume, None)
        for sentence in self.bundle.told_of([files]):
            if sentence.startswith(WARNING):
                # The caller's line: above are this, and `Bundle.predict`.
                warnings.warn(sentence.removeprefix(WARNING), stacklevel=3)
        made = self.way.labeled(self.way.read(files), self.device, keep=probabilities)
        return self._predicted(files, label_values(made.labels, made.case, self.bundle.scheme), made.probabilities)

    def _predicted(self, files: CaseFiles, canonical: np.ndarray, probabilities: np.ndarray | None) -> Predicted:
        image = next(files.images[name] for name in self.reads if name in files.images)
        place: Volume = image.read(as_it_lies=True)
        reads = [("the image", one.path) for one in files.images.values() if not isinstance(one, HeldImage)]
        return Predicted(
            files.id,
            as_stored(canonical, place),
            None if probabilities is None else as_stored(probabilities, place),
            place.stored_affine,
            self.bundle.scheme if self.bundle.makes == LABELS else None,
            canonical,
            image,
            reads,
        )


def loaded(bundle: Bundle) -> OneByOne:
    """Loads programs and weights onto the device that works."""
    (device,) = devices()
    if bundle.makes == LABELS:
        return OneByOne(bundle, device, bundle.labeler(device))
    return OneByOne(bundle, device, Synthesizing(bundle.maker(device), bundle.task))
