"""From a ConfigDict to a frozen Experiment: read once, names resolved to functions, anything odd refused.

Nothing below this module sees a config.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from jaxfuse.data.pipeline import Loader
from jaxfuse.data.sources import voc
from jaxfuse.data.sources.brats import layout_named
from jaxfuse.errors import UserError
from jaxfuse.labels import LabelScheme, label_scheme
from jaxfuse.learning.optim import adam, sgd
from jaxfuse.learning.system import System
from jaxfuse.learning.transfer import Rule, parse_rule

_OPTIMIZERS = {"adam": adam, "sgd": sgd}


@dataclass(frozen=True)
class Phantom:
    """The phantom data set that stands in where no root is given."""

    cases: int
    seed: int
    shape: tuple[int, int, int]
    spacing_mm: float


@dataclass(frozen=True)
class Data:
    """Where cases come from and how they are prepared.

    Attributes:
        source: "brats" (volumes), "slices" (the axial slices of such volumes that show enough brain, each a 2D case),
            "one_slice" (one of each volume, that of the largest tumor), "pairs2d" (registered PNG pairs, MRI with CT,
            PET or SPECT) or "voc" (photographs). A source of 2D cases needs a phase with a patch of two sides.
        root: folder of the data set; empty: phantoms are written and used.
        layout: a layout of `jaxfuse.data.sources`; empty: recognized from folder and file names.
        labels: a scheme of `jaxfuse.labels`; empty: that of the layout.
        normalize: a rule of `jaxfuse.data.preprocess.prepare_case` for volumes and slices; "levels" for "pairs2d".
        split: JSON file with lists `train` and `val` of case ids; empty: drawn by `split_seed`.
        cache: folder of prepared arrays; empty: $JAXFUSE_CACHE, else ~/.cache/jaxfuse.
    """

    source: str
    root: str
    layout: str
    labels: str
    modalities: tuple[str, ...]
    normalize: str
    val_fraction: float
    split_seed: int
    split: str
    cache: str
    phantom: Phantom

    @property
    def cache_dir(self) -> Path:
        default = os.environ.get("JAXFUSE_CACHE") or Path.home() / ".cache" / "jaxfuse"
        return Path(self.cache or default).expanduser().absolute()


@dataclass(frozen=True)
class Validation:
    """How often and on how much a phase is judged while it trains.

    Attributes:
        every: steps between two validations, stretched where they would take over a tenth of the time; 0: only at
            the end.
        cases: cases looked at each time, spread over the validation split (all of them at the end).
        overlap: least fraction of a tile shared with its neighbor.
        tile_batch: tiles predicted at once.
    """

    every: int
    cases: int
    overlap: float
    tile_batch: int


@dataclass(frozen=True)
class Phase:
    """One phase of the schedule, ready to build its System.

    Attributes:
        build: (modalities, class names, total steps) -> System.
        assess: how its predictions are judged, a function of `jaxfuse.engine.assess`.
        steps, epochs: its length; steps wins where it is not 0.
        data: its own data, or None for that of the experiment.
        labelled: whether it learns from labels; a phase that does not may train on unlabelled cases.
        rules: what it takes over from earlier phases.
    """

    name: str
    build: Callable[[Sequence[str], Sequence[str], int], System]
    assess: Callable[..., Any]
    steps: int
    epochs: int
    batch: int
    patch: tuple[int, ...]
    sampling: str
    pad: bool
    unpaired: bool
    augment: Mapping[str, Mapping[str, float]]
    labelled: bool
    rules: tuple[Rule, ...]
    validation: Validation
    checkpoint_every: int
    data: Data | None

    def total_steps(self, cases: int) -> int:
        return self.steps or max(1, self.epochs * cases // self.batch)


@dataclass(frozen=True)
class Experiment:
    """A run: its phases in order, and `result`, the phases whose predictions are averaged into its result."""

    name: str
    preset: str
    row: str
    variant: str
    seed: int
    schedule: tuple[str, ...]
    result: tuple[str, ...]
    phases: Mapping[str, Phase]
    data: Data
    loader: Loader
    log_every: int
    pairs: tuple[str, ...]

    def data_of(self, phase: Phase) -> Data:
        return phase.data or self.data


def parse(config: Any) -> Experiment:
    """Reads a whole config; raises UserError on anything unknown, missing or of the wrong kind."""
    known = {"name", "preset", "row", "variant", "seed", "schedule", "result", "pairs", "network", "data"}
    # A phase's section may stand outside the schedule: a shorter schedule can be asked for.
    known |= {"loader", "log_every", *config.schedule, *(key for key in config if "model" in _keys(config[key]))}
    _same_keys("config", config, known)
    if not config.schedule or len(set(config.schedule)) != len(config.schedule):
        raise UserError(f"schedule is {config.schedule}; it must name each phase once, in order")
    if stray := [name for name in config.result if name not in config.schedule]:
        raise UserError(f"result names {', '.join(stray)}, which the schedule {config.schedule} lacks")
    phases = {name: _phase(name, config[name], config) for name in config.schedule}
    for name, phase in phases.items():
        earlier = config.schedule[: config.schedule.index(name)]
        for rule in phase.rules:
            if rule.donor not in earlier:
                raise UserError(f"phase {name} takes over from {rule.donor!r}, which is not a phase before it")
    _at_least("", config, log_every=1, seed=0)
    return Experiment(
        phases=phases,
        data=_data("data", config.data),
        loader=_record(Loader, "loader", config.loader, workers=0, threads=0, prefetch=1),
        **{
            key: config[key]
            for key in ("name", "preset", "row", "variant", "seed", "schedule", "result", "log_every", "pairs")
        },
    )


def scheme_of(data: Data, layout_default: str) -> LabelScheme:
    """The named scheme, else that of the layout."""
    return label_scheme(data.labels or layout_default)


def declared_facts(data: Data) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Modalities and class names as far as a config alone tells them, without looking at the data."""
    if data.source == "voc":
        return data.modalities, voc.CLASSES
    if data.source == "pairs2d":
        return data.modalities, ()  # images without labels
    default = layout_named(data.layout).scheme if data.layout else "brats"
    return data.modalities, scheme_of(data, default).classes


