"""Label schemes: what the integers of a label file mean, and the regions that are scored.

A network sees class indices 0..K-1; files keep the data set's own values. The values alone never tell
which scheme is meant (Decathlon and BraTS 2023 both use 0-3, in another order), so a scheme is always
named, by the layout or by the user. A scheme of any other data is written: its name is all of it, such as
`edema=1,core=2,enhancing=3;WT=1+2+3,TC=2+3,ET=3`, classes with their file values, then the regions that are scored.
The class `ignore` is none: its voxels are neither learned from nor scored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from jaxfuse.errors import UserError

# Class index of voxels of which nothing is known, as in PASCAL VOC: no loss and no score counts them.
IGNORED = 255


@dataclass(frozen=True)
class LabelScheme:
    """One coding of a label file.

    Attributes:
        name: the name by which a config or a command asks for it.
        classes: class names by class index; index 0 is the background.
        encode: file value -> class index, or `IGNORED`. Several values may share a class.
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
    """The scheme called `name`, or written in it; refuses an unknown name and lists the known ones."""
    if "=" in name:
        classes, _, regions = name.partition(";")
        return written_scheme(_values_of(name, classes), _values_of(name, regions))
    if name not in SCHEMES:
        raise UserError(
            f"label scheme {name!r} is not known; choose one of {', '.join(SCHEMES)}, or write one, such as "
            "'edema=1,core=2'"
        )
    return SCHEMES[name]


def written_scheme(
    classes: Mapping[str, Sequence[int]], regions: Mapping[str, Sequence[int]] | None = None
) -> LabelScheme:
    """The scheme of data that name their classes, class -> its file values, and regions -> the values that they unite.

    Without regions each class is one. 0 is background, and so are the values of a class of that name; those of `ignore`
    are left out of everything. Classes or regions that are those of gliomas, under any usual name, make the known
    scheme with these values, if there is one.

    Raises:
        UserError: no class, a name or a value that stands twice, a value that is none of a file, and a region of values
            that no class has.
    """
    plain = {_plain(name): tuple(values) for name, values in classes.items()}
    left_out = plain.pop(_IGNORE, ())
    named = {name: values for name, values in plain.items() if name != _BACKGROUND}
    behind = {0, *(v for name, values in classes.items() if _plain(name) == _BACKGROUND for v in values)}
    united = {_plain(name): tuple(sorted(set(values))) for name, values in (regions or {}).items()}
    text = _written(named, behind, united, left_out)
    _check_written(text, classes, named, {*behind, *left_out}, united)
    if len(left_out) > len(set(left_out) - behind):
        raise UserError(f"label scheme {text!r} gives one value to ignore and to the background; keep one of them")
    ignored = dict.fromkeys(sorted(left_out), IGNORED)
    if known := _known(named, united):
        return replace(known, name=text, encode={**known.encode, **ignored}) if ignored else known
    order = sorted(named, key=lambda name: min(named[name]))
    index = {value: place for place, name in enumerate(order, start=1) for value in named[name]}
    scored = united or {name: named[name] for name in order}
    return LabelScheme(
        name=text,
        classes=(_BACKGROUND, *order),
        encode=dict.fromkeys(sorted(behind), 0) | index | ignored,
        decode=(0, *(min(named[name]) for name in order)),
        regions={name: tuple(sorted({index[v] for v in values})) for name, values in scored.items()},
    )


_BACKGROUND, _IGNORE = "background", "ignore"
_LARGEST = 255  # label maps are stored in 8 bits
_MARKS = re.compile(r"[=,;+\s]+")
_NOT_A_LETTER = re.compile(r"[^a-z0-9]+")
# Names of the classes and regions of gliomas in data sets, letters and digits alone -> class index, region.
_GLIOMA_NAMES: Mapping[str, int] = {
    **dict.fromkeys(("edema", "oedema", "peritumoraledema", "ed"), 2),
    **dict.fromkeys(("nonenhancingtumor", "nonenhancing", "necrosis", "core", "ncr", "ncrnet"), 1),
    **dict.fromkeys(
        ("necroticandnonenhancingcore", "necroticandnonenhancingtumor", "necroticandnonenhancingtumorcore"), 1
    ),
    **dict.fromkeys(("enhancingtumor", "enhancing", "et"), 3),
}
_GLIOMA_REGION_NAMES = {
    "wholetumor": "WT",
    "tumorcore": "TC",
    "enhancingtumor": "ET",
    "wt": "WT",
    "tc": "TC",
    "et": "ET",
}


