"""Cases in every layout: how data sets of this field are kept on disk."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.made_cases import MODALITIES, head, nested_cubes, save_volume, write_case

SHAPE = (16, 18, 14)
# Values of label files by class index: background, core, edema, enhancing tumor.
BRATS, BRATS2023, DECATHLON = (0, 1, 2, 4), (0, 1, 2, 3), (0, 2, 1, 3)
GLIOMA = {"background": 0, "edema": 1, "non-enhancing tumor": 2, "enhancing tumor": 3}
Arrays = Mapping[str, np.ndarray]


def made_case(seed: int, shape: Sequence[int] = SHAPE) -> dict[str, np.ndarray]:
    """Four images and `seg`, class indices."""
    center = [side // 2 for side in shape[:2]] + [shape[2] // 2 + seed % 3]
    return head(shape, seed) | {"seg": nested_cubes(shape, {2: 3, 1: 2, 3: 1}, center)}


def coded(arrays: Arrays, values: Sequence[int]) -> np.ndarray:
    """The label of a case in the values of a label file."""
    return np.array(values, np.uint8)[arrays["seg"]]


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_folders(root: Path, cases: Mapping[str, Arrays], *, spelling: str = "brats") -> Path:
    """Writes a folder for each case, as of BraTS, in the names and values of a spelling of `made_cases.SUFFIXES`."""
    values = BRATS if spelling == "brats" else BRATS2023
    for name, arrays in cases.items():
        write_case(root, name, {**arrays, "seg": coded(arrays, values)}, spelling=spelling)
    return root


def write_nnunet(
    root: Path,
    cases: Mapping[str, Arrays],
    held_out: Mapping[str, Arrays] | None = None,
    *,
    channels: Sequence[str] = MODALITIES,
    values: Sequence[int] = DECATHLON,
    **content: Any,
) -> Path:
    """Writes a raw data set of nnU-Net of version 2; `content` changes entries of its `dataset.json`."""
    for folder, arrays_of in (("imagesTr", cases), ("imagesTs", held_out or {})):
        for name, arrays in arrays_of.items():
            for number, channel in enumerate(channels):
                save_volume(root / folder / f"{name}_{number:04d}.nii.gz", arrays[channel])
    for name, arrays in cases.items():
        save_volume(root / "labelsTr" / f"{name}.nii.gz", coded(arrays, values))
    told = {"channel_names": dict(enumerate(channels)), "labels": GLIOMA, "numTraining": len(cases)}
    write_json(root / "dataset.json", {**told, "file_ending": ".nii.gz", **content})
    return root


def write_nnunet_1(root: Path, cases: Mapping[str, Arrays]) -> Path:
    """Writes a raw data set of nnU-Net of version 1, whose `dataset.json` is in the form of the Decathlon's."""
    write_nnunet(root, cases)
    listed = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in cases]
    told = {
        "modality": {str(number): channel for number, channel in enumerate(MODALITIES)},
        "labels": {str(value): name for name, value in GLIOMA.items()},
        "numTraining": len(cases),
    }
    write_json(root / "dataset.json", {**told, "training": listed, "test": []})
    return root


def write_decathlon(
    root: Path,
    cases: Mapping[str, Arrays],
    held_out: Mapping[str, Arrays] | None = None,
    *,
    channels: Sequence[str] = ("flair", "t1", "t1ce", "t2"),
    **content: Any,
) -> Path:
    """Writes a data set of the Decathlon; `content` changes entries of its `dataset.json`."""
    for folder, arrays_of in (("imagesTr", cases), ("imagesTs", held_out or {})):
        for name, arrays in arrays_of.items():
            stack = (
                np.stack([arrays[channel] for channel in channels], -1) if len(channels) > 1 else arrays[channels[0]]
            )
            save_volume(root / folder / f"{name}.nii.gz", stack)
    for name, arrays in cases.items():
        save_volume(root / "labelsTr" / f"{name}.nii.gz", coded(arrays, DECATHLON))
    listed = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in cases]
    published = {"flair": "FLAIR", "t1": "T1w", "t1ce": "t1gd", "t2": "T2w"}
    told = {
        "modality": {str(number): published[channel] for number, channel in enumerate(channels)},
        "labels": {str(value): name for name, value in GLIOMA.items()},
        "numTraining": len(cases),
        "training": listed,
        "test": [f"./imagesTs/{name}.nii.gz" for name in held_out or {}],
    }
    write_json(root / "dataset.json", {**told, **content})
    return root


