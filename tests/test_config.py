"""Experiments that configs become, and each refusal with its sentence."""

import functools
import json
import sys

import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from configs import cmff
from jaxfuse.config import Experiment, parse
from jaxfuse.data.sampling import SAMPLINGS
from jaxfuse.data.settings import declared_facts
from jaxfuse.engine.build import build_system
from jaxfuse.errors import UserError
from jaxfuse.labels import label_scheme
from jaxfuse.options import resolve
from jaxfuse.recipes import sgd
from tests.refusals import refused


def _config(argument="tiny", **changes):
    """The recipe with dotted options replaced, as --config.a.b=v does."""
    config = cmff.get_config(argument)
    with config.unlocked():
        for name, value in changes.items():
            config.update_from_flattened_dict({name.replace("__", "."): value})
    return config


def _group(config, name):
    """A group of a config by its dotted name, "" being all of it."""
    return functools.reduce(lambda node, part: node[part], filter(None, name.split(".")), config)


def _refusal(config):
    with pytest.raises(UserError) as error:
        parse(config)
    assert "\n" not in str(error.value)
    return str(error.value)


def _built(config, name="fusion", steps=10):
    """The System of a phase, from what the config declares of its data."""
    experiment = parse(config)
    phase = experiment.phases[name]
    return build_system(phase, *declared_facts(experiment.data_of(phase)), steps)


def test_an_experiment_has_its_phases_in_order_and_functions_in_place_of_names():
    experiment = parse(_config())
    assert isinstance(experiment, Experiment)
    assert experiment.schedule == tuple(experiment.phases) == ("transition", "fusion")
    assert (experiment.result, experiment.row, experiment.preset) == (("fusion",), "ours", "tiny")
    transition, fusion = experiment.phases.values()
    assert [rule.target for rule in fusion.rules] == ["net/branch_a/trunk", "net/branch_b/trunk"]
    assert callable(fusion.assess)
    assert (transition.labeled, fusion.labeled) == (False, True)
    assert experiment.data_of(fusion) is experiment.data
    modalities, classes = declared_facts(experiment.data)
    assert (modalities, len(classes)) == (("t1", "t1ce", "t2", "flair"), 4)
    assert _built(_config()).loss.keywords == {"include_background": False, "squared": False}


def test_a_phase_may_have_data_of_its_own():
    experiment = parse(_config("tiny,row=voc"))
    data = experiment.data_of(experiment.phases["voc"])
    modalities, classes = declared_facts(data)
    assert (data.source, modalities, len(classes)) == ("voc", ("r", "g", "b"), 21)


def test_a_run_of_before_has_neither_folds_nor_samples():
    config = _config()
    with config.unlocked():
        del config.data.fold
        del config.data.bootstrap
    assert (parse(config).data.fold, parse(config).data.bootstrap) == (0, 0)


def test_folds_are_not_for_data_with_lists_of_their_own():
    config = _config("tiny,row=voc", voc__data__fold=1)
    assert _refusal(config) == "voc.data.fold is given, but VOC has lists of its own; leave it out"


def test_what_a_config_tells_of_its_data():
    slices = parse(_config(data__source="slices", data__layout="brats2023")).data
    assert declared_facts(slices) == (("t1", "t1ce", "t2", "flair"), label_scheme("brats2023").classes)
    pairs = parse(_config(data__source="pairs2d", data__modalities=("mri", "pet"))).data
    assert declared_facts(pairs) == (("mri", "pet"), ())


def test_steps_win_over_epochs():
    phase = parse(_config("paper")).phases["fusion"]
    assert phase.total_steps(285) == 100 * 285
    assert parse(_config("paper", fusion__steps=7)).phases["fusion"].total_steps(285) == 7
    short = parse(_config("paper", fusion__epochs=1, fusion__batch=4)).phases["fusion"]
    assert (short.total_steps(10), short.total_steps(1)) == (2, 1)


@pytest.mark.parametrize("name", SAMPLINGS)
def test_a_phase_without_loss_needs_labels_where_it_places_patches_by_them(name):
    config = cmff.get_config("tiny")
    config.transition.sampling = config.fusion.sampling = name
    phases = parse(config).phases
    assert (phases["transition"].labeled, phases["fusion"].labeled) == (False, True)
    assert phases["transition"].needs_label == (name in ("tumor", "foreground"))
    assert phases["fusion"].needs_label


