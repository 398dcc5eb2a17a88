"""`python -m jaxfuse.benchmark`: its output, and its refusals."""

import json

from tests.commands import ROOT, call

CONFIG = ROOT / "configs" / "cmff.py"


def test_the_command_prints_json_alone(tmp_path):
    options = ["--config", f"{CONFIG}:tiny,row=random", "--config.network.unet.levels=2", "--steps", "1", "--json"]
    done = call("benchmark", *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(json.loads(done.stdout)["phases"]["fusion"]) == ["auto"]
