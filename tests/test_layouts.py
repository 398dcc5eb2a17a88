"""Training, prediction and scoring on data sets as they are kept on disk, without conversion."""

import shutil
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from configs import cmff
from jaxfuse import evaluate, predict
from jaxfuse.data.cases import encode_label
from jaxfuse.data.sources.volumes import volume_root
from jaxfuse.engine.trained import labeled_cases
from jaxfuse.engine.trained.phases import load
from jaxfuse.engine.trained.segmenter import case_labeler
from jaxfuse.io.tables import read_json, read_rows
from jaxfuse.labels import LabelScheme, label_scheme
from tests.commands import call_here
from tests.made_cases import head, nested_cubes, write_case
from tests.made_layouts import EVERY, made_case, write_bids, write_decathlon, write_folders, write_nnunet
from tests.refusals import refused
from tests.runs import bits, run_of
from tests.untrained_run import labeling_run

CASES, HELD_OUT = (
    {f"p{number}": made_case(number, (20, 20, 16)) for number in range(3)},
    {"q": made_case(7, (20, 20, 16))},
)
WRITERS = {"nnunet": write_nnunet, "decathlon": write_decathlon}


def test_label_maps_are_the_same_files_in_every_layout(tmp_path, monkeypatch):
    """The command on one head as kept in each; the networks are opened once, for all calls."""
    run, open_once = labeling_run(tmp_path / "run"), cache(lambda number: case_labeler(load([str(run)])))
    monkeypatch.setattr(labeled_cases, "case_labeler", lambda phases, *_, **__: open_once(len(phases)))
    made: dict[str, bytes] = {}
    for name, kept in EVERY.items():
        output = tmp_path / "out" / name
        call_here(predict, workdir=run, input=kept.keep(tmp_path / name, [CASES["p0"]]), output=output)
        (path,) = output.glob("*.nii.gz")
        assert path.name == f"{kept.name.format(1)}.nii.gz"
        made[name] = path.read_bytes()
    assert len(np.unique(np.asarray(nib.load(tmp_path / "out" / "folders" / "case-1.nii.gz").dataobj))) > 1
    assert {name for name, content in made.items() if content != made["folders"]} == set()


def tiny_run(folder: Path, root: Path, **data) -> Path:
    """Trains the smallest CMFF on a data set; returns the workdir."""
    config = cmff.get_config("tiny,row=random")
    config.network.unet.base = config.network.unet.levels = config.fusion.args.fusion.fusion_width = 2
    config.fusion.steps, config.pairs = 2, data.get("modalities", config.pairs)
    config.data.update({"root": str(root), "cache": str(folder / "cache"), **data})
    assert run_of(config, folder / "run").execute()
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("layout", WRITERS)
def test_a_data_set_trains_labels_what_it_holds_out_and_is_scored(layout, tmp_path):
    root = WRITERS[layout](tmp_path / "set", CASES, HELD_OUT)
    run = tiny_run(tmp_path, root)
    facts = read_json(run / "dataset.json")
    assert (facts["scheme"], facts["test"], len(facts["train"]), len(facts["val"])) == ("decathlon", ["q"], 2, 1)
    call_here(predict, workdir=run, input=root, output=tmp_path / "held", side="test")
    assert [path.name for path in (tmp_path / "held").glob("*.nii.gz")] == ["q.nii.gz"]
    call_here(predict, workdir=run, input=root / "imagesTr", output=tmp_path / "pred")
    made = nib.load(tmp_path / "pred" / "p0.nii.gz")
    given = nib.load(root / "labelsTr" / "p0.nii.gz")
    assert (made.shape, made.affine.tolist()) == (given.shape, given.affine.tolist())
    assert set(np.unique(np.asarray(made.dataobj))) <= {0, 1, 2, 3}
    call_here(evaluate, pred=tmp_path / "pred", ref=root, protocol="brats", out=tmp_path / "scores", pictures=0)
    rows = read_rows(tmp_path / "scores" / "cases.csv")
    assert {row["case"] for row in rows} == set(CASES)
    assert {row["region"] for row in rows} == {"WT", "TC", "ET"}