def resolve(name: str, *, package: str = "jaxfuse") -> Callable[..., Any]:
    """The function "module:function", looked for under `package` and then as a dotted path of its own."""
    module, _, function = name.partition(":")
    if not module or not function:
        raise UserError(f"{name!r} is not understood; write module:function")
    for path in (f"{package}.{module}", module):
        if importlib.util.find_spec(path.partition(".")[0]) is None:
            continue
        try:
            found = importlib.import_module(path)
        except ModuleNotFoundError as error:
            if error.name and path.startswith(error.name):
                continue
            raise
        if not hasattr(found, function):
            raise UserError(f"{name!r} names a function that {path} lacks")
        return getattr(found, function)
    raise UserError(f"{name!r} names no module of {package} and no importable module")


def _phase(name: str, group: Any, config: Any) -> Phase:
    expected = {f.name for f in fields(Phase)} - {"name", "build", "rules", "labelled"}
    optional = {"loss", "loss_args", "data"}
    expected |= {"model", "args", "optimizers", "init"}
    _same_keys(name, group, expected | optional, optional=optional)
    _at_least(f"{name}.", group, batch=1, checkpoint_every=1)
    if group.steps < 0 or group.epochs < 0 or not (group.steps or group.epochs):
        raise UserError(f"{name}.steps and {name}.epochs are {group.steps} and {group.epochs}; one must be positive")
    data = _data(f"{name}.data", group.data) if group.get("data") else None
    plain = ("steps", "epochs", "batch", "patch", "sampling", "pad", "unpaired", "checkpoint_every")
    return Phase(
        name=name,
        build=_builder(name, group, config),
        assess=resolve(group.assess),
        augment={key: dict(value) for key, value in group.augment.items()},
        labelled=bool(group.get("loss")),
        rules=tuple(parse_rule(entry) for entry in group.init),
        validation=_validation(f"{name}.validation", group.validation),
        data=data,
        **{key: group[key] for key in plain},
    )


def _builder(name: str, group: Any, config: Any) -> Callable[[Sequence[str], Sequence[str], int], System]:
    module, _, function = group.model.partition(":")
    make = resolve(f"{module}:{function or 'make_system'}", package="jaxfuse.models")
    accepted = inspect.signature(make).parameters
    options = _with_initializers(_merged(config.network, group.args))
    try:
        args = grouped(make, options)
    except UserError as error:
        raise UserError(f"{name}: the model {group.model} {error}") from error
    if "pairs" in accepted:
        args["pairs"] = config.pairs
    if "loss" in accepted:
        args["loss"] = _loss(name, group)
    optimizers = {player: dict(options) for player, options in group.optimizers.items()}

    def build(modalities: Sequence[str], classes: Sequence[str], total_steps: int) -> System:
        given = {"modalities": tuple(modalities), "classes": len(classes)}
        made = {player: _optimizer(name, player, o, total_steps) for player, o in optimizers.items()}
        system = make(optimizers=made, **args, **{key: value for key, value in given.items() if key in accepted})
        if set(system.players) != set(optimizers):
            raise UserError(f"{name}.optimizers names {sorted(optimizers)}; the model's players are {system.players}")
        return system

    return build


