"""Derivatives of BIDS: the names of what is made of its cases, and the files that describe a data set of them.

    OUTPUT/dataset_description.json    which says that jaxfuse made it
    OUTPUT/dseg.tsv                    the values of the label maps
    OUTPUT/sub-01/ses-1/anat/sub-01_ses-1_space-MNI152_dseg.nii.gz
    OUTPUT/sub-01/ses-1/anat/sub-01_ses-1_space-MNI152_desc-synthesized_FLAIR.nii.gz

Names bear the entities that all images of a case share, so that what was made of images in a space says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from jaxfuse import __version__
from jaxfuse.data.cases import CaseFiles
from jaxfuse.data.sources import bids, isles2022
from jaxfuse.data.sources.bids import DESCRIPTION, MAKER, entities_of
from jaxfuse.errors import UserError
from jaxfuse.labels import LabelScheme

LABEL_MAP, PROBABILITIES = "dseg", "probseg"
_VERSION = "1.9.0"
# Entities of names in their order, and those of the images that what is made of them keeps.
_ORDER = ("sub", "ses", "acq", "ce", "rec", "run", "space", "res", "den", "desc")
_KEPT = ("acq", "rec", "space", "res", "den")


def place_of_image(files: CaseFiles, modality: str) -> str:
    """The place of an image that was synthesized for a case of BIDS, relative to the root of the derivatives."""
    *entities, suffix = bids.ENDINGS.get(modality, f"_{modality}.nii.gz").removesuffix(".nii.gz")[1:].split("_")
    return place(files, suffix, **dict(one.split("-", 1) for one in entities), desc="synthesized")


def place(files: CaseFiles, suffix: str = LABEL_MAP, **more: str) -> str:
    """The place of what is made of a case of BIDS, relative to the root of the derivatives.

    `more`: entities of its name beside those of the case and of all of its images.
    """
    path = next(iter(files.images.values())).path
    first, *others = [entities_of(image.path) for image in files.images.values()]
    shared = {name for name in first if all(one.get(name) == first[name] for one in others)}
    case = dict(pair.split("-", 1) for pair in files.id.split("_"))
    named = {**{name: first[name] for name in _KEPT if name in shared}, **case, **more}
    stem = "_".join(f"{name}-{named[name]}" for name in _ORDER if name in named)
    folders = [f"{name}-{case[name]}" for name in _ORDER[:2] if name in case]
    return "/".join([*folders, path.parent.name, f"{stem}_{suffix}.nii.gz"])


def descriptions(scheme: LabelScheme, *, made_by: str, probabilities: bool = False) -> Mapping[str, str]:
    """File -> content, of all that describes label maps of a scheme, and probabilities of its classes.

    `made_by` are the names of the runs.
    """
    told = {
        "Name": f"Label maps by {made_by}",
        "BIDSVersion": _VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": MAKER, "Version": __version__, "Description": f"label maps by {made_by}"}],
    }
    rows = [f"{value}\t{name}" for value, name in zip(scheme.decode, scheme.classes, strict=True)]
    files = {DESCRIPTION: json.dumps(told, indent=1) + "\n", f"{LABEL_MAP}.tsv": "\n".join(["index\tname", *rows, ""])}
    if probabilities:
        files[f"{PROBABILITIES}.json"] = json.dumps({"LabelMap": list(scheme.classes)}, indent=1) + "\n"
    return files


def check_layout(layout: str) -> None:
    """Refuses cases that are not kept in names of BIDS."""
    if layout not in (bids.LAYOUT, isles2022.LAYOUT):
        raise UserError(
            f"--bids names files after those of BIDS, and the cases have the layout {layout}; leave it out, or keep "
            f"the cases as {bids.EXAMPLE}"
        )