def write_bids(
    root: Path, cases: Mapping[str, Arrays], *, values: Sequence[int] = DECATHLON, table: Mapping[str, int] = GLIOMA
) -> Path:
    """Writes a data set of BIDS, labels among the derivatives, with a `dseg.tsv`; cases are called sub-1[_ses-a]."""
    ends = {"t1": "T1w", "t1ce": "ce-gadolinium_T1w", "t2": "T2w", "flair": "FLAIR"}
    labels = root / "derivatives" / "manual"
    for name, arrays in cases.items():
        place = Path(*name.split("_"), "anat")
        for modality, end in ends.items():
            save_volume(root / place / f"{name}_{end}.nii.gz", arrays[modality])
        save_volume(labels / place / f"{name}_dseg.nii.gz", coded(arrays, values))
    rows = "".join(f"{value}\t{name}\n" for name, value in table.items())
    (labels / "dseg.tsv").write_text(f"index\tname\n{rows}")
    for suffix in ("T1w", "T2w", "FLAIR"):
        write_json(root / f"{suffix}.json", {})
    subjects = sorted({name.partition("_")[0] for name in cases})
    lines = "".join(f"{subject}\t{'FM'[place % 2]}\n" for place, subject in enumerate(subjects))
    (root / "participants.tsv").write_text(f"participant_id\tsex\n{lines}")
    write_json(root / "dataset_description.json", {"Name": "made", "BIDSVersion": "1.9.0"})
    return root


def write_datalist(root: Path, cases: Mapping[str, Arrays], held_out: Mapping[str, Arrays] | None = None) -> Path:
    """Writes files in folders, of which one is of four axes, and a JSON list of them, which it returns."""
    lists: dict[str, list[dict[str, Any]]] = {"training": [], "testing": []}
    for key, arrays_of in (("training", cases), ("testing", held_out or {})):
        for place, (name, arrays) in enumerate(arrays_of.items()):
            entry: dict[str, Any] = {"case": name}
            if place == 0:
                save_volume(root / "stacks" / f"{name}.nii", np.stack([arrays[m] for m in MODALITIES], -1))
                entry["image"] = f"stacks/{name}.nii"
            else:
                paths = [save_volume(root / name / f"{modality}.nii.gz", arrays[modality]) for modality in MODALITIES]
                entry["image"] = [str(path.relative_to(root)) for path in paths]
            if key == "training":
                save_volume(root / "labels" / f"{name}.nii.gz", coded(arrays, DECATHLON))
                entry |= {"label": f"labels/{name}.nii.gz", "fold": place % 2}
            lists[key].append(entry)
    labels = {name: value for name, value in GLIOMA.items() if value}
    return write_json(root / "list.json", {"modalities": list(MODALITIES), "labels": labels, **lists})


def write_table(root: Path, cases: Mapping[str, Arrays]) -> Path:
    """Writes what `write_datalist` writes, and a CSV list in place of the JSON one, which it returns."""
    listed = json.loads(write_datalist(root, cases).read_text())
    (root / "list.json").unlink()
    lines = [f"case,{','.join(f'image_{name}' for name in MODALITIES)},label,subject"]
    for entry in listed["training"]:
        image = entry["image"]
        images = image if isinstance(image, list) else [f"{image}#{number}" for number in range(len(MODALITIES))]
        lines.append(",".join([entry["case"], *images, entry["label"], entry["case"]]))
    path = root / "list.csv"
    path.write_text("\n".join([*lines, ""]))
    return path


def write_isles2022(root: Path, cases: Mapping[str, Arrays]) -> Path:
    """Writes cases of ISLES 2022, called sub-strokecase0001 and so on; T1 stands for DWI, T2 for ADC."""
    for name, arrays in cases.items():
        session, case = root / name / "ses-0001", f"{name}_ses-0001"
        for kind, end, modality in (("dwi", "dwi", "t1"), ("dwi", "adc", "t2"), ("anat", "FLAIR", "flair")):
            save_volume(session / kind / f"{case}_{end}.nii.gz", arrays[modality])
        mask = (arrays["seg"] > 0).astype(np.uint8)
        save_volume(root / "derivatives" / name / "ses-0001" / f"{case}_msk.nii.gz", mask)
    return root


@dataclass(frozen=True)
class Kept:
    """A way to keep the same cases.

    Attributes:
        layout: the name by which it is recognized.
        name: the name of a case, with its number from 1 for `{}`.
        write: writes cases by their names below a folder, and returns the root.
        labels: the label scheme that is to be named, where the files tell none.
    """

    layout: str
    name: str
    write: Callable[[Path, Mapping[str, Arrays]], Path]
    labels: str = ""

    def keep(self, root: Path, cases: Sequence[Arrays]) -> Path:
        """Writes cases, whose numbers are their places; returns the root."""
        return self.write(root, {self.name.format(place): one for place, one in enumerate(cases, start=1)})


# The first is what the others are compared with.
EVERY: Mapping[str, Kept] = {
    "folders": Kept("generic", "case-{}", write_folders),
    "brats2021": Kept("brats2021", "BraTS2021_{:05}", write_folders),
    "brats2023": Kept(
        "brats2023", "BraTS-GLI-{:05}-000", lambda root, cases: write_folders(root, cases, spelling="brats2023")
    ),
    "nnunet": Kept("nnunet", "case_{:03}", write_nnunet),
    "nnunet_1": Kept("nnunet", "case_{:03}", write_nnunet_1),
    "decathlon": Kept("decathlon", "BRATS_{:03}", write_decathlon),
    "bids": Kept("bids", "sub-{:02}", write_bids),
    "bids_sessions": Kept("bids", "sub-{:02}_ses-a", write_bids),
    "datalist": Kept("datalist", "p{}", write_datalist),
    "table": Kept("datalist", "p{}", write_table, labels="decathlon"),
}
