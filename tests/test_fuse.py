"""`python -m jaxfuse.fuse` with weights as they might be: pictures, volumes, folders of pairs, refusals."""

import shutil

import nibabel as nib
import numpy as np
import pytest

import jaxfuse
from configs import fuse4seg
from jaxfuse import fuse
from jaxfuse.engine.trained.slice_fuser import load_fuser, slice_fuser
from jaxfuse.io.png import read_png, write_png
from jaxfuse.io.tables import read_json, write_json
from tests.commands import call_here
from tests.made_cases import save_volume
from tests.refusals import refused
from tests.untrained_run import write_untrained_run

MODALITIES = ("t1", "flair", "t2")
RNG = np.random.default_rng(0)
# All slices fill up to 32 x 32, so that one program serves every test.
GRAY, OTHER, THIRD = (RNG.integers(0, 256, (30, 28), np.uint8) for _ in range(3))
COLOR = RNG.integers(60, 190, (30, 28, 3), np.uint8)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run whose second phase has a checkpoint."""
    folder = tmp_path_factory.mktemp("fuse")
    config = fuse4seg.get_config("tiny")
    config.data.modalities, config.pairs = MODALITIES, ("t1+flair",)
    for name in ("pretraining", "cooperative"):
        config[name].args.combos = ("t1+flair", "t1+t2", "t1+flair+t2")
    config.data.cache = str(folder / "cache")
    return write_untrained_run(folder / "run", config, "cooperative", train={"a_z001": "k"}, seed=1)


@pytest.fixture(scope="module")
def compiled(workdir):
    """The network of the run, compiled once for all tests."""
    return slice_fuser(load_fuser(str(workdir)))


@pytest.fixture
def command(workdir, compiled, monkeypatch, tmp_path):
    """Runs the command on files below `tmp_path`."""
    monkeypatch.setattr("jaxfuse.engine.trained.fused_files.slice_fuser", lambda phase, **how: compiled)

    def run(*images, output="out.png", **options):
        first, *others = [str(tmp_path / image) for image in images] or [None]
        given = {"run": workdir, "images": first, "output": tmp_path / output, **options}
        call_here(fuse, *others, **given)
        return tmp_path / output

    return run


@pytest.fixture
def pictures(tmp_path):
    for name, pixels in (("a", GRAY), ("b", OTHER), ("c", THIRD), ("PET", COLOR)):
        write_png(tmp_path / f"{name}.png", pixels)
    return tmp_path


def head(seed):
    inside = np.random.default_rng(seed).uniform(100, 200, (26, 26, 18)).astype(np.float32)
    return np.pad(inside, [(1, 1), (2, 2), (1, 1)])


@pytest.fixture
def volumes(tmp_path):
    """T1, PET and SPECT, of which the second is stored along other axes."""
    affine = np.array([[-2.0, 0, 0, 9], [0, 2, 0, -7], [0, 0, 3, 5], [0, 0, 0, 1]])
    for seed, name in enumerate(("mni-T1", "mni-PET", "mni-SPECT")):
        axes = "LAS" if name == "mni-PET" else "RAS"
        geometry = {"affine": affine, "axes": axes, "sform_code": 4, "qform_code": 2}
        save_volume(tmp_path / f"{name}.nii.gz", head(seed), **geometry)
    return tmp_path


def rgb_of(image: nib.Nifti1Image) -> np.ndarray:
    return np.stack([np.asarray(image.dataobj)[name] for name in "RGB"], axis=-1).astype(int)


def test_gray_pictures_in_any_order(command, pictures):
    def fused(names: str) -> np.ndarray:
        made = read_png(command(*(f"{name}.png" for name in names), output=f"{names}.png"))
        assert (made.shape, made.dtype) == (GRAY.shape, np.uint8)
        return made.astype(int)

    two, three = fused("ab"), fused("abc")
    assert len(np.unique(two)) > 20
    np.testing.assert_allclose(two, fused("ba"), atol=1)
    np.testing.assert_allclose(three, fused("cab"), atol=1)
    assert np.abs(three - two).max() > 2  # a third source says something


def test_a_color_picture_gives_its_color(command, pictures):
    made = read_png(command("a.png", "PET.png", output="one.png", preview=str(pictures / "look.png")))
    assert made.shape == COLOR.shape
    # Where nothing is clipped, the differences of red and green, and of blue and green, are the source's.
    free = np.all((made > 0) & (made < 255), axis=-1)
    assert free.mean() > 0.3
    differences = (pixels[free][:, [0, 2]] - pixels[free][:, [1]].astype(int) for pixels in (made, COLOR))
    np.testing.assert_allclose(*differences, atol=2)
    assert (pictures / "look.png").is_file()


def test_volumes_keep_the_geometry_of_the_first(command, volumes):
    made = nib.load(command("mni-T1.nii.gz", "mni-PET.nii.gz", output="new/out.nii.gz"))
    like = nib.load(volumes / "mni-T1.nii.gz")
    assert (made.get_data_dtype(), made.shape) == (np.uint8, like.shape)
    for key in ("qform_code", "sform_code", "pixdim", "xyzt_units", "srow_x", "quatern_b"):
        np.testing.assert_array_equal(made.header[key], like.header[key])
    voxels, inside = np.asarray(made.dataobj), head(0) != 0
    assert not voxels[~inside].any()
    assert len(np.unique(voxels[inside])) > 20
    # The same slices, whatever axes they are stored along.
    turned = nib.load(command("mni-PET.nii.gz", "mni-T1.nii.gz", output="turned.nii"))
    np.testing.assert_allclose(np.asarray(turned.dataobj)[::-1].astype(int), voxels, atol=1)


def test_python_fuses_what_the_command_fuses(command, compiled, workdir, pictures, volumes):
    run, color = jaxfuse.load(workdir), ("2=hot",)
    by_command = (
        command("a.png", "b.png", output="c.png", overwrite=True),
        command("mni-T1.nii.gz", "mni-PET.nii.gz", output="c.nii.gz", color="2=hot"),
    )
    with pytest.warns(UserWarning, match="a, b: no background can be told"):
        picture = run.fuse([pictures / "a.png", pictures / "b.png"])
    np.testing.assert_array_equal(picture.image, read_png(by_command[0]))
    assert picture.save(pictures / "d.png").read_bytes() == by_command[0].read_bytes()
    assert (picture.affine, picture.names, run.fuses) == (None, ("a", "b"), True)
    volume = run.fuse([volumes / "mni-T1.nii.gz", volumes / "mni-PET.nii.gz"], color=color)
    assert volume.save(volumes / "d.nii.gz").read_bytes() == by_command[1].read_bytes()
    np.testing.assert_array_equal(volume.image, rgb_of(nib.load(by_command[1])))
    np.testing.assert_array_equal(volume.affine, nib.load(by_command[1]).affine)
    assert "data:image/png" in volume._repr_html_()
    refused("would replace .*a.png, which is read", picture.save, pictures / "a.png", overwrite=True)
    refused("^axis says which slices", run.fuse, [pictures / "a.png", pictures / "b.png"], axis="axial")
    refused("^axis is 'z'; choose axial, coronal", run.fuse, [volumes / "mni-T1.nii.gz"] * 2, axis="z")


def test_colored_volumes_are_rgb(command, volumes, capsys):
    images, preview = [f"mni-{name}.nii.gz" for name in ("T1", "PET", "SPECT")], volumes / "look.png"
    made = nib.load(command(*images, output="rgb.nii.gz", color="PET=hot,3=viridis", preview=str(preview)))
    assert int(made.header["datatype"]) == 128
    np.testing.assert_array_equal(made.affine, nib.load(volumes / images[0]).affine)
    rgb, inside = rgb_of(made), head(0) != 0
    assert not rgb[~inside].any()
    assert np.ptp(rgb[inside], axis=-1).mean() > 10
    assert preview.is_file()
    said = capsys.readouterr().out
    assert "run:cooperative fuses mni-T1, mni-PET, mni-SPECT in its slots t1, flair, t2" in said
    assert "rgb.nii.gz: RGB, 28 x 30 x 20" in said


def test_slices_across_another_axis(command, volumes):
    images = ("mni-T1.nii.gz", "mni-SPECT.nii.gz")
    made = (command(*images, output=f"{axis}.nii", axis=axis) for axis in ("axial", "coronal"))
    axial, coronal = (np.asarray(nib.load(path).dataobj) for path in made)
    assert axial.shape == coronal.shape
    assert np.abs(axial.astype(int) - coronal).max() > 2


def test_a_folder_of_pairs(command, tmp_path):
    pairs = {"MRI_CT/7": (GRAY, OTHER), "MRI_PET/0001": (GRAY, COLOR), "MRI_PET/0002": (OTHER, COLOR)}
    pairs["MRI_PET/0003"] = (THIRD[:20], COLOR[:20])
    for name, pixels in pairs.items():
        kind, number = name.split("/")
        for modality, one in zip(kind.split("_"), pixels, strict=True):
            write_png(tmp_path / "root" / kind / modality / f"{number}.png", one)
    out = command(output="out", pairs=str(tmp_path / "root"))
    assert {str(path.relative_to(out)) for path in out.rglob("*.png")} == {f"{name}.png" for name in pairs}
    assert read_png(out / "MRI_CT" / "7.png").ndim == 2
    assert read_png(out / "MRI_PET" / "0003.png").shape == (20, 28, 3)
    # As by the images alone; and a collection that is named itself has no folder of its own.
    one = command("root/MRI_PET/MRI/0001.png", "root/MRI_PET/PET/0001.png", output="alone.png")
    np.testing.assert_array_equal(read_png(out / "MRI_PET" / "0001.png"), read_png(one))
    named = command(output="named", pairs=str(tmp_path / "root" / "MRI_PET"))
    assert sorted(path.name for path in named.glob("[!.]*")) == ["0001.png", "0002.png", "0003.png"]


def test_calls_that_cannot_be_are_refused(command, pictures):
    pair = ("a.png", "b.png")
    refused("give either --images A B", command)
    refused("give either --images A B", command, *pair, pairs="root")
    refused("5 images came", command, *pair, *pair, "c.png")
    refused("a picture and .*a volume", command, "a.png", "b.nii.gz")
    refused(r"out.nii.gz does not end in .png, as the images do", command, *pair, output="out.nii.gz")
    refused(r"--output .*b.png would replace .*b.png, which is read", command, *pair, output="b.png")
    refused(r"a.png cannot be written .*; name another with --output", command, *pair, output="a.png/out.png")
    refused(
        "--preview .*out.png would replace --output, the fused image", command, *pair, preview=str(pictures / "out.png")
    )
    refused("does not end in .png", command, *pair, preview="look.pdf")
    refused("--axis says which slices of volumes", command, *pair, axis="axial")
    refused(r"4 images came, and run:cooperative has 3 slots \(t1, flair, t2\)", command, *pair, "c.png", "PET.png")
    refused("--color is an option of --images", command, pairs=str(pictures), color="1=hot")
    refused("is and holds none of the folders MRI_CT, CT-MRI, MRI_PET", command, pairs=str(pictures))
    assert not (pictures / "out.png").exists()


def test_a_run_without_fused_image_is_refused(command, pictures, workdir, tmp_path):
    told = "makes reconstruction, no label map; name another phase"
    refused(told, command, "a.png", "b.png", run=f"{workdir}:pretraining")
    config, run = read_json(workdir / "config.json"), shutil.copytree(workdir, tmp_path / "run")
    twice = {"again": config["cooperative"], "schedule": [*config["schedule"], "again"]}
    write_json(run / "config.json", {**config, **twice, "result": ["cooperative", "again"]})
    shutil.copytree(run / "checkpoints" / "cooperative", run / "checkpoints" / "again")
    told = "has the results run:cooperative, run:again; name one of them"
    refused(told, command, "a.png", "b.png", run=run)


@pytest.fixture(scope="module")
def settling(tmp_path_factory):
    """A run of scheme pixel, whose image is another than its network's."""
    folder = tmp_path_factory.mktemp("settling")
    config = fuse4seg.get_config("tiny,row=pixel")
    config.data.cache = str(folder / "cache")
    return write_untrained_run(folder / "run", config, "cooperative", train={"a_z001": "k"}, seed=1)