def class_maps(folder: Path, scheme: LabelScheme) -> list[np.ndarray]:
    """Class indices of the label maps in a folder, in the order of names."""
    maps = [np.asarray(nib.load(path).dataobj) for path in sorted(folder.glob("*.nii.gz"))]
    return [encode_label(one, scheme) for one in maps]


@pytest.mark.slow
def test_training_gives_the_same_weights_maps_and_scores_in_every_layout(tmp_path):
    heads, found = list(CASES.values()), {}
    for name, kept in EVERY.items():
        root = kept.keep(tmp_path / name / "set", heads)
        run = tiny_run(tmp_path / name, root, labels=kept.labels)
        scheme = label_scheme(read_json(run / "dataset.json")["scheme"])
        (phase,) = load([str(run)])
        pred, out = tmp_path / name / "pred", tmp_path / name / "scores"
        call_here(predict, workdir=run, input=root, output=pred)
        call_here(evaluate, pred=pred, ref=root, protocol="brats", out=out, labels=kept.labels or None, pictures=0)
        rows = [{**row, "case": ""} for row in read_rows(out / "cases.csv")]
        found[name] = bits(phase.weights().params), class_maps(pred, scheme), rows
    weights, maps, rows = found["folders"]
    assert len(rows) == len(heads) * 3
    assert any(len(np.unique(one)) > 1 for one in maps)
    for name, (own_weights, own_maps, own_rows) in found.items():
        assert own_weights == weights, name
        np.testing.assert_array_equal(own_maps, maps, name)
        assert own_rows == rows, name


@pytest.mark.slow
def test_any_number_of_classes_and_any_modalities_train(tmp_path):
    """Regions of labels by hand, six classes, images of other names: all from `dataset.json`."""
    arrays = {name: {**one, "pd": one["t1"], "swi": one["t2"]} for name, one in CASES.items()}
    for one in arrays.values():
        one["seg"] = np.where(one["t1"] > 0, np.arange(one["t1"].shape[0])[:, None, None] % 7, 0)
    labels = {"background": 0, "left": [1, 2, 3], "right": [4, 5, 6], "deep": [3, 6]}
    values = tuple(range(7))
    root = write_nnunet(tmp_path / "set", arrays, channels=("pd", "swi"), values=values, labels=labels)
    run = tiny_run(tmp_path, root, modalities=("swi", "pd"))
    facts = read_json(run / "dataset.json")
    assert len(facts["classes"]) == len(facts["voxels_per_class"]) == 7
    assert all(facts["voxels_per_class"])
    call_here(predict, workdir=run, input=root, output=tmp_path / "pred")
    call_here(
        evaluate,
        pred=tmp_path / "pred",
        ref=root,
        protocol="brats",
        out=tmp_path / "scores",
        one_empty="nan",
        pictures=0,
    )
    rows = read_rows(tmp_path / "scores" / "cases.csv")
    assert [row["region"] for row in rows[:3]] == ["left", "right", "deep"]


@pytest.mark.slow
def test_voxels_to_be_ignored_change_no_weight_and_no_score(tmp_path):
    """Half of each label is not known: what is predicted there does not count."""
    labels = {"background": 0, "edema": 1, "non-enhancing tumor": 2, "enhancing tumor": 3, "ignore": 4}
    arrays = {name: {**one, "seg": one["seg"].copy()} for name, one in CASES.items()}
    for one in arrays.values():
        one["seg"][:10] = 4
    root = write_nnunet(tmp_path / "set", arrays, values=(0, 2, 1, 3, 4), labels=labels)
    run = tiny_run(tmp_path, root)
    facts = read_json(run / "dataset.json")
    assert (len(facts["classes"]), len(facts["voxels_per_class"])) == (4, 4)
    summary = read_json(run / "results" / "fusion" / "summary.json")
    assert set(summary["outputs"]["S_F"]) == {"WT", "TC", "ET", "mean"}
    call_here(predict, workdir=run, input=root, output=tmp_path / "pred")
    scored = {}
    for name, change in (("as predicted", 0), ("other where ignored", 3)):
        for path in (tmp_path / "pred").glob("*.nii.gz"):
            made = nib.load(path)
            array = np.array(made.dataobj)
            array[:10] = change or array[:10]
            (tmp_path / name).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(array, None, made.header), tmp_path / name / path.name)
        call_here(
            evaluate, pred=tmp_path / name, ref=root, protocol="brats", out=tmp_path / f"{name} scores", one_empty="nan"
        )
        scored[name] = (tmp_path / f"{name} scores" / "cases.csv").read_text()
    assert scored["as predicted"] == scored["other where ignored"]


