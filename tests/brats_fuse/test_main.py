"""`python -m jaxfuse.brats_fuse`: phantoms of three patients, fused by a network that was drawn and never trained."""

import shutil
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from configs import fuse4seg
from jaxfuse.brats_fuse import __main__ as brats_fuse
from jaxfuse.data.phantom.brats import write_brats_phantoms
from jaxfuse.data.slices import gray_levels, pictures, prepare_slices
from jaxfuse.data.sources.brats import MODALITIES, SOURCE
from jaxfuse.engine.trained.slice_fuser import load_fuser, slice_fuser
from jaxfuse.errors import CasesLeftOut, Stopped
from jaxfuse.io.nifti import read_volume
from jaxfuse.io.png import png_size, read_png
from jaxfuse.io.tables import read_json, read_rows, write_json
from jaxfuse.labels import label_scheme
from tests.commands import call_here
from tests.made_cases import save_volume
from tests.refusals import refused
from tests.untrained_run import write_untrained_run

SHAPE, SPACING_MM = (30, 28, 18), 8.0  # pictures of 28 x 30, which the network cannot take as they are
COMBOS = ["-".join(chosen) for size in (2, 3, 4) for chosen in combinations(MODALITIES, size)]
ONLY = {"one_per_case": True, "combos": "t1+t2"}


@cache
def fuser(run: str, outputs: tuple[str, ...], batch: int):
    """The network of a run, compiled once for all tests."""
    return slice_fuser(load_fuser(run), outputs=outputs, batch=batch)


def make(monkeypatch, root: Path, run: Path, out: Path, **options) -> list[dict]:
    """The command; returns the rows of the manifest."""
    compiled = "jaxfuse.brats_fuse.build.slice_fuser"
    monkeypatch.setattr(compiled, lambda phase, outputs, batch, **how: fuser(str(run), outputs, batch))
    call_here(brats_fuse, root=root, run=run, out=out, **{"batch": 16, **options})
    return read_rows(out / "manifest.csv", text=("case", "split"))


def drawn_run(folder: Path, train: dict[str, str], *, seed: int = 0) -> Path:
    """A run that was trained on such slices, its weights drawn."""
    config = fuse4seg.get_config("tiny")
    config.network.combos = ("all",)
    config.data.cache = str(folder / "cache")
    return write_untrained_run(folder / "run", config, "cooperative", train=train, seed=seed)


@dataclass(frozen=True)
class World:
    root: Path
    run: Path
    out: Path
    rows: list[dict]

    def path(self, row: dict, kind: str, *, out: Path | None = None, letter: str = "z", ending: str = "png") -> Path:
        """A file of a slice, of this data set or of that in the folder `out`."""
        return (out or self.out) / row["split"] / kind / f"{row['case']}_{letter}{row['z']:03d}.{ending}"


def copy_case(case: Path, to: Path, old: str, new: str) -> None:
    to.mkdir(parents=True)
    for path in case.iterdir():
        shutil.copy(path, to / path.name.replace(old, new))


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    """Three cases, the last of them without label; the data set of all their slices."""
    folder = tmp_path_factory.mktemp("brats_fuse")
    made = write_brats_phantoms(folder / "made", cases=3, seed=3, shape=SHAPE, spacing_mm=SPACING_MM)
    for name, case in zip("ABC", made, strict=True):
        copy_case(case, folder / "root" / name, case.name, name)
    (folder / "root" / "C" / "C_seg.nii.gz").unlink()
    run = drawn_run(folder, {"OTHER_z007": "key"})
    with pytest.MonkeyPatch.context() as patch:
        rows = make(patch, folder / "root", run, folder / "out")
    return World(folder / "root", run, folder / "out", rows)


def slices_of(root: Path, cache: Path) -> dict:
    """The slices of each case as training would see them."""
    files = SOURCE.find(root, MODALITIES, labels_required=False)
    return prepare_slices(files, MODALITIES, label_scheme("brats"), cache=cache)


@pytest.fixture(scope="module")
def cut(world, tmp_path_factory):
    return slices_of(world.root, tmp_path_factory.mktemp("cache"))


def volume(world: World, case: str, name: str) -> np.ndarray:
    """All axial pictures of a volume."""
    return pictures(read_volume(world.root / case / f"{case}_{name}.nii.gz").array, 2)


@pytest.fixture
def build(world, monkeypatch, tmp_path):
    """The command on cases, run and folder that are as here unless named; returns the rows of the manifest."""

    def call(*, root: Path = world.root, run: Path = world.run, out: Path = tmp_path / "out", **options) -> list[dict]:
        return make(monkeypatch, root, run, out, **options)

    return call


