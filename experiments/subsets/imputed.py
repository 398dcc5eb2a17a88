"""Cases of which what lacks is synthesized by Hi-Net from what is there, before they are labeled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from experiments.shared import train_once
from jaxfuse.data.prepared import Prepared, PreparedCase, showing
from jaxfuse.data.presence import Presence
from jaxfuse.data.sources.brats import SOURCE
from jaxfuse.engine.trained.chosen_devices import first_device
from jaxfuse.engine.trained.completer import completer_for
from jaxfuse.engine.trained.phases import TrainedPhase, load


def train(seed: int, folder: Path) -> tuple[Path, float]:
    """Trains Hi-Net from any sources to any target on complete phantoms, once; returns its run folder and seconds."""
    workdir = folder / f"Hi-Net-any-seed{seed}"
    seconds = train_once("configs/hinet.py:,row=any", workdir, f"--config.seed={seed}")
    print(f"{workdir.name}: trained in {seconds:.0f} s", flush=True)
    return workdir, seconds


def imputer(run: Path, member: TrainedPhase, root: Path) -> Callable[[PreparedCase, Presence], Prepared]:
    """Returns the function (complete case, subset of its modalities) -> what the segmentation sees in its place.

    The modalities outside the subset are made from those within it, as `jaxfuse.predict --missing impute` has it; the
    files of the case lie below `root`. A case that has all is what it was.
    """
    (device,) = first_device()
    completer = completer_for(load([str(run)]), member, [device])
    files = {one.id: one for one in SOURCE.find(root, member.data.modalities, labels_required=True)}

    def shown(case: PreparedCase, subset: Presence) -> Prepared:
        if all(subset):
            return showing(case, subset)
        there = [name for name, present in zip(member.data.modalities, subset, strict=True) if present]
        images = {name: files[case.id].images[name] for name in there}
        lacking = completer.read(replace(files[case.id], images=images))
        return member.preparation.prepare(lacking.completed(device))

    return shown
