"""Few labels and many images: does what CMFT learns from images alone help, and is it more than other ways to learn?

    python -m experiments.few_labels.run --part T1
    python -m experiments.few_labels.run --part T2
    python -m experiments.few_labels.run --part T3
    python -m experiments.few_labels.run --part T4

T1: all rows with 2, 4 and 8 labeled phantoms, five draws of them, two seeds. T2: Dice on validation phantoms against
the steps. T3: harder phantoms. T4: linear probes on frozen features. Each training is kept in `runs/few_labels` when it
is done and never repeated; a call that was stopped goes on. Rows of one draw come before the next draw, so that the
table of a part that is not finished is a fair one; it is written anew after each draw. `--smoke` tries all of it with
networks of a few weights, and writes no table beside this file. Everything runs in one process, on one core.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from experiments.few_labels import tables
from experiments.few_labels.probe import features_of, fitted
from experiments.few_labels.protocol import (
    CHOOSING_SEED,
    CHOOSING_SUBSET,
    FACTORS,
    FROZEN,
    HARDER,
    HELD_OUT_SEED,
    POOL_SEED,
    ROWS,
    SMOKE,
    VALIDATION_SEED,
    Protocol,
    labeled_places,
)
from experiments.few_labels.scoring import SCHEME, case_score, dices, opened
from experiments.few_labels.training import Cases, Workshop
from experiments.shared import REPOSITORY
from jaxfuse.engine.run_folder.workdir import compilation_cache
from jaxfuse.io.tables import read_json, write_json
from jaxfuse.learning.state import State

HERE = Path(__file__).parent
PROBED = ("intensities", "random", "self", "denoising", "paired", "ours")


@dataclass(frozen=True)
class Place:
    """The experiment on one kind of phantoms.

    Attributes:
        looks: their name in `HARDER`.
        folder: of all that is made.
    """

    protocol: Protocol
    looks: str
    folder: Path

    def cases(self, name: str, count: int, seed: int) -> Cases:
        return opened(self.folder / self.looks / name, count, seed, self.protocol, HARDER[self.looks])

    @cached_property
    def pool(self) -> Cases:
        return self.cases("pool", self.protocol.pool, POOL_SEED)

    @cached_property
    def validation(self) -> Cases:
        return self.cases("validation", self.protocol.validation, VALIDATION_SEED)

    @cached_property
    def held_out(self) -> Cases:
        return self.cases("held_out", self.protocol.held_out, HELD_OUT_SEED)

    @cached_property
    def workshop(self) -> Workshop:
        return Workshop(self.protocol, SCHEME, self.folder / self.looks / "pretrained", self.pool)

    def labeled(self, labels: int, subset: int) -> Cases:
        return [self.pool[place] for place in labeled_places(len(self.pool), labels, subset)]

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """Returns what was made under this name, which is made and kept unless it was before."""
        path = self.folder / self.looks / f"{name}.json"
        if not path.is_file():
            started = time.perf_counter()
            made = make()
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, made)
            print(f"{self.looks} {name}: {time.perf_counter() - started:.0f} s", flush=True)
        return read_json(path)

    def scored(self, state: State, cases: Cases) -> dict[str, dict[str, float]]:
        """Returns Dice by case and region."""
        return {case.id: dices(self.workshop.labels(state, case), case) for case in cases}

    # --- the parts ----------------------------------------------------------------------------------------------

    def factor(self, row: str) -> float:
        """Returns the factor of a row's rate that is best on the validation phantoms."""

        def mean_dice(factor: float) -> float:
            cases = self.labeled(self.protocol.choosing_labels, CHOOSING_SUBSET)
            seed = self.protocol.seeds[0]
            state = self.workshop.trained(row, cases, seed=seed, factor=factor, batch_seed=CHOOSING_SEED)
            return float(np.mean([case_score(one) for one in self.scored(state, self.validation).values()]))

        found = {f: self.kept(f"rates/{row}-{f:g}", lambda f=f: {"dice": mean_dice(f)})["dice"] for f in FACTORS}
        return max(found, key=lambda factor: found[factor])

    def training(self, part: str, row: str, labels: int, subset: int, seed: int, factor: float) -> dict[str, Any]:
        """Trains a row on one draw of labels and scores it on the held-out phantoms."""

        def made() -> dict[str, Any]:
            cases = self.labeled(labels, subset)
            batch_seed = 1000 * subset + 10 * labels + seed
            state = self.workshop.trained(row, cases, seed=seed, factor=factor, batch_seed=batch_seed)
            told = {"row": row, "labels": labels, "subset": subset, "seed": seed, "factor": factor}
            return {**told, "scores": self.scored(state, self.held_out)}

        return self.kept(f"{part}/subset{subset}-labels{labels}-seed{seed}-{row}", made)

    def trainings(
        self, part: str, labels: tuple[int, ...], subset: int, seeds: tuple[int, ...], factors: dict[str, float]
    ) -> list[dict[str, Any]]:
        """All rows on one draw."""
        return [
            self.training(part, row, count, subset, seed, factors[row])
            for count in labels
            for seed in seeds
            for row in ROWS
        ]

    def curve(self, row: str, seed: int, factor: float) -> dict[str, Any]:
        """Follows a longer training of a row by Dice on the validation phantoms."""
        protocol = self.protocol

        def made() -> dict[str, Any]:
            found: dict[int, float] = {}

            def at(step: int, state: State) -> None:
                if step in protocol.marks:
                    scores = self.scored(state, self.validation).values()
                    found[step] = round(float(np.mean([case_score(one) for one in scores])), 5)

            cases, steps = self.labeled(protocol.choosing_labels, CHOOSING_SUBSET), protocol.marks[-1]
            self.workshop.trained(
                row, cases, seed=seed, factor=factor, batch_seed=CHOOSING_SEED + seed, steps=steps, at=at
            )
            return {"row": row, "seed": seed, "dice": found}

        return self.kept(f"curves/seed{seed}-{row}", made)

    def probes(self, row: str, seed: int) -> list[dict[str, Any]]:
        """Fits probes to the features of a row by every draw of labels, and scores them on the held-out phantoms."""

        def made() -> list[dict[str, Any]]:
            features = features_of(self.workshop, row, seed)
            seen = {case.id: features(case) for case in (*self.pool, *self.held_out)}
            found = []
            for subset, labels in ((s, n) for s in self.protocol.subsets for n in self.protocol.labels):
                cases = self.labeled(labels, subset)
                truths = [np.asarray(case.label).flat[case.brain].astype(int) for case in cases]
                probe = fitted([seen[case.id] for case in cases], truths, len(SCHEME.classes))
                scores = {case.id: dices(probe.labels(seen[case.id], case), case) for case in self.held_out}
                found.append({"row": row, "labels": labels, "subset": subset, "seed": seed, "scores": scores})
            return found

        return self.kept(f"probes/seed{seed}-{row}", made)


