"""`python -m jaxfuse.benchmark`: its output, and its refusals."""

import json

from jaxfuse import benchmark
from tests.commands import ROOT, call

CONFIG = ROOT / "configs" / "cmff.py"


def test_the_command_prints_json_alone(tmp_path):
    options = ["--config", f"{CONFIG}:tiny,row=random", "--config.network.unet.levels=2", "--steps", "1", "--json"]
    done = call("benchmark", *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(json.loads(done.stdout)["phases"]["fusion"]["forms"]) == ["auto"]


def test_figures_are_told_with_their_units():
    found = {"compile_cold_s": 12.3, "compile_warm_s": 1.2, "pipelined_ms": 812.0, "blocked_ms": 820.0}
    found |= {"examples_per_s": 2.46, "end_to_end_examples_per_s": 2.4, "wait_share": 0.013, "flops_per_s": 91e9}
    found |= {"argument_bytes": 2**30, "temporary_bytes": 2**30, "device_peak_bytes": None, "ratio_to_first": 1.0}
    found |= {"bound_ms": 490.0, "share_of_bound": 0.6}
    ceiling = {"kind": "product of matrices of 2048 x 2048", "flops_per_s": 152e9}
    phase = {"batch": 2, "patch": [24, 24, 24], "loader_batches_per_s": 35.2, "ceiling": ceiling}
    results = {"config": "cmff", "preset": "", "device": "cpu", "steps": 6, "phases": {}}
    results["phases"]["fusion"] = {**phase, "forms": {"auto": found}}
    text = "\n".join(benchmark._lines(results))
    assert "fusion, 2 x 24 x 24 x 24: loader alone 35.2 batches/s" in text
    assert "12.3 s, 1.2 s from the cache" in text
    assert "812.0 ms pipelined, 820.0 ms each waited for; 2.46 examples/s" in text
    assert "2.40 examples/s, 1.3% of the time waiting for batches" in text
    assert "91.0 GFLOP/s, 60% of the bound, 490.0 ms (product of matrices of 2048 x 2048: 152 GFLOP/s)" in text
    assert "2.15 GB for the program" in text
    found |= {"bound_ms": None, "share_of_bound": None, "device_peak_bytes": 5e9}
    results["phases"]["fusion"]["ceiling"] = {"kind": "unknown"}
    text = "\n".join(benchmark._lines(results))
    assert "nothing known of the device's bound" in text
    assert "device peak 5.00 GB" in text
