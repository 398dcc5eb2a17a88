"""From a ConfigDict to a frozen Experiment: read once, names resolved to functions, anything odd refused.

Nothing below this module sees a config.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from jaxfuse.data.frequencies import class_frequencies
from jaxfuse.data.pipeline import Loader
from jaxfuse.data.sampling import needs_brain
from jaxfuse.data.slices import Window
from jaxfuse.data.sources import voc
from jaxfuse.data.sources.volumes import check_axis, check_slices, scheme_of_layout, source_of
from jaxfuse.errors import UserError
from jaxfuse.labels import LabelScheme, label_scheme
from jaxfuse.learning.optim import adam, sgd
from jaxfuse.learning.system import System
from jaxfuse.learning.transfer import Rule, parse_rule
from jaxfuse.options import at_least, flat, grouped, is_group, merge, record, resolve, same_keys, with_initializers

_OPTIMIZERS = {"adam": adam, "sgd": sgd}


@dataclass(frozen=True)
class Phantom:
    """The phantom data set that stands in where no root is given.

    Attributes:
        spacing_mm: voxel sides; of "stroke", whose slices share 160 mm, the sides in the plane.
    """

    cases: int
    seed: int
    shape: tuple[int, int, int]
    spacing_mm: float


@dataclass(frozen=True)
class Data:
    """Where cases come from and how they are prepared.

    Attributes:
        source: volumes: "brats", "iseg" (subject-1-T1.hdr, ...) or "stroke" (folders of T2 and diffusion). Slices of
            such volumes, each a 2D case: "slices" (those of "brats" that show enough brain), "one_slice" (one of each
            volume of "brats", that of the largest tumor), "iseg_slices" (in training those that hold a labelled
            voxel) and "stroke_slices" (like "slices"). "pairs2d": registered PNG pairs, MRI with CT, PET or SPECT.
            "voc": photographs. A source of 2D cases needs a phase with a patch of two sides.
        root: folder of the data set; empty: phantoms are written and used.
        layout: a layout of `jaxfuse.data.sources`; empty: recognized from folder and file names.
        labels: a scheme of `jaxfuse.labels`; empty: that of the layout.
        normalize: a rule of `jaxfuse.data.preprocess.prepare_case` for volumes and slices; "levels" for "pairs2d".
        reference: with normalize "histmatch": folder of the case that all are matched to; empty: the landmarks of
            `jaxfuse.data.intensities`.
        split: JSON file with lists `train` and `val` of case ids; empty: drawn by `split_seed`.
        fold: the number, from 1, of the one subject that validates, for an ensemble of leave-one-out folds; 0: none.
        bootstrap: the number, from 1, of a bootstrap sample of the subjects, drawn by `split_seed`, which train; those
            left out validate; 0: none.
        cache: folder of prepared arrays; empty: $JAXFUSE_CACHE, else ~/.cache/jaxfuse.
        axis: of slices: "axial", "coronal" or "sagittal". A network of slices labels volumes along it.
        window: of slices: what pictures show, ((first, one past the last), (first, one past the last)) along the two
            axes of the canonical volume (to the right, to the front, up) that are not cut; (): the box of the brain.
        blank_slices: of slices: keep all, also those that show no brain.
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
    axis: str = "axial"
    reference: str = ""
    window: Window = ()
    blank_slices: bool = False
    fold: int = 0
    bootstrap: int = 0

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
        memory_mb: networks of valid convolutions predict volumes in the largest tiles that pay and whose program takes
            at most so much memory, at the same answer; 0, and for other networks: in tiles of the training patch.
    """

    every: int
    cases: int
    overlap: float
    tile_batch: int
    memory_mb: int = 0


@dataclass(frozen=True)
class Phase:
    """One phase of the schedule, ready to build its System.

    Attributes:
        build: (modalities, class names, total steps[, voxels per class of the training cases]) -> System; see `_loss`.
        assess: how its predictions are judged, a function of `jaxfuse.engine.assess`.
        steps, epochs: its length; steps wins where it is not 0.
        patch: the sides of what the network sees, margins of valid convolutions included.
        sampling, sampling_args: a rule of `jaxfuse.data.sampling.center_rule` and its options.
        data: its own data, or None for that of the experiment.
        labelled: whether it learns from labels; a phase that does not may train on unlabelled cases.
        rules: what it takes over from earlier phases.
        weighs_classes: whether its loss weighs classes by how often they occur in its training cases.
    """

    name: str
    build: Callable[..., System]
    assess: Callable[..., Any]
    steps: int
    epochs: int
    batch: int
    patch: tuple[int, ...]
    sampling: str
    sampling_args: Mapping[str, Any]
    pad: bool
    unpaired: bool
    augment: Mapping[str, Mapping[str, float]]
    labelled: bool
    rules: tuple[Rule, ...]
    validation: Validation
    checkpoint_every: int
    data: Data | None
    weighs_classes: bool = False

    def total_steps(self, cases: int) -> int:
        return self.steps or max(1, self.epochs * cases // self.batch)


@dataclass(frozen=True)
class Experiment:
    """A run: its phases in order, and `result`, the phases whose predictions are averaged into its result.

    With `side_by_side` the phases of the result train together, as one training.
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
    pairs: tuple[str, ...]
    side_by_side: bool = False

    @property
    def trainings(self) -> tuple[tuple[str, ...], ...]:
        """The schedule as trainings, one after the other: the phases of each."""
        if not self.side_by_side:
            return tuple((name,) for name in self.schedule)
        start = self.schedule.index(self.result[0])
        before, after = self.schedule[:start], self.schedule[start + len(self.result) :]
        return (*((name,) for name in before), self.result, *((name,) for name in after))

    def data_of(self, phase: Phase) -> Data:
        return phase.data or self.data