def test_a_shorter_schedule_may_leave_out_a_section():
    config = _config()
    config.schedule, config.result = ("transition",), ("transition",)
    assert tuple(parse(config).phases) == ("transition",)


def test_the_cache_folder_is_named_by_the_config_or_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXFUSE_CACHE", str(tmp_path / "environment"))
    assert parse(_config()).data.cache_dir == tmp_path / "environment"
    assert parse(_config(data__cache=str(tmp_path / "named"))).data.cache_dir == tmp_path / "named"
    monkeypatch.delenv("JAXFUSE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse(_config()).data.cache_dir == tmp_path / ".cache" / "jaxfuse"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"schedule": ()}, "schedule is (); it must name each phase once, in order"),
        ({"schedule": ("fusion", "fusion")}, "it must name each phase once, in order"),
        ({"schedule": ("fusion",)}, "phase fusion takes over from 'transition', which is not a phase before it"),
        ({"schedule": ("fusion", "transition")}, "takes over from 'transition', which is not a phase before it"),
        ({"schedule": ("transition", "fusion", "polish")}, "config lacks polish"),
        ({"result": ("segmentation",)}, "result names segmentation, which the schedule"),
        ({"log_every": 0}, "log_every is 0; it must be at least 1"),
        ({"seed": -1}, "seed is -1; it must be at least 0"),
        ({"loader__workers": -1}, "loader.workers is -1; it must be at least 0"),
        ({"loader__on_device": "yes"}, "loader.on_device is 'yes'; choose auto, on or off"),
        ({"data__val_fraction": 1.0}, "data.val_fraction is 1.0; it must be at least 0 and below 1"),
        ({"data__split_seed": -3}, "data.split_seed is -3; it must be at least 0"),
        ({"data__fold": -1}, "data.fold is -1; it must be at least 0"),
        ({"data__fold": 1, "data__bootstrap": 2}, "data.fold and data.bootstrap cannot go together; keep one of them"),
        ({"data__fold": 1, "data__split": "paper"}, "data.split and data.fold cannot go together"),
        ({"data__folds": 5, "data__split": "s.json"}, "data.split and data.folds cannot go together"),
        ({"data__folds": 5}, "data.folds is 5 and data.fold 0; at least 2 folds are drawn, of which fold says"),
        ({"data__folds": 5, "data__fold": 6}, "data.folds is 5 and data.fold 6; at least 2 folds"),
        ({"data__folds": 1, "data__fold": 1}, "data.folds is 1 and data.fold 1; at least 2 folds"),
        (
            {"data__fold": 1, "data__stratify": "sex"},
            "data.stratify is 'sex', and data.fold draws no strata; leave one",
        ),
        ({"data__resample_mm": (1.0, 1.0)}, "data.resample_mm is (1.0, 1.0); three sides in mm are expected"),
        ({"data__resample_mm": (1.0, 1.0, 0.0)}, "data.resample_mm"),
        ({"data__entities": "fast"}, "data.entities: 'fast' is no entity of BIDS; write entities with their values"),
        ({"data__source": "slices", "data__resample_mm": (1.0, 1.0, 1.0)}, "only volumes have it: leave it out"),
        ({"data__phantom__cases": 0}, "data.phantom.cases is 0; it must be at least 1"),
        ({"fusion__batch": 0}, "fusion.batch is 0; it must be at least 1"),
        ({"fusion__checkpoint_every": -1}, "fusion.checkpoint_every is -1; it must be at least 0"),
        ({"fusion__steps": 0}, "fusion.steps and fusion.epochs are 0 and 0; one must be positive"),
        ({"fusion__steps": -5}, "fusion.steps is -5; it must be at least 0"),
        ({"fusion__optimizers__net__learning_rate": 0.0}, "net.learning_rate is 0.0; it must be above 0"),
        ({"fusion__validation__every": -1}, "fusion.validation.every is -1; it must be at least 0"),
        ({"fusion__validation__cases": 0}, "fusion.validation.cases is 0; it must be at least 1"),
        ({"fusion__validation__tile_batch": 0}, "fusion.validation.tile_batch is 0; it must be at least 1"),
        ({"fusion__validation__overlap": 1.0}, "fusion.validation.overlap is 1.0; it must be at least 0 and below 1"),
        ({"fusion__validation__weighting": "flat"}, "validation.weighting is 'flat'; choose equal or gaussian"),
        ({"fusion__validation__mirror": "x"}, "fusion.validation.mirror is 'x'; choose none, all or axes such as 0 or"),
        ({"fusion__model": "cmfg"}, "'cmfg:make_system' names no module of jaxfuse.models"),
        ({"fusion__model": "cmff:make_fusion"}, "'cmff:make_fusion' names a function that jaxfuse.models.cmff lacks"),
        ({"fusion__model": ""}, "':make_system' is not understood; write module:function"),
        ({"fusion__assess": "engine.assess"}, "'engine.assess' is not understood; write module:function"),
        ({"fusion__loss": ""}, "fusion: the model cmff needs a loss, such as"),
        ({"fusion__loss": "losses.overlap:jaccard"}, "names a function that jaxfuse.losses.overlap lacks"),
        ({"network__unet__kernel_init": "nn.initializers:orthogonal"}, "a function that jaxfuse.nn.initializers lacks"),
        ({"fusion__init": (("net/branch_a/trunk",),)}, "is not understood; write (target, 'phase:source')"),
    ],
)
def test_values_are_refused_with_one_sentence(changes, sentence):
    assert sentence in _refusal(_config(**changes))


