"""A recipe, read once: from a ConfigDict to a frozen Experiment, names resolved to functions, anything odd refused.

Nothing below this module sees a config.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from ml_collections import ConfigDict

from jaxfuse.augment.settings import Augment, augment_from
from jaxfuse.data.facts import DatasetFacts
from jaxfuse.data.frequencies import CROP, SEEN, class_frequencies, seen_voxels
from jaxfuse.data.pipeline import Loader
from jaxfuse.data.presence import ModalityDropout, read_dropout
from jaxfuse.data.sampling import Sampling, sampling_rule
from jaxfuse.data.settings import Data, read_data
from jaxfuse.errors import UserError
from jaxfuse.inference.mirrors import NONE, asked_axes
from jaxfuse.inference.weighting import EQUAL, check_weighting
from jaxfuse.learning.optim import accumulated, adam, rmsprop, sgd
from jaxfuse.learning.system import System
from jaxfuse.learning.transfer import Rule, parse_rule
from jaxfuse.options import (
    flat,
    given,
    grouped,
    is_group,
    merge,
    record,
    resolve,
    same_keys,
    with_functions,
    with_switches,
)
from jaxfuse.ranges import check_ranges

_OPTIMIZERS = {"adam": adam, "sgd": sgd, "rmsprop": rmsprop}


@dataclass(frozen=True)
class Validation:
    """Validation of a phase while it trains: how often, and on how much.

    Attributes:
        every, every_epochs: steps, or passes over the training cases, between two validations, stretched where they
            would take over a tenth of the time; every wins where it is not 0; both 0: only at the end.
        cases: cases looked at each time, spread over the validation split (all of them at the end).
        overlap: least fraction of a tile that it shares with its neighbor.
        tile_batch: tiles predicted at once.
        patience: validations without a better score after which the phase ends; 0: never before its steps are done.
        memory_mb: memory limit in MB for inference tiles. Networks with valid convolutions give the same result for any
            tile size, so larger tiles are used where they save work. 0: tiles of the training patch, as of all others.
        weighting: how the voxels of overlapping tiles count: "equal", or "gaussian", the middle of a tile more.
        mirror: "none", or axes of the volume, "all" or such as "0,1" (0: left and right), for the mean over all 2^n
            mirrors of each tile; `predict` takes weighting, mirror and overlap from here.
    """

    every: int
    every_epochs: int
    cases: int
    overlap: float
    tile_batch: int
    memory_mb: int = 0
    patience: int = 0
    weighting: str = EQUAL
    mirror: str = NONE


@dataclass(frozen=True)
class Phase:
    """One phase of the schedule, ready to build its System.

    Attributes:
        build: (modalities, class names, total steps[, voxels per class of the training cases]) -> System; see `_loss`.
        assess: how its predictions are judged: a function of `engine.judging.assessment.Judged`.
        steps, epochs: its length; steps wins where it is not 0.
        patch: the sides that the network sees, in pixels or voxels, margins of valid convolutions included.
        sampling: how its patches are placed.
        data: its own data, or None for that of the experiment.
        start: files of weights that it begins with, as `engine.conversion.sources` reads them; "" draws all weights.
        modality_dropout: the subsets of modalities that its examples show; None: all that they have.
        labeled: whether it learns from labels; a phase that does not may train on unlabeled cases.
        rules: the weights that it takes over from earlier phases.
        checkpoint_every, checkpoint_minutes: most steps and minutes between two checkpoints; 0: no such limit.
        mask_to_brain: whether its label maps are background outside the brain.
        ema_decay: of the moving average of its weights, by which it is judged and predicts; 0: the weights themselves.
        count_classes: "crop" or "seen": where voxels per class are counted, for losses that weigh classes (`counted`).
        weighs_classes: whether its loss weighs classes by how often they occur in its training cases.
    """

    name: str
    build: Callable[..., System]
    assess: Callable[..., Any]
    steps: int
    epochs: int
    batch: int
    patch: tuple[int, ...]
    sampling: Sampling
    pad: bool
    unpaired: bool
    augment: Augment
    labeled: bool
    rules: tuple[Rule, ...]
    validation: Validation
    checkpoint_every: int
    checkpoint_minutes: float
    data: Data | None
    weighs_classes: bool = False
    mask_to_brain: bool = True
    count_classes: str = CROP
    ema_decay: float = 0.0
    start: str = ""
    modality_dropout: ModalityDropout | None = None

    @property
    def needs_label(self) -> bool:
        """Whether it cannot train on cases without a label: it learns from labels, or places its patches by them."""
        return self.labeled or self.sampling.needs_label

    def validation_steps(self, cases: int) -> int:
        """The steps between two validations that are asked for, given the number of its training cases; 0: none."""
        asked = self.validation
        if asked.every or not asked.every_epochs:
            return asked.every
        return max(1, asked.every_epochs * cases // self.batch)

    def counted(self, facts: DatasetFacts) -> tuple[int, ...]:
        """Returns the voxels per class of the training cases: as cropped, or filled up to the patch that is seen."""
        if self.count_classes == CROP:
            return tuple(facts.voxels_per_class)
        return seen_voxels(facts.voxels_per_class, facts.train_shapes, self.patch)

    def total_steps(self, cases: int) -> int:
        """Its length in steps, given the number of its training cases."""
        return self.steps or max(1, self.epochs * cases // self.batch)


@dataclass(frozen=True)
class Experiment:
    """A run: its phases in order, and `result`, the phases whose predictions are averaged into its result.

    With `side_by_side` the phases of the result train together, as one training. A call stops after `time_limit`
    minutes; 0: it does not. `devices`, "auto", "all" or a number, are those that each batch is parted among, `space`
    how many of them share one example; with `shard_state` parameters and optimizer states are parted among them, too.
    """

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
    time_limit: float
    pairs: tuple[str, ...]
    devices: str
    space: int
    shard_state: bool
    side_by_side: bool = False

    @property
    def trainings(self) -> tuple[tuple[str, ...], ...]:
        """The trainings of the schedule, in order, each as the names of its phases."""
        if not self.side_by_side:
            return tuple((name,) for name in self.schedule)
        start = self.schedule.index(self.result[0])
        before, after = self.schedule[:start], self.schedule[start + len(self.result) :]
        return (*((name,) for name in before), self.result, *((name,) for name in after))

    def data_of(self, phase: Phase) -> Data:
        """The phase's own data, or that of the experiment."""
        return phase.data or self.data