def parse(config: Any) -> Experiment:
    """Reads a whole config; raises UserError on anything unknown, missing or of the wrong kind."""
    known = {"name", "preset", "row", "variant", "seed", "schedule", "result", "pairs", "network", "data"}
    # A phase's section may stand outside the schedule: a shorter schedule can be asked for.
    sections = {key for key, group in config.items() if is_group(group) and "model" in group}
    known |= {"loader", "log_every", *config.schedule, *sections}
    same_keys("config", config, known | {"side_by_side"}, optional={"side_by_side"})
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
    if config.get("side_by_side", False):
        _check_side_by_side(config, phases)
    at_least("", config, log_every=1, seed=0)
    experiment = Experiment(
        phases=phases,
        data=_data("data", config.data),
        loader=record(Loader, "loader", config.loader, workers=0, threads=0, prefetch=1),
        side_by_side=config.get("side_by_side", False),
        **{
            key: config[key]
            for key in ("name", "preset", "row", "variant", "seed", "schedule", "result", "log_every", "pairs")
        },
    )
    for phase in phases.values():
        if experiment.data_of(phase).blank_slices and needs_brain(phase.sampling):
            raise UserError(
                f"phase {phase.name}: sampling is {phase.sampling!r}, which blank slices cannot serve, and "
                "data.blank_slices keeps them; choose tiles or whole, or leave blank slices out"
            )
    return experiment