@pytest.mark.parametrize(
    ("group", "sentence"),
    [
        ("", "config has no option surprise; it has"),
        (
            "data",
            "data has no option surprise; it has all_background, axis, background, blank_slices",
        ),
        ("data.phantom", "data.phantom has no option surprise; it has cases, contrast, lesion_mm, mimics"),
        ("loader", "loader has no option surprise; it has on_device, prefetch, steps_per_call, threads, workers"),
        ("network", "transition: the model cmft has no option surprise"),
        ("fusion", "fusion has no option surprise; it has args, assess"),
        ("fusion.args", "fusion: the model cmff has no option surprise"),
        ("fusion.loss_args", "fusion: the loss losses.overlap:dice_and_cross_entropy has no option surprise"),
        (
            "fusion.validation",
            "fusion.validation has no option surprise; it has cases, every, every_epochs, memory_mb, mirror, overlap",
        ),
    ],
)
def test_an_option_too_many_is_refused_wherever_it_stands(group, sentence):
    config = _config()
    with _group(config, group).unlocked() as node:
        node.surprise = 1
    assert sentence in _refusal(config)


@pytest.mark.parametrize(
    ("group", "option", "sentence"),
    [
        ("", "seed", "config lacks seed"),
        ("data", "root", "data lacks root"),
        ("data.phantom", "shape", "data.phantom lacks shape"),
        ("loader", "threads", "loader lacks threads"),
        ("fusion", "patch", "fusion lacks patch"),
        ("fusion.validation", "cases", "fusion.validation lacks cases"),
    ],
)
def test_an_option_that_is_missing_is_refused(group, option, sentence):
    config = _config()
    with _group(config, group).unlocked() as node:
        del node[option]
    assert _refusal(config) == sentence


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"fusion__patch": (16, 16, 18)}, "patch is (16, 16, 18); the network needs 3 sides, each a positive multiple"),
        ({"fusion__patch": (16, 16)}, "the network needs 3 sides"),
        ({"fusion__optimizers__net__schedule": "step"}, "learning-rate schedule 'step' is not known"),
        ({"pairs": ("t1+t1ce", "t2+t3")}, "pairs names t3, but the data has t1, t1ce, t2, flair"),
    ],
)
def test_what_only_the_model_knows_is_refused_when_it_is_built(changes, sentence):
    with pytest.raises(UserError) as error:
        _built(_config(**changes))
    assert sentence in str(error.value)


def test_optimizers_must_be_those_of_the_players():
    config = _config()
    with config.unlocked():
        config.fusion.optimizers.critics = config.fusion.optimizers.net
        config.transition.optimizers.generators.momentum = 0.9
    refused(r"fusion.optimizers names \['critics', 'net'\]; the model's players are", _built, config)
    sentence = "transition.optimizers.generators has no option momentum; adam has accumulate, b1, b2"
    refused(sentence, _built, config, "transition")


def _moved(optimizer, steps):
    """Where a weight goes from 1 along gradients of 1, the optimizer built as the config says."""
    config = _config("tiny,row=random")
    with config.unlocked():
        config.fusion.optimizers.net = optimizer
    net, weight = _built(config, steps=steps).optimizers["net"], jnp.ones(())
    state = net.init(weight)
    for _ in range(steps):
        update, state = net.update(jnp.ones(()), state, weight)
        weight += update
    return float(weight)


