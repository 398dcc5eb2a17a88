"""Real heads as they are and as they would be kept in other layouts: training, prediction and scores are alike."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import nibabel as nib
import numpy as np
import pytest

from configs import cmff
from jaxfuse import evaluate, predict
from jaxfuse.data.cases import CaseFiles
from jaxfuse.data.sources.volumes import volume_root
from jaxfuse.io.nifti import read_volume
from jaxfuse.io.tables import read_rows
from tests.commands import call_here
from tests.made_cases import MODALITIES
from tests.made_layouts import write_json
from tests.runs import run_of

SIDE = 48


@dataclass(frozen=True)
class RealSet:
    """A set of real heads.

    Attributes:
        source: the kind of data as which it is read.
        values: names of the labels and their values, as a data set tells them.
        labels: the scheme to be named where the files are as they are.
        protocol: how they are scored.
    """

    folder: str
    source: str
    modalities: tuple[str, ...]
    values: Mapping[str, int]
    labels: str = ""
    protocol: str = "brats"

    @property
    def pairs(self) -> tuple[str, ...]:
        """The modalities in two groups, as the network fuses them."""
        half = len(self.modalities) // 2
        return "+".join(self.modalities[:half]), "+".join(self.modalities[half:])

    @property
    def named(self) -> dict[str, Any]:
        """Labels and values, background among them."""
        return {"background": 0, **self.values}


SETS = (
    RealSet("tcga_lgg_brats", "brats", MODALITIES, {"edema": 2, "non-enhancing tumor": 1, "enhancing tumor": 4}),
    RealSet("ms_lesion_mni", "brats", MODALITIES, {"lesion": 1}, labels="lesion"),
    RealSet(
        "brats2015_2mod",
        "brats",
        ("t1ce", "flair"),
        {"necrosis": 1, "edema": 2, "non-enhancing tumor": 3, "enhancing tumor": 4},
        labels="brats2015",
    ),
    RealSet("iseg_like_mni152", "iseg", ("t1", "t2"), {"CSF": 10, "GM": 150, "WM": 250}, protocol="iseg"),
)


def put(source: Path, target: Path) -> None:
    """Copies a volume as it is, and a pair into one file of the same voxels that states no orientation either."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix != ".hdr":
        shutil.copyfile(source, target)
        return
    volume = read_volume(source)
    image = nib.Nifti1Image(volume.array, None)
    image.header.set_zooms(volume.spacing_mm)
    nib.save(image, target)


def as_nnunet(root: Path, cases: Sequence[CaseFiles], real: RealSet) -> Path:
    for one in cases:
        for number, modality in enumerate(real.modalities):
            put(one.images[modality].path, root / "imagesTr" / f"{one.id}_{number:04}.nii.gz")
        assert one.label
        put(one.label, root / "labelsTr" / f"{one.id}.nii.gz")
    told = {"channel_names": dict(enumerate(real.modalities)), "labels": real.named, "numTraining": len(cases)}
    write_json(root / "dataset.json", {**told, "file_ending": ".nii.gz"})
    return root


def as_decathlon(root: Path, cases: Sequence[CaseFiles], real: RealSet) -> Path:
    as_nnunet(root, cases, real)
    listed = []
    for one in cases:
        parts = [root / "imagesTr" / f"{one.id}_{number:04}.nii.gz" for number in range(len(real.modalities))]
        first, *_ = images = [nib.load(path) for path in parts]
        stack = nib.Nifti1Image(np.stack([np.asarray(image.dataobj) for image in images], -1), None, first.header)
        nib.save(stack, root / "imagesTr" / f"{one.id}.nii.gz")
        for path in parts:
            path.unlink()
        listed.append({"image": f"./imagesTr/{one.id}.nii.gz", "label": f"./labelsTr/{one.id}.nii.gz"})
    told = {
        "modality": dict(enumerate(real.modalities)),
        "labels": {str(value): name for name, value in real.named.items()},
    }
    write_json(root / "dataset.json", {**told, "numTraining": len(cases), "training": listed, "test": []})
    return root


def as_bids(root: Path, cases: Sequence[CaseFiles], real: RealSet) -> Path:
    ends = {"t1": "T1w", "t1ce": "ce-gadolinium_T1w", "t2": "T2w", "flair": "FLAIR"}
    labels = root / "derivatives" / "manual"
    for number, one in enumerate(cases, start=1):
        name = f"sub-{number:02}"
        for modality in real.modalities:
            put(one.images[modality].path, root / name / "anat" / f"{name}_{ends[modality]}.nii.gz")
        assert one.label
        put(one.label, labels / name / "anat" / f"{name}_dseg.nii.gz")
    rows = "".join(f"{value}\t{name}\n" for name, value in real.named.items())
    (labels / "dseg.tsv").write_text(f"index\tname\n{rows}")
    write_json(root / "dataset_description.json", {"Name": "repacked", "BIDSVersion": "1.9.0"})
    return root


PACKED: Mapping[str, Callable[[Path, Sequence[CaseFiles], RealSet], Path]] = {
    "nnunet": as_nnunet,
    "decathlon": as_decathlon,
    "bids": as_bids,
}


@pytest.fixture
def optimized():
    """Compiles as users do, which whole heads repay."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def trained(folder: Path, root: Path, real: RealSet, labels: str) -> Path:
    """Two steps of the smallest network; returns the workdir."""
    config = cmff.get_config("tiny,row=random")
    config.network.unet.base = config.network.unet.levels = config.fusion.args.fusion.fusion_width = 2
    config.fusion.assess, config.fusion.steps = "engine.judging.losses:losses", 2
    config.fusion.patch, config.pairs = (SIDE, SIDE, SIDE), real.pairs
    config.data.update({"source": real.source, "root": str(root), "labels": labels, "modalities": real.modalities})
    config.data.cache = str(folder / "cache")
    assert run_of(config, folder / "run").execute()
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("real", SETS, ids=lambda one: one.folder)
def test_real_heads_train_are_labeled_and_scored_alike_in_every_packing(real, shared_data, optimized, tmp_path):
    given = shared_data / real.folder
    if not given.is_dir():
        pytest.skip(f"the real sample {given} is not here")
    cases = volume_root(given, source=real.source).find(real.modalities, labels_required=True)
    roots = {"as it is": given, **{name: pack(tmp_path / name / "set", cases, real) for name, pack in PACKED.items()}}
    found = {}
    for name, root in roots.items():
        labels = real.labels if root == given else ""
        folder = tmp_path / name.replace(" ", "_")
        run, pred, out = trained(folder, root, real, labels), folder / "pred", folder / "scores"
        call_here(predict, workdir=run, input=root, output=pred, overlap=0.0)
        named = {"labels": labels} if labels else {}
        call_here(evaluate, pred=pred, ref=root, protocol=real.protocol, out=out, one_empty="nan", pictures=0, **named)
        # As text: a distance that is not defined differs from itself.
        rows = [str({**row, "case": ""}) for row in read_rows(out / "cases.csv")]
        found[name] = [read_volume(path).array for path in sorted(pred.glob("*.nii.gz"))], rows
    maps, rows = found["as it is"]
    assert len(maps) == len(cases)
    assert any(len(np.unique(one)) > 1 for one in maps)
    for name, (own_maps, own_rows) in found.items():
        np.testing.assert_array_equal(own_maps, maps, name)
        assert own_rows == rows, name