def parse(config: Any) -> Experiment:
    """Reads a whole config.

    Raises:
        UserError: something is unknown, missing or of the wrong kind.
    """
    _check_schedule(config)
    check_ranges(flat(config))
    phases = {name: _phase(name, config[name], config) for name in config.schedule}
    _check_rules(config.schedule, phases)
    side_by_side = config.get("side_by_side", False)
    if side_by_side:
        _check_side_by_side(config, phases)
    plain = ("name", "preset", "row", "variant", "seed", "schedule", "result", "pairs")
    plain += ("log_every", "time_limit", "devices", "space", "shard_state")
    experiment = Experiment(
        phases=phases,
        data=read_data("data", config.data),
        loader=_loader(config.loader),
        side_by_side=side_by_side,
        **{key: config[key] for key in plain},
    )
    _check_blank_slices(experiment)
    return experiment


def _loader(group: Any) -> Loader:
    loader = record(Loader, "loader", group)
    if loader.on_device not in ("auto", "on", "off"):
        raise UserError(f"loader.on_device is {loader.on_device!r}; choose auto, on or off")
    return loader


def _check_schedule(config: Any) -> None:
    """The sections are known, and schedule and result name them."""
    known = {"name", "preset", "row", "variant", "seed", "schedule", "result", "pairs", "network", "data"}
    # A phase's section may stand outside the schedule: a shorter schedule can be asked for.
    sections = {key for key, group in config.items() if is_group(group) and "model" in group}
    known |= {"loader", "log_every", "time_limit", "devices", "space", "shard_state", *config.schedule, *sections}
    same_keys("config", config, known | {"side_by_side"}, optional={"side_by_side"})
    if not config.schedule or len(set(config.schedule)) != len(config.schedule):
        raise UserError(f"schedule is {config.schedule}; it must name each phase once, in order")
    if not config.result or len(set(config.result)) != len(config.result):
        raise UserError(f"result is {config.result}; it must name at least one phase, each once")
    if stray := [name for name in config.result if name not in config.schedule]:
        raise UserError(f"result names {', '.join(stray)}, which the schedule {config.schedule} lacks")


