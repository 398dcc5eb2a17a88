"""Real heads through training and prediction: a glioma on the BraTS grid, multiple sclerosis in MNI space."""

from pathlib import Path

import jax
import nibabel as nib
import numpy as np
import pytest

from configs import cmff
from jaxfuse import predict
from jaxfuse.data.phantom.brats import write_brats_phantoms
from jaxfuse.engine.run_folder.metric_writer import read_metrics
from jaxfuse.io.tables import read_json
from tests.commands import call_here
from tests.made_cases import MODALITIES, read_like
from tests.runs import run_of, said

STEPS = 2
SIDE = 48  # prediction of a whole head takes seconds with tiles of this size, minutes with those of 16 voxels


def train(workdir: Path, root: Path, labels: str) -> str:
    """Two steps of each phase; returns what the run says."""
    config = cmff.get_config("tiny")
    config.data.root, config.data.labels, config.data.cache = str(root), labels, str(workdir.parent / "cache")
    config.network.unet.base, config.network.unet.levels, config.log_every = 2, 2, 1
    config.transition.args.cycle.critic_base = config.fusion.args.fusion.fusion_width = 2
    for name in config.schedule:
        # Judging whole heads is the business of other tests, on smaller ones.
        config[name].assess, config[name].steps = "engine.judging.losses:losses", STEPS
    config.fusion.patch = (SIDE, SIDE, SIDE)
    run = run_of(config, workdir)
    assert run.execute()
    return said(run)


@pytest.fixture
def optimized():
    """Compiles as users do from here on: a whole head repays it, which the small programs of other tests do not."""
    before = jax.config.read("jax_disable_most_optimizations")
    yield lambda: jax.config.update("jax_disable_most_optimizations", False)
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.mark.parametrize(
    ("folder", "case", "labels", "axes", "voxels"),
    [
        # As the data set's description counts them: core, edema, enhancing tumor.
        ("tcga_lgg_brats", "TCGA-FG-6692", "", "LPS", (2477, 20862, 6840)),
        pytest.param("ms_lesion_mni", "patient19", "lesion", "LAS", (49769,), marks=pytest.mark.slow),
    ],
)
def test_training_and_prediction(shared_data, optimized, tmp_path, folder, case, labels, axes, voxels):
    root = shared_data / folder
    if not root.is_dir():
        pytest.skip(f"the real sample {root} is not here")
    told = train(tmp_path / "run", root, labels)
    assert f"One case only: {case} trains and validates. This is an overfit check." in told
    rows = [row for row in read_metrics(tmp_path / "run") if row["split"] == "train"]
    steps = [(phase, step) for phase in ("transition", "fusion") for step in range(1, STEPS + 1)]
    assert [(row["phase"], row["step"]) for row in rows] == steps
    assert all(np.isfinite(value) for row in rows for value in row.values() if isinstance(value, float))
    facts = read_json(tmp_path / "run" / "dataset.json")
    assert (facts["scheme"], facts["train"], facts["val"]) == (labels or "brats", [case], [case])
    assert tuple(facts["voxels_per_class"][1:]) == voxels
    optimized()
    call_here(predict, workdir=tmp_path / "run", input=root, output=tmp_path / "out", overlap=0.0)
    written = tmp_path / "out" / f"{case}.nii.gz"
    read_like(written, root / case / f"{case}_t1.nii.gz")
    made = nib.load(written)
    assert nib.aff2axcodes(made.affine) == tuple(axes)
    values = np.asarray(made.dataobj)
    assert set(np.unique(values)) <= ({0, 1} if labels else {0, 1, 2, 4})
    images = [nib.load(root / case / f"{case}_{modality}.nii.gz").get_fdata() for modality in MODALITIES]
    assert values.any()
    assert not values[~np.any(images, axis=0)].any()


@pytest.mark.slow
def test_real_heads_of_two_modalities_train_beside_phantoms_of_four(shared_data, optimized, tmp_path):
    """Batches mix cases of both kinds, and the heads are labeled by the two modalities that they have."""
    heads = shared_data / "brats2015_2mod"
    if not heads.is_dir():
        pytest.skip(f"the real sample {heads} is not here")
    root = tmp_path / "data"
    write_brats_phantoms(root, cases=4, seed=0, shape=(48, 48, 48), spacing_mm=4.0)
    real = sorted(one.name for one in heads.iterdir() if one.is_dir())
    for name in real:
        (root / name).symlink_to(heads / name)
    config = cmff.get_config("tiny,row=random")
    config.data.root, config.data.labels, config.data.cache = str(root), "brats2015", str(tmp_path / "cache")
    config.data.layout, config.data.incomplete, config.data.val_fraction = "generic", "zero", 0.34
    config.network.unet.base, config.network.unet.levels, config.log_every = 2, 2, 1
    config.fusion.args.fusion.fusion_width, config.fusion.args.fusion.presence = 2, "masked"
    config.fusion.assess, config.fusion.steps = "engine.judging.losses:losses", 8
    config.fusion.batch, config.fusion.modality_dropout.probability = 2, 0.5
    run = run_of(config, tmp_path / "run")
    assert run.execute()
    facts = read_json(tmp_path / "run" / "dataset.json")
    assert set(facts["subsets"]) == {"t1ce+flair", "t1+t1ce+t2+flair"}
    assert set(facts["train"]) & set(real)
    rows = [row for row in read_metrics(tmp_path / "run") if row["split"] == "train"]
    assert len(rows) == 8
    assert all(np.isfinite(value) for row in rows for value in row.values() if isinstance(value, float))
    optimized()
    call_here(predict, workdir=tmp_path / "run", input=heads, output=tmp_path / "out", overlap=0.0, missing="zero")
    for name in real:
        made = nib.load(tmp_path / "out" / f"{name}.nii.gz")
        assert b"without t1, t2" in made.header["descrip"].tobytes()
        assert made.shape == (240, 240, 155)
