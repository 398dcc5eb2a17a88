"""Label volumes as class indices, and cases as a page shows them: their image, truth and predictions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Shaped, UInt8

from jaxfuse.data.cases import Image, encode_label, label_problem, whole_values
from jaxfuse.errors import UserError
from jaxfuse.io.nifti import Volume, geometry_mismatch, read_volume
from jaxfuse.labels import IGNORED, LabelScheme
from jaxfuse.report.pictured import Pictured, Reader
from jaxfuse.scoring.pairing import find_beneath, find_predictions, find_references


def class_indices(role: str, volume: Volume, scheme: LabelScheme) -> UInt8[np.ndarray, "d h w"]:
    """The classes of a label volume.

    Args:
        role: what its sentences call the volume.

    Raises:
        UserError: a value is not whole, or none that the scheme knows.
    """
    values = whole_values(volume)
    problem = label_problem(volume.path, np.unique(values), scheme)
    if problem:
        raise UserError(f"{role} {problem}")
    return encode_label(values, scheme)


def label_pictures(preds: Mapping[str, Path], ref: Path, scheme: LabelScheme) -> Reader:
    """Returns a function that reads a case from the folders of references and of some methods that were scored."""
    predictions = {name: find_predictions(folder) for name, folder in preds.items()}
    references, _ = find_references(ref)
    try:
        beneath, problem = find_beneath(ref), ""
    except UserError as error:
        beneath, problem = {}, str(error)

    def read(case: str, methods: Collection[str]) -> Pictured:
        truth = read_volume(references[case])
        maps = {
            name: class_indices("prediction", read_volume(paths[case]), scheme)
            for name, paths in predictions.items()
            if name in methods
        }
        modality, image = list(beneath.get(case, {problem: None}).items())[-1]  # the last that it has
        array = None
        if image is not None:
            array, problem_of_image = _beneath(image, truth)
            modality = problem_of_image or modality
        labels = class_indices("reference", truth, scheme)
        # Voxels that are not scored have no color.
        return Pictured(array, modality, np.where(labels == IGNORED, 0, labels), maps, truth.spacing_mm)

    return read


def _beneath(image: Image, truth: Volume) -> tuple[Shaped[np.ndarray, "d h w"] | None, str]:
    """The image of a case, or why it cannot be shown: what was scored is scored without it."""
    try:
        volume = image.read()
    except UserError as error:
        return None, str(error)
    mismatch = geometry_mismatch(volume, truth)
    return (None, mismatch) if mismatch else (volume.array, "")
