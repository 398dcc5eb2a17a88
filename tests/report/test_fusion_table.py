"""Fused images beside other runs: the line that stands for a run, its rank and its tiles."""

from jaxfuse.report.kinds import kind_of
from jaxfuse.report.results import Result, lines_of


def result(outputs: dict[str, float]) -> Result:
    found = {name: {"qabf": {"mean": value, "std": 0.1, "n": 3, "undefined": 0}} for name, value in outputs.items()}
    summary = {"kind": "fusion", "primary": "fused", "cases": 3, "sources": ["mri", "ct"], "outputs": found}
    return Result("fusion", summary, [], {}, list(lines_of(found)), [])


def test_runs_stand_beside_each_other_by_their_fused_images():
    own = result({"fused": 0.512, "mean": 0.3, "maximum": 0.6})
    kind = kind_of(own.summary)
    assert list(kind.compared(own)) == ["mri + ct"]
    assert kind.rank(own) == 0.512
    assert [(label, cell.mean) for label, cell in kind.tiles(own)] == [
        ("Qabf, fused", "0.512"),
        ("Qabf, maximum", "0.600"),
    ]
    assert kind.compared(result({"mean": 0.3})) == {}
