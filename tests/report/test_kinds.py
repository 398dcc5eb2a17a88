from jaxfuse.evaluate import PROTOCOLS
from jaxfuse.metrics.names import Metric
from jaxfuse.report.kinds import KINDS, kind_of, metric_named


def test_a_name_means_one_metric_whatever_the_kind():
    found: dict[str, Metric] = {}
    for kind in KINDS.values():
        for metric in kind.metrics:
            assert found.setdefault(metric.name, metric) == metric
    assert {name: metric_named(name) for name in found} == found


def test_a_kind_is_known_by_what_the_summary_calls_it():
    for name, kind in KINDS.items():
        assert (kind.name, kind_of({"kind": name})) == (name, kind)
    assert kind_of({}).metrics == kind_of({"kind": "unheard of"}).metrics == ()


def test_whatever_can_be_evaluated_is_printed():
    assert [protocol.kind for protocol in PROTOCOLS.values()] == ["segmentation"] * 7 + ["synthesis", "fusion"]
    for protocol in PROTOCOLS.values():
        assert KINDS[protocol.kind].render is not None
