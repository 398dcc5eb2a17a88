"""The page for users of jaxopt: it has a place for all that jaxopt has, and its code runs, to closed forms."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[1] / "docs" / "how_to" / "from_jaxopt.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
# The names of its reference, loss functions and functions of trees aside.
NAMES = (
    "custom_root custom_fixed_point root_jvp root_vjp GradientDescent BFGS LBFGS LBFGSB NonlinearCG ScipyMinimize "
    "ScipyBoundedMinimize ScipyRootFinding ProjectedGradient MirrorDescent ProximalGradient BlockCoordinateDescent "
    "BoxCDQP BoxOSQP CvxpyQP EqualityConstrainedQP OSQP ArmijoSGD OptaxSolver PolyakSGD solve_lu solve_inv "
    "solve_cholesky solve_cg solve_normal_cg solve_gmres solve_bicgstab IterativeRefinement GaussNewton "
    "LevenbergMarquardt Bisection Broyden FixedPointIteration AndersonAcceleration AndersonWrapper "
    "BacktrackingLineSearch HagerZhangLineSearch jaxopt.perturbations jaxopt.isotonic jaxopt.projection jaxopt.prox "
    "jaxopt.loss jaxopt.objective jaxopt.tree_util"
)


def test_all_that_jaxopt_has_has_a_place():
    assert [name for name in NAMES.split() if f"`{name}`" not in TEXT] == []


@pytest.mark.docs
def test_its_code_runs():
    assert sum("assert" in block for block in BLOCKS) >= 14
    names = {}
    for block in BLOCKS:
        exec(block, names)
