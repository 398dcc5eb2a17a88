"""Builds the data set BraTS-Fuse: slices of BraTS volumes, and their fused images in every combination.

    python -m jaxfuse.brats_fuse --root DIR --run RUN[:PHASE[@best]] --out DIR

DIR of --root holds cases in any BraTS layout, labeled or not. The run's network fuses the slices; patients that it
was trained on are refused. OUT gets manifest.csv, builder.json and a folder for each of train, val and test, as
`jaxfuse.brats_fuse.layout` describes them. A build that was interrupted is gone on with by the same command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from absl import flags

from jaxfuse import cli
from jaxfuse.errors import UserError
from jaxfuse.labels import SCHEMES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from jaxfuse.brats_fuse.layout import Combo, Layout
    from jaxfuse.data.cases import CaseFiles
    from jaxfuse.engine.display import Display
    from jaxfuse.engine.trained.phases import Member

_AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
_BATCHES_AT_ONCE = 4


def define_flags() -> None:
    """The options of the command; not defined on import, so that commands can be imported side by side."""
    flags.DEFINE_string("root", None, "Folder of cases, at any level from the download's folder down.")
    flags.DEFINE_string("run", None, "The run whose network fuses: RUN, RUN:PHASE or RUN:PHASE@best.")
    flags.DEFINE_string("out", None, "Folder of the data set; made if need be.")
    flags.DEFINE_string("layout", None, "Layout of the cases; told from the names on disk if not given.")
    flags.DEFINE_string("labels", None, f"Label scheme, of {', '.join(SCHEMES)}; the layout's if not given.")
    flags.DEFINE_list("modalities", None, "Modalities of the data set; all that the run knows if not given.")
    flags.DEFINE_enum("axis", "axial", list(_AXES), "Direction of the slices.")
    flags.DEFINE_bool("one_per_case", False, "Only the slice with the largest tumor of each case; else the middle one.")
    flags.DEFINE_enum(
        "brain_mask", "union", ["union", "hd-bet"], "union: where any volume is not zero; hd-bet: run this program."
    )
    flags.DEFINE_string("hd_bet_device", None, "cpu, cuda or mps; cuda where JAX has a GPU, else cpu, if not given.")
    flags.DEFINE_string("combos", "all", "Combinations: all, pairs, or such as t1+t2,t1+t1ce+t2.")
    flags.DEFINE_bool("attention", False, "Also write the attention that each pixel of each source receives.")
    flags.DEFINE_integer("seed", 0, "Of the split into train, val and test.")
    flags.DEFINE_bool("allow_trained", False, "Fuse patients of the run's training too; the manifest marks them.")
    flags.DEFINE_integer("panels", 0, "So many contact sheets are drawn into OUT/panels.", lower_bound=0)
    flags.DEFINE_integer("batch", 4, "Images that are fused at a time.", lower_bound=1)
    for name in ("root", "run", "out"):
        flags.mark_flag_as_required(name)


def main(argv: list[str]) -> int:
    """Builds or completes the data set; returns the exit code."""
    from jaxfuse.brats_fuse.begin import begin, hd_bet_brain
    from jaxfuse.brats_fuse.build import build
    from jaxfuse.brats_fuse.layout import Layout
    from jaxfuse.brats_fuse.panels import draw_panels
    from jaxfuse.brats_fuse.plan import Plan
    from jaxfuse.data.sources import brats
    from jaxfuse.engine.display import Display
    from jaxfuse.engine.run_folder.workdir import compilation_cache
    from jaxfuse.engine.stop_request import StopRequest
    from jaxfuse.engine.trained.slice_fuser import ATTENTION, FUSED, slice_fuser
    from jaxfuse.io.folders import writable_folder
    from jaxfuse.labels import label_scheme

    cli.no_arguments(argv)
    asked, display = flags.FLAGS, Display()
    naming = brats.layout_named(asked.layout or brats.detect_layout(asked.root))
    scheme = label_scheme(asked.labels or naming.scheme)
    program, device = _hd_bet(asked.brain_mask, asked.hd_bet_device)
    folder, member = _member(asked.run)
    compilation_cache(member.data.cache_dir)
    modalities = _modalities(asked.modalities, member)
    layout = Layout(
        modalities, _combos(asked.combos, modalities), asked.attention, _AXES[asked.axis], brain=bool(program)
    )
    fuse = slice_fuser(member, outputs=(FUSED, *([ATTENTION] if asked.attention else [])), batch=asked.batch)
    files = _cases(asked.root, modalities, naming.name, member)
    out = writable_folder(asked.out, "--out")
    split_of = _split(files, asked.seed, display)
    options = _options(layout, scheme.name, device)
    seen = begin(out, folder, member, files, options, allow_trained=asked.allow_trained, display=display)
    plan = Plan(files, split_of, seen, layout, scheme, asked.one_per_case, member.data.modalities)
    brain_of = hd_bet_brain(out, program, device, display) if program else None
    at_once = _BATCHES_AT_ONCE * asked.batch
    with StopRequest() as stop:
        rows = build(out, plan, fuse, at_once=at_once, brain_of=brain_of, display=display, stop=stop)
    if asked.panels:
        for path in draw_panels(out, layout, rows, scheme, count=asked.panels, maker=member.name):
            display.say(f"panel: {path}")
    return 0


def _member(run: str) -> tuple[Path, Member]:
    """The run's folder, and the one phase of it that fuses."""
    from jaxfuse.engine.trained.phases import load_members, parse_run

    members = load_members([run])
    if len(members) > 1:
        names = [member.phase.name for member in members]
        raise UserError(f"the result of {run} is that of the phases {', '.join(names)}; name one, as {run}:{names[0]}")
    return parse_run(run)[0], members[0]


