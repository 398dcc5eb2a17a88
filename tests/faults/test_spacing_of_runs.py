"""A run labels, makes and fuses whatever voxel size comes, though a network knows sizes in voxels only."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from configs import fuse4seg
from jaxfuse import fuse, impute, predict
from jaxfuse.brats_fuse import __main__ as brats_fuse
from jaxfuse.data.dataset import dataset_facts
from jaxfuse.data.slices import prepare_slices
from jaxfuse.engine.trained.phases import load
from jaxfuse.engine.trained.slice_fuser import SliceFuser
from jaxfuse.io.tables import read_json
from jaxfuse.labels import label_scheme
from tests.commands import call_here
from tests.faults.catalogue import given, table
from tests.made_cases import MODALITIES, case_files, head, nested_cubes, prepared_cases, save_volume, write_case
from tests.untrained_run import TRAIN, labeling_run, synthesis_run, write_untrained_run

SHAPE = (20, 18, 4)
READ = ("t1", "t2", "flair")


def trained_at(run: Path, *sides: tuple[float, float]) -> Path:
    """Writes into a run's facts what its training volumes measured."""
    path = run / "dataset.json"
    path.write_text(json.dumps({**read_json(path), "spacing_range_mm": sides}))
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """Runs of axial slices, trained at 6 mm in all directions."""
    folder, six = tmp_path_factory.mktemp("runs"), ((6.0, 6.0),) * 3
    config = fuse4seg.get_config("tiny")
    config.data.cache = str(folder / "cache")
    fusing = write_untrained_run(folder / "fusing", config, "cooperative", train=TRAIN)
    made = {"labels": labeling_run(folder / "labels", READ), "fusing": fusing}
    made["synthesis"] = synthesis_run(folder / "synthesis", "tiny,row=mmsyns")
    return {name: trained_at(run, *six) for name, run in made.items()}


@pytest.fixture
def no_network(monkeypatch):
    """Stands in for the networks that fuse, of which nobody asks anything."""
    silent = SliceFuser(1, lambda images, presence, shown: {})
    for module in ("engine.trained.fused_files", "brats_fuse.build"):
        monkeypatch.setattr(f"jaxfuse.{module}.slice_fuser", lambda phase, **options: silent)


def case(folder: Path, sides: tuple[float, float, float], shape: tuple[int, int, int] = SHAPE, **more) -> Path:
    """Writes a case of these voxels; returns the folder around it."""
    write_case(folder / "in", "a", {name: head(shape, 0)[name] for name in MODALITIES}, spacing_mm=sides, **more)
    return folder / "in"


SIZES = (
    ("cases of 1 mm for a run trained at 6 mm", "refused", (1.0, 1.0, 1.0)),
    ("cases of 6 x 6 x 30 mm for a run trained at 6 mm", "refused", (6.0, 6.0, 30.0)),
    ("cases of 6 x 5.3 x 6 mm for a run trained at 6 mm", "refused", (6.0, 5.3, 6.0)),
)


@table("sides", *SIZES)
def test_predict_refuses_other_voxels(runs, tmp_path, sentence_of, unchanged, sides):
    root = case(tmp_path, sides)
    with unchanged(root):
        text = sentence_of(predict, workdir=runs["labels"], input=root, output=tmp_path / "out")
    told = " x ".join(f"{side:g}" for side in sides)
    assert f"case a has voxels of {told} mm, and the run was trained on 6 x 6 x 6 mm" in text
    assert "--any_spacing" in text
    assert not list((tmp_path / "out").glob("*"))


@given("cases of 6 x 6 x 30 mm stored along other axes", "refused alike")
@given("cases of 1 mm whose header is in meters", "refused alike")
def test_what_counts_is_mm_along_the_axes_of_the_head(runs, tmp_path, sentence_of):
    root = case(tmp_path / "turned", (6.0, 6.0, 30.0), axes="SAL")
    text = sentence_of(predict, workdir=runs["labels"], input=root, output=tmp_path / "out")
    assert "voxels of 6 x 6 x 30 mm" in text
    trained_in_meters = case(tmp_path / "meters", (0.001,) * 3)
    for path in trained_in_meters.rglob("*.nii.gz"):
        image = nib.load(path)
        image.header.set_xyzt_units("meter")
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), path)
    text = sentence_of(predict, workdir=runs["labels"], input=trained_in_meters, output=tmp_path / "out")
    assert "voxels of 1 x 1 x 1 mm" in text


@table(
    "sides, shape",
    ("cases of 5.5 x 6.5 x 6 mm for a run trained at 6 mm", "taken", (5.5, 6.5, 6.0), SHAPE),
    ("one slice of 6 x 6 mm, 30 mm thick, for such a run", "taken: it has no neighbor", (6.0, 6.0, 30.0), (20, 18, 1)),
)
def test_a_tenth_is_allowed_and_a_slice_has_no_distance(runs, tmp_path, sides, shape):
    call_here(predict, workdir=runs["labels"], input=case(tmp_path, sides, shape), output=tmp_path / "out")
    assert (tmp_path / "out" / "a.nii.gz").is_file()


@given("cases of 1 mm with --any_spacing", "labeled")
def test_other_voxels_are_taken_where_one_says_so(runs, tmp_path):
    root = case(tmp_path, (1.0, 1.0, 1.0))
    call_here(predict, workdir=runs["labels"], input=root, output=tmp_path / "out", any_spacing=True)
    assert (tmp_path / "out" / "a.nii.gz").is_file()


