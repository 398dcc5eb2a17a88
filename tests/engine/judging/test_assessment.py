"""The contract of judging, and the names by which configs find its factories."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from jaxfuse.engine.judging.assessment import Assessment, Judged, MadeElsewhere, speed, timed
from jaxfuse.labels import SCHEMES
from jaxfuse.learning.system import FUSED
from jaxfuse.options import resolve
from tests.engine.judging.heads import prepared

CONFIGS = sorted(path.stem for path in (Path(__file__).parents[3] / "configs").glob("*.py") if path.stem != "__init__")
JUDGED = Judged(SCHEMES["brats"], "S_F", ("S_F",), ("t1+t2", "flair"))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_phase_of_a_config_names_a_factory_that_takes_what_is_judged(name):
    config = import_module(f"configs.{name}").get_config("tiny")
    judged = replace(JUDGED, primary=FUSED) if name == "fusion" else JUDGED
    for phase in config.schedule:
        assert isinstance(resolve(config[phase].assess)(judged), Assessment)


def test_the_speed_is_the_median_and_named_after_what_was_judged(tmp_path):
    def predict(case, asked):
        return MadeElsewhere() if case.id == "d" else {case.id: asked}

    measured, seconds = timed(predict)
    cases = prepared(tmp_path)
    assert [measured(case, "labels") for case in cases] == [{"a": "labels"}, {"b": "labels"}, {"c": "labels"}, {}]
    assert len(seconds) == 4
    assert min(seconds[:3]) > 0
    assert seconds[3] == 0.0, "told by who has made it"
    assert speed(cases, [9.0, 1.0, 2.0]) == {"seconds_per_subject": 2.0}
