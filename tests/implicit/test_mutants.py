"""Wrong versions of the solvers, two of them from published code, fail the checks that the right ones pass."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any

import pytest

from jaxfuse import implicit
from jaxfuse.implicit import adjoint, certificate
from tests.implicit.test_curvature import check_damping
from tests.implicit.test_krylov import CG, DEFINITE, INDEFINITE, MINRES, check_accuracy


def edited(function: Any, old: str, new: str) -> Any:
    """`function` with one place of its source changed."""
    source = textwrap.dedent(inspect.getsource(function))
    if source.count(old) != 1:  # no AssertionError, which a test below could take for a failed check
        raise ValueError(f"{old!r} is there {source.count(old)} times; exactly one place was expected")
    namespace = dict(vars(inspect.getmodule(function)))  # pyright: ignore
    exec(compile(source.replace(old, new), f"<{function.__name__}, edited>", "exec"), namespace)
    return namespace[function.__name__]


CG_MUTANTS = {
    "direction from the old residual": (
        "direction = trees.add(preconditioned, state.direction, turn)",
        "direction = trees.add(precondition(state.residual), state.direction, turn)",
    ),
    "step scaled, residual not": (
        "iterate = trees.add(state.iterate, state.direction, length)",
        "iterate = trees.add(state.iterate, state.direction, 0.5 * length)",
    ),
    "sign of the residual": ("trees.add(state.residual, image, -length)", "trees.add(state.residual, image, length)"),
    "sign of the turn": ("state.direction, turn)", "state.direction, -turn)"),
    "turn upside down": ("turn = slope / now.slope", "turn = now.slope / slope"),
    "slope without preconditioner": (
        "slope = trees.dot(residual, preconditioned) if preconditioner else squared",
        "slope = squared",
    ),
    "start not subtracted": ("trees.add(target, product(start, jnp.array(0)), -1)", "target"),
}
MINRES_MUTANTS = {
    "Lanczos without the vector before": ("-state.beta / state.beta_before, 0))", "0.0, 0))"),
    "reflection without the old sine": ("+ state.sine * alpha", ""),
    "direction without the one before": ("state.direction_before, -state.epsilon)", "state.direction_before, 0.0)"),
    "preconditioner left out": ("preconditioned = precondition(following)", "preconditioned = following"),
}


@pytest.mark.usefixtures("double")
def test_source_that_is_recompiled_unedited_passes():
    check_accuracy(edited(CG, "turn = slope / now.slope", "turn = slope / now.slope"), DEFINITE)
    check_accuracy(edited(MINRES, "+ state.sine * alpha", "+ state.sine * alpha"), INDEFINITE)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", CG_MUTANTS)
def test_wrong_conjugate_gradients_fail(name):
    wrong = edited(CG, *CG_MUTANTS[name])
    with pytest.raises(AssertionError):
        check_accuracy(wrong, DEFINITE)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", MINRES_MUTANTS)
def test_wrong_minres_fails(name):
    wrong = edited(MINRES, *MINRES_MUTANTS[name])
    with pytest.raises(AssertionError):
        check_accuracy(wrong, INDEFINITE)


PARTS = (adjoint, certificate)
GRADIENT_MUTANTS = {
    "sign of the cross term": ("adjoint_estimate", "trees.add(direct, cross, -1)", "trees.add(direct, cross)"),
    "no cross term": ("adjoint_estimate", "trees.add(direct, cross, -1)", "direct"),
    "residual not measured": (
        "certify",
        "undamped = trees.scale(trees.add(target, lax.stop_gradient(true_image), -1), inverse)",
        "undamped = trees.zeros(scaled)",
    ),
    "residual with the wrong sign": (
        "certify",
        "remainder = trees.scale(trees.add(target, image, -1), inverse)",
        "remainder = trees.scale(trees.add(target, image, 1), inverse)",
    ),
    "damping left out of the solve": (
        "_solve",
        "trees.add(product(vector, step), vector, damping)",
        "product(vector, step)",
    ),
    "damping left out of the certificate": (
        "adjoint_estimate",
        "image, true_image = trees.add(hessian_image, adjoint, damping), hessian_image",
        "pass",
    ),
}


def install(monkeypatch, name: str, old: str, new: str) -> None:
    """Puts an edited function in the place of the right one, wherever its name is used."""
    places = [module for module in PARTS if hasattr(module, name)]
    wrong = edited(getattr(places[0], name), old, new)
    for module in places:
        monkeypatch.setattr(module, name, wrong)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", GRADIENT_MUTANTS)
def test_wrong_gradients_and_certificates_fail(name, monkeypatch):
    install(monkeypatch, *GRADIENT_MUTANTS[name])
    with pytest.raises(AssertionError):
        check_damping(implicit.cg())


@pytest.mark.usefixtures("double")
def test_gradients_by_recompiled_unedited_source_pass(monkeypatch):
    for name, same in {name: old for name, old, _ in GRADIENT_MUTANTS.values()}.items():
        install(monkeypatch, name, same, same)
    check_damping(implicit.cg())
