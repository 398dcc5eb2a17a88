"""How long a default training takes from the command to its second step.

    python -m experiments.throughput.start_up [--configs cmff,infinet] [--cache DIR]

Each config is started three times on phantoms: with an empty cache (`new`: phantoms are made and prepared, too), with
prepared phantoms and no compiled programs (`cold`), and with both (`warm`). A run is over when metrics of a step are on
disk, which is after the second one, as they are written one step late; then it is killed. Prints a JSON line for each.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jaxfuse.io.metric_rows import METRICS_FILE

CONFIGS = ("cmff", "hyperfusion", "infinet", "hinet", "fuse4seg")
STATES = ("new", "cold", "warm")
# Seconds between two looks at the metrics.
PAUSE = 0.05


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", default=",".join(CONFIGS))
    parser.add_argument("--states", default=",".join(STATES))
    parser.add_argument("--cache", help="a folder that is kept; left out, a temporary one")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.configs.split(","):
            cache = Path(options.cache or temporary) / name
            for state in options.states.split(","):
                print(json.dumps({"config": name, "state": state, **start(name, state, cache)}), flush=True)


def start(name: str, state: str, cache: Path) -> dict[str, float]:
    """Returns seconds from the start of one training to its second step: by the clock, and of processors."""
    if state == "new":
        shutil.rmtree(cache, ignore_errors=True)
    elif state == "cold":
        for folder in cache.glob("compiled-*"):
            shutil.rmtree(folder)
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, "-m", "jaxfuse.train", f"--config=configs/{name}.py", f"--workdir={workdir}/run"]
        options, own = ["--config.log_every=1"], {**os.environ, "JAXFUSE_CACHE": str(cache)}
        started, before = time.perf_counter(), _processor_seconds()
        with subprocess.Popen([*command, *options], env=own, stdout=subprocess.DEVNULL) as run:
            metrics = Path(workdir) / "run" / METRICS_FILE
            while run.poll() is None and not (metrics.is_file() and metrics.stat().st_size):
                time.sleep(PAUSE)
            took = time.perf_counter() - started
            ended = run.poll()
            run.kill()
    if ended is not None:
        raise SystemExit(f"{' '.join(command)} ended with {ended} before its second step")
    return {"seconds": round(took, 1), "processor_seconds": round(_processor_seconds() - before, 1)}


def _processor_seconds() -> float:
    """Returns the time that processes have computed that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
