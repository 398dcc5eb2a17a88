"""Label schemes: what the integers of a label file mean, and the regions that are scored.

A network sees class indices 0..K-1; files keep the data set's own values. The values alone never tell
which scheme is meant (Decathlon and BraTS 2023 both use 0-3, in another order), so a scheme is always
named, by the layout or by the user.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from jaxfuse.errors import UserError


@dataclass(frozen=True)
class LabelScheme:
    """One coding of a label file.

    Attributes:
        name: the name by which a config or a command asks for it.
        classes: class names by class index; index 0 is the background.
        encode: file value -> class index. Several values may share a class.
        decode: class index -> the value written to files.
        regions: scored region -> the class indices that it unites. Regions may overlap.
    """

    name: str
    classes: tuple[str, ...]
    encode: Mapping[int, int]
    decode: tuple[int, ...]
    regions: Mapping[str, tuple[int, ...]]

    def unknown(self, values: Iterable[int]) -> list[int]:
        """File values that this scheme does not know, sorted."""
        return sorted({int(v) for v in values} - set(self.encode))


_GLIOMA = ("background", "necrotic and non-enhancing core", "edema", "enhancing tumor")
_GLIOMA_REGIONS = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}


def _glioma(name: str, encode: dict[int, int], decode: tuple[int, ...]) -> LabelScheme:
    return LabelScheme(name, _GLIOMA, encode, decode, _GLIOMA_REGIONS)


SCHEMES: Mapping[str, LabelScheme] = {
    s.name: s
    for s in (
        # BraTS 2017 to 2021: 1 core, 2 edema, 4 enhancing.
        _glioma("brats", {0: 0, 1: 1, 2: 2, 4: 3}, (0, 1, 2, 4)),
        # BraTS 2023 glioma: 3 enhancing.
        _glioma("brats2023", {0: 0, 1: 1, 2: 2, 3: 3}, (0, 1, 2, 3)),
        # BraTS 2015 and before: 1 necrosis and 3 non-enhancing core, one class in later years.
        _glioma("brats2015", {0: 0, 1: 1, 2: 2, 3: 1, 4: 3}, (0, 1, 2, 4)),
        # Medical Segmentation Decathlon Task01: 1 edema, 2 non-enhancing, 3 enhancing.
        _glioma("decathlon", {0: 0, 1: 2, 2: 1, 3: 3}, (0, 2, 1, 3)),
        # BraTS 2024 after treatment: 4 is the resection cavity, not the enhancing tumor.
        LabelScheme(
            "brats2024",
            (*_GLIOMA, "resection cavity"),
            {0: 0, 1: 1, 2: 2, 3: 3, 4: 4},
            (0, 1, 2, 3, 4),
            {**_GLIOMA_REGIONS, "RC": (4,)},
        ),
        # BraTS 2024 on, children: 1 enhancing tumor, 2 non-enhancing tumor, 3 cysts, 4 edema.
        LabelScheme(
            "brats2024_ped",
            ("background", "enhancing tumor", "non-enhancing tumor", "cystic component", "edema"),
            {0: 0, 1: 1, 2: 2, 3: 3, 4: 4},
            (0, 1, 2, 3, 4),
            {"WT": (1, 2, 3, 4), "TC": (1, 2, 3), "ET": (1,), "NETC": (2,), "CC": (3,), "ED": (4,)},
        ),
        # BraTS 2024, meningiomas before radiotherapy: the volume that is to be irradiated.
        LabelScheme("brats2024_men_rt", ("background", "gross tumor volume"), {0: 0, 1: 1}, (0, 1), {"GTV": (1,)}),
        LabelScheme("lesion", ("background", "lesion"), {0: 0, 1: 1}, (0, 1), {"lesion": (1,)}),
        # Infarcts: coded like `lesion`, by a name of its own because it is scored by another protocol.
        LabelScheme("stroke", ("background", "lesion"), {0: 0, 1: 1}, (0, 1), {"lesion": (1,)}),
        # iSeg-2017 and 2019: gray values that can be told apart by eye.
        LabelScheme(
            "iseg",
            ("background", "CSF", "GM", "WM"),
            {0: 0, 10: 1, 150: 2, 250: 3},
            (0, 10, 150, 250),
            {"CSF": (1,), "GM": (2,), "WM": (3,)},
        ),
    )
}


# Tasks of BraTS from 2023 on, after which cases are named, and the schemes of their releases. GLI has a cavity in cases
# after treatment, MET from 2025 on. PED was coded as the others in 2023, and in its own way since.
_TASKS: Mapping[str, tuple[str, ...]] = {
    "BraTS-GLI": ("brats2023", "brats2024"),
    "BraTS-SSA": ("brats2023",),
    "BraTS-MEN": ("brats2023",),
    "BraTS-MET": ("brats2023", "brats2024"),
    "BraTS-GoAT": ("brats2023",),
    "BraTS-PED": ("brats2024_ped", "brats2023"),
    "BraTS-MEN-RT": ("brats2024_men_rt",),
}
_TASK = re.compile(r"(BraTS-[A-Za-z]+(?:-RT)?)-\d+")


def schemes_of_task(name: str) -> tuple[str, tuple[str, ...]]:
    """Returns the task of BraTS that the name of a case or of its file begins with, and its schemes; else nothing."""
    match = _TASK.match(name)
    task = match.group(1) if match else ""
    return (task, _TASKS[task]) if task in _TASKS else ("", ())


def label_scheme(name: str) -> LabelScheme:
    """The scheme called `name`; refuses an unknown name and lists the known ones."""
    if name not in SCHEMES:
        raise UserError(f"label scheme {name!r} is not known; choose one of {', '.join(SCHEMES)}")
    return SCHEMES[name]
