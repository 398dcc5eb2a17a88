"""Parts that recipes are made of: the text after a config's name, an experiment, its data, phases and optimizers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from jaxfuse.errors import UserError


def parse_argument(
    argument: str | None,
    *,
    presets: Mapping[str, str],
    rows: Mapping[str, str],
    variants: Mapping[str, str],
    default_row: str,
) -> tuple[str, str, str]:
    """Reads "[PRESET][,row=NAME][,data=VARIANT]" into (preset, row, variant).

    Each mapping goes from a name to one line about it; the empty preset is the default one.

    Raises:
        UserError: a name is unknown, or the text is not so built.
    """
    preset, row, variant = "", default_row, ""
    for i, part in enumerate(filter(None, (argument or "").split(","))):
        key, separator, value = part.partition("=")
        if not separator and i == 0:
            preset = _known("preset", key, presets)
        elif key == "row":
            row = _known("row", value, rows)
        elif key == "data":
            variant = _known("data variant", value, variants)
        else:
            raise UserError(f"{part!r} after the config's name is not understood; write PRESET,row=NAME,data=VARIANT")
    return preset, row, variant


def _known(what: str, name: str, known: Mapping[str, str]) -> str:
    if name not in known:
        choices = ", ".join(key for key in known if key)
        advice = f"choose one of {choices}" if choices else "this config has none: leave it out"
        raise UserError(f"{what} {name!r} is not known; {advice}")
    return name


def experiment(
    name: str,
    called: tuple[str, str, str],
    *,
    data: ConfigDict,
    network: Mapping[str, object],
    phases: Mapping[str, ConfigDict],
    log_every: int,
    pairs: tuple[str, ...] = (),
    result: tuple[str, ...] = (),
    side_by_side: bool | None = None,
) -> ConfigDict:
    """Returns a whole recipe.

    Args:
        called: (preset, row, variant), as `parse_argument` reads them.
        network: options of the models, form by form, that all phases share; those of a phase's `args` win.
        phases: the phases in the order of the schedule.
        log_every: steps between two rows of metrics.
        result: the phases whose predictions are averaged into the result; () is the last one.
        side_by_side: whether the phases of the result train as one program; None where the recipe does not offer it.
    """
    config = ConfigDict()
    config.name, (config.preset, config.row, config.variant) = name, called
    config.seed = 0
    config.pairs = pairs
    config.data = data
    config.network = ConfigDict(dict(network))
    config.loader = ConfigDict({"workers": 0, "threads": 2, "prefetch": 4, "on_device": "auto", "steps_per_call": 0})
    config.devices, config.space, config.shard_state = "auto", 1, False
    config.log_every, config.time_limit = log_every, 0.0
    for phase_name, section in phases.items():
        config[phase_name] = section
    config.schedule = tuple(phases)
    config.result = result or config.schedule[-1:]
    if side_by_side is not None:
        config.side_by_side = side_by_side
    return config


def volume_data(
    *,
    source: str,
    modalities: tuple[str, ...],
    shape: tuple[int, int, int],
    cases: int,
    spacing_mm: float,
    normalize: str = "brain",
    axis: str = "axial",
    window: tuple[tuple[int, int], ...] = (),
    blank_slices: bool = False,
    paper_split: str = "",
) -> ConfigDict:
    """Returns data of volumes or their slices, by a `source` of `jaxfuse.data.settings.Data`.

    Without a root they are phantoms: `cases` of them, of this shape in voxels and this spacing. `axis`, `window` and
    `blank_slices` count for sources of slices only. `paper_split` names the split of `jaxfuse.data.paper_splits` that
    `data.split="paper"` asks for; empty: the paper tells none.
    """
    return ConfigDict(
        {
            "source": source,
            "root": "",
            "layout": "",
            "labels": "",
            "modalities": modalities,
            "normalize": normalize,
            "reference": "",
            "axis": axis,
            "window": window,
            "blank_slices": blank_slices,
            "background": "auto",
            "resample_mm": (),
            "entities": "",
            "incomplete": "refuse",
            "all_background": "present",
            "unlabeled": "refuse",
            "labeled": 0,
            "labeled_draw": 0,
            "val_fraction": 0.2,
            "split_seed": 0,
            "split": "",
            "paper_split": paper_split,
            "folds": 0,
            "fold": 0,
            "stratify": "",
            "bootstrap": 0,
            "subject": "",
            "cache": "",
            "cache_dtype": "float32",
            "prepare_workers": 0,
            "phantom": {
                "cases": cases,
                "seed": 0,
                "shape": shape,
                "spacing_mm": spacing_mm,
                "contrast": 1.0,
                "noise_scale": 1.0,
                "lesion_mm": 0.0,
                "mimics": 1.0,
            },
        }
    )


def brats_data(
    *,
    modalities: tuple[str, ...],
    shape: tuple[int, int, int],
    cases: int,
    spacing_mm: float,
    paper_split: str = "",
) -> ConfigDict:
    """Returns data of a BraTS-like set; without a root, phantoms of this shape."""
    sizes = {"shape": shape, "cases": cases, "spacing_mm": spacing_mm}
    return volume_data(source="brats", modalities=modalities, paper_split=paper_split, **sizes)


def own_data(shared: ConfigDict) -> ConfigDict:
    """Returns data of a phase: those of the experiment but for what a command sets, such as `transition.data.root`.

    What is not set, None, is as in `shared`.
    """
    own = ConfigDict()
    for name, value in shared.items():
        own[name] = own_data(value) if isinstance(value, ConfigDict) else placeholder(type(value))
    return own


def adam(
    learning_rate: float,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    schedule: str = "constant",
    stages: int | None = None,
    factor: float | None = None,
    clip_norm: float | None = None,
    weight_decay: float | None = None,
) -> ConfigDict:
    """Returns options of Adam for one player; what is None is left out, and can be set later."""
    options = ConfigDict({"learning_rate": learning_rate, "b1": b1, "b2": b2, "schedule": schedule})
    options.weight_decay = placeholder(float)
    options.update({"weight_decay": weight_decay})
    return _with_open(options, stages=stages, factor=factor, clip_norm=clip_norm)


def sgd(
    learning_rate: float,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    schedule: str = "constant",
    stages: int | None = None,
    factor: float | None = None,
    clip_norm: float | None = None,
) -> ConfigDict:
    """Returns options of gradient descent with momentum for one player; None is left out, and can be set later."""
    options = ConfigDict({"kind": "sgd", "learning_rate": learning_rate, "momentum": momentum, "nesterov": nesterov})
    options.update({"weight_decay": weight_decay, "schedule": schedule})
    return _with_open(options, stages=stages, factor=factor, clip_norm=clip_norm)


def rmsprop(
    learning_rate: float,
    *,
    decay: float = 0.99,
    momentum: float = 0.0,
    schedule: str = "constant",
    stages: int | None = None,
    factor: float | None = None,
    clip_norm: float | None = None,
) -> ConfigDict:
    """Returns options of RMSprop for one player; None is left out, and can be set later."""
    options = ConfigDict({"kind": "rmsprop", "learning_rate": learning_rate, "decay": decay, "momentum": momentum})
    options.schedule = schedule
    return _with_open(options, stages=stages, factor=factor, clip_norm=clip_norm)


def _with_open(options: ConfigDict, *, stages: int | None, factor: float | None, clip_norm: float | None) -> ConfigDict:
    """Adds the schedule options; those that are None become placeholders that a command line may fill."""
    options.stages, options.factor, options.clip_norm = placeholder(int), placeholder(float), placeholder(float)
    options.warmup_steps, options.accumulate = placeholder(int), placeholder(int)
    options.update({"stages": stages, "factor": factor, "clip_norm": clip_norm})
    return options


# The options of every random change of examples besides its probability: `jaxfuse.augment.settings` tells what they do.
_AUGMENT: Mapping[str, Mapping[str, type]] = {
    "flip": {},
    "quarter_turn": {},
    "rotation": {"degrees": float},
    "scaling": {"range": tuple},
    "elastic": {"most_mm": float, "control_mm": float},
    "bias_field": {"coefficient": float, "view_mm": float},
    "noise": {"sigma": float},
    "blur": {"modality_probability": float, "range": tuple},
    "low_resolution": {"modality_probability": float, "range": tuple},
    "brightness": {"range": tuple},
    "shift": {"most": float},
    "contrast": {"range": tuple},
    "inverted_gamma": {"range": tuple},
    "gamma": {"range": tuple},
}


def augment(flip: float) -> ConfigDict:
    """Returns options of augmentation, of which those that are None are the preset's, or the published ones."""
    config: Any = ConfigDict({"preset": "none"})
    for name, options in _AUGMENT.items():
        kinds = {"probability": float, **options}
        config[name] = ConfigDict({option: placeholder(kind) for option, kind in kinds.items()})
    if flip:
        config.flip.probability = flip
    return config


