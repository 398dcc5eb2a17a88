"""python -m experiments.throughput.overlap [--cases 6] [--sides 96 96 72] [--base 4] [--rounds 3]

Labels phantom cases on disk by CMFF with drawn weights, from their compressed files to compressed label maps, by turns
in one process: each case read, labeled and written before the next one, and as `predict` does it, with the next case
read and the last one written while the device works. Then the label maps are scored against those of the phantoms, by
one process and by one for each core. Prints the seconds of each round, and the ratios of the best ones.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

from configs import cmff
from jaxfuse.config import parse
from jaxfuse.data.cases import CaseFiles
from jaxfuse.data.facts import DatasetFacts
from jaxfuse.data.phantom.brats import write_brats_phantoms
from jaxfuse.data.sources.brats import SOURCE
from jaxfuse.engine.build import build_system, example_batch, without_optimizers
from jaxfuse.engine.programs import Programs
from jaxfuse.engine.trained.chosen_devices import first_device
from jaxfuse.engine.trained.phases import TrainedPhase, preparation_of
from jaxfuse.engine.trained.segmenter import case_labeler
from jaxfuse.labels import label_scheme
from jaxfuse.learning.state import State
from jaxfuse.metrics.protocols import BRATS
from jaxfuse.prediction.conveyor import Work, conveyed
from jaxfuse.prediction.labeler import write_labels
from jaxfuse.scoring.labels import score_labels
from jaxfuse.scoring.protocol import Call
from jaxfuse.workers import cores


@dataclass(frozen=True)
class Drawn(TrainedPhase):
    """A phase whose weights were drawn and never trained."""

    state: State

    def weights(self) -> State:
        """Returns the drawn weights."""
        return self.state


def drawn_phase(base: int) -> Drawn:
    """Returns the fusion of CMFF in its default recipe, with networks of this width."""
    config: Any = cmff.get_config("row=random")
    config.network.unet.base = base
    run = parse(config)
    phase, data = run.phases["fusion"], run.data
    known = ("brats", label_scheme("brats").classes, (3.0,) * 3, (), (), {}, (1, 1, 1, 1), {}, {})
    facts = DatasetFacts(data.modalities, *known)
    system = build_system(phase, facts.modalities, facts.classes, 1, phase.counted(facts))
    state = Programs(system).init(jax.random.key(0), example_batch(phase, data.modalities, margin=0))
    preparation = replace(preparation_of(data, facts, data.modalities), spacing_range_mm=())
    where = Path("drawn", "checkpoints", "fusion")
    return Drawn("drawn", system, phase, data, facts, preparation, (), where, False, without_optimizers(state))


def best_of(rounds: int, ways: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Takes the ways by turns, prints the seconds of each, and returns the least of them."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    print(json.dumps({name: [round(one, 2) for one in found] for name, found in seconds.items()}), flush=True)
    return {name: min(found) for name, found in seconds.items()}


def labeling(files: list[CaseFiles], base: int, out: Path) -> dict[str, Callable[[], Any]]:
    """Returns both ways to label all cases, compiled."""
    (device,) = devices = first_device()
    phase = drawn_phase(base)
    labeler = case_labeler([phase], devices)

    def write(one: CaseFiles, made: Any) -> None:
        prepared, labels = made
        write_labels(out / f"{one.id}.nii.gz", labels, prepared, phase.scheme, like=one.images["t1"])

    work = Work(labeler.read, lambda case, device: (case, labeler.labels(case, device)), write)

    def in_turn() -> None:
        for one in files:
            work.write(one, work.make(work.read(one), device))

    def overlapped() -> None:
        for _, result in conveyed(files, work, devices):
            result()

    in_turn()
    return {"in turn": in_turn, "overlapped": overlapped}


def _spacing_mm(sides: list[int]) -> float:
    """Returns a side of voxels by which a phantom head of 184 x 184 x 138 mm fits."""
    return 1.05 * max(184 / min(sides[:2]), 138 / sides[2])


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=6)
    parser.add_argument("--sides", type=int, nargs=3, default=(96, 96, 72))
    parser.add_argument("--base", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder, "cases"), Path(folder, "out")
        write_brats_phantoms(
            root, cases=asked.cases, seed=0, shape=tuple(asked.sides), spacing_mm=_spacing_mm(asked.sides)
        )
        files = list(SOURCE.find(root, ("t1", "t1ce", "t2", "flair"), labels_required=False))
        out.mkdir()
        one = best_of(asked.rounds, labeling(files, asked.base, out))
        options: dict[str, Any] = {"protocol": BRATS, "labels": "brats", "one_empty": None}

        def score(processes: int) -> Callable[[], Any]:
            return lambda: score_labels(out, root, Path(folder, "scores"), Call(processes=processes), **options)

        two = best_of(asked.rounds, {"one process": score(1), f"{cores()} processes": score(cores())})
    for found in (one, two):
        (first, before), (second, after) = found.items()
        print(f"{first} over {second}: {before / after:.2f}", flush=True)


if __name__ == "__main__":
    main()