def chosen(place: Place) -> dict[str, float]:
    """The factor of every row's rate, on the usual phantoms, all of it before a held-out one is opened."""
    return {row: place.factor(row) for row in ROWS}


def few_labels(place: Place, subsets: int) -> Iterator[dict[str, Any]]:
    """T1, after each draw of labels."""
    protocol, factors, found = place.protocol, chosen(place), []
    for subset in protocol.subsets[:subsets]:
        found += place.trainings("few_labels", protocol.labels, subset, protocol.seeds, factors)
        yield {"factors": factors, "trainings": list(found)}


def curves(place: Place, subsets: int) -> Iterator[dict[str, Any]]:
    """T2."""
    del subsets
    factors, found = chosen(place), []
    for seed in place.protocol.seeds:
        found += [place.curve(row, seed, factors[row]) for row in ROWS]
        yield {"factors": factors, "curves": list(found)}


def harder(place: Place, subsets: int) -> Iterator[dict[str, Any]]:
    """T3, after each kind of phantoms; rates are those of the usual ones."""
    protocol, factors, found = place.protocol, chosen(place), {}
    for looks in tuple(HARDER)[1:]:
        there = Place(protocol, looks, place.folder)
        found[looks] = [
            one
            for subset in protocol.harder_subsets[:subsets]
            for one in there.trainings("harder", protocol.harder_labels, subset, protocol.harder_seeds, factors)
        ]
        yield {"factors": factors, "looks": {k: asdict(HARDER[k]) for k in found}, "trainings": dict(found)}


def probing(place: Place, subsets: int) -> Iterator[dict[str, Any]]:
    """T4."""
    del subsets
    found = []
    for seed in place.protocol.seeds:
        for row in PROBED:
            found += place.probes(row, seed)
        yield {"trainings": list(found)}


PARTS = {"T1": few_labels, "T2": curves, "T3": harder, "T4": probing}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=tuple(PARTS), nargs="+", default=list(PARTS))
    parser.add_argument("--subsets", type=int, default=None, help="so many draws of labeled cases; all if not given")
    parser.add_argument("--folder", type=Path, help="of all that is made; runs/few_labels if not given")
    parser.add_argument("--smoke", action="store_true", help="tries all parts; scores say nothing")
    options = parser.parse_args(argv)
    protocol = SMOKE if options.smoke else FROZEN
    usual = REPOSITORY / "runs" / ("few_labels-smoke" if options.smoke else "few_labels")
    place = Place(protocol, "usual", (options.folder or usual).absolute())
    compilation_cache(place.folder)
    for part in options.part:
        for document in PARTS[part](place, options.subsets):
            document = {"part": part, "protocol": asdict(protocol), **document}
            tables.write(part, document, place.folder if options.smoke else HERE)
        print(tables.render_part(part, document), flush=True)


if __name__ == "__main__":
    main()
