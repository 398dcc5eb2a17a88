"""A row of a paper that is offered and cannot run, or does not what the paper says.

`tests/test_rows_open.py` opens the data of all others.
"""

import numpy as np
import pytest

from configs import hinet, hyperfusion
from jaxfuse.config import parse
from jaxfuse.data.settings import declared_facts
from jaxfuse.engine.build import build_system
from jaxfuse.engine.training import Training
from jaxfuse.metrics.overlap import dice, iou, sensitivity, specificity
from tests.faults.catalogue import given, table
from tests.made_cases import MODALITIES, ellipsoid, head, nested_cubes, save_volume, write_case, write_isles
from tests.recipe_phases import RECIPES
from tests.refusals import refused
from tests.runs import run_of, said
from tests.true_sizes import write_stroke


def _first_batch(config, folder, phase):
    config.data.cache = str(folder / "cache")
    config.loader.threads = config.loader.prefetch = 1
    return next(run_of(config, folder, new=False).phase(phase).stream(0))


@pytest.fixture(scope="module")
def strokes(tmp_path_factory):
    """Two cases of 256 x 256 x 32 voxels, of which every slice shows the brain and few a lesion."""
    root = tmp_path_factory.mktemp("strokes") / "root"
    write_stroke(root)
    return root


@table(
    "row",
    *(
        (f"`hyperfusion.py:row={row},data=stroke`: slices of the brain without a lesion", "left out of training", row)
        for row in ("full_2d", "baseline_2d", "focal_2d")
    ),
)
def test_networks_of_slices_train_on_those_with_a_lesion(strokes, row, tmp_path):
    config = hyperfusion.get_config(f"paper,row={row},data=stroke")
    config.data.root = str(strokes)
    batch = _first_batch(config, strokes.parent, "segmentation")
    assert batch["label"].shape == (10, 9, 9)
    assert batch["label"].any((1, 2)).all()


@given("the same with a lesion of three voxels, in one slice of a case", "that slice trains")
def test_a_lesion_in_one_slice_is_found(tmp_path):
    brain, lesion = ellipsoid((32, 32, 8), (14, 14, 5)), np.zeros((32, 32, 8), np.uint8)
    lesion[14:17, 15, 2] = 1
    image = brain * np.arange(100, 108, dtype=np.int16)
    for number, name in enumerate(("a", "b")):
        images = {
            kind: image + brain * np.int16(3 * number + k) for k, kind in enumerate(("t2", "dwi_b1000", "dwi_b0"))
        }
        write_case(tmp_path / "root", name, {**images, "lesion": lesion})
    config = hyperfusion.get_config("tiny,row=full_2d,data=stroke")
    config.data.root = str(tmp_path / "root")
    assert _first_batch(config, tmp_path, "segmentation")["label"].sum() >= 1


def _flat_head(shape, number):
    brain = ellipsoid(shape, np.array(shape) * [0.4, 0.45, 0.5])
    return (brain * np.arange(100 + number, 100 + number + shape[2])).astype(np.int16)


@table(
    "variant,shape",
    ("`hinet.py:paper,row=mmsyns`, pictures of 240 x 240", "whole window of 180 rows and 160 columns", "", (240, 240)),
    ("the same with `data=t1ce`", "the same window", "t1ce", (240, 240)),
    ("the same of volumes of 200 x 201 voxels", "the same window", "", (200, 201)),
    ("the same with `data=isles`, 230 x 230", "the same window", "isles", (230, 230)),
)
def test_whole_pictures_have_the_sides_of_the_window(variant, shape, tmp_path):
    for number in (1, 2):
        if variant == "isles":
            for k, kind in enumerate(("MR_T1", "MR_T2", "MR_DWI", "MR_Flair")):
                write_isles(tmp_path / "root" / str(number), kind, number, _flat_head((*shape, 5), 10 * number + k))
        else:
            for k, name in enumerate(MODALITIES):
                path = tmp_path / "root" / f"c{number}" / f"c{number}_{name}.nii"
                save_volume(path, _flat_head((*shape, 5), 10 * number + k))
    config = hinet.get_config(f"paper,row=mmsyns,data={variant}" if variant else "paper,row=mmsyns")
    config.data.root = str(tmp_path / "root")
    batch = _first_batch(config, tmp_path, "synthesis")
    assert batch["image"].shape == (16, 180, 160, 4)
    # The head is 0.8 * side wide and 0.9 * side long, cut where the window ends.
    shown = batch["image"].any((0, 3))
    assert shown.any(1).sum() > shown.any(0).sum()


