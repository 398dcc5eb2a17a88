"""The file `dataset.json` at the root of data sets of nnU-Net and of the Medical Segmentation Decathlon.

Both name the images of a case by number, and the values of the label files; first nnU-Net of version 2, then the
Decathlon, which is also the form of version 1:

    {"channel_names": {"0": "T1", "1": "T1ce"}, "labels": {"background": 0, "tumor": [1, 2], "core": 2},
     "regions_class_order": [1, 2], "numTraining": 2, "file_ending": ".nii.gz"}

    {"modality": {"0": "T1"}, "labels": {"0": "background", "1": "tumor"}, "numTraining": 1, "numTest": 1,
     "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}], "test": ["./imagesTs/b.nii.gz"]}

Labels that are lists are regions, which may overlap; the label `ignore` marks voxels of which nothing is known. Further
entries are left to other programs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxfuse.data.sources.case_folders import EXTENSIONS, folders_below
from jaxfuse.data.sources.modality_names import canonical_names
from jaxfuse.errors import UserError
from jaxfuse.io.tables import read_json
from jaxfuse.labels import written_scheme

NAME = "dataset.json"
TRAINING, TESTING, LABELS = "imagesTr", "imagesTs", "labelsTr"
# Folders of images -> that of their labels.
LABELS_OF: Mapping[str, str] = {TRAINING: LABELS, TESTING: "labelsTs"}
_CHANNELS = ("channel_names", "modality")


@dataclass(frozen=True)
class DatasetJson:
    """The content of one `dataset.json`.

    Attributes:
        path: the file.
        channels: canonical names of the images of a case, by number.
        scheme: name of the label scheme, which may be written.
        ending: of the names of volumes; empty where it is not told.
        content: all of it.
    """

    path: Path
    channels: tuple[str, ...]
    scheme: str
    ending: str
    content: Mapping[str, Any]

    @property
    def root(self) -> Path:
        """The folder of the data set."""
        return self.path.parent

    def entry(self, key: str, kind: type, what: str) -> Any:
        """An entry of this kind, or an empty one where there is none; refuses another kind."""
        value = self.content.get(key, kind())
        if not isinstance(value, kind):
            raise UserError(f"{self.path}: {key} is {_told(value)}; {what} is expected")
        return value

    def within(self, text: Any, what: str) -> Path:
        """The path that is meant by the text of an entry; refuses one that leads out of the data set."""
        if not isinstance(text, str) or not text:
            raise UserError(f"{self.path}: {what} is {_told(text)}; a path relative to {self.root} is expected")
        path = self.root / text
        if Path(text).is_absolute() or ".." in Path(text).parts:
            raise UserError(f"{self.path}: {what} is {text!r}, which leads out of {self.root}; list files within it")
        return path

    def miscounted(self, key: str, count: int, what: str) -> tuple[str, ...]:
        """A remark where the data set counts other than was found; a number that is not there says nothing."""
        said = self.content.get(key)
        return () if said in (None, count) else (f"{NAME} says {key} {_told(said)}, and {count} {what}",)


def find_dataset_json(root: Path) -> Path | None:
    """The `dataset.json` of the one data set at, around or below a folder of cases; None where there is none.

    Around it counts for a folder of images alone. `UserError` where several data sets lie below.
    """
    if (root / NAME).is_file():
        return root / NAME
    if root.name in LABELS_OF and (root.parent / NAME).is_file():
        return root.parent / NAME
    below = [folder for folder in folders_below(root) if is_root(folder)]
    if len(below) > 1:
        names = ", ".join(folder.name for folder in below[:5])
        raise UserError(f"{root} holds {len(below)} data sets ({names}); give the folder of one")
    return below[0] / NAME if below else None


def is_root(folder: Path) -> bool:
    """Whether a folder holds a data set with its `dataset.json`, readable or not."""
    return (folder / NAME).is_file() and any((folder / name).is_dir() for name in LABELS_OF)


def dataset_of(root: Path, *, advice: str) -> DatasetJson:
    """Reads what describes a folder of cases; `advice` is what to do where nothing does."""
    path = find_dataset_json(root)
    if path is None:
        raise UserError(f"{root} has no {NAME}, which tells what the images are; {advice}")
    return read_dataset_json(path)


def read_dataset_json(path: Path) -> DatasetJson:
    """Reads and checks a `dataset.json`.

    Raises:
        UserError: it cannot be read, or says of images or labels what cannot be meant.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(
            f"{path} holds {_told(content)}; an object with channel_names (or modality) and labels is expected"
        )
    return DatasetJson(path, _channels(path, content), _scheme(path, content), _ending(path, content), content)