@pytest.mark.slow
def test_the_settled_image_is_written_or_that_of_the_network_if_asked_for(settling, pictures):
    images = {"run": settling, "images": pictures / "a.png"}
    call_here(fuse, pictures / "b.png", **images, output=pictures / "out.png")
    call_here(fuse, pictures / "b.png", **images, output=pictures / "network.png", by_network=True)
    settled, own = (read_png(pictures / name).astype(int) for name in ("out.png", "network.png"))
    assert settled.shape == own.shape == GRAY.shape
    # The energy has drawn it nearer to the maximum of its sources.
    brightest = np.maximum(GRAY, OTHER).astype(int)
    assert np.abs(settled - brightest).mean() < np.abs(own - brightest).mean()
    # In a folder of pairs alike.
    for modality, pixels in (("MRI", GRAY), ("CT", OTHER)):
        write_png(pictures / "MRI_CT" / modality / "1.png", pixels)
    for by_network, expected in ((False, settled), (True, own)):
        place = pictures / f"pairs-{by_network}"
        call_here(fuse, run=settling, pairs=pictures / "MRI_CT", output=place, by_network=by_network)
        np.testing.assert_allclose(read_png(place / "1.png").astype(int), expected, atol=1)


def test_a_run_that_settles_nothing_has_one_image(workdir, pictures):
    asked = {"run": workdir, "images": pictures / "a.png", "output": pictures / "out.png", "by_network": True}
    told = "gives no fused_by_network: the fused image is its network's own; do not ask for it"
    refused(told, call_here, fuse, pictures / "b.png", **asked)
    assert not (pictures / "out.png").exists()


def test_templates_of_mri_pet_and_spect(command, shared_data, tmp_path):
    """Every eighth slice of the MNI templates, of which SPECT is stored along other axes and with other bytes."""
    names = [f"mni152-2mm-{name}" for name in ("T1", "PET", "SPECT")]
    for name in names:
        source = shared_data / "iseg_like_mni152" / "nifti" / f"{name}.nii.gz"
        if not source.is_file():
            pytest.skip(f"no templates at {source.parent}")
        nib.save(nib.load(source).slicer[:, :, 10::8], tmp_path / f"{name}.nii.gz")
    images = [f"{name}.nii.gz" for name in names]
    out = command(*images, output="out.nii.gz", color="PET=hot,SPECT=viridis")
    made, like = nib.load(out), nib.load(tmp_path / images[0])
    np.testing.assert_array_equal(made.affine, like.affine)
    assert made.shape == like.shape == (91, 109, 11)
    assert rgb_of(made).any(axis=(0, 1, 3)).all()
