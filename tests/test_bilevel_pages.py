"""Pages on choosing estimators and for users of other libraries: their code runs, and they have a place for all."""

import re
from pathlib import Path

import pytest

from jaxfuse import implicit

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "how_to"
PAGES = {name: (FOLDER / f"{name}.md").read_text(encoding="utf-8") for name in ("choose_an_estimator", "from_others")}
OTHERS = (
    "ImplicitAdjoint RecursiveCheckpointAdjoint custom_root ImplicitMetaGradientModule MetaSGD MetaAdam "
    "ImplicitProblem IterativeProblem Engine innerloop_ctx diffopt.step"
)
ESTIMATORS = (
    "bicgstab cg dense direct finite_difference fisher gauss_newton gmres identity linear lsmr minres neumann nystrom "
    "one_step phantom sama truncated unroll"
)


@pytest.mark.docs
@pytest.mark.parametrize("name", PAGES)
def test_its_code_runs(name):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGES[name], re.MULTILINE | re.DOTALL)
    assert any("assert" in block for block in blocks)
    names = {}
    for block in blocks:
        exec(block, names)


def test_what_others_have_has_a_place():
    assert [name for name in OTHERS.split() if name not in PAGES["from_others"]] == []


def test_every_estimator_is_told_of_when():
    assert [name for name in ESTIMATORS.split() if f"`{name}" not in PAGES["choose_an_estimator"]] == []
    assert set(ESTIMATORS.split()) <= set(implicit.__all__)
