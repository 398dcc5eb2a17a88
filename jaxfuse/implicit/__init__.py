"""Implicit gradients of any pytree problem, each with the evidence of how far to trust it; usable without the rest."""

from jaxfuse.implicit.attached import implicit_fixed_point, implicit_minimum, implicit_root
from jaxfuse.implicit.bound import ErrorBound, error_bound
from jaxfuse.implicit.check import HypergradientReport, check_hypergradient
from jaxfuse.implicit.curvature import Levenberg, fisher, gauss_newton, hessian, minibatch_hessian
from jaxfuse.implicit.estimators import cg, dense, minres
from jaxfuse.implicit.hypergradient import hypergradient
from jaxfuse.implicit.influence import influence
from jaxfuse.implicit.info import Info, UnreliableGradient, UnreliableGradientWarning
from jaxfuse.implicit.linear_solvers import bicgstab, gmres, linear, lsmr
from jaxfuse.implicit.nystrom import NystromPreconditioner, nystrom, nystrom_preconditioner
from jaxfuse.implicit.roots import fixed_point_jvp, fixed_point_vjp, root_jvp, root_vjp
from jaxfuse.implicit.series import direct, finite_difference, fixed_point, identity, neumann, rank_one
from jaxfuse.implicit.unrolled import one_step, phantom, truncated, unroll

__all__ = [
    "ErrorBound",
    "HypergradientReport",
    "Info",
    "Levenberg",
    "NystromPreconditioner",
    "UnreliableGradient",
    "UnreliableGradientWarning",
    "bicgstab",
    "cg",
    "check_hypergradient",
    "dense",
    "direct",
    "error_bound",
    "finite_difference",
    "fisher",
    "fixed_point",
    "fixed_point_jvp",
    "fixed_point_vjp",
    "gauss_newton",
    "gmres",
    "hessian",
    "hypergradient",
    "identity",
    "implicit_fixed_point",
    "implicit_minimum",
    "implicit_root",
    "influence",
    "linear",
    "lsmr",
    "minibatch_hessian",
    "minres",
    "neumann",
    "nystrom",
    "nystrom_preconditioner",
    "one_step",
    "phantom",
    "rank_one",
    "root_jvp",
    "root_vjp",
    "truncated",
    "unroll",
]
