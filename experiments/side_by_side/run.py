"""InfiNet's three views: a step of all side by side against their steps one after another.

    python -m experiments.side_by_side.run

Both are the training steps of `configs/infinet.py`, on its first batches, with no data to wait for. They take turns in
one run, since machines are noisy: what counts is the ratio of the two times within a round, of which the median and the
quartiles over the rounds are printed and written, beside what the first step left of a difference between the two ways,
as scores.json beside this file.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs import infinet
from jaxfuse.config import parse
from jaxfuse.data.dataset import open_dataset
from jaxfuse.data.pipeline import batches
from jaxfuse.engine.build import build_system, initial_state, make_sampler
from jaxfuse.io.tables import write_json
from jaxfuse.learning.side_by_side import SideBySide
from jaxfuse.learning.state import State

HERE = Path(__file__).resolve().parent


def prepared(preset: str) -> tuple[SideBySide, dict[str, State], dict[str, Any]]:
    """Builds the System of all views, and the first state and batch of each."""
    experiment = parse(infinet.get_config(preset))
    states, first = {}, {}
    for number, (name, phase) in enumerate(experiment.phases.items()):
        data = open_dataset(experiment.data_of(phase), lambda *told: None)
        facts, total = data.facts, phase.total_steps(len(data.train))
        system = build_system(phase, facts.modalities, facts.classes, total, phase.counted(facts))
        states[name] = initial_state(system, phase, facts.modalities, seed=experiment.seed, number=number)
        sampler = make_sampler(phase, system, data.train, seed=experiment.seed)
        stream = batches(sampler, batch=phase.batch, seed=number, start=0, stop=1, loader=experiment.loader)
        first[name] = jax.device_put(dict(next(stream)))
    return SideBySide(system, tuple(states)), states, first


def compiled(step: Callable[..., Any], *like: Any) -> tuple[Any, float]:
    """Compiles a step; returns the program and the seconds it took."""
    started = time.perf_counter()
    return jax.jit(step).lower(*like).compile(), time.perf_counter() - started


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    return jax.block_until_ready(call()), time.perf_counter() - started


def measure(preset: str, rounds: int) -> dict[str, Any]:
    """Seconds per step of both ways, their ratio (below 1: side by side is faster), and how far apart they come out."""
    side, states, first = prepared(preset)
    stacked, one = side.stack(states), side.members[0]
    alone, alone_s = compiled(side.system.train_step, states[one], first[one])
    together, together_s = compiled(side.train_step, stacked, first)
    times = []
    for _ in range(rounds + 1):
        in_turn, in_turn_s = timed(lambda: {name: alone(states[name], first[name])[0] for name in states})
        at_once, at_once_s = timed(lambda: together(stacked, first)[0])
        times.append((in_turn_s, at_once_s))
    seconds = np.array(times[1:])  # without the round that warms up
    apart = jax.tree.map(
        lambda a, b: float(jnp.abs(a - b).max()),
        {name: state.params for name, state in in_turn.items()},
        {name: side.member(at_once, name).params for name in side.members},
    )
    return {
        "device": jax.devices()[0].device_kind,
        "preset": preset,
        "rounds": rounds,
        "compile_s": {"alone": alone_s, "side_by_side": together_s},
        "step_s": {"in_turn": _quartiles(seconds[:, 0]), "side_by_side": _quartiles(seconds[:, 1])},
        "ratio": _quartiles(seconds[:, 1] / seconds[:, 0]),
        "largest_difference_of_a_parameter": max(jax.tree.leaves(apart)),
    }


def _quartiles(values: np.ndarray) -> dict[str, float]:
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return {"median": float(middle), "lower_quartile": float(low), "upper_quartile": float(high)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="", choices=list(infinet.PRESETS))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=HERE / "scores.json")
    options = parser.parse_args()
    found = measure(options.preset, options.rounds)
    write_json(options.out, found)
    step, ratio = found["step_s"], found["ratio"]
    print(
        f"{found['device']}, {options.rounds} rounds: one after another {step['in_turn']['median']:.4f} s, "
        f"side by side {step['side_by_side']['median']:.4f} s; "
        f"ratio {ratio['median']:.2f} ({ratio['lower_quartile']:.2f} to {ratio['upper_quartile']:.2f}); "
        f"parameters after a step differ by at most {found['largest_difference_of_a_parameter']:.1e}"
    )


if __name__ == "__main__":
    main()
