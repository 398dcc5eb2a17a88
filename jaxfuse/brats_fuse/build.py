"""The build of a data set: each case is cut and fused in turn, and files that are there stay as they are."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from jaxfuse.brats_fuse.begin import begin, check_folder, hd_bet_brain, hd_bet_device
from jaxfuse.brats_fuse.cut import BrainOf, cut_case, write_cut
from jaxfuse.brats_fuse.layout import SPLITS, Combo, Row, check_whole, remove_pieces
from jaxfuse.brats_fuse.manifest import Manifest
from jaxfuse.brats_fuse.panels import draw_panels
from jaxfuse.brats_fuse.plan import Order, Plan, ReadCombos, deciding_options, plan_of
from jaxfuse.brats_fuse.record import note_left_out
from jaxfuse.data.brain import untold
from jaxfuse.data.cases import CaseFiles
from jaxfuse.data.slices import gray_levels
from jaxfuse.engine.display import Countdown, Display
from jaxfuse.engine.stop_request import StopRequest
from jaxfuse.engine.trained.chosen_devices import chosen_devices
from jaxfuse.engine.trained.phases import TrainedPhase
from jaxfuse.engine.trained.slice_fuser import FuseSlices, slice_fuser
from jaxfuse.errors import UserError
from jaxfuse.io.npz import write_npz
from jaxfuse.io.png import read_png, write_png
from jaxfuse.learning.system import ATTENTION, FUSED
from jaxfuse.prediction.given_cases import reads_of

_BATCHES_AT_ONCE = 4


def make_data_set(order: Order, phase: TrainedPhase, read_combos: ReadCombos, display: Display) -> None:
    """Builds or completes the data set that is ordered, by the network of a trained phase.

    Raises:
        UserError: nothing can be done, or the folder is not one for this data set.
        CasesLeftOut: some cases cannot be done; the data set holds the others, and its record names those left out.
        Stopped: a signal came; the same call goes on.
    """
    device = hd_bet_device(order.brain_mask, order.hd_bet_device)
    plan = plan_of(order, phase, read_combos, display.say)
    out = check_folder(Path(order.out).absolute(), reads_of(Path(order.root), plan.files, "--root"))
    made, devices = (FUSED, *([ATTENTION] if order.attention else [])), chosen_devices(order.devices)
    fuse = slice_fuser(phase, outputs=made, batch=order.batch, devices=devices)
    if fuse.channels > 1:
        raise UserError(
            f"{phase.name} fuses into color, and BraTS-Fuse holds gray images; name a run that fuses to gray"
        )
    display.say(_split_told(plan))
    options = deciding_options(order, plan, device)
    seen = begin(out, phase, plan.files, options, allow_trained=order.allow_trained, display=display)
    plan = dataclasses.replace(plan, seen=seen)
    brain_of = hd_bet_brain(out, device, display) if plan.layout.brain else None
    with StopRequest() as stop:
        at_once = _BATCHES_AT_ONCE * order.batch * len(devices)
        rows = build(out, plan, fuse, at_once=at_once, brain_of=brain_of, display=display, stop=stop)
    if order.panels:
        for path in draw_panels(out, plan.layout, rows, plan.scheme, count=order.panels, maker=phase.name):
            display.say(f"panel: {path}")
    plan.batch.end()


def _split_told(plan: Plan) -> str:
    """Says how many cases there are, and how many of each side."""
    sides = list(plan.split_of.values())
    counts = ", ".join(f"{sides.count(side)} {side}" for side in SPLITS)
    few = " (too few for 80, 10 and 10 %)" if len(sides) < 10 else ""
    return f"{len(sides)} cases, split by patient into {counts}{few}"


def build(
    out: Path,
    plan: Plan,
    fuse: FuseSlices,
    *,
    at_once: int,
    brain_of: BrainOf | None,
    display: Display,
    stop: StopRequest,
) -> Sequence[Row]:
    """Makes the missing files of the data set in the folder `out`; returns the rows of its manifest.

    Args:
        at_once: how many images are fused and written between two looks for a signal.
        brain_of: gives a case's brain; None where the brain is what is not zero.

    A case that cannot be read or cut is left out of the batch of the plan.

    Raises:
        UserError: there are files that do not belong to this data set. Files that were written stay.
        CasesLeftOut: no case can be done, or nothing can be written any more.
        Stopped: a signal came; the same call goes on.
    """
    remove_pieces(out)
    manifest = Manifest(out, plan.layout.columns)
    countdown, worked, backgrounds = Countdown(len(plan.files)), 0, {}

    def make(number: int, one: CaseFiles) -> None:
        nonlocal worked
        rows, cut = manifest.rows.get(one.id), 0
        if rows is None or _missing(out, (path for row in rows for path in plan.layout.cut(row))):
            made = cut_case(one, plan, brain_of)
            rows, cut, backgrounds[one.id] = list(made.rows), write_cut(out, plan.layout, made), made.background
            manifest.add(one.id, rows)
            _tell_beyond(one.id, made.beyond, display)
        before = time.perf_counter()

        def follow(done: int, total: int, case: str = one.id) -> None:
            stop.heed(f"while fusing {case}")
            display.report(f"fusing {case}", done, total)

        fused = fuse_case(out, plan, rows, fuse, at_once, follow)
        stop.heed(f"after {one.id}")
        worked += bool(cut or fused)
        rate = f"{fused / (time.perf_counter() - before):.2f} images/s" if fused else "nothing to fuse"
        display.say(
            f"{number + 1} of {len(plan.files)}: {one.id}: {len(rows)} slices, {cut} images cut, {fused} fused "
            f"({rate}, {countdown.left(number + 1, worked=worked)} left)"
        )

    for number, one in enumerate(plan.files):
        with plan.batch.case(one.id):
            make(number, one)
    _warn_of_untold(backgrounds, display)
    refused = plan.batch.refused
    done = [one.id for one in plan.files if one.id not in refused]
    if not done:
        plan.batch.end()
    rows = manifest.finish(done)
    note_left_out(out, refused)
    count = check_whole(out, plan.layout, rows, refused)
    display.say(f"{out}: {len(rows)} slices of {len(done)} cases in {count} files, as the manifest lists them")
    return rows


def _tell_beyond(case: str, beyond: int, display: Display) -> None:
    if beyond:
        display.say(f"{case}: {beyond} labeled voxels lie outside the brain")


def _warn_of_untold(backgrounds: Mapping[str, Sequence[float | None]], display: Display) -> None:
    """Warns of cases that were cut now; those that were before had their warning."""
    if warning := untold(backgrounds):
        display.say(f"Warning: {warning}")


def fuse_case(
    out: Path, plan: Plan, rows: Sequence[Row], fuse: FuseSlices, at_once: int, follow: Callable[[int, int], None]
) -> int:
    """Fuses the slices of a case in the combinations that are not there yet (stage IV); returns how many.

    The network sees the gray levels of the files, so that its images can be made from the data set again.
    """
    layout = plan.layout
    jobs = [(row, combo) for row in rows for combo in layout.combos if _missing(out, layout.made(row, combo))]
    for start in range(0, len(jobs), at_once):
        chunk = jobs[start : start + at_once]
        masks = np.array([[name in combo for name in plan.preparation.channels] for _, combo in chunk], np.float32)
        made = fuse(_images(out, plan, [row for row, _ in chunk]), masks)
        for number, (row, combo) in enumerate(chunk):
            if ATTENTION in made:
                _write_attention(
                    out / layout.attn(row, combo), made[ATTENTION][number], combo, plan.preparation.channels
                )
            # Rounding can lead a network's image out of [0, 1] by the last digit.
            write_png(out / layout.fused(row, combo), gray_levels(np.clip(made[FUSED][number, ..., 0], 0, 1)))
        follow(start + len(chunk), len(jobs))
    return len(jobs)


def _images(out: Path, plan: Plan, rows: Sequence[Row]) -> Float[np.ndarray, "n r c m"]:
    """Reads the sources of each row, in [0, 1]; 0 for modalities that the data set leaves out."""
    images: list[np.ndarray] = []
    for number, row in enumerate(rows):
        # Rows of one slice, in several combinations, follow each other.
        again = number > 0 and rows[number - 1] is row
        images.append(images[-1] if again else _levels(out, plan, row))
    return np.stack(images).astype(np.float32) / np.float32(255)


def _levels(out: Path, plan: Plan, row: Row) -> UInt8[np.ndarray, "r c m"]:
    """Reads the sources of a slice, with the channels of the network."""
    pictures = {m: read_png(out / plan.layout.source(row, m)) for m in plan.layout.modalities}
    nothing = np.zeros_like(pictures[plan.layout.modalities[0]])
    return np.stack([pictures.get(name, nothing) for name in plan.preparation.channels], axis=-1)


def _write_attention(path: Path, attention: np.ndarray, combo: Combo, channels: Sequence[str]) -> None:
    own = attention[..., [channels.index(name) for name in combo]].astype(np.float16)
    write_npz(path, attention=own, modalities=np.array(combo))


def _missing(out: Path, paths: Iterable[str]) -> bool:
    return not all((out / path).is_file() for path in paths)
