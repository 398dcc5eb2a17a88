"""The order for a data set, and the plan that comes of it: cases, split, and how they are cut and fused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from jaxfuse.brats_fuse.layout import Combo, Layout, combos_of, split_by_patient
from jaxfuse.case_by_case import CaseByCase
from jaxfuse.data.cases import CaseFiles
from jaxfuse.data.slices import AXES
from jaxfuse.data.sources.brats import SOURCE
from jaxfuse.data.sources.case_folders import files_of
from jaxfuse.engine.trained.phases import TrainedPhase
from jaxfuse.engine.trained.slice_fuser import fusing_system
from jaxfuse.errors import UserError
from jaxfuse.labels import IGNORED, LabelScheme, label_scheme
from jaxfuse.prediction.preparation import Preparation

# The text of an option and modalities -> the combinations that it names.
ReadCombos = Callable[[str, Sequence[str]], tuple[Combo, ...]]


@dataclass(frozen=True)
class Order:
    """The options of the command, by their names; None where one is not given and follows from the others."""

    root: str
    run: str
    out: str
    layout: str | None
    labels: str | None
    modalities: Sequence[str] | None
    axis: str
    one_per_case: bool
    brain_mask: str
    hd_bet_device: str | None
    combos: str
    attention: bool
    seed: int
    allow_trained: bool
    allow_untrained: bool
    panels: int
    batch: int
    devices: str


@dataclass(frozen=True)
class Plan:
    """The cases of a data set, and how they are cut and fused.

    Attributes:
        files: the cases, by id.
        split_of: case id -> train, val or test.
        layout: names of the files of a slice.
        scheme: the label scheme.
        one_per_case: only the slice with the largest tumor of each case.
        preparation: that of the network; its channels are the modalities in the order in which it takes them.
        batch: of all cases that were found; those that lack a file are left out already.
        seen: ids of cases that the network was trained on.
        untrained: combinations of the layout that it was never trained to fuse.
    """

    files: tuple[CaseFiles, ...]
    split_of: Mapping[str, str]
    layout: Layout
    scheme: LabelScheme
    one_per_case: bool
    preparation: Preparation
    batch: CaseByCase
    seen: frozenset[str] = frozenset()
    untrained: tuple[Combo, ...] = ()


def plan_of(order: Order, phase: TrainedPhase, read_combos: ReadCombos, say: Callable[[str], None]) -> Plan:
    """Finds the cases and decides what is made of them; nothing is written, and `say` is told of incomplete ones.

    Raises:
        UserError: no case is found, all are incomplete, or an option names what there is not.
    """
    naming = order.layout or SOURCE.detect(order.root)
    modalities = _modalities(order.modalities, phase)
    layout = Layout(
        modalities,
        _combos(order, phase, modalities, read_combos),
        order.attention,
        AXES[order.axis],
        brain=order.brain_mask == "hd-bet",
    )
    files, batch = _cases(order.root, modalities, naming, phase, say)
    sides = split_by_patient([(one.id, one.group) for one in files], seed=order.seed)
    split_of = {case: side for side, cases in sides.items() for case in cases}
    scheme = label_scheme(order.labels or SOURCE.scheme_of(naming))
    if IGNORED in scheme.encode.values():
        raise UserError(
            f"the labels {scheme.name} have ignore, and BraTS-Fuse names a class for each pixel; leave it out"
        )
    known = _trained(phase, modalities)
    untrained = tuple(combo for combo in layout.combos if combo not in known)
    return Plan(files, split_of, layout, scheme, order.one_per_case, phase.preparation, batch, untrained=untrained)


def deciding_options(order: Order, plan: Plan, device: str) -> dict[str, Any]:
    """Returns the settings that decide the files, beside the run and the cases, for the record."""
    return {
        "modalities": list(plan.layout.modalities),
        "combos": ["+".join(combo) for combo in plan.layout.combos],
        "untrained_combos": ["+".join(combo) for combo in plan.untrained],
        "attention": order.attention,
        "axis": order.axis,
        "one_per_case": order.one_per_case,
        "brain_mask": order.brain_mask,
        "hd_bet_device": device,
        "labels": plan.scheme.name,
        "seed": order.seed,
    }


def _combos(order: Order, phase: TrainedPhase, modalities: Sequence[str], read_combos: ReadCombos) -> tuple[Combo, ...]:
    """The combinations that are asked for; refuses those that the network never trained, unless they are allowed."""
    trained = _trained(phase, modalities)
    asked = trained if order.combos == "trained" else read_combos(order.combos, modalities)
    if not asked:
        raise UserError(
            f"{phase.name} was trained to fuse no combination of {', '.join(modalities)}; name more modalities"
        )
    untrained = ["+".join(combo) for combo in asked if combo not in trained]
    if untrained and not order.allow_untrained:
        raise UserError(
            f"{phase.name} was never trained to fuse {', '.join(untrained)}: leave them out with --combos trained, or "
            "pass --allow_untrained, and builder.json marks them"
        )
    return asked


def _trained(phase: TrainedPhase, modalities: Sequence[str]) -> tuple[Combo, ...]:
    """The combinations of these modalities that a network was trained to fuse."""
    known = fusing_system(phase).trained_combos
    return combos_of([combo for combo in known if set(combo) <= set(modalities)], modalities)


def _modalities(asked: Sequence[str] | None, phase: TrainedPhase) -> tuple[str, ...]:
    """Modalities of the data set, those asked for or all of the run, in the order of its columns."""
    known = phase.preparation.channels
    if strange := [name for name in asked or () if name not in known]:
        raise UserError(f"--modalities names {', '.join(strange)}, and {phase.name} knows {', '.join(known)}")
    return tuple(name for name in SOURCE.modalities if name in (asked or known))


def _cases(
    root: str, modalities: tuple[str, ...], layout: str, phase: TrainedPhase, say: Callable[[str], None]
) -> tuple[tuple[CaseFiles, ...], CaseByCase]:
    """Cases with these modalities, and the batch of all; they list all files of the run's modalities.

    Those files tell a trained case.
    """
    found = SOURCE.look(root, modalities, layout=layout)
    batch = CaseByCase([one.id for one in found], say)
    whole = batch.sound({one.id: one for one in found}, partial(files_of, labels_required=False))
    if not whole:
        batch.end()
    known = phase.preparation.channels
    if set(modalities) == set(known):
        return tuple(whole.values()), batch
    images = {case.id: case.images for case in SOURCE.survey(root, known, layout)}
    return tuple(dataclasses.replace(one, images=images[case]) for case, one in whole.items()), batch
