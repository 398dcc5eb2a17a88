"""The findings as Markdown: table.md."""

from __future__ import annotations

import math
import textwrap
from typing import Any

from jaxfuse.io.tables import render

PREAMBLE = """Error: |gradient - exact| / |exact|, exact by dense float64 algebra. Time: median of single calls at the
given optimum, compiled, in milliseconds; "× hand CG": median over rounds of the ratio to the hand-written CG of the
same round, with quartiles; all methods of a task take turns. A slow method takes part in fewer rounds; one round
without an interval is a single call. First call: tracing, compiling and running once, as a ratio. Temporary memory:
as the compiler reports it. PyTorch, which compiles nothing here, has neither.
Products: curvature products, those of the certificate and of a preconditioner included. True residual: that of the
adjoint equation with the undamped Hessian, which ours measure and return. Said: what the method told about its
convergence; `info.converged` of ours judges inner optimum, solve, curvature and finiteness. For an approximation by
name (neumann, nystrom, identity, direct, ...) the solve's promise is only a residual below that of the zero vector,
and the unrolled ones promise nothing about a residual: there "converged" does not mean accurate.
All iterative solvers get the same tolerance (relative residual 1e-10, in float32 1e-6) and the same cap of steps. In
float32 ours get it as their default, which is judged by the estimated error of the adjoint; the same tolerance by name
would be judged by the true residual, which rounding can keep above it, and be called "not converged"."""

BETTY = """Betty 0.2.1 (the release on PyPI) takes its new CG direction from the old residual, which is why its "cg"
does not converge here; with `r_new` in that line it does. Its Neumann series is right."""


def table(scores: dict[str, Any]) -> str:
    """Renders the whole file."""
    blocks = [f"# Implicit gradients: accuracy and cost\n\n{_machine(scores['machine'])}", PREAMBLE]
    for task in scores["tasks"]:
        blocks.append(f"## {task['title']}\n\n{render(*_rows([_method(row) for row in task['rows']]))}")
    if scores["machine"]["versions"].get("betty-ml") == "0.2.1":
        blocks.append(BETTY)
    blocks += [
        _overhead(scores["overhead"]),
        _memory(scores["memory"]),
        of_failures(scores["failures"]),
        _reuse(scores["reuse"]),
        _inexact(scores["inexact"]),
        _cleaning(scores["cleaning"]),
    ]
    return "\n\n".join(blocks) + "\n"