@table(
    "recipe,layers,least",
    ("`cmff.py:tiny` with critics of 3 layers on patches of 16^3", "refused: they give one score", "cmff", 3, 24),
    ("the same in joint training", "refused", "cmff:tiny,row=joint", 3, 24),
    ("`cmff.py` with critics of 4 layers on patches of 24^3", "refused", "cmff:", 4, 48),
    ("pix2pix with a critic of 4 layers on patches of 40^2", "refused", "hinet:tiny,row=pix2pix", 4, 64),
    ("CycleGAN with critics of 4 layers on patches of 40^2", "refused", "hinet:tiny,row=cyclegan", 4, 64),
)
def test_a_critic_of_patches_judges_more_than_one(recipe, layers, least):
    name, _, text = recipe.partition(":")
    config = RECIPES[name].get_config(text if ":" in recipe else "tiny")
    phase = config[config.schedule[0]]
    if "cycle" in phase.args:
        phase.args.cycle.critic_layers = layers
    else:
        phase.args.form.critic_layers = layers
    experiment = parse(config)
    (first, *_) = experiment.phases.values()
    refused(f"choose sides of at least {least}", build_system, first, *declared_facts(experiment.data), 4)


@table(
    "shape",
    ("Dice of a stack of volumes (4 axes)", "refused: score each case", (2, 4, 4, 4)),
    ("Dice of a batch of volumes with a channel axis", "refused", (2, 4, 4, 4, 1)),
)
def test_voxels_of_several_cases_are_never_pooled(shape):
    masks = np.ones(shape, bool)
    for metric in (dice, iou, sensitivity, specificity):
        refused("stack of cases", metric, masks, masks)


@pytest.fixture(scope="module")
def few_labels(tmp_path_factory):
    """A folder of three labeled cases, one of four without labels, and one of all."""
    root = tmp_path_factory.mktemp("few")
    for number in range(7):
        images = head((32, 32, 24), number)
        label = nested_cubes((32, 32, 24)) if number < 3 else None
        folder = write_case(root / ("labeled" if number < 3 else "unlabeled"), f"c{number}", {**images, "seg": label})
        (root / "all").mkdir(exist_ok=True)
        (root / "all" / folder.name).symlink_to(folder)
    return root


def _pre_trained(few_labels, folder, row="ours", **options):
    config = RECIPES["cmff"].get_config(f"tiny,row={row}")
    config.data.root, config.data.cache = str(few_labels / "labeled"), str(folder / "cache")
    with config.unlocked():
        config.update_from_flattened_dict(options)
    return run_of(config, folder / "run", new=False)


@table(
    "row,first",
    (
        "`transition.data.root` names cases without labels",
        "pre-training opens them, segmentation its own",
        "ours",
        "transition",
    ),
    ("`reconstruction.data.root` names such cases", "likewise", "self", "reconstruction"),
)
def test_pre_training_on_cases_without_labels(few_labels, tmp_path, row, first):
    run = _pre_trained(few_labels, tmp_path, row, **{f"{first}.data.root": str(few_labels / "unlabeled")})
    phases = [run.phase(name) for name in (first, "fusion")]
    assert [len(phase.data.train) + len(phase.data.val) for phase in phases] == [4, 3]
    batch = next(phases[0].stream(0))
    assert set(batch) == {"image"}
    assert batch["image"].shape == (1, 16, 16, 16, 4)


@given("no `transition.data` at all", "pre-training and segmentation share one data set, opened once")
def test_data_that_are_not_set_are_shared(few_labels, tmp_path):
    run = _pre_trained(few_labels, tmp_path)
    assert run.phase("transition").data is run.phase("fusion").data