def test_the_manifest_lists_the_files(world, cut):
    slices = [(case, int(one.id[-3:])) for case, slices in cut.items() for one in slices]
    assert [(row["case"], row["z"]) for row in world.rows] == slices
    sides = {row["case"]: row["split"] for row in world.rows}
    assert sorted(sides.values()) == ["test", "train", "val"]
    assert {(row["case"], row["split"]) for row in world.rows} == set(sides.items())
    kinds = [*(f"source/{m}" for m in MODALITIES), *(f"fused/{combo}" for combo in COMBOS)]
    expected = {world.path(row, kind) for row in world.rows for kind in kinds}
    expected |= {world.path(row, "mask") for row in world.rows if row["case"] != "C"}
    assert {path for side in sides.values() for path in (world.out / side).rglob("*.*")} == expected
    assert {png_size(path) for path in expected} == {(28, 30)}
    assert {row["seen_in_training"] for row in world.rows} == {0}


def test_masks_are_class_indices_and_counts_are_theirs(world):
    found = set()
    for row in world.rows:
        brain = np.any([volume(world, row["case"], m)[row["z"]] != 0 for m in MODALITIES], axis=0)
        assert (row["has_label"], row["brain_px"]) == (row["case"] != "C", brain.sum())
        if row["case"] == "C":
            assert row["tumor_px"] == 0
            continue
        mask, stored = read_png(world.path(row, "mask")), volume(world, row["case"], "seg")[row["z"]]
        np.testing.assert_array_equal(mask, np.where(stored == 4, 3, stored))
        assert row["tumor_px"] == np.count_nonzero(mask)
        found |= set(np.unique(mask).tolist())
    assert found == {0, 1, 2, 3}


def test_the_percentiles_undo_the_scaling_to_half_a_gray_level(world):
    for row in world.rows[::5]:
        for modality in MODALITIES:
            levels = read_png(world.path(row, f"source/{modality}")).astype(float)
            values = volume(world, row["case"], modality)[row["z"]]
            low, high, inside = row[f"{modality}_p_lo"], row[f"{modality}_p_hi"], values != 0
            errors = np.abs(low + (levels - 1) / 254 * (high - low) - np.clip(values, low, high))
            assert errors[inside].max() <= 0.5 * (high - low) / 254 * 1.001
            assert (levels[inside] >= 1).all()
            assert not levels[~inside].any()