def _check_rules(schedule: Sequence[str], phases: Mapping[str, Phase]) -> None:
    """Phases take over from earlier phases only."""
    for name, phase in phases.items():
        earlier = schedule[: schedule.index(name)]
        for rule in phase.rules:
            if rule.donor not in earlier:
                raise UserError(f"phase {name} takes over from {rule.donor!r}, which is not a phase before it")


def _check_blank_slices(experiment: Experiment) -> None:
    """No patch is placed by a brain that a blank slice lacks."""
    for phase in experiment.phases.values():
        if experiment.data_of(phase).blank_slices and phase.sampling.needs_brain:
            raise UserError(
                f"phase {phase.name}: sampling is {phase.sampling.name!r}, which blank slices cannot serve, and "
                "data.blank_slices keeps them; choose tiles or whole, or leave blank slices out"
            )


_ALONE = "leave side_by_side False"


def _check_side_by_side(config: Any, phases: Mapping[str, Phase]) -> None:
    """Phases side by side follow each other in the schedule, and differ in their data and rules only."""
    first, *others = config.result
    if not others:
        raise UserError(f"side_by_side is True, but result names one phase only, {first}; {_ALONE}")
    start = config.schedule.index(first)
    if config.schedule[start : start + len(config.result)] != config.result:
        raise UserError(
            f"side_by_side is True, but the phases of result, {', '.join(config.result)}, do not follow each other so "
            f"in the schedule {config.schedule}; order both alike, or {_ALONE}"
        )
    for name in config.result:
        if donors := [rule.donor for rule in phases[name].rules if rule.donor in config.result]:
            raise UserError(f"phase {name} takes over from {donors[0]}: they cannot train side by side; {_ALONE}")
        _check_alike(config, first, name)


def _check_alike(config: Any, first: str, name: str) -> None:
    """Two phases have the same options but for data and init."""
    here, there = (flat(config[one], without=("data", "init")) for one in (first, name))
    for key in sorted(here.keys() | there.keys()):
        if here.get(key) != there.get(key):
            raise UserError(
                f"{first}.{key} is {here.get(key)!r} and {name}.{key} is {there.get(key)!r}; phases side by "
                f"side differ in data and init only: make them equal, or {_ALONE}"
            )


def _phase(name: str, group: Any, config: Any) -> Phase:
    expected = {f.name for f in fields(Phase)} - {"name", "build", "rules", "labeled", "weighs_classes"}
    optional = {"loss", "loss_args", "data", "sampling_args", "mask_to_brain", "count_classes", "ema_decay"}
    optional, expected = optional | {"modality_dropout", "start"}, expected | {"model", "args", "optimizers", "init"}
    same_keys(name, group, expected | optional, optional=optional)
    if not (group.steps or group.epochs):
        raise UserError(f"{name}.steps and {name}.epochs are {group.steps} and {group.epochs}; one must be positive")
    own = given(group.get("data") or {})
    data = read_data(f"{name}.data", ConfigDict(merge(config.data, own))) if own else None
    plain = ("steps", "epochs", "batch", "patch", "pad", "unpaired", "checkpoint_every", "checkpoint_minutes")
    return Phase(
        name=name,
        build=_builder(name, group, config),
        assess=resolve(group.assess),
        sampling=_of_phase(name, sampling_rule, group.sampling, dict(group.get("sampling_args") or {})),
        augment=_of_phase(name, augment_from, group.augment),
        labeled=bool(group.get("loss")),
        weighs_classes=_weighs_classes(group),
        rules=tuple(parse_rule(entry) for entry in group.init),
        validation=_validation(name, group.validation),
        data=data,
        count_classes=_count_classes(name, group.get("count_classes", CROP)),
        modality_dropout=read_dropout(name, group.get("modality_dropout")),
        **{key: group[key] for key in (*plain, "mask_to_brain", "ema_decay", "start") if key in group},
    )


def _of_phase(name: str, read: Callable[..., Any], *given: Any) -> Any:
    """Reads a part of a phase, which its faults are told of."""
    try:
        return read(*given)
    except UserError as error:
        raise UserError(f"phase {name}: {error}") from error


