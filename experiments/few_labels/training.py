"""Trainings in one process: one compiled step for all of the same networks, on cases that were prepared once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from experiments.few_labels.protocol import MODALITIES, PRETRAINED, Protocol
from jaxfuse.arrays import Params
from jaxfuse.config import Phase
from jaxfuse.data.pipeline import PatchSampler
from jaxfuse.data.prepared import PreparedCase
from jaxfuse.engine.build import build_system, initial_state, make_sampler, without_optimizers
from jaxfuse.engine.programs import Programs
from jaxfuse.engine.trained.predictor import case_predictor
from jaxfuse.inference.tiling import Asked
from jaxfuse.io.safetensors import read_safetensors, write_safetensors
from jaxfuse.labels import LabelScheme
from jaxfuse.learning.optim import ScheduleState, with_total_steps
from jaxfuse.learning.state import State
from jaxfuse.learning.system import System
from jaxfuse.learning.transfer import apply_rules
from jaxfuse.prediction.predictor import CasePredictor

Cases = Sequence[PreparedCase]


@dataclass(frozen=True)
class Learner:
    """A phase with its System and its step, which is compiled once."""

    phase: Phase
    system: System

    @cached_property
    def programs(self) -> Programs:
        return Programs(self.system)

    def learn(
        self,
        state: State,
        cases: Cases,
        *,
        steps: int,
        seed: int,
        at: Callable[[int, State], None] = lambda step, state: None,
    ) -> State:
        """Makes so many steps on patches of the cases; `at` sees the state after each."""
        sampler = make_sampler(self.phase, self.system, cases, seed=seed)
        for step, batch in enumerate(_batches(sampler, steps, seed), 1):
            state, _ = self.programs.step(state, batch)
            at(step, state)
        return state


def _batches(sampler: PatchSampler, steps: int, seed: int) -> Iterator[Any]:
    """Yields batches of one patch; each pass over the cases is shuffled anew."""
    rng, order = np.random.default_rng(seed), []
    for _ in range(steps):
        order = order or rng.permutation(len(sampler.cases)).tolist()
        yield sampler.batch([sampler.draw(order.pop(), rng)])


def at_peak(state: State, rate: float, steps: int) -> State:
    """Returns a fresh state whose schedules have this rate and end after so many steps."""

    def renew(node: Any) -> Any:
        return node._replace(peak=jnp.full_like(node.peak, rate)) if isinstance(node, ScheduleState) else node

    opt_state = jax.tree.map(renew, state.opt_state, is_leaf=lambda node: isinstance(node, ScheduleState))
    return state.replace(opt_state=with_total_steps(opt_state, steps))


@dataclass(frozen=True)
class Workshop:
    """The learners of all rows, and weights that were learned from images alone.

    Attributes:
        folder: of those weights, one file for each seed and row that begins with them.
        pool: the cases whose images they are learned from.
    """

    protocol: Protocol
    scheme: LabelScheme
    folder: Path
    pool: Cases
    _made: dict[str, Learner] = field(default_factory=dict)

    def learner(self, row: str, place: int) -> Learner:
        """Returns the learner of the first (0) or last (-1) phase of a row.

        Rows that differ in what they begin with alone share the last one.
        """
        experiment = self.protocol.experiment(row)
        name = experiment.schedule[place]
        phase = experiment.phases[name]
        key = f"{name} {row if place == 0 or row in ('slow', 'frozen') else ''}"
        if key not in self._made:
            system = build_system(phase, MODALITIES, self.scheme.classes, phase.total_steps(1))
            self._made[key] = Learner(phase, system)
        return self._made[key]

    def begun(self, row: str, seed: int) -> State:
        """Draws the state that the last phase of a row begins with, weights of its first phase put in.

        What is drawn is the same for all rows.
        """
        learner = self.learner(row, -1)
        state = initial_state(learner.system, learner.phase, MODALITIES, seed=seed, number=1)
        experiment = self.protocol.experiment(row)
        rules = experiment.phases[experiment.schedule[-1]].rules
        if not rules:
            return state
        donors = {(rules[0].donor, False): self.pretrained(PRETRAINED[row], seed)}
        params, _ = apply_rules(state.params, rules, donors)
        return state.replace(params=jax.tree.map(jnp.asarray, params))

    def pretrained(self, row: str, seed: int) -> dict[str, Params]:
        """Returns the weights of the first phase of a row, which are learned unless they were before."""
        path = self.folder / f"{row}-seed{seed}.safetensors"
        if not path.is_file():
            learner, steps = self.learner(row, 0), self.protocol.first_steps
            state = initial_state(learner.system, learner.phase, MODALITIES, seed=seed, number=0)
            params = learner.learn(state, self.pool, steps=steps, seed=seed).params
            path.parent.mkdir(parents=True, exist_ok=True)
            write_safetensors(path, {name: np.asarray(leaf) for name, leaf in flatten_dict(params, sep="/").items()})
        return unflatten_dict({name: np.array(leaf) for name, leaf in read_safetensors(path).arrays.items()}, sep="/")

    def trained(
        self,
        row: str,
        cases: Cases,
        *,
        seed: int,
        factor: float,
        batch_seed: int,
        steps: int = 0,
        at: Callable[[int, State], None] = lambda step, state: None,
    ) -> State:
        """Trains the last phase of a row on labeled cases, at `factor` times the rate of the protocol."""
        steps = steps or self.protocol.steps
        state = at_peak(self.begun(row, seed), factor * self.protocol.rate, steps)
        return self.learner(row, -1).learn(state, cases, steps=steps, seed=batch_seed, at=at)

    @cached_property
    def predictor(self) -> CasePredictor:
        """The prediction of cases, the same for all rows."""
        learner = self.learner("random", -1)
        return case_predictor(learner.system, learner.phase)

    def labels(self, state: State, case: PreparedCase) -> np.ndarray:
        """Returns the class indices of a case by S_F."""
        return self.predictor(without_optimizers(state), case, Asked(labels=("S_F",)))["S_F"]
