"""The saving by large tiles in whole-volume inference of a network of valid convolutions.

    python -m experiments.tiling.run

HyperFusionNet for two modalities and four classes with random weights. At the paper's widths over an output of 54^3
voxels, then at a quarter of the widths over a whole head of 144 x 192 x 256: the paper's tiling by blocks of 9^3
beside larger tiles, each at its own best batch, in turns in one run, and whether both give the same answer. Writes
table.md and scores.json beside this file.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from jaxfuse.engine.programs import Programs
from jaxfuse.inference.canvas import Canvases, lay, windows_of
from jaxfuse.inference.large_tiles import MEGABYTE, LargeTiles
from jaxfuse.inference.tiling import Asked, Windows
from jaxfuse.io.tables import render, write_json
from jaxfuse.losses.imbalance import combo
from jaxfuse.models.hyperfusion.make import HyperForm, make_system
from jaxfuse.patches import tile_volume

HERE = Path(__file__).parent
MARGIN, BLOCK = 9, (9, 9, 9)
# Voxels; several of such tiles at once are as much work for one program as a larger tile.
LARGE = 18**3
MODALITIES = ("t1", "t2")
PAPER, QUARTER = HyperForm(remat=False), HyperForm(width=6, head=(150, 75, 38))


@dataclass
class Runner:
    """A network with weights, and its programs by tile and batch."""

    programs: Programs
    weights: Any
    compiled: dict[Windows, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, form: HyperForm) -> Runner:
        system = make_system(
            optimizers={"net": optax.identity()}, modalities=MODALITIES, classes=4, loss=combo, form=form
        )
        side = 2 * MARGIN + 1
        example = {"image": np.zeros((1, side, side, side, 2), np.float32), "label": np.zeros((1, 1, 1, 1), np.int32)}
        state = jax.jit(system.init)(jax.random.key(0, impl="rbg"), example)
        # Damped, so that no probability is 0 or 1: differences would not be seen.
        scores = state.params["net"]["head"]["scores"]
        scores["kernel"] = scores["kernel"] / 100
        return cls(Programs(system), state)

    def over(self, image: np.ndarray, tile: tuple[int, ...], batch: int) -> tuple[np.ndarray, float]:
        """Probabilities of the whole image, and seconds."""
        tiling = tile_volume(image.shape[:3], tile, margin=(MARGIN,) * 3)
        started = time.perf_counter()
        laid, windows = lay(tiling, Canvases()), windows_of(tiling, batch)
        if windows not in self.compiled:
            self.compiled[windows] = self.programs.over_canvas(windows, Asked(values=("segmentation",)))
        made = self.compiled[windows](self.weights, laid.image(image), laid.places(windows, overlap=0.0))
        return laid.cut(np.asarray(made["segmentation"])), time.perf_counter() - started

    def best_batch(self, tile: tuple[int, ...]) -> tuple[int, dict[int, float]]:
        """Finds the batch with the least time per tile; 1 for tiles far larger than the paper's."""
        seconds = {}
        for batch in (1, 2, 4, 8) if math.prod(tile) <= LARGE else (1,):
            strip = np.zeros((tile[0] * batch, *tile[1:], 2), np.float32)
            self.over(strip, tile, batch)  # compiles
            seconds[batch] = self.over(strip, tile, batch)[1] / batch
        return min(seconds, key=seconds.__getitem__), seconds

    def megabytes(self, tile: tuple[int, ...], batch: int) -> float:
        """Memory of the compiled program beside the weights, as XLA reports it."""
        needs: Any = self.lower(batch, tuple(side + 2 * MARGIN for side in tile)).compile().memory_analysis()
        return (needs.temp_size_in_bytes + needs.output_size_in_bytes) / MEGABYTE

    def lower(self, batch: int, sides: tuple[int, ...]) -> Any:
        return self.programs.predict.lower(
            self.weights, {"image": jax.ShapeDtypeStruct((batch, *sides, 2), np.float32)}
        )

    def large(self, shape: tuple[int, ...], limit_mb: int) -> tuple[tuple[int, ...], float]:
        """Returns the tile chosen under a memory limit, and its operations relative to blocks of 9^3."""
        count = partial(self.programs.counted_tile_program, self.weights, 1, 2)
        tiler = LargeTiles(count, 3, MARGIN, 1, 0.0, limit_mb * MEGABYTE)
        tile = tiler(shape, lambda tile: int(self.megabytes(tile, 1) * MEGABYTE))
        return tile, tiler.cost(shape, tile) / tiler.cost(shape, BLOCK)


def compare(form: HyperForm, shape: tuple[int, ...], limits: list[int], rounds: int) -> dict[str, Any]:
    """Times blocks of 9^3 and the tiler's choice under each limit, in turns."""
    runner = Runner.of(form)
    image = np.random.default_rng(0).normal(size=(*shape, 2)).astype(np.float32)
    choices: dict[tuple[int, ...], dict[str, Any]] = {BLOCK: {"limit MB": "-", "operations": 1.0}}
    for limit in limits:
        tile, operations = runner.large(shape, limit)
        choices.setdefault(tile, {"limit MB": str(limit), "operations": operations})
        print(f"{limit} MB: tiles of {tile}", flush=True)
    for tile, line in choices.items():
        line["batch"], line["s per tile"] = runner.best_batch(tile)
        line["MB"] = runner.megabytes(tile, line["batch"])
        line["s"] = []
        print(f"{tile}: batch {line['batch']}, {line['s per tile']}", flush=True)
    reference: np.ndarray | None = None
    for _ in range(rounds):
        for tile, line in choices.items():
            made, seconds = runner.over(image, tile, line["batch"])
            line["s"].append(seconds)
            reference = made if reference is None else reference
            line["difference"] = float(np.abs(made - reference).max())
            print(f"{tile}: {seconds:.1f} s", flush=True)
    base = np.array(choices[BLOCK]["s"])
    for line in choices.values():
        line["times faster"] = float(np.median(base / np.array(line["s"])))
    return {" x ".join(map(str, tile)): line for tile, line in choices.items()}


def table(lines: dict[str, dict[str, Any]]) -> str:
    rows = [
        {
            "Output tile": tile,
            "Limit (MB)": line["limit MB"],
            "Takes (MB)": f"{line['MB']:.0f}",
            "Batch": str(line["batch"]),
            "Operations": f"{line['operations']:.2f}",
            "Seconds": f"{np.median(line['s']):.1f}",
            "Times faster": f"{line['times faster']:.2f}",
            "Largest difference": f"{line['difference']:.1e}",
        }
        for tile, line in lines.items()
    ]
    return render(rows, list(rows[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--limits", type=int, nargs="+", default=[2000, 6000], help="MB")
    parser.add_argument("--parts", nargs="+", default=["crop", "head"], choices=["crop", "head"])
    options = parser.parse_args()
    found: dict[str, Any] = {}
    if "crop" in options.parts:
        found["54 x 54 x 54 voxels, the paper's widths"] = compare(PAPER, (54,) * 3, options.limits, options.rounds)
    if "head" in options.parts:
        found["144 x 192 x 256 voxels, a quarter of the widths"] = compare(
            QUARTER, (144, 192, 256), options.limits[:1], 1
        )
    write_json(HERE / "scores.json", found)
    parts = [part for title, lines in found.items() for part in (f"## {title}", "", table(lines), "")]
    (HERE / "table.md").write_text("# HyperFusionNet over whole volumes\n\n" + "\n".join(parts))
    print("\n".join(parts))


if __name__ == "__main__":
    main()