def glance(path: Path) -> Mapping[str, Any]:
    """The content of a `dataset.json` for recognizing its kind; empty where it cannot be read."""
    try:
        content = read_json(path)
    except UserError:
        return {}
    return content if isinstance(content, dict) else {}


def _channels(path: Path, content: Mapping[str, Any]) -> tuple[str, ...]:
    key = next((key for key in _CHANNELS if key in content), "")
    if not key:
        raise UserError(f"{path} has neither channel_names nor modality; name the images of a case there by number")
    named = content[key]
    numbers = [str(number) for number in range(len(named))] if isinstance(named, dict) else []
    if not numbers or set(named) != set(numbers) or not all(isinstance(name, str) for name in named.values()):
        raise UserError(
            f"{path}: {key} is {_told(named)}; a name for each number from 0 is expected, such as "
            '{"0": "T1", "1": "FLAIR"}'
        )
    return canonical_names((named[number] for number in numbers), said_by=path)


def _scheme(path: Path, content: Mapping[str, Any]) -> str:
    """The scheme that the labels make, by its name."""
    labels = content.get("labels")
    if not isinstance(labels, dict) or not labels:
        raise UserError(
            f'{path}: labels is {_told(labels)}; names and values are expected, such as {{"background": 0, "tumor": 1}}'
        )
    by_value = all(isinstance(value, str) for value in labels.values())
    named = {name: value for value, name in labels.items()} if by_value else labels
    if len(named) < len(labels):
        raise UserError(f"{path}: labels gives one name to two values; give each a name of its own")
    values = {name: _values(path, name, value) for name, value in named.items()}
    if not any(name == "background" or value == (0,) for name, value in values.items()):
        raise UserError(f"{path}: labels has no background; the value 0 is to be it")
    regions = {name: value for name, value in values.items() if isinstance(named[name], list)}
    try:
        if regions:
            return _of_regions(values).name
        return written_scheme({"background" if value == (0,) else name: value for name, value in values.items()}).name
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _of_regions(values: Mapping[str, Sequence[int]]) -> Any:
    """The scheme of overlapping regions: a class for each value, named after the smallest region that holds it."""
    left_out = {name: value for name, value in values.items() if name == "ignore"}
    regions = {
        name: value
        for name, value in values.items()
        if tuple(value) != (0,) and name != "background" and name not in left_out
    }
    classes: dict[str, Sequence[int]] = {}
    for value in sorted({value for of_region in regions.values() for value in of_region}):
        smallest = min((name for name in regions if value in regions[name]), key=lambda name: len(regions[name]))
        alone = len(regions[smallest]) == 1
        classes[smallest if alone else f"{smallest} {value}"] = (value,)
    return written_scheme({**classes, **left_out}, regions)


def _values(path: Path, name: str, value: Any) -> tuple[int, ...]:
    """The file values of one label, which stand there as a number, as its text, or as a list."""
    values = value if isinstance(value, list) else [value]
    whole = [int(one) for one in values if type(one) is int or (isinstance(one, str) and one.isdecimal())]
    if not values or len(whole) < len(values):
        raise UserError(
            f"{path}: label {name!r} has the value {_told(value)}; a whole number, or a list of such, is expected"
        )
    return tuple(whole)


def _ending(path: Path, content: Mapping[str, Any]) -> str:
    ending = content.get("file_ending", "")
    if ending not in ("", *EXTENSIONS):
        raise UserError(
            f"{path}: file_ending is {ending!r}; volumes are read from {' and '.join(EXTENSIONS)}: convert the images"
        )
    return ending


def _told(value: Any) -> str:
    """A value for sentences, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
