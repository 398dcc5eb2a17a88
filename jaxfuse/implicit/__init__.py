"""Implicit gradients of any pytree problem, each with the evidence of how far to trust it; usable without the rest."""

from jaxfuse.implicit.adapted import sama
from jaxfuse.implicit.attached import implicit_fixed_point, implicit_minimum, implicit_root
from jaxfuse.implicit.bound import ErrorBound, error_bound
from jaxfuse.implicit.check import HypergradientReport, check_hypergradient
from jaxfuse.implicit.curvature import Levenberg, TraceShare, fisher, gauss_newton, hessian, minibatch_hessian
from jaxfuse.implicit.estimators import cg, dense, minres
from jaxfuse.implicit.face import Face
from jaxfuse.implicit.hypergradient import hypergradient
from jaxfuse.implicit.influence import influence
from jaxfuse.implicit.info import Info, UnreliableGradient, UnreliableGradientWarning
from jaxfuse.implicit.kkt import Constraints, implicit_kkt, kkt_hypergradient
from jaxfuse.implicit.layers import LayerPreconditioner, block_preconditioner, layer_preconditioner
from jaxfuse.implicit.levels import ChainInfo, Level, chain_hypergradient
from jaxfuse.implicit.linear_solvers import bicgstab, gmres, linear, lsmr
from jaxfuse.implicit.nystrom import NystromPreconditioner, nystrom, nystrom_preconditioner
from jaxfuse.implicit.proximal import implicit_proximal_minimum, proximal_hypergradient, proximal_step
from jaxfuse.implicit.roots import fixed_point_jvp, fixed_point_vjp, root_jvp, root_vjp
from jaxfuse.implicit.series import direct, finite_difference, fixed_point, identity, neumann, rank_one
from jaxfuse.implicit.terms import box, group_norm, l1_ball, l1_norm, l2_ball, simplex
from jaxfuse.implicit.unrolled import one_step, phantom, truncated, unroll

__all__ = [
    "ChainInfo",
    "Constraints",
    "ErrorBound",
    "Face",
    "HypergradientReport",
    "Info",
    "LayerPreconditioner",
    "Level",
    "Levenberg",
    "NystromPreconditioner",
    "TraceShare",
    "UnreliableGradient",
    "UnreliableGradientWarning",
    "bicgstab",
    "block_preconditioner",
    "box",
    "cg",
    "chain_hypergradient",
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
    "group_norm",
    "hessian",
    "hypergradient",
    "identity",
    "implicit_fixed_point",
    "implicit_kkt",
    "implicit_minimum",
    "implicit_proximal_minimum",
    "implicit_root",
    "influence",
    "kkt_hypergradient",
    "l1_ball",
    "l1_norm",
    "l2_ball",
    "layer_preconditioner",
    "linear",
    "lsmr",
    "minibatch_hessian",
    "minres",
    "neumann",
    "nystrom",
    "nystrom_preconditioner",
    "one_step",
    "phantom",
    "proximal_hypergradient",
    "proximal_step",
    "rank_one",
    "root_jvp",
    "root_vjp",
    "sama",
    "simplex",
    "truncated",
    "unroll",
]