def _plain(name: str) -> str:
    """A name without the marks by which schemes are written."""
    return _MARKS.sub(" ", name).strip()


def _values_of(text: str, part: str) -> dict[str, tuple[int, ...]]:
    """Reads `name=1+2,name=3`; empty for an empty text."""
    found: dict[str, tuple[int, ...]] = {}
    for entry in part.split(",") if part else ():
        name, _, values = (piece.strip() for piece in entry.partition("="))
        if name in found or not re.fullmatch(r"\d+(\s*\+\s*\d+)*", values):
            raise UserError(
                f"label scheme {text!r} has {entry.strip()!r}; classes are written with their file values, each once, "
                "such as 'edema=1,core=2+4', and regions after a semicolon, such as ';whole=1+2+4'"
            )
        found[name] = tuple(int(value) for value in values.split("+"))
    return found


def _written(
    named: Mapping[str, Sequence[int]],
    behind: Iterable[int],
    united: Mapping[str, Sequence[int]],
    left_out: Sequence[int],
) -> str:
    more = sorted(set(behind) - {0})
    classes = dict(sorted(named.items(), key=lambda one: sorted(one[1])))
    parts = {**({_BACKGROUND: more} if more else {}), **classes, **({_IGNORE: left_out} if left_out else {})}
    texts = [
        ",".join(f"{name}={'+'.join(map(str, sorted(values)))}" for name, values in part.items())
        for part in (parts, united)
    ]
    return ";".join(filter(None, texts))


def _check_written(
    text: str,
    classes: Mapping[str, Sequence[int]],
    named: Mapping[str, Sequence[int]],
    behind: Iterable[int],
    united: Mapping[str, Sequence[int]],
) -> None:
    """Refuses what is no scheme."""
    values = [value for of_class in named.values() for value in of_class]
    fault = ""
    if not named:
        fault = "has no class besides the background"
    elif len(named) >= IGNORED:
        fault = f"has more than {IGNORED - 1} classes"
    elif "" in named or len({_plain(name) for name in classes}) < len(classes):
        fault = "has a class without a name, or two of one name"
    elif not all(named.values()) or not all(0 <= value <= _LARGEST for value in (*values, *behind)):
        fault = f"has values beyond 0 to {_LARGEST}, or a class without any"
    elif len({*values, *behind}) < len(values) + len(set(behind)):
        fault = "gives one value to two classes"
    elif strange := sorted({value for region in united.values() for value in region} - set(values)):
        fault = f"unites the value {strange[0]}, which no class has"
    elif "" in united or not all(united.values()):
        fault = "has a region without a name or without values"
    if fault:
        raise UserError(f"label scheme {text!r} {fault}; correct the classes and the file values that they are given")


def _known(named: Mapping[str, Sequence[int]], united: Mapping[str, Sequence[int]]) -> LabelScheme | None:
    """The known scheme of gliomas in which these classes, or these regions, have these values."""

    def bare(name: str) -> str:
        return _NOT_A_LETTER.sub("", name.lower().replace("tumo\u0075r", "tumor"))

    codes = {value: _GLIOMA_NAMES.get(bare(name), -1) for name, values in named.items() for value in values}
    regions = {_GLIOMA_REGION_NAMES.get(bare(name), name): set(values) for name, values in united.items()}
    for scheme in (one for one in SCHEMES.values() if one.classes == _GLIOMA):
        files = {value: index for value, index in scheme.encode.items() if index}
        scored = {
            name: {v for v, index in files.items() if index in members} for name, members in scheme.regions.items()
        }
        if regions == scored or (files == codes and not united):
            return scheme
    return None