def grouped(make: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as arguments of `make`: a parameter whose default is a dataclass, a form, takes those of its fields.

    A flat option goes to every parameter of its name and every form that has such a field. {form: {field: value}}
    addresses one form alone, and wins there over the flat option.

    Raises:
        UserError: an option is neither a parameter nor a field of one.
    """
    parameters = inspect.signature(make).parameters
    forms = {name: p.default for name, p in parameters.items() if is_dataclass(p.default)}
    flat = {name: value for name, value in options.items() if name not in forms}
    args = {name: value for name, value in flat.items() if name in parameters}
    known = set(args)
    for name, form in forms.items():
        of_form = {f.name for f in fields(form)}
        addressed = options.get(name, {})
        if not _is_group(addressed):
            raise UserError(f"has no option {name} of its own, but the group {name} of {', '.join(sorted(of_form))}")
        if wrong := sorted(f"{name}.{key}" for key in set(addressed) - of_form):
            raise UserError(f"has no option {', '.join(wrong)}")
        own = {key: value for key, value in flat.items() if key in of_form}
        args[name] = replace(form, **{**own, **dict(addressed.items())})  # pyright: ignore[reportArgumentType]
        known |= set(own)
    if stray := sorted(set(flat) - known):
        raise UserError(f"has no option {', '.join(stray)}")
    return args


def _merged(shared: Any, own: Any) -> dict[str, Any]:
    """The options of both; those of `own` win, group by group."""
    merged = dict(shared.items())
    for name, value in own.items():
        both = _is_group(value) and _is_group(merged.get(name))
        merged[name] = _merged(merged[name], value) if both else value
    return merged


def _with_initializers(options: Any) -> dict[str, Any]:
    """The options, each named initializer in them resolved."""

    def one(name: str, value: Any) -> Any:
        if _is_group(value):
            return _with_initializers(value)
        return resolve(value)() if name == "kernel_init" else value

    return {name: one(name, value) for name, value in options.items()}


def _is_group(value: Any) -> bool:
    return hasattr(value, "items")


def _loss(name: str, group: Any) -> Callable[..., Any]:
    if not group.get("loss"):
        raise UserError(f"{name}: the model {group.model} needs a loss, such as 'losses.overlap:dice_loss_of_logits'")
    function = resolve(group.loss)
    options = dict(group.get("loss_args") or {})
    if wrong := sorted(set(options) - set(inspect.signature(function).parameters)):
        raise UserError(f"{name}: the loss {group.loss} has no option {', '.join(wrong)}")
    return partial(function, **options)


def _optimizer(name: str, player: str, options: Mapping[str, Any], total_steps: int) -> Any:
    """Adam, or what the option `kind` names."""
    where, kind = f"{name}.optimizers.{player}", options.get("kind", "adam")
    if kind not in _OPTIMIZERS:
        raise UserError(f"{where}.kind is {kind!r}; choose one of {', '.join(_OPTIMIZERS)}")
    accepted = set(inspect.signature(_OPTIMIZERS[kind]).parameters) - {"total_steps"} | {"kind"}
    if wrong := sorted(set(options) - accepted):
        raise UserError(f"{where} has no option {', '.join(wrong)}; {kind} has {', '.join(sorted(accepted))}")
    return _OPTIMIZERS[kind](total_steps=total_steps, **{key: v for key, v in options.items() if key != "kind"})


def _data(where: str, group: Any) -> Data:
    values = {key: value for key, value in group.items() if key != "phantom"}
    _same_keys(where, group, {f.name for f in fields(Data)})
    if not 0.0 < group.val_fraction < 1.0:
        raise UserError(f"{where}.val_fraction is {group.val_fraction}; it must lie between 0 and 1")
    _at_least(f"{where}.", group, split_seed=0)
    return Data(phantom=_record(Phantom, f"{where}.phantom", group.phantom, cases=1, seed=0), **values)


def _validation(where: str, group: Any) -> Validation:
    settings = _record(Validation, where, group, every=0, cases=1, tile_batch=1)
    if not 0.0 <= settings.overlap < 1.0:
        raise UserError(f"{where}.overlap is {settings.overlap}; it must lie in [0, 1)")
    return settings


def _record(kind: Any, where: str, group: Any, **least: int) -> Any:
    _same_keys(where, group, {f.name for f in fields(kind)})
    _at_least(f"{where}.", group, **least)
    return kind(**dict(group.items()))


def _at_least(prefix: str, group: Any, **least: int) -> None:
    for option, minimum in least.items():
        if group[option] < minimum:
            raise UserError(f"{prefix}{option} is {group[option]}; it must be at least {minimum}")


def _keys(value: Any) -> set[str]:
    return set(value) if hasattr(value, "keys") else set()


def _same_keys(where: str, group: Any, known: set[str], *, optional: set[str] = frozenset()) -> None:  # pyright: ignore
    if unknown := sorted(set(group) - known):
        raise UserError(f"{where} has no option {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    if absent := sorted(known - set(optional) - set(group)):
        raise UserError(f"{where} lacks {', '.join(absent)}")
