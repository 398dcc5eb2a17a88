"""Stochastic solvers of bi-level problems as plain step functions, each with the evidence of how far to trust it."""

from jaxfuse.implicit.solvers.alternating import amigo, bsa, stocbio, ttsa
from jaxfuse.implicit.solvers.batches import Draws, draw, split_batches
from jaxfuse.implicit.solvers.driver import Solution, solve
from jaxfuse.implicit.solvers.momentum import fsla, mrbo, sustain
from jaxfuse.implicit.solvers.penalty import bome, f2sa
from jaxfuse.implicit.solvers.soba import saba, soba
from jaxfuse.implicit.solvers.spider import srba, vrbo
from jaxfuse.implicit.solvers.stochastic import State, StepFunctions, StochasticSolver
from jaxfuse.implicit.solvers.zeroth_order import pzobo

__all__ = [
    "Draws",
    "Solution",
    "State",
    "StepFunctions",
    "StochasticSolver",
    "amigo",
    "bome",
    "bsa",
    "draw",
    "f2sa",
    "fsla",
    "mrbo",
    "pzobo",
    "saba",
    "soba",
    "solve",
    "split_batches",
    "srba",
    "stocbio",
    "sustain",
    "ttsa",
    "vrbo",
]