@table(
    "row,options,trained",
    (
        "`data.unlabeled=keep`, three of seven cases having a label",
        "pre-training sees the images of all but one that validates, segmentation two that have a label",
        "ours",
        {"data.unlabeled": "keep"},
        {"transition": (6, 4), "fusion": (2, 0)},
    ),
    (
        "joint training on such data",
        "it learns from all; of those without a label no voxel counts",
        "joint",
        {"data.unlabeled": "keep"},
        {"joint": (6, 4)},
    ),
    (
        "`data.labeled=1`",
        "labels of all other training cases are held back, from pre-training too",
        "ours",
        {"data.labeled": 1},
        {"transition": (6, 5), "fusion": (1, 0)},
    ),
)
def test_cases_without_a_label_among_others(few_labels, tmp_path, row, options, trained):
    run = _pre_trained(few_labels, tmp_path, row, **{"data.root": str(few_labels / "all"), **options})
    for name, (cases, bare) in trained.items():
        phase = run.phase(name)
        assert len(phase.data.train) == cases
        assert sum(not case.labeled for case in phase.data.train) == bare
        assert {case.id for case in phase.data.val} < {"c0", "c1", "c2"}
        rng = np.random.default_rng(0)
        batches = [phase.sampler.batch([phase.sampler.draw(place, rng)]) for place in range(cases)]
        uncounted = [(one["label"] == 255).all() for one in batches if "label" in one]
        assert sum(uncounted) == (bare if name == "joint" else 0)


@table(
    "row,options,sentence",
    (
        "segmentation on cases without labels",
        "refused: names the first case without label file",
        "ours",
        {"data.root": "unlabeled"},
        "case c3 has no label file",
    ),
    (
        "joint training on cases without labels",
        "refused likewise",
        "joint",
        {"data.root": "unlabeled"},
        "case c3 has no label file",
    ),
    (
        "`transition.sampling=tumor` on cases without labels",
        "refused: names the sampling that needs none",
        "ours",
        {"transition.data.root": "unlabeled", "transition.sampling": "tumor"},
        "c3 has no label file",
    ),
)
def test_phases_that_need_labels_say_so(few_labels, tmp_path, row, options, sentence):
    told = {name: str(few_labels / value) if name.endswith("root") else value for name, value in options.items()}
    run = _pre_trained(few_labels, tmp_path, row, **told)
    refused(sentence, lambda: [run.phase(name).sampler for name in run.experiment.schedule])


@table(
    "every,epochs,batch,cases,steps",
    ("`validation.every_epochs=10`, batches of 5 of 100 cases", "every 200 steps", 0, 10, 5, 100, 200),
    ("the same with batches of 16 of 10 cases", "every 6 steps", 0, 10, 16, 10, 6),
    ("one epoch of 3 cases in batches of 16", "every step", 0, 1, 16, 3, 1),
    ("`validation.every=50` beside `validation.every_epochs=10`", "every 50 steps", 50, 10, 5, 100, 50),
    ("neither", "at the end only", 0, 0, 5, 100, 0),
)
def test_validation_by_epochs(every, epochs, batch, cases, steps):
    config = RECIPES["cmff"].get_config("tiny")
    config.fusion.validation.update({"every": every, "every_epochs": epochs})
    config.fusion.batch = batch
    assert parse(config).phases["fusion"].validation_steps(cases) == steps


@given("validation every step of a long pass over the cases", "less often, and the run says how often and why")
def test_a_stretched_validation_is_told(few_labels, tmp_path):
    run = _pre_trained(few_labels, tmp_path, **{"fusion.validation.every": 1})
    phase = run.phase("fusion")
    training = Training(run.setting, (phase,), {})
    interval = training._validation_interval()
    assert interval == phase.validation_interval > 1
    assert f"fusion is validated every {interval} steps, not every 1 as asked" in said(run)


@table(
    "variant,steps",
    ("`hyperfusion.py:paper`: validation every 10 epochs of 1000 patches (Fig. 3)", "2,000 steps of 5", "iseg", 2000),
    ("the same of stroke", "1,000 steps of 10", "stroke", 1000),
)
def test_hyperfusion_validates_as_its_figure_does(variant, steps):
    assert hyperfusion.get_config(f"paper,data={variant}").segmentation.validation.every == steps