def test_the_optimizer_is_chosen_by_its_kind():
    plain = ConfigDict({"learning_rate": 0.25, "b1": 0.9, "b2": 0.999, "schedule": "constant"})
    named = ConfigDict({**plain, "kind": "adam"})
    # Adam's first step has the length of the rate, whatever the gradient's scale; descent's is rate times gradient.
    assert _moved(plain, 1) == _moved(named, 1) == pytest.approx(0.75, abs=1e-5)
    assert _moved(sgd(0.25, momentum=0.0), 1) == 0.75
    # Velocities 1 and 1.5.
    assert _moved(sgd(0.25, momentum=0.5), 2) == 1 - 0.25 * 2.5
    # Gradient cut to 0.5, then the decay 0.5 * 1 added.
    assert _moved(sgd(0.25, momentum=0.0, weight_decay=0.5, clip_norm=0.5), 1) == 0.75
    assert _moved(sgd(0.5, momentum=0.0, schedule="halving", stages=2), 2) == 1 - 0.5 - 0.25


def test_options_of_descent_that_a_recipe_left_out_can_be_set():
    options = sgd(0.1)
    options.clip_norm, options.stages = 2.0, 3
    assert (options.clip_norm, options.stages) == (2.0, 3)
    with pytest.raises(TypeError):
        options.clip_norm = "long"
    restored = ConfigDict(json.loads(sgd(0.1).to_json_best_effort()))
    assert (restored.clip_norm, restored.kind) == (None, "sgd")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"kind": "lion"}, "fusion.optimizers.net.kind is 'lion'; choose one of adam, sgd"),
        ({"momentum": 0.9}, "fusion.optimizers.net has no option momentum; adam has accumulate, b1, b2, clip_norm"),
        ({"kind": "sgd"}, "fusion.optimizers.net has no option b1, b2; sgd has accumulate, clip_norm, factor, kind"),
    ],
)
def test_options_of_another_optimizer_are_refused(changes, sentence):
    config = _config("tiny,row=random")
    with config.unlocked():
        config.fusion.optimizers.net.update(changes)
    refused(f"^{sentence}", _built, config)


def test_models_kept_elsewhere_are_found_by_their_dotted_path(tmp_path, monkeypatch):
    (tmp_path / "paper_of_my_own.py").write_text("def make_system():\n    return 6\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve("paper_of_my_own:make_system", package="jaxfuse.models")() == 6
    assert resolve("errors:UserError") is UserError


def test_a_module_that_fails_to_import_says_so_itself(tmp_path, monkeypatch):
    """A dependency that a model lacks must not be reported as a model that does not exist."""
    (tmp_path / "paper_with_a_gap.py").write_text("import surely_not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="surely_not_installed"):
        resolve("paper_with_a_gap:make_system", package="jaxfuse.models")
    sys.modules.pop("paper_with_a_gap", None)


def test_a_model_without_shared_network_options_can_be_built(tmp_path, monkeypatch):
    """`network` may be empty: its options are those that the models of a recipe share."""
    (tmp_path / "bare_paper.py").write_text(
        "from jaxfuse.learning.networks import Stateless\n"
        "from jaxfuse.learning.system import Geometry, Segmentation\n"
        "class Network:\n"
        "    def init(self, rng, image): ...\n"
        "    def __call__(self, params, image): ...\n"
        "def make_system(*, optimizers, width=3):\n"
        "    return Segmentation(Stateless(Network()), (width,), print, optimizers, Geometry(2, 1), 'S')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = _config("tiny,row=random", fusion__model="bare_paper", fusion__args=ConfigDict({"width": 5}))
    with config.unlocked():
        config.network = ConfigDict()
        config.fusion.args = ConfigDict({"width": 5})
    system = parse(config).phases["fusion"].build(("t1",), ("background",), 10)
    assert system.channels == (5,)


def test_patience_needs_validations_between():
    config = _config()
    config.fusion.validation.patience = 3
    sentence = (
        "fusion.validation.patience is 3, and the phase is validated at its end only; set fusion.validation.every to"
    )
    config.fusion.validation.every = config.fusion.validation.every_epochs = 0
    refused(sentence, parse, config)
    config.fusion.validation.every = 10
    assert parse(config).phases["fusion"].validation.patience == 3