def _machine(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    absent = f" Not installed: {', '.join(machine['missing'])}." if machine["missing"] else ""
    quick = " Quick run: few rounds and small sizes, for trying the script only." if machine["quick"] else ""
    return f"    {machine['command']}\n\n{machine['processor']}, {machine['cores']} cores; {versions}.{absent}{quick}"


def _rows(lines: list[dict[str, str]]) -> tuple[list[dict[str, str]], list[str]]:
    return lines, list(lines[0])


def number(value: Any, digits: int = 3) -> str:
    """A few significant digits; a dash for what was not measured."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.{digits}g}"


def scientific(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)) or value < 0:  # -1: not known
        return "–"
    return f"{value:.1e}"


def _ratio(row: dict[str, Any]) -> str:
    if not row["rounds"]:
        return "–"
    if row["rounds"] == 1:
        return f"{row['ratio']:.2f}"
    return f"{row['ratio']:.2f} ({row['ratio_q25']:.2f}–{row['ratio_q75']:.2f})"


def _cosine(value: Any) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.4f}"


def _method(row: dict[str, Any]) -> dict[str, str]:
    return {
        "Method": ("" if row["group"] == "peer" else "ours: ") + row["method"],
        "Error": scientific(row["error"]),
        "Cosine": _cosine(row["cosine"]),
        "ms": number(row["median_ms"]),
        "× hand CG": _ratio(row),
        "Rounds": str(row["rounds"]),
        "First call ×": number(row["first_call_ratio"]),
        "Temporary MB": number(row["temporary_mb"]),
        "Steps": number(row["steps"], 6),
        "Products": number(row["products"], 6),
        "True residual": scientific(row["residual"]),
        "Said": row["said"],
    }


def _overhead(rows: list[dict[str, Any]]) -> str:
    lines = [
        {
            "Problem": row["problem"],
            "CG steps": str(row["steps"]),
            "Hand CG ms": number(row["hand_ms"]),
            "Ours ms": number(row["median_ms"]),
            "Ratio": _ratio(row),
            "First call ×": number(row["first_call_ratio"]),
            "Temporary memory ×": number(row["temporary_ratio"]),
            "Extra products": str(row["extra_products"]),
        }
        for row in rows
    ]
    return f"""## Overhead of the certificate at equal work

`cg(tolerance=0, steps=N)` against the hand-written CG with the same N, these two alone taking turns. The extra
product is the one that measures the true residual.

{render(*_rows(lines))}"""


def _memory(found: dict[str, Any]) -> str:
    counts = found["inner_steps"]
    lines = [
        {"Way": name} | {f"K = {count:,}": number(value) for count, value in zip(counts, values, strict=True)}
        for name, values in found["megabytes"].items()
    ]
    return f"""## Temporary memory against inner steps

Megabytes that the compiler reports for one program of K gradient steps of a tanh network (1,088 weights, 1,000
samples, float32) and the hypergradient of its weight decay.

{render(*_rows(lines))}"""


def of_failures(found: dict[str, list[dict[str, Any]]]) -> str:
    blocks = []
    for kind, title in (("failing", "Cases that go wrong"), ("healthy", "Healthy problems")):
        names = list(dict.fromkeys(row["route"] for row in found[kind]))
        cases = list(dict.fromkeys(row["case"] for row in found[kind]))
        by_place = {(row["case"], row["route"]): row for row in found[kind]}
        lines = [{"Case": case} | {name: _said(by_place.get((case, name))) for name in names} for case in cases]
        word = "detected" if kind == "failing" else "false alarms"
        total: dict[str, str] = {"Case": word}
        for name in names:
            told = [by_place[case, name]["detected"] for case in cases if (case, name) in by_place]
            total[name] = f"{sum(told)} of {len(told)}"
        blocks.append(f"{title}\n\n{render(*_rows([*lines, total]))}")
    return "\n\n".join(
        [
            """## What is said when it goes wrong

What a route says, and the error of what it returns; a dash where it returned nothing or no truth exists (at a saddle,
with a singular Hessian, with NaN). For the inner solve cut at 20 steps, jaxopt and optimistix run their own solver.""",
            *blocks,
        ]
    )


def _said(row: dict[str, Any] | None) -> str:
    if row is None:
        return "does not apply"
    return row["said"] if math.isnan(row["error"]) else f"{row['said']} ({scientific(row['error'])})"


def _reuse(rows: list[dict[str, Any]]) -> str:
    lines = [
        {
            "Start and preconditioner": row["way"],
            "Steps, first": str(row["first"]),
            "Steps, median of the rest": number(row["median_later"], 4),
            "Steps, all": str(row["total"]),
            "Fewer than cold": f"{row['fewer']:.2f} ×",
            "Converged": f"{row['converged']} of {row['outer_steps']}",
        }
        for row in rows
    ]
    return f"""## Warm start and a kept preconditioner

CG steps to a relative residual of 1e-6 over a drifting sequence of outer steps, decaying spectrum (eigenvalues
exp(-i/10) + 1e-4), Nystrom preconditioner of rank 50. Making the preconditioner costs 50 products each time.

{render(*_rows(lines))}"""


def _inexact(found: dict[str, Any]) -> str:
    counts = found["inner_steps"]
    lines = [
        {"Estimator": name}
        | {
            f"K = {count}": f"{number(error, 2)} / {number(cosine)}"
            for count, error, cosine in zip(counts, values["error"], values["cosine"], strict=True)
        }
        for name, values in found["scores"].items()
    ]
    return f"""## Inexact inner solve

y after K gradient steps from zero on a quadratic, condition 100; error / cosine of the hypergradient against the one
at the optimum.

{render(*_rows(lines))}"""


def _cleaning(found: dict[str, float]) -> str:
    said = f"""Half of the training labels are wrong. Mean weight of the samples with wrong labels
        {found["weight_of_wrong_labels"]:.3f}, of those with right labels {found["weight_of_right_labels"]:.3f} (both
        began at 0.5). Validation loss {found["validation_loss_first"]:.3f} → {found["validation_loss_last"]:.3f}. Test
        accuracy of the model refitted with even weights {found["test_accuracy_even_weights"]:.3f}, with the weights
        found {found["test_accuracy_weights_found"]:.3f}, on the right labels alone
        {found["test_accuracy_right_labels_only"]:.3f}. CG, started from the last adjoint, took
        {found["mean_cg_steps"]:.1f} steps on average to a residual of 1e-4."""
    title = f"## Does it work? Data cleaning, {found['outer_steps']} hypergradient steps"
    return f"{title}\n\n{textwrap.fill(' '.join(said.split()), 118)}"