def _modalities(asked: Sequence[str] | None, member: Member) -> tuple[str, ...]:
    """Those asked for, or all of the run, in the order of the data set's columns."""
    from jaxfuse.data.sources.brats import MODALITIES

    known = member.data.modalities
    if strange := [name for name in asked or () if name not in known]:
        raise UserError(f"--modalities names {', '.join(strange)}, and {member.name} knows {', '.join(known)}")
    return tuple(name for name in MODALITIES if name in (asked or known))


def _cases(root: str, modalities: tuple[str, ...], layout: str, member: Member) -> tuple[CaseFiles, ...]:
    """The cases, which have these modalities, with all files of the run's: by these a trained case is known again."""
    import dataclasses

    from jaxfuse.data.sources import brats

    files = brats.find_cases(root, modalities, labels_required=False, layout=layout)
    if set(modalities) == set(member.data.modalities):
        return files
    found = {case.id: case.images for case in brats.survey(root, member.data.modalities, layout=layout)}
    return tuple(dataclasses.replace(one, images=found[one.id]) for one in files)


def _combos(text: str, modalities: Sequence[str]) -> tuple[Combo, ...]:
    from jaxfuse.brats_fuse.layout import combos_of
    from jaxfuse.models.fuse4seg.combinations import combinations

    asked = combinations(text if text in ("all", "pairs") else tuple(text.split(",")), modalities)
    return combos_of(([modalities[member] for member in members] for members in asked.members), modalities)


def _hd_bet(brain_mask: str, device: str | None) -> tuple[str, str]:
    """The program HD-BET and the device that it runs on; empty where it is not asked for."""
    import jax

    from jaxfuse.brats_fuse.brain_mask import hd_bet_program

    if brain_mask == "hd-bet":
        return hd_bet_program(), device or ("cuda" if jax.default_backend() == "gpu" else "cpu")
    if device is not None:
        raise UserError(f"--hd_bet_device is {device}, but --brain_mask is {brain_mask}; give it with hd-bet only")
    return "", ""


def _split(files: Sequence[CaseFiles], seed: int, display: Display) -> dict[str, str]:
    """Case id -> train, val or test; says how many there are of each."""
    from jaxfuse.brats_fuse.layout import split_by_patient

    sides = split_by_patient([(one.id, one.group) for one in files], seed=seed)
    counts = ", ".join(f"{len(cases)} {side}" for side, cases in sides.items())
    few = " (too few for 80, 10 and 10 %)" if len(files) < 10 else ""
    display.say(f"{len(files)} cases, split by patient into {counts}{few}")
    return {case: side for side, cases in sides.items() for case in cases}


def _options(layout: Layout, scheme: str, device: str) -> dict[str, Any]:
    """What decides the files beside the run and the cases, for the record."""
    asked = flags.FLAGS
    return {
        "modalities": list(layout.modalities),
        "combos": ["+".join(combo) for combo in layout.combos],
        "attention": asked.attention,
        "axis": asked.axis,
        "one_per_case": asked.one_per_case,
        "brain_mask": asked.brain_mask,
        "hd_bet_device": device,
        "labels": scheme,
        "seed": asked.seed,
    }


if __name__ == "__main__":
    define_flags()
    cli.run(main)
