"""Trainings whose disk fills, whose newest checkpoint is cut, or whose clock turns.

    python -m experiments.failures.damage

Each row is one training of HyperFusionNet, `tiny`, that meets one failure, and is called again once that is mended: how
it ended, what it said, and whether its end is that of an undisturbed one to the bit. Disks that fill are file systems
of their own in memory, which takes the rights to mount them; clocks are turned by libfaketime (`faketime` of Debian)
for the time of day alone, as a clock that is set does. A row whose means are absent says so. Writes `damage.md`
beside this file. Processes that are lost, the one that coordinates the others too, are in `run --processes 2`.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from experiments.failures.ends import compare
from experiments.failures.kills import PATIENCE_S, new_cache, undisturbed
from experiments.failures.trainings import RECIPES, Recipe, Started
from jaxfuse.io.tables import render

HERE = Path(__file__).resolve().parent
# Bytes of a file system of its own, which hold a run many times.
_SIZE = 64 << 20
_FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
_DAY_S = 86_400


@dataclass(frozen=True)
class Bench:
    """The recipe that all rows train, and a folder with an undisturbed run, its programs, and the rows' runs."""

    recipe: Recipe
    folder: Path

    def row(self, name: str) -> Path:
        """Makes an empty folder for a row."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        (self.folder / name).mkdir(parents=True)
        return self.folder / name

    def started(self, workdir: Path, cache: Path, said: Path, **environment: str) -> Started:
        return Started(self.recipe, workdir, cache, said, environment)

    def verdict(self, workdir: Path, code: int, text: str) -> str:
        """Says how a run ended that was called again, and whether that is the end of the undisturbed one."""
        if code:
            return f"code {code}: {_sentence(text)}"
        found = compare(workdir, self.folder / "end")
        return "bitwise equal" if found.same else f"NOT equal: {found}"


Row = dict[str, str]


def full_disk(place: str, left: int, *, of_cache: bool = False) -> Callable[[Bench], Row]:
    """Makes a row: the disk of the run, or of its cache, is filled but for `left` bytes once it comes to a place."""

    def row(bench: Bench) -> Row:
        folder = bench.row(f"full_{place}_{left}")
        with _file_system(folder / "disk") as disk:
            cache = new_cache(disk if of_cache else folder, bench.folder / "cache")
            workdir = folder / "run" if of_cache else disk / "run"
            run = bench.started(workdir, cache, folder / "out_0.txt")
            run.wait_for(place, 0, PATIENCE_S)
            _fill(disk, left)
            code = run.finish(PATIENCE_S)
            (disk / "ballast").unlink()
            again = bench.started(workdir, cache, folder / "out_1.txt")
            then = bench.verdict(workdir, again.finish(PATIENCE_S), again.text)
        whose = "its cache" if of_cache else "the run"
        return _row(f"the disk of {whose} is full but for {left:,} bytes, from {place} on", code, run.text, then)

    return row


def cut_checkpoint(bench: Bench) -> Row:
    """Kills a run that has two checkpoints, and cuts a file of the newer one."""
    folder = bench.row("cut")
    cache, workdir = new_cache(folder, bench.folder / "cache"), folder / "run"
    run = bench.started(workdir, cache, folder / "out_0.txt")
    last = workdir / "checkpoints" / next(iter(bench.recipe.phases)) / "last"
    while not run.ended and len([path for path in last.glob("*") if path.name.isdigit()]) < 2:
        time.sleep(0.01)
    run.end()
    newest = max((path for path in last.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    victim = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    os.truncate(victim, victim.stat().st_size // 2)
    again = bench.started(workdir, cache, folder / "out_1.txt")
    code = again.finish(PATIENCE_S)
    told = next((line for line in again.text.splitlines() if "damaged" in line), "NOTHING of it")
    then = bench.verdict(workdir, code, again.text)
    return _row("the newest checkpoint is cut to half after a kill", code, told, then)


def turned_clock(bench: Bench) -> Row:
    """Turns the time of day back by three days in the middle of a run, on by 400, and back by a year in its second."""
    if not _FAKETIME.is_file():
        return _row("the clock is turned", None, "not tried: libfaketime is not installed", "")
    folder = bench.row("clock")
    cache, workdir, offset = new_cache(folder, bench.folder / "cache"), folder / "run", folder / "offset"
    own = {"LD_PRELOAD": str(_FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(offset), "FAKETIME_CACHE_DURATION": "1"}
    # A clock that is set moves the time of day; the one that counts on from the start of a machine stays.
    own |= {"DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    offset.write_text("+0\n", encoding="utf-8")
    run = bench.started(workdir, cache, folder / "out_0.txt", **own)
    for place, days in (("cache", -3), ("training", 400), ("checkpoint", -40)):
        if run.wait_for(place, 0, PATIENCE_S):
            offset.write_text(f"{days * _DAY_S:+d}\n", encoding="utf-8")
    time.sleep(0.2)
    run.end()
    offset.write_text(f"{-365 * _DAY_S:+d}\n", encoding="utf-8")
    again = bench.started(workdir, cache, folder / "out_1.txt", **own)
    code = again.finish(PATIENCE_S)
    then = bench.verdict(workdir, code, again.text)
    what = "the clock goes back by 3 days while cases are prepared, on by 400 in training; a kill; back by a year"
    return _row(what, code, "nothing of it", then)


ROWS: Mapping[str, Callable[[Bench], Row]] = {
    "checkpoint": full_disk("training", 40_000),
    "rows": full_disk("training", 0),
    "cache": full_disk("cache", 60_000, of_cache=True),
    "judging": full_disk("judging", 0),
    "report": full_disk("report", 20_000),
    "cut": cut_checkpoint,
    "clock": turned_clock,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/failures"), help="folder of the runs")
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    options = parser.parse_args(arguments)
    recipe = RECIPES["hyperfusion"]
    folder = options.out.absolute() / recipe.name
    if not (folder / "end" / "report.html").is_file():
        undisturbed(recipe, folder)
    rows = []
    for name in options.rows:
        rows.append(ROWS[name](Bench(recipe, folder)))
        print(rows[-1], flush=True)
    text = f"Written by `python -m experiments.failures.damage`.\n\n{render(rows, list(rows[0]), left=4)}\n"
    (HERE / "damage.md").write_text(text, encoding="utf-8")


def _row(what: str, code: int | None, said: str, then: str) -> Row:
    ended = "" if code is None else f"code {code}"
    return {"failure": what, "ended": ended, "said": _sentence(said), "called again": then}


def _sentence(text: str) -> str:
    """Returns the last line that was said, folders shortened, or the error where there is a traceback."""
    lines = [line for line in text.strip().splitlines() if line.strip()] or [""]
    found = next((line for line in reversed(lines) if line.startswith(("error:", "every phase"))), lines[-1])
    words = [Path(word).name if word.startswith("/") else word for word in found.split()]
    return " ".join(words) + (" AND A TRACEBACK" if "Traceback" in text else "")


@contextmanager
def _file_system(folder: Path) -> Iterator[Path]:
    """Mounts a small file system in memory."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def _fill(disk: Path, left: int) -> None:
    """Fills a file system but for some bytes."""
    noise = random.Random(0).randbytes(1 << 16)
    with (disk / "ballast").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(noise)
        except OSError:
            pass
        file.truncate(max(0, file.tell() - left))


if __name__ == "__main__":
    main()