def _check_side_by_side(config: Any, phases: Mapping[str, Phase]) -> None:
    """Phases side by side stand together in the schedule, and differ in their data and in what they take over only."""
    first, *others = config.result
    advice = "leave side_by_side False"
    if not others:
        raise UserError(f"side_by_side is True, but result names one phase only, {first}; {advice}")
    start = config.schedule.index(first)
    if config.schedule[start : start + len(config.result)] != config.result:
        raise UserError(
            f"side_by_side is True, but the phases of result, {', '.join(config.result)}, do not follow each other so "
            f"in the schedule {config.schedule}; order both alike, or {advice}"
        )
    for name in config.result:
        if donors := [rule.donor for rule in phases[name].rules if rule.donor in config.result]:
            raise UserError(f"phase {name} takes over from {donors[0]}: they cannot train side by side; {advice}")
        here, there = (flat(config[one], without=("data", "init")) for one in (first, name))
        for key in sorted(here.keys() | there.keys()):
            if here.get(key) != there.get(key):
                raise UserError(
                    f"{first}.{key} is {here.get(key)!r} and {name}.{key} is {there.get(key)!r}; phases side by "
                    f"side differ in data and init only: make them equal, or {advice}"
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
    return data.modalities, scheme_of(data, scheme_of_layout(source_of(data.source), data.layout)).classes


def _phase(name: str, group: Any, config: Any) -> Phase:
    expected = {f.name for f in fields(Phase)} - {"name", "build", "rules", "labelled", "weighs_classes"}
    optional = {"loss", "loss_args", "data", "sampling_args"}
    expected |= {"model", "args", "optimizers", "init"}
    same_keys(name, group, expected | optional, optional=optional)
    at_least(f"{name}.", group, batch=1, checkpoint_every=1)
    if group.steps < 0 or group.epochs < 0 or not (group.steps or group.epochs):
        raise UserError(f"{name}.steps and {name}.epochs are {group.steps} and {group.epochs}; one must be positive")
    data = _data(f"{name}.data", group.data) if group.get("data") else None
    plain = ("steps", "epochs", "batch", "patch", "sampling", "pad", "unpaired", "checkpoint_every")
    return Phase(
        name=name,
        build=_builder(name, group, config),
        assess=resolve(group.assess),
        sampling_args=dict(group.get("sampling_args") or {}),
        augment={key: dict(value) for key, value in group.augment.items()},
        labelled=bool(group.get("loss")),
        weighs_classes=_weighs_classes(group),
        rules=tuple(parse_rule(entry) for entry in group.init),
        validation=_validation(f"{name}.validation", group.validation),
        data=data,
        **{key: group[key] for key in plain},
    )


def _builder(name: str, group: Any, config: Any) -> Callable[..., System]:
    module, _, function = group.model.partition(":")
    make = resolve(f"{module}:{function or 'make_system'}", package="jaxfuse.models")
    accepted = inspect.signature(make).parameters
    options = with_initializers(merge(config.network, group.args))
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
    """A function from class names and voxels per class to the loss of (logits, label).

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
    """Whether a phase's loss has a parameter `frequencies` that the config's own options leave to the data."""
    if not group.get("loss"):
        return False
    return "frequencies" in set(inspect.signature(resolve(group.loss)).parameters) - set(group.get("loss_args") or {})


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
    # Runs of versions without these options: on axial slices of the brain, and on neither folds nor samples.
    later = {"axis", "fold", "bootstrap", "reference", "window", "blank_slices"}
    same_keys(where, group, {f.name for f in fields(Data)}, optional=later)
    check_axis(group.get("axis", "axial"), group.source, where)
    check_slices(group.get("window", ()), group.get("blank_slices", False), group.source, where)
    if group.get("reference") and group.normalize != "histmatch":
        raise UserError(
            f"{where}.reference is {group.reference!r} and {where}.normalize {group.normalize!r}; only histmatch looks "
            "at it: leave it empty"
        )
    if not 0.0 < group.val_fraction < 1.0:
        raise UserError(f"{where}.val_fraction is {group.val_fraction}; it must lie between 0 and 1")
    at_least(f"{where}.", group, split_seed=0)
    _check_split(where, group)
    return Data(phantom=record(Phantom, f"{where}.phantom", group.phantom, cases=1, seed=0), **values)


def _check_split(where: str, group: Any) -> None:
    """At most one of a list, a fold and a bootstrap sample says who validates."""
    at_least(f"{where}.", {"fold": 0, "bootstrap": 0, **dict(group.items())}, fold=0, bootstrap=0)
    given = [name for name in ("split", "fold", "bootstrap") if group.get(name)]
    if len(given) > 1:
        raise UserError(f"{' and '.join(f'{where}.{name}' for name in given)} cannot go together; keep one of them")
    if group.source == "voc" and given:
        raise UserError(f"{where}.{given[0]} is given, but VOC has lists of its own; leave it out")


def _validation(where: str, group: Any) -> Validation:
    # Runs of versions without the option predicted in tiles of the training patch.
    options = {"memory_mb": 0, **dict(group.items())}
    settings = record(Validation, where, options, every=0, cases=1, tile_batch=1, memory_mb=0)
    if not 0.0 <= settings.overlap < 1.0:
        raise UserError(f"{where}.overlap is {settings.overlap}; it must lie in [0, 1)")
    return settings
