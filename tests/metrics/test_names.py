import ast
import math
from pathlib import Path

import pytest

from jaxfuse.metrics.names import Metric, metric_of, names_of
from jaxfuse.metrics.protocols import METRICS

PACKAGE = Path(__file__).parents[2] / "jaxfuse"
NAN, DISTANCE = math.nan, Metric("hd_mm", "HD (mm)", 2, False, "largest distance")


def test_a_number_is_printed_with_the_digits_of_its_metric():
    assert [DISTANCE.text(value) for value in (3.14159, NAN, math.inf)] == ["3.14", "undefined", "undefined"]
    assert (DISTANCE.short, DISTANCE.arrow) == ("HD", "↓")


@pytest.mark.parametrize(
    ("mean", "std", "n", "text"),
    # Last: a mean over regions, none of whose cases has all regions.
    [(1, 0.5, 3, "1.00 ± 0.50"), (1, NAN, 1, "1.00"), (NAN, NAN, 0, "undefined"), (2.0, NAN, 0, "undefined")],
)
def test_mean_and_deviation_stand_together_where_both_are_defined(mean, std, n, text):
    assert DISTANCE.mean_std({"mean": mean, "std": std, "n": n}) == text


def test_a_metric_is_found_by_its_name_and_another_is_printed_under_its_own():
    assert metric_of("hd_mm", [DISTANCE]) is DISTANCE
    other = metric_of("lesions", [DISTANCE])
    assert (other.title, other.arrow, other.text(12.34567)) == ("lesions", "", "12.35")


def test_label_metrics_are_named_in_the_layer_of_metrics_alone():
    """A further one touches its own module and `protocols`; Dice alone is known elsewhere, where it ranks cases."""
    assert len(set(names_of(METRICS))) == len(METRICS)
    named = set(names_of(METRICS)) | {metric.title for metric in METRICS} - {"Dice"}
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] != "metrics":
            constants = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
            assert not constants & (named - {"dice"}), path
