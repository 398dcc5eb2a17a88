"""Times of steps: they differ from machine to machine; what is told of them does not."""

import json
import math
from pathlib import Path

import jax
import pytest

from configs import cmff
from jaxfuse.engine import step_times
from jaxfuse.engine.step_times import Asked, ceiling_of, fresh_cache, time_steps
from tests.refusals import refused

POSITIVE = ("compile_cold_s", "compile_warm_s", "blocked_ms", "pipelined_ms", "examples_per_s", "bound_ms")
POSITIVE += ("end_to_end_examples_per_s", "flops", "flops_per_s", "argument_bytes", "temporary_bytes", "share_of_bound")


def timed(config, **options):
    asked = Asked(**{"only": None, "steps": 1, "forms": ["auto"], **options})
    return time_steps(config, asked, lambda *told: None)


@pytest.fixture
def config(tmp_path):
    config = cmff.get_config("tiny")
    config.network.unet.levels, config.data.cache = 2, str(tmp_path / "cache")
    return config


@pytest.fixture
def counted(monkeypatch):
    """Steps carried out, by the way of timing."""
    steps = {"blocked": 0, "pipelined": 0, "fed": 0}
    whole = step_times.TimedStep

    class Counting(whole):
        def run_blocked(self):
            steps["blocked"] += 1
            super().run_blocked()

        def run_pipelined(self, count):
            steps["pipelined"] += count
            super().run_pipelined(count)

        def run_end_to_end(self, fed, count):
            super().run_end_to_end(fed, count)
            steps["fed"] += self.fed_steps

    monkeypatch.setattr(step_times, "TimedStep", Counting)
    return steps


def test_figures_of_a_step_and_of_its_loader(config, counted, tmp_path):
    cache = jax.config.jax_compilation_cache_dir
    found = timed(config, only="fusion", steps=2, trace=tmp_path / "trace")
    assert {name: found[name] for name in ("config", "preset", "device", "steps")} == {
        "config": "cmff",
        "preset": "tiny",
        "device": jax.devices()[0].device_kind,
        "steps": 2,
    }
    (phase,) = found["phases"].values()
    assert (phase["batch"], phase["patch"]) == (1, [16, 16, 16])
    assert phase["loader_batches_per_s"] > 0
    measured = phase["forms"]["auto"]
    assert set(measured) == {*POSITIVE, "wait_share", "ratio_to_first", "device_peak_bytes"}
    assert all(measured[name] > 0 for name in POSITIVE)
    assert 0 <= measured["wait_share"] < 1
    assert measured["ratio_to_first"] == 1
    assert math.isclose(measured["examples_per_s"], 1000 / measured["pipelined_ms"])
    assert math.isclose(measured["flops_per_s"], measured["flops"] * measured["examples_per_s"])
    assert math.isclose(measured["share_of_bound"], measured["flops_per_s"] / phase["ceiling"]["flops_per_s"])
    assert counted == {"blocked": 2, "pipelined": 2 * step_times.ROUNDS, "fed": 2}
    # A trace is there, and whatever was compiled lies where it lay before.
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))
    assert jax.config.jax_compilation_cache_dir == cache
    json.dumps(found, allow_nan=False)


@pytest.mark.slow
def test_two_forms_of_convolution_side_by_side(config):
    forms = timed(config, only="fusion", steps=2, forms=["folded", "native"])["phases"]["fusion"]["forms"]
    assert list(forms) == ["folded", "native"]
    assert forms["folded"]["ratio_to_first"] == 1
    ratio = forms["native"]["pipelined_ms"] / forms["folded"]["pipelined_ms"]
    assert math.isclose(forms["native"]["ratio_to_first"], ratio)
    # Another form is another program, not the same one under two names.
    assert forms["folded"]["temporary_bytes"] != forms["native"]["temporary_bytes"]
    assert forms["folded"]["flops"] == forms["native"]["flops"]


def test_every_phase_is_measured_unless_one_is_named(config, monkeypatch):
    monkeypatch.setattr(step_times, "measure", lambda bench, asked: {"phase": bench.phase.name, "steps": asked.steps})
    expected = {name: {"phase": name, "steps": 7} for name in ("transition", "fusion")}
    assert timed(config, steps=7)["phases"] == expected
    assert list(timed(config, only="transition", steps=7)["phases"]) == ["transition"]


def test_a_cold_cache_is_new_and_the_one_before_comes_back():
    before = jax.config.jax_compilation_cache_dir
    with fresh_cache():
        inside = Path(jax.config.jax_compilation_cache_dir)
        assert inside.is_dir()
        assert not list(inside.iterdir())
    assert jax.config.jax_compilation_cache_dir == before
    assert not inside.exists()


def test_the_ceiling_of_a_card_is_its_bandwidth():
    assert ceiling_of("gpu", "NVIDIA H200") == {"kind": "NVIDIA H200", "bytes_per_s": 4.8e12}
    assert ceiling_of("gpu", "a card to come") == {"kind": "unknown"}


def test_unknown_names_are_refused_before_any_data_are_prepared(config, tmp_path):
    phases = "phase 'fusoin' is not in the schedule; choose one of transition, fusion"
    refused(phases, timed, config, only="fusoin")
    refused(
        "'cudnn' is not known; choose one of auto, products, native, folded", timed, config, forms=["native", "cudnn"]
    )
    refused("'auto,auto'; name each form to compare once", timed, config, forms=["auto", "auto"])
    refused("name each form to compare once", timed, config, forms=[])
    (tmp_path / "file").touch()
    refused("which is a file; name a folder", timed, config, trace=tmp_path / "file")
    assert not Path(config.data.cache).exists()