def phase(
    *,
    model: str,
    assess: str,
    optimizers: Mapping[str, ConfigDict],
    args: Mapping[str, object] | None = None,
    loss: str = "",
    loss_args: Mapping[str, object] | None = None,
    steps: int = 0,
    epochs: int = 0,
    patch: tuple[int, ...],
    batch: int = 1,
    sampling: str = "tumor",
    sampling_args: Mapping[str, object] | None = None,
    pad: bool = False,
    unpaired: bool = False,
    flip: float = 0.0,
    init: tuple[tuple[str, ...], ...] = (),
    validate_every: int = 0,
    validate_every_epochs: int = 0,
    validation_cases: int = 2,
    overlap: float = 0.0,
    tile_batch: int = 1,
    memory_mb: int = 0,
    checkpoint_every: int = 0,
    checkpoint_minutes: float = 5.0,
    data: ConfigDict | None = None,
    mask_to_brain: bool = True,
    count_classes: str = "crop",
) -> ConfigDict:
    """Returns one phase with every option that a phase has, as `jaxfuse.config.Phase` tells them.

    Args:
        assess: "module:function" of `jaxfuse`, by which its predictions are judged.
        steps, epochs: its length; one of them is given.
        flip: probability with which a patch is mirrored along an axis; 0 leaves it to the preset of `augment`.
        validate_every, validate_every_epochs, validation_cases, overlap, tile_batch, memory_mb: of
            `jaxfuse.config.Validation`.
        data: its own data, of which options that are None are those of the experiment; None has none of its own.
    """
    config = ConfigDict({"model": model, "args": dict(args or {}), "assess": assess, "optimizers": dict(optimizers)})
    config.update({"steps": steps, "epochs": epochs, "batch": batch, "patch": patch, "init": init, "start": ""})
    config.update({"sampling": sampling, "pad": pad, "unpaired": unpaired})
    config.update({"checkpoint_every": checkpoint_every, "checkpoint_minutes": checkpoint_minutes, "ema_decay": 0.0})
    config.augment = augment(flip)
    config.modality_dropout = ConfigDict({"probability": 0.0, "subsets": ()})
    config.validation = ConfigDict({"every": validate_every, "cases": validation_cases, "overlap": overlap})
    config.validation.every_epochs = validate_every_epochs
    config.validation.update({"tile_batch": tile_batch, "memory_mb": memory_mb, "patience": 0})
    config.validation.update({"weighting": "equal", "mirror": "none"})
    config.update({"mask_to_brain": mask_to_brain, "count_classes": count_classes})
    if sampling_args:
        config.sampling_args = dict(sampling_args)
    if loss:
        config.loss, config.loss_args = loss, dict(loss_args or {})
    if data is not None:
        config.data = data
    return config
