"""Times of steps: they differ from machine to machine; what is told of them does not."""

import json
import math
from pathlib import Path

import jax
import pytest

from configs import cmff
from jaxfuse.engine.step_times import time_steps
from tests.refusals import refused

POSITIVE = ("compile_s", "step_ms", "examples_per_s", "flops", "flops_per_s", "argument_bytes", "temporary_bytes")


def timed(config, **options):
    asked = {"only": None, "steps": 1, "forms": ["auto"], "say": lambda what, done, total: None, **options}
    return time_steps(config, **asked)


@pytest.fixture
def config(tmp_path):
    config = cmff.get_config("tiny")
    config.network.unet.levels, config.data.cache = 2, str(tmp_path / "cache")
    return config


@pytest.fixture
def compilation_cache():
    """The command does without, for it measures compilation; the other tests of this process get theirs back."""
    before = jax.config.jax_enable_compilation_cache
    yield
    jax.config.update("jax_enable_compilation_cache", before)


@pytest.mark.slow
@pytest.mark.usefixtures("compilation_cache")
def test_two_forms_of_convolution_side_by_side(config):
    found = timed(config, only="fusion", steps=2, forms=["folded", "native"])
    assert (found["config"], found["preset"], found["device"]) == ("cmff", "tiny", jax.devices()[0].device_kind)
    assert list(found["phases"]) == ["fusion"]
    forms = found["phases"]["fusion"]
    assert list(forms) == ["folded", "native"]
    for measured in forms.values():
        assert set(measured) == {*POSITIVE, "wait_share", "ratio_to_first", "device_peak_bytes"}
        assert all(measured[name] > 0 for name in POSITIVE)
        assert 0 <= measured["wait_share"] < 1
        assert math.isclose(measured["examples_per_s"], 1000 / measured["step_ms"])
        assert math.isclose(measured["flops_per_s"], measured["flops"] * measured["examples_per_s"])
    assert forms["folded"]["ratio_to_first"] == 1
    assert math.isclose(forms["native"]["ratio_to_first"], forms["native"]["step_ms"] / forms["folded"]["step_ms"])
    # Another form is another program, not the same one under two names.
    assert forms["folded"]["flops"] != forms["native"]["flops"]
    json.dumps(found, allow_nan=False)


@pytest.mark.usefixtures("compilation_cache")
def test_every_phase_is_measured_unless_one_is_named(config, monkeypatch):
    def measure(experiment, phase, data, *, steps, forms):
        return {form: {"phase": phase.name, "steps": steps, "cases": len(data.train)} for form in forms}

    monkeypatch.setattr("jaxfuse.engine.step_times.measure", measure)
    expected = {name: {"auto": {"phase": name, "steps": 7, "cases": 2}} for name in ("transition", "fusion")}
    assert timed(config, steps=7)["phases"] == expected
    assert list(timed(config, only="transition", steps=7)["phases"]) == ["transition"]


def test_unknown_names_are_refused_before_any_data_are_prepared(config):
    phases = "phase 'fusoin' is not in the schedule; choose one of transition, fusion"
    refused(phases, timed, config, only="fusoin")
    refused("'cudnn' is not known; choose one of auto, native, folded", timed, config, forms=["native", "cudnn"])
    refused("'auto,auto'; name each form to compare once", timed, config, forms=["auto", "auto"])
    refused("name each form to compare once", timed, config, forms=[])
    assert not Path(config.data.cache).exists()
