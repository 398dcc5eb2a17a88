"""Wrong versions of the solvers, two of them from published code, fail the checks that the right ones pass."""

import inspect
import textwrap
from typing import Any

import pytest

from jaxfuse import implicit
from jaxfuse.implicit import adjoint, certificate, krylov
from tests.implicit.problems import CG, DEFINITE, INDEFINITE, MINRES, check_accuracy, check_damping

PARTS = (krylov, adjoint, certificate)
# Each: the function with the fault, its source, and what stands there instead.
CG_MUTANTS = {
    "direction from the old residual": ("_advance_cg", "add(preconditioned,", "add(precondition(state.residual),"),
    "step scaled, residual not": ("_advance_cg", "state.direction, length)", "state.direction, 0.5 * length)"),
    "sign of the residual": ("_advance_cg", "image, -length)", "image, length)"),
    "sign of the turn": ("_advance_cg", "state.direction, turn)", "state.direction, -turn)"),
    "turn upside down": ("_advance_cg", "turn = slope / now.slope", "turn = now.slope / slope"),
    "slope without preconditioner": ("_advance_cg", " if plain else trees.dot(residual, preconditioned)", ""),
    "start not subtracted": ("_begin", "trees.add(target, product(start, jnp.array(0)), -1)", "target"),
}
MINRES_MUTANTS = {
    "Lanczos without the vector before": ("_advance_minres", "-state.beta / state.beta_before, 0))", "0.0, 0))"),
    "reflection without the old sine": ("_advance_minres", "+ state.sine * alpha", ""),
    "direction without the one before": ("_advance_minres", "_before, -state.epsilon)", "_before, 0.0)"),
    "preconditioner left out": ("_advance_minres", "= precondition(following)", "= following"),
}
GRADIENT_MUTANTS = {
    "sign of the cross term": ("adjoint_estimate", "trees.add(direct, cross, -1)", "trees.add(direct, cross)"),
    "no cross term": ("adjoint_estimate", "trees.add(direct, cross, -1)", "direct"),
    "residual not measured": ("certify", "trees.add(target, each, -1)", "trees.zeros(target)"),
    "residual with the wrong sign": ("certify", "trees.add(target, each, -1)", "trees.add(target, each, 1)"),
    "damping left out of the solve": ("_solve", "vector, damping)", "vector, 0 * damping)"),
    "damping left out of the certificate": (
        "adjoint_estimate",
        "adjoint, damping), hess",
        "adjoint, 0 * damping), hess",
    ),
}
CHECKS = {
    "cg": (CG_MUTANTS, lambda: check_accuracy(CG, DEFINITE)),
    "minres": (MINRES_MUTANTS, lambda: check_accuracy(MINRES, INDEFINITE)),
    "gradient": (GRADIENT_MUTANTS, lambda: check_damping(implicit.cg())),
}


def edited(function: Any, old: str, new: str) -> Any:
    """Returns `function` with one place of its source changed."""
    source = textwrap.dedent(inspect.getsource(function))
    if source.count(old) != 1:  # no AssertionError, which a test below could take for a failed check
        raise ValueError(f"{old!r} is there {source.count(old)} times; exactly one place was expected")
    namespace = dict(vars(inspect.getmodule(function)))  # pyright: ignore
    exec(compile(source.replace(old, new), f"<{function.__name__}, edited>", "exec"), namespace)
    return namespace[function.__name__]


def install(monkeypatch, name: str, old: str, new: str) -> None:
    """Puts an edited function in the place of the right one, wherever its name is used."""
    places = [module for module in PARTS if hasattr(module, name)]
    wrong = edited(getattr(places[0], name), old, new)
    for module in places:
        monkeypatch.setattr(module, name, wrong)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, (mutants, _) in CHECKS.items() for name in mutants])
def test_a_wrong_version_fails(kind, name, monkeypatch):
    mutants, check = CHECKS[kind]
    install(monkeypatch, *mutants[name])
    with pytest.raises(AssertionError):
        check()


@pytest.mark.parametrize("kind", CHECKS)
def test_source_that_is_recompiled_unedited_passes(kind, monkeypatch):
    mutants, check = CHECKS[kind]
    for name, same in {name: old for name, old, _ in mutants.values()}.items():
        install(monkeypatch, name, same, same)
    check()