@given("cases of 1 mm for a run that synthesizes, trained at 6 mm", "refused")
@given("cases of 1 mm for impute, with runs trained at 6 mm", "refused")
@given("volumes of 1 mm for fuse, with a run trained at 6 mm", "refused")
@given("cases of 1 mm for brats_fuse, with a run trained at 6 mm", "refused")
def test_every_command_that_takes_cases_asks(runs, tmp_path, sentence_of, no_network):
    root, out = case(tmp_path, (1.0, 1.0, 1.0)), tmp_path / "out"
    texts = [sentence_of(predict, workdir=runs["synthesis"], input=root, output=out)]
    both = {"synthesis": runs["synthesis"], "segmentation": runs["labels"]}
    texts.append(sentence_of(impute, **both, input=root, output=out))
    images = [root / "a" / f"a_{name}.nii.gz" for name in ("t1", "flair")]
    texts.append(sentence_of(fuse, images[1], run=runs["fusing"], images=images[0], output=out / "fused.nii.gz"))
    texts.append(sentence_of(brats_fuse, root=root, run=runs["fusing"], out=tmp_path / "set"))
    for text in texts:
        assert "has voxels of 1 x 1 x 1 mm, and the run was trained on 6 x 6 x 6 mm" in text
    assert not [path for path in out.rglob("*") if path.is_file()]


@given("volumes of 6 x 6 x 30 mm fused in coronal slices, by a run of axial slices of 6 mm", "refused")
def test_fused_slices_are_compared_as_slices(runs, tmp_path, sentence_of, no_network):
    trained_at(runs["fusing"], (6.0, 6.0), (6.0, 6.0), (30.0, 30.0))
    paths = [
        save_volume(tmp_path / f"{name}.nii", head(SHAPE, 0)[name], spacing_mm=(6, 6, 30)) for name in ("t1", "t2")
    ]
    options = {"run": runs["fusing"], "images": paths[0], "output": tmp_path / "out.nii"}
    assert "has voxels of 6 x 6 x 30 mm" in sentence_of(fuse, paths[1], **options, axis="coronal")
    trained_at(runs["fusing"], *((6.0, 6.0),) * 3)


@given("an average of runs trained at 6 and at 1 mm, cases of 6 mm", "refused")
def test_every_run_of_an_average_is_asked(runs, tmp_path, sentence_of):
    other = trained_at(labeling_run(tmp_path / "other", READ), *((1.0, 1.0),) * 3)
    root = case(tmp_path, (6.0, 6.0, 6.0))
    text = sentence_of(predict, other, workdir=runs["labels"], input=root, output=tmp_path / "out")
    assert "trained on 1 x 1 x 1 mm" in text


@given("a run whose facts hold only the median sides of its training, as older ones do, and cases of 1 mm", "refused")
def test_facts_of_older_runs_count(runs, tmp_path, sentence_of):
    path = runs["labels"] / "dataset.json"
    before = path.read_text()
    path.write_text(json.dumps({**json.loads(before), "spacing_range_mm": [], "spacing_mm": [6.0, 6.0, 6.0]}))
    text = sentence_of(predict, workdir=runs["labels"], input=case(tmp_path, (1.0, 1.0, 1.0)), output=tmp_path / "out")
    path.write_text(before)
    assert "trained on 6 x 6 x 6 mm" in text


@given("--any_spacing for pictures, which have no voxel size", "refused")
def test_pictures_have_no_size(runs, sentence_of):
    for images in ({"images": "a.png"}, {"pairs": "MRI_CT"}):
        text = sentence_of(fuse, run=runs["fusing"], output="out.png", any_spacing=True, **images)
        assert "--any_spacing is an option of volumes" in text


@given("training volumes of 1 x 1 x 2 and 1 x 1 x 3 mm", "dataset.json has the range, of volumes and of their slices")
def test_facts_hold_the_range(tmp_path):
    scheme, images = label_scheme("brats"), {"t1": head((20, 18, 12), 0)["t1"], "seg": nested_cubes((20, 18, 12))}
    volumes, slices = [], []
    for name, thick in (("a", 2.0), ("b", 3.0)):
        volumes += prepared_cases(tmp_path / name, {name: images}, scheme, spacing_mm=(1.0, 1.5, thick))
        files = case_files(tmp_path / name, name, images, spacing_mm=(1.0, 1.5, thick))
        (cut,) = prepare_slices([files], ("t1",), scheme, cache=tmp_path / "cache").values()
        slices += cut
    for cases in (volumes, slices):
        ids = [one.id for one in cases]
        facts = dataset_facts(cases, ("t1",), scheme, {"train": ids, "val": ids[:1]})
        assert facts.spacing_range_mm == ((1.0, 1.0), (1.5, 1.5), (2.0, 3.0))
        assert json.loads(facts.to_json())["spacing_range_mm"] == [[1.0, 1.0], [1.5, 1.5], [2.0, 3.0]]


def test_the_option_reaches_the_preparation(runs):
    (asks,), (takes_all,) = (load([str(runs["labels"])], any_spacing=any_spacing) for any_spacing in (False, True))
    assert asks.preparation.spacing_range_mm == ((6.0, 6.0),) * 3
    assert takes_all.preparation.spacing_range_mm == ()
