"""Kills of a run at random moments, spread over its places, until the same command has brought it to its end."""

from __future__ import annotations

import math
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.failures.ends import compare
from experiments.failures.trainings import PLACES, Recipe, Started, together

PATIENCE_S = 1800.0
# Between SIGTERM and SIGKILL, as SLURM has it by default.
GRACE_S = 30.0
# Kills that one run is given; a run that ends before has had fewer.
KILLS = 8
# "anywhere" is a moment of the whole run, each as likely.
_MIDDLE = ("anywhere", "start-up", "compilation", "training", "checkpoint", "validation", "judging")


@dataclass(frozen=True)
class Plan:
    """One kill to be.

    Attributes:
        place: where, or "anywhere".
        phase: the phase, from 0, to come to before.
        share: the moment within the place, as a share of what an undisturbed run works there.
        number: the signal.
        member: which process of a run of several gets it.
    """

    place: str
    phase: int
    share: float
    number: signal.Signals
    member: int = 0


@dataclass(frozen=True)
class Kill:
    """One kill that was.

    Attributes:
        wanted: the place that was waited for.
        place: where the run stood in truth.
        sent: SIGKILL, SIGTERM, or SIGTERM and after the grace SIGKILL.
        exit_code: as Python has it; negative for a signal.
        others: the exit codes of the other processes of the run, which end by themselves.
        ended_s: seconds until the last of these had ended.
    """

    wanted: str
    place: str
    sent: str
    exit_code: int
    after_s: float
    member: int = 0
    others: tuple[int, ...] = ()
    ended_s: float = 0.0


def plans(rng: random.Random, phases: int, processes: int = 1) -> list[Plan]:
    """Draws the kills of one run in the order in which it comes to them, so that it meets them all."""
    found = []
    for place in rng.choices(_MIDDLE, k=KILLS - 2):
        found.append((rng.randrange(phases), _MIDDLE.index(place), place))
    ordered = [(0, "cache"), *((phase, place) for phase, _, place in sorted(found)), (0, "report")]
    drawn = [(rng.random(), rng.choice((signal.SIGKILL, signal.SIGTERM))) for _ in ordered]
    members = [rng.randrange(processes) if processes > 1 else 0 for _ in ordered]
    return [
        Plan(place, phase, share, number, member)
        for (phase, place), (share, number), member in zip(ordered, drawn, members, strict=True)
    ]


def undisturbed(recipe: Recipe, folder: Path, processes: int = 1) -> dict[str, float]:
    """Runs a recipe to its end, in `folder/end`, with an empty cache; returns seconds of processors by place."""
    members = together(Started(recipe, folder / "end", folder / "cache", folder / "out.txt"), processes)
    run, seconds = members[0], dict.fromkeys(PLACES, 0.0)
    before = 0.0
    while not run.ended and (now := run.worked_s()) < math.inf:
        seconds[run.place()] += now - before
        before = now
        time.sleep(0.02)
    if code := max(one.finish(PATIENCE_S) for one in members):
        raise RuntimeError(f"{recipe.name}, undisturbed, ended with {code}: {run.text}")
    # Disturbed runs find the programs: they are about as long at it as in start-up.
    return {**seconds, "compilation": min(seconds["compilation"], seconds["start-up"])}


def new_cache(folder: Path, programs: Path) -> Path:
    """Makes a cache that has the compiled programs of another one alone."""
    cache = folder / "cache"
    cache.mkdir(parents=True)
    for compiled in programs.glob("compiled-*"):
        (cache / compiled.name).symlink_to(compiled, target_is_directory=True)
    return cache


def disturbed(
    recipe: Recipe, folder: Path, programs: Path, seconds: dict[str, float], seed: int, processes: int = 1
) -> dict[str, Any]:
    """Kills a run by a plan and starts it again until it has ended; returns what was done and what came of it."""
    rng, kills = random.Random(seed), []
    cache = new_cache(folder, programs)
    queue, starts, codes = plans(rng, len(recipe.phases), processes), 0, []
    while not codes:
        run = Started(recipe, folder / "run", cache, folder / f"out_{starts}.txt")
        members = together(run, processes)
        starts += 1
        found = killed(members, queue.pop(0), seconds) if queue else None
        if found is None:
            codes = [one.finish(PATIENCE_S) for one in members]
        else:
            kills.append(asdict(found))
    lost = "" if not any(codes) else members[0].text.strip().splitlines()[-1]
    ends = asdict(compare(folder / "run", folder.parent / "end")) if not lost else {}
    return {"recipe": recipe.name, "seed": seed, "starts": starts, "kills": kills, "lost": lost, **ends}


def killed(members: Sequence[Started], plan: Plan, seconds: dict[str, float]) -> Kill | None:
    """Carries out a kill; None where the run ended before it."""
    run, target, started = members[0], members[plan.member], time.perf_counter()
    if plan.place == "anywhere":
        run.work_until(plan.share * sum(seconds.values()))
    elif run.wait_for(plan.place, plan.phase, PATIENCE_S):
        # A place is come to several times in a run of several phases, or of several checkpoints.
        visits = _visits(run.recipe, plan.place)
        run.work_until(run.worked_s() + plan.share * seconds[plan.place] / visits)
    if run.ended or target.ended:
        return None
    place, now = run.place(), time.perf_counter()
    sent, code = _sent(target, plan.number)
    others = tuple(one.finish(PATIENCE_S) for one in members if one is not target)
    took, ended = now - started, (time.perf_counter() - now) * (len(members) > 1)
    return Kill(plan.place, place, sent, code, round(took, 2), plan.member, others, round(ended, 2))


def _sent(target: Started, number: signal.Signals) -> tuple[str, int]:
    """Sends a signal, and SIGKILL after the grace; returns what was sent and the exit code."""
    target.process.send_signal(number)
    sent, until = number.name, time.monotonic() + GRACE_S
    while number == signal.SIGTERM and not target.ended and time.monotonic() < until:
        time.sleep(0.05)
    if number == signal.SIGTERM and not target.ended:
        sent = "SIGTERM, SIGKILL"
    target.end()
    return sent, target.process.returncode


def _visits(recipe: Recipe, place: str) -> int:
    """Returns how often a run stands in a place."""
    if place in ("compilation", "judging"):
        return len(recipe.phases)
    if place in ("validation", "checkpoint"):
        return sum(-(-steps // recipe.every) for steps in recipe.phases.values())
    return 1


def total(lives: Sequence[dict[str, Any]]) -> int:
    """Counts the kills of several runs."""
    return sum(len(life["kills"]) for life in lives)
