"""`python -m jaxfuse.benchmark`: its output, and its refusals."""

from __future__ import annotations

import json

import pytest

from tests.commands import ROOT, call

CONFIG = ROOT / "configs" / "cmff.py"


def test_the_command_prints_json_alone(tmp_path):
    options = ["--config", f"{CONFIG}:tiny,row=random", "--config.network.unet.levels=2", "--steps", "1", "--json"]
    done = call("benchmark", *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(json.loads(done.stdout)["phases"]["fusion"]) == ["auto"]


@pytest.mark.parametrize(("option", "message"), [("--phase=fusoin", "phase 'fusoin'"), ("--steps=0", "--steps=0")])
def test_a_mistake_is_one_sentence_and_exit_code_2(tmp_path, option, message):
    done = call("benchmark", "--config", f"{CONFIG}:tiny", option, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("error: ")
    assert message in sentence
