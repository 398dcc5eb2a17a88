"""Runs of `tests.engine.devices.on_several` in a process of their own, which has eight devices."""

import json
import os
import subprocess
import sys
from typing import Any


def several(*arguments: Any, run: bool = True) -> dict[str, Any]:
    """Returns what it prints of recipe, argument, phase, devices, space, whether states are split, batch and patch.

    With `run` False the step is compiled only, in float32.
    """
    words = [*map(str, arguments), *([] if run else ["--compile"])]
    command = [sys.executable, "-m", "tests.engine.devices.on_several", *words]
    env = {**os.environ, "JAX_NUM_CPU_DEVICES": "8", "JAX_ENABLE_X64": str(int(run))}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)
