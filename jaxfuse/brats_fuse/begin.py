"""Checks before the first slice is cut: the data set in the folder, patients that may not be fused, HD-BET."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool

from jaxfuse.brats_fuse.brain_mask import extract_brain, hd_bet_program, read_brain
from jaxfuse.brats_fuse.cut import BrainOf
from jaxfuse.brats_fuse.layout import brain_file
from jaxfuse.brats_fuse.patients_seen import seen_in_training
from jaxfuse.brats_fuse.record import FORMAT, RECORD, cases_digest, open_record, run_fingerprint
from jaxfuse.data.cases import CaseFiles
from jaxfuse.data.digests import Digests
from jaxfuse.engine.display import Display
from jaxfuse.engine.trained.phases import TrainedPhase
from jaxfuse.errors import UserError
from jaxfuse.io.outputs import Read, check_writable, keep_apart, keep_whole

Report = Callable[[str, int, int], None]


def check_folder(out: Path, reads: Sequence[Read]) -> Path:
    """Returns the folder of the data set; refuses one that is not apart from the cases, or holds something else."""
    keep_apart(out, "--out", reads)
    keep_whole(out, "--out", own=(out / RECORD).is_file(), kind=RECORD)
    check_writable(out, "--out")
    return out


def begin(
    out: Path,
    phase: TrainedPhase,
    files: Sequence[CaseFiles],
    options: Mapping[str, Any],
    *,
    allow_trained: bool,
    display: Display,
) -> frozenset[str]:
    """Writes the record of the data set, or checks the record that is there.

    Args:
        options: all settings that decide the files, beside the run and the cases.
        allow_trained: go on where the network was trained on some of the patients.

    Returns:
        The ids of the cases that the network was trained on.

    Raises:
        UserError: there are such cases, and `allow_trained` is False; or `out` holds another data set.
    """
    digests = _digests(out, files, display.report)
    seen = seen_in_training(phase, files, digests)
    if seen and not allow_trained:
        raise UserError(
            f"{phase.name} was trained on {len(seen)} of the {len(files)} cases ({_listed(seen)}): fuse others, take "
            "another run, or pass --allow_trained, which marks them in the manifest"
        )
    record = {
        "format": FORMAT,
        "run": phase.name,
        "fingerprint": run_fingerprint(phase),
        "options": dict(options),
        "cases": {"count": len(files), "digest": cases_digest(files, digests)},
        "run_folder": str(phase.workdir.absolute()),
        "seen_in_training": list(seen),
    }
    known = open_record(out, record)
    digests.save()
    if known:
        display.say(f"{out} holds this data set, whole or begun: what is there is not made again")
    if seen:
        display.say(f"{len(seen)} cases were trained on, and the manifest marks them: {_listed(seen)}")
    return frozenset(seen)


def hd_bet_device(brain_mask: str, device: str | None) -> str:
    """Returns the device for HD-BET, "" where it is not asked for; refuses to go on where it is not installed."""
    if brain_mask == "hd-bet":
        hd_bet_program()
        return device or ("cuda" if jax.default_backend() == "gpu" else "cpu")
    if device is not None:
        raise UserError(f"--hd_bet_device is {device}, but --brain_mask is {brain_mask}; give it with hd-bet only")
    return ""


def hd_bet_brain(out: Path, device: str, display: Display) -> BrainOf:
    """Returns a function that gives a case's brain mask, made by HD-BET of the T1 image and kept in the data set."""
    program = hd_bet_program()

    def brain_of(one: CaseFiles) -> Bool[np.ndarray, "d h w"]:
        path = out / brain_file(one.id)
        if not path.is_file():
            display.say(f"{one.id}: hd-bet on {device}")
            image = one.images["t1"] if "t1" in one.images else next(iter(one.images.values()))
            extract_brain(image.path, path, program=program, device=device)
        return read_brain(path)

    return brain_of


def _digests(out: Path, files: Sequence[CaseFiles], report: Report) -> Digests:
    """Digests all files; what is found can be kept in the data set."""
    digests = Digests(out / ".digests.json")
    for number, one in enumerate(files, start=1):
        for path in (*(image.path for image in one.images.values()), *([one.label] if one.label else [])):
            digests.of(path)
        report("reading the files of cases", number, len(files))
    return digests


def _listed(cases: Sequence[str]) -> str:
    return ", ".join(cases[:5]) + (" ..." if len(cases) > 5 else "")
