"""Stochastic solvers of bi-level problems as plain step functions, each with the evidence of how far to trust it."""

from jaxfuse.implicit.solvers.alternating import amigo, bsa, stocbio, ttsa
from jaxfuse.implicit.solvers.batches import Draws, draw, split_batches
from jaxfuse.implicit.solvers.driver import Solution, solve
from jaxfuse.implicit.solvers.soba import saba, soba
from jaxfuse.implicit.solvers.stochastic import State, StepFunctions, StochasticSolver

__all__ = [
    "Draws",
    "Solution",
    "State",
    "StepFunctions",
    "StochasticSolver",
    "amigo",
    "bsa",
    "draw",
    "saba",
    "soba",
    "solve",
    "split_batches",
    "stocbio",
    "ttsa",
]
