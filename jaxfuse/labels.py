"""Label schemes: what the integers of a label file mean, and the regions that are scored.

A network sees class indices 0..K-1; files keep the data set's own values. The values alone never tell
which scheme is meant (Decathlon and BraTS 2023 both use 0-3, in another order), so a scheme is always
named, by the layout or by the user.
"""

from __future__ import annotations

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


def label_scheme(name: str) -> LabelScheme:
    """The scheme called `name`; refuses an unknown name and lists the known ones."""
    if name not in SCHEMES:
        raise UserError(f"label scheme {name!r} is not known; choose one of {', '.join(SCHEMES)}")
    return SCHEMES[name]