@pytest.mark.slow
def test_cases_of_several_spacings_are_brought_to_one_and_labeled_on_their_own(tmp_path):
    root, sides = tmp_path / "set", {"p": (1.0, 1.0, 5.0), "q": (2.0, 2.0, 2.0), "r": (1.0, 1.5, 1.0)}
    shapes = {"p": (40, 40, 7), "q": (20, 20, 16), "r": (40, 26, 32)}
    for seed, (name, spacing_mm) in enumerate(sides.items()):
        arrays = {**head(shapes[name], seed), "seg": nested_cubes(shapes[name], {2: 3, 1: 2, 4: 1})}
        write_case(root, name, arrays, spacing_mm=spacing_mm)
    run = tiny_run(tmp_path, root, resample_mm=(2.0, 2.0, 2.0))
    facts = read_json(run / "dataset.json")
    assert np.abs(np.array(facts["spacing_range_mm"]) - 2).max() < 0.1
    call_here(predict, workdir=run, input=root, output=tmp_path / "pred")
    call_here(predict, workdir=run, input=root, output=tmp_path / "maps", save_probabilities=True)
    for name in sides:
        # Labels are the most probable classes on the grid of the files, with and without the probabilities.
        probs, labels = (
            nib.load(tmp_path / "maps" / one / f"{name}.nii.gz").get_fdata() for one in ("probabilities", ".")
        )
        # Not at its surface: whether that is brain is asked on the coarser grid.
        brain = ndimage.binary_erosion(nib.load(root / name / f"{name}_t1.nii.gz").get_fdata() > 0, iterations=2)
        np.testing.assert_array_equal(np.array([0, 1, 2, 4])[probs.argmax(-1)][brain], labels[brain])
        np.testing.assert_allclose(probs.sum(-1), 1, atol=1e-6)
        np.testing.assert_array_equal(labels, nib.load(tmp_path / "pred" / f"{name}.nii.gz").get_fdata())
        made, given = nib.load(tmp_path / "pred" / f"{name}.nii.gz"), nib.load(root / name / f"{name}_t1.nii.gz")
        assert (made.shape, made.affine.tolist()) == (given.shape, given.affine.tolist())
    call_here(evaluate, pred=tmp_path / "pred", ref=root, protocol="brats", out=tmp_path / "scores", pictures=0)
    assert {row["case"] for row in read_rows(tmp_path / "scores" / "cases.csv")} == set(sides)


def test_derivatives_of_bids_are_written_and_read_again(tmp_path):
    """Label maps by the names of BIDS, with a table of their values, and their scores."""
    heads = {"sub-1_ses-a": CASES["p0"], "sub-2_ses-a": CASES["p1"]}
    root, run = write_bids(tmp_path / "set", heads), labeling_run(tmp_path / "run")
    output = root / "derivatives" / "labels"
    refused("lies within --input", call_here, predict, workdir=run, input=root, output=output, bids=True)
    output = tmp_path / "labels"
    call_here(predict, workdir=run, input=root, output=output, bids=True)
    written = {str(path.relative_to(output)) for path in output.rglob("[!.]*") if path.is_file()}
    maps = {f"{name.replace('_', '/')}/anat/{name}_dseg.nii.gz" for name in heads}
    assert written == {*maps, "dataset_description.json", "dseg.tsv"}
    scores = tmp_path / "scores"
    call_here(evaluate, pred=output, ref=output, protocol="brats", out=scores, one_empty="nan", pictures=0)
    rows = read_rows(scores / "cases.csv")
    assert {(row["case"], row["dice"]) for row in rows} == {(name, 1.0) for name in heads}
    shutil.copytree(output, root / "derivatives" / "labels")
    assert (volume_root(root).scheme, len(volume_root(root).survey(()))) == ("decathlon", 2)
    folders = write_folders(tmp_path / "other", CASES)
    refused(
        "have the layout generic; leave it out",
        call_here,
        predict,
        workdir=run,
        input=folders,
        output=tmp_path / "out",
        bids=True,
    )
