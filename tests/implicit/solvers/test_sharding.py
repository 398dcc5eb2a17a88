"""Split samples and variables give the run of one device, on 2 and 8 host devices."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("sharded_solvers.py")


@pytest.mark.slow
def test_a_run_on_many_devices_is_that_of_one():
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parents[3])}
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    findings = json.loads(done.stdout.splitlines()[-1])
    assert {(one["solver"], one["devices"]) for one in findings} >= {("soba", 8), ("vrbo", 2), ("bome", 8)}
    for one in findings:
        assert one["error"] <= 1e-10, one
        assert one["places"] == one["devices"], one