def _validation(name: str, group: Any) -> Validation:
    found = record(Validation, f"{name}.validation", group, optional=("weighting", "mirror"))
    check_weighting(f"{name}.validation.weighting", found.weighting)
    asked_axes(f"{name}.validation.mirror", found.mirror)
    if found.patience and not (found.every or found.every_epochs):
        raise UserError(
            f"{name}.validation.patience is {found.patience}, and the phase is validated at its end only; set "
            f"{name}.validation.every to the steps between two validations"
        )
    return found


def _count_classes(name: str, where: str) -> str:
    if where not in (CROP, SEEN):
        raise UserError(f"{name}.count_classes is {where!r}; choose {CROP} or {SEEN}")
    return where


def _builder(name: str, group: Any, config: Any) -> Callable[..., System]:
    """Returns a function from the facts of the data and the phase's length to its System."""
    module, _, function = group.model.partition(":")
    make = resolve(f"{module}:{function or 'make_system'}", package="jaxfuse.models")
    accepted = inspect.signature(make).parameters
    options = with_switches(with_functions(merge(config.network, group.args)), where=name)
    try:
        args = grouped(make, options)
    except UserError as error:
        raise UserError(f"{name}: the model {group.model} {error}") from error
    if "pairs" in accepted:
        args["pairs"] = config.pairs
    loss = _loss(name, group) if "loss" in accepted else None
    optimizers = {player: dict(options) for player, options in group.optimizers.items()}

    def build(modalities: Sequence[str], classes: Sequence[str], steps: int, voxels: Sequence[int] = ()) -> System:
        given = {"modalities": tuple(modalities), "classes": len(classes), "loss": loss and loss(classes, voxels)}
        made = {player: _optimizer(name, player, o, steps) for player, o in optimizers.items()}
        system = make(optimizers=made, **args, **{key: value for key, value in given.items() if key in accepted})
        if set(system.players) != set(optimizers):
            raise UserError(f"{name}.optimizers names {sorted(optimizers)}; the model's players are {system.players}")
        return system

    return build


def _loss(name: str, group: Any) -> Callable[[Sequence[str], Sequence[int]], Callable[..., Any]]:
    """Returns a function from class names and voxels per class to the loss of (logits, label).

    A loss with a parameter `frequencies` gets those of the classes, unless the config's own options name them.
    """
    if not group.get("loss"):
        raise UserError(f"{name}: the model {group.model} needs a loss, such as 'losses.overlap:dice_loss_of_logits'")
    function = resolve(group.loss)
    options = dict(group.get("loss_args") or {})
    accepted, weighs_classes = set(inspect.signature(function).parameters), _weighs_classes(group)
    if wrong := sorted(set(options) - accepted):
        raise UserError(f"{name}: the loss {group.loss} has no option {', '.join(wrong)}")

    def loss_of(classes: Sequence[str], voxels: Sequence[int]) -> Callable[..., Any]:
        if not weighs_classes:
            return partial(function, **options)
        asked_by = f"{name}: the loss {group.loss}"
        return partial(function, **options, frequencies=class_frequencies(classes, voxels, asked_by=asked_by))

    return loss_of


def _weighs_classes(group: Any) -> bool:
    """Tells whether a phase's loss has a parameter `frequencies` that the config's own options leave to the data."""
    if not group.get("loss"):
        return False
    return "frequencies" in set(inspect.signature(resolve(group.loss)).parameters) - set(group.get("loss_args") or {})


def _optimizer(name: str, player: str, options: Mapping[str, Any], total_steps: int) -> Any:
    """Returns Adam, or the optimizer that the option `kind` names."""
    where, kind = f"{name}.optimizers.{player}", options.get("kind", "adam")
    if kind not in _OPTIMIZERS:
        raise UserError(f"{where}.kind is {kind!r}; choose one of {', '.join(_OPTIMIZERS)}")
    accepted = set(inspect.signature(_OPTIMIZERS[kind]).parameters) - {"total_steps"} | {"kind", "accumulate"}
    if wrong := sorted(set(options) - accepted):
        raise UserError(f"{where} has no option {', '.join(wrong)}; {kind} has {', '.join(sorted(accepted))}")
    own = {key: value for key, value in options.items() if key not in ("kind", "accumulate")}
    return accumulated(_OPTIMIZERS[kind](total_steps=total_steps, **own), options.get("accumulate") or 1)