def test_fused_images_can_be_made_of_the_files_again(world):
    """In any order of the modalities."""
    fuse = fuser(str(world.run), ("fused",), 16)
    row = world.rows[len(world.rows) // 2]
    image = np.stack([read_png(world.path(row, f"source/{m}")) for m in MODALITIES], -1)[None] / np.float32(255)
    masks = np.array([[m in combo.split("-") for m in MODALITIES] for combo in COMBOS])
    made = fuse(np.repeat(image, len(COMBOS), axis=0), masks)["fused"]
    spread = [read_png(world.path(row, f"fused/{combo}")) for combo in COMBOS]
    for levels, picture in zip(spread, made, strict=True):
        assert np.abs(levels.astype(int) - gray_levels(picture[..., 0])).max() <= 1
    triple, other = np.array([0, 1, 1, 1]), [0, 3, 1, 2]
    np.testing.assert_allclose(fuse(image[..., other], triple)["fused"], fuse(image, triple)["fused"], atol=1e-5)
    assert min(np.ptp(levels) for levels in spread) > 10
    assert len({levels.tobytes() for levels in spread}) == 11


def stamps(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in out.rglob("*.*") if path.is_file() and path.name[0] != "."}


@pytest.mark.slow
def test_what_is_missing_is_made_again_and_nothing_else(world, build):
    times = stamps(world.out)
    before = {path: path.read_bytes() for path in times}
    row, last = world.rows[3], world.rows[-1]
    lost = [world.path(row, "fused/t1-t2"), world.path(row, "source/t1"), world.path(last, "fused/t1-t2-flair")]
    for path in lost:
        path.unlink()
    assert build(out=world.out) == world.rows
    now = stamps(world.out)
    assert {path for path in now if now[path] != times[path]} == {*lost, world.out / "manifest.csv"}
    assert {path: path.read_bytes() for path in now} == before


@pytest.mark.slow
def test_a_build_that_was_stopped_goes_on(world, build, monkeypatch, tmp_path):
    def stop(request, where):
        if where == "after A":
            raise Stopped("SIGTERM: stopped", 143)

    with monkeypatch.context() as patch:
        patch.setattr("jaxfuse.engine.stop_request.StopRequest.heed", stop)
        with pytest.raises(Stopped):
            build(**ONLY)
    assert not (tmp_path / "out" / "manifest.csv").exists()
    times, rows = stamps(tmp_path / "out"), build(**ONLY)
    now = stamps(tmp_path / "out")
    assert [row["case"] for row in rows] == ["A", "B", "C"]
    assert {path for path in times if path not in now} == {tmp_path / "out" / "manifest.unfinished.jsonl"}
    pictures = [path for path in times if path.suffix == ".png"]
    assert len(pictures) == 6
    assert [now[path] for path in pictures] == [times[path] for path in pictures]
    # The slice with the largest tumor of each case.
    for case in "AB":
        (area,) = (row["tumor_px"] for row in rows if row["case"] == case)
        assert area == max(row["tumor_px"] for row in world.rows if row["case"] == case)


@pytest.mark.slow
def test_attention_of_each_source_is_kept(world, build, tmp_path):
    options, where = {"attention": True, "axis": "coronal", "panels": 2}, {"out": tmp_path, "letter": "y"}
    for row in build(out=tmp_path, one_per_case=True, combos="flair+t1", **options):
        assert world.path(row, "fused/t1-flair", **where).is_file()
        found = np.load(world.path(row, "attn/t1-flair", ending="npz", **where))
        made = found["attention"]
        assert (found["modalities"].tolist(), made.dtype, made.shape) == (["t1", "flair"], np.float16, (18, 30, 2))
        assert made.mean() > 0
    assert len(list((tmp_path / "panels").glob("*.png"))) == 2


@pytest.mark.slow
def test_a_brain_mask_by_a_program_cuts_what_it_leaves_out(world, build, monkeypatch, tmp_path):
    def half(image, mask, *, program, device):
        assert (program, device, image.name[-9:]) == ("there", "cpu", "t1.nii.gz")
        volume = nib.load(image)
        inside = np.indices(volume.shape)[0] < volume.shape[0] // 2
        save_volume(mask, inside.astype(np.uint8), affine=volume.affine)

    monkeypatch.setattr("jaxfuse.brats_fuse.begin.hd_bet_program", lambda: "there")
    monkeypatch.setattr("jaxfuse.brats_fuse.begin.extract_brain", half)
    rows = build(**ONLY, brain_mask="hd-bet")
    assert {path.name for path in (tmp_path / "out" / "brain").iterdir()} == {f"{case}.nii.gz" for case in "ABC"}
    for row in rows:
        whole = np.any([volume(world, row["case"], m)[row["z"]] != 0 for m in MODALITIES], axis=0)
        # Stored from left to right, so that the half that stays lies on the right of the picture.
        kept = read_png(world.path(row, "source/t1", out=tmp_path / "out")) > 0
        assert 0 < row["brain_px"] == kept.sum() < whole.sum()
        assert (not kept[:, :15].any()) or (not kept[:, 15:].any())


@pytest.mark.slow
def test_another_data_set_in_the_folder_is_refused_option_by_option(world, build, tmp_path):
    told = r"options.axis: 'axial' there, 'sagittal' now; options.seed: 0 there, 1 now"
    refused(told, build, out=world.out, axis="sagittal", seed=1)
    other = drawn_run(tmp_path, {"X_z001": "k"}, seed=1)
    refused(r"made by run:cooperative .*fingerprint.weights: '\w+' there, '\w+' now", build, run=other, out=world.out)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    refused(r"full holds thesis.tex and no builder.json; name a new or empty folder", build, out=tmp_path / "full")


def test_files_that_no_row_stands_for_are_said(world, build):
    strange = world.out / "test" / "source" / "t1" / "D_z001.png"
    strange.touch()
    refused(r"1 files \(test/source/t1/D_z001.png\) below .* stand in no row of the manif", build, out=world.out)
    strange.unlink()


def test_patients_of_the_training_are_refused_or_marked(world, cut, build, tmp_path):
    """Known by the name, or by equal files under another name, in another folder."""
    trained = {"A_z010": "of other files", "RENAMED_z003": cut["B"][0].key}
    assert len(trained["RENAMED_z003"]) == 40
    run = drawn_run(tmp_path, trained)
    refused(r"was trained on 1 of the 3 cases \(A\)", build, run=run, **ONLY)
    # The key holds the name of the case: as the training knew it.
    files = tmp_path / "as_trained" / "HGG" / "RENAMED"
    copy_case(world.root / "B", files, "B_", "RENAMED_")
    (known,) = slices_of(files, tmp_path / "c").values()
    facts = read_json(run / "dataset.json")
    facts["keys"]["RENAMED_z003"] = known[0].key
    write_json(run / "dataset.json", facts)
    refused(r"was trained on 2 of the 3 cases \(A, B\).* --allow_trained", build, run=run, **ONLY)
    rows = build(run=run, **ONLY, allow_trained=True)
    assert {row["case"]: row["seen_in_training"] for row in rows} == {"A": 1, "B": 1, "C": 0}
    record = read_json(tmp_path / "out" / "builder.json")
    assert (record["seen_in_training"], record["fingerprint"]["step"]) == (["A", "B"], 1)


def test_options_that_cannot_be_are_refused(world, build, monkeypatch, tmp_path):
    refused("combination 't1' must name 2 to 4", build, combos="t1")
    refused("names flair, but the data has t1, t2", build, modalities="t2,t1", combos="t1+flair")
    refused("--modalities names pet, and run:cooperative knows t1, t1ce, t2, flair", build, modalities="t1,pet")
    refused("have ignore, and BraTS-Fuse names a class", build, labels="lesion=1,ignore=2")
    refused("--hd_bet_device is cuda, but --brain_mask is union", build, hd_bet_device="cuda")
    monkeypatch.setenv("PATH", str(tmp_path))
    refused("no program hd-bet on PATH", build, brain_mask="hd-bet")
    assert not (tmp_path / "out").exists()


def test_a_data_set_of_two_modalities_by_a_run_of_four(world, build, tmp_path):
    rows = build(out=tmp_path, modalities="t2,t1", one_per_case=True)
    assert "flair_p_lo" not in rows[0]
    for row in rows:
        levels = read_png(world.path(row, "fused/t1-t2", out=tmp_path)).astype(int)
        assert np.abs(levels - read_png(world.path(row, "fused/t1-t2"))).max() <= 1


@pytest.mark.slow
def test_a_real_head(shared_data, world, build, tmp_path):
    root = shared_data / "ms_lesion_mni"
    if not root.is_dir():
        pytest.skip(f"the real sample {root} is not here")
    (row,) = build(root=root, out=tmp_path, labels="lesion", batch=1, **ONLY)
    assert (row["case"], row["split"], row["has_label"]) == ("patient19", "train", 1)
    mask = read_png(world.path(row, "mask", out=tmp_path))
    assert (mask.shape, set(np.unique(mask).tolist())) == ((218, 182), {0, 1})
    assert np.count_nonzero(mask) == row["tumor_px"] > 1000
    stored = pictures(read_volume(root / "patient19" / "patient19_seg.nii.gz").array, 2)
    assert row["tumor_px"] == max(np.count_nonzero(picture) for picture in stored)
    assert read_png(world.path(row, "fused/t1-t2", out=tmp_path)).shape == (218, 182)


@pytest.mark.slow
def test_a_bad_case_is_left_out_and_the_record_names_it(world, build, tmp_path):
    root, out = shutil.copytree(world.root, tmp_path / "root"), tmp_path / "out"
    (root / "B" / "B_t2.nii.gz").write_bytes((root / "B" / "B_t2.nii.gz").read_bytes()[:-99])
    (root / "C" / "C_flair.nii.gz").unlink()
    for _ in range(2):
        with pytest.raises(CasesLeftOut, match=r"left out 2 of 3 cases:\n  case C has no flair image.*\n  B: .*is dam"):
            build(root=root, **ONLY)
        assert {row["case"] for row in read_rows(out / "manifest.csv", text=("case", "split"))} == {"A"}
        assert list(read_json(out / "builder.json")["left_out"]) == ["C", "B"]
    refused("--out .* lies within --root", build, root=root, out=root / "A" / "out", **ONLY)


def test_a_background_that_cannot_be_told_is_warned_of(build, world, tmp_path, capsys):
    copy_case(world.root / "C", tmp_path / "root" / "C", "C", "C")
    path = tmp_path / "root" / "C" / "C_t2.nii.gz"
    stored = nib.load(path)
    noise = np.random.default_rng(0).integers(100, 1000, stored.shape).astype(np.int16)
    nib.save(nib.Nifti1Image(noise, stored.affine), path)
    build(root=tmp_path / "root", **ONLY)
    said = "Warning: the background of 1 of 1 cases cannot be told in some image (the first is C)"
    assert said in capsys.readouterr().out
