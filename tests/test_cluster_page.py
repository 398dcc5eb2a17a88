"""The scripts of the page on clusters: they parse, they name options that exist, and they queue a stopped job again."""

import os
import re
import shutil
import signal
import stat
import subprocess
import time
import tomllib
from pathlib import Path

import pytest
import yaml

from jaxfuse.errors import PROCESS_LOST
from tests.test_docs import ROOT, blocks, options_of, recipe

PAGE = "docs/how_to/cluster.md"
SCRIPTS = dict(zip(("one node", "several nodes", "many jobs"), blocks(PAGE, "sh"), strict=False))
ONE_NODE, SEVERAL_NODES, _ = SCRIPTS.values()
MANIFESTS = list(yaml.safe_load_all(blocks(PAGE, "yaml")[0]))
_COMMAND = re.compile(r"python -m (jaxfuse\.\w+)((?: +(?!&)\S+)*)")


def commands() -> list[tuple[str, list[str]]]:
    """Every command of the page as (module, words), those of the container in Kubernetes too."""
    text = "\n".join(blocks(PAGE, "sh")).replace("\\\n", " ")
    found = [(name, words.split()) for name, words in _COMMAND.findall(text)]
    container = MANIFESTS[1]["spec"]["template"]["spec"]["containers"][0]
    _, _, module, *words = [*container["command"], *container["args"]]
    return [*found, (module, words)]


@pytest.mark.parametrize("code", blocks(PAGE, "sh"))
def test_scripts_parse(code):
    subprocess.run(["bash", "-n"], input=code, text=True, check=True)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="ShellCheck is not installed")
@pytest.mark.parametrize("code", SCRIPTS.values(), ids=SCRIPTS)
def test_scripts_pass_shellcheck(code):
    # SC1091: what the environment's own script holds is not looked into.
    done = subprocess.run(["shellcheck", "-e", "SC1091", "-"], input=code, text=True, capture_output=True, check=False)
    assert done.stdout == ""


def test_options_of_the_commands_exist():
    found = commands()
    assert [module for module, _ in found] == ["jaxfuse.train"] * 2 + ["jaxfuse.predict"] + ["jaxfuse.train"] * 3
    for module, words in found:
        plain = {word.removeprefix("--").partition("=")[0] for word in words if word.startswith("--")}
        assert {name for name in plain if not name.startswith("config.")} <= options_of(module), (module, plain)
        for option in (name.removeprefix("config.") for name in plain if name.startswith("config.")):
            group = recipe(words[words.index("--config") + 1])
            for key in option.split("."):
                group = group[key]


def test_pods_find_the_first_one_by_the_name_of_the_service():
    service, job = MANIFESTS
    pods = job["spec"]["template"]["spec"]
    name, subdomain = job["metadata"]["name"], pods["subdomain"]
    assert service["metadata"]["name"] == subdomain
    assert service["spec"]["selector"] == {"job-name": name}
    address = f"--distributed={name}-0.{subdomain}:9911,{job['spec']['completions']},$(JOB_COMPLETION_INDEX)"
    assert pods["containers"][0]["args"][0] == address
    assert job["spec"]["completionMode"] == "Indexed"


@pytest.mark.parametrize("name", ["Dockerfile", "jaxfuse.def"])
def test_containers_install_what_the_project_offers_by_pip_alone(name):
    text = (ROOT / "containers" / name).read_text(encoding="utf-8")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(re.findall(r"EXTRAS=\[(\w+)\]", text)) <= extras.keys()
    assert len(re.findall(r"pip install --no-cache-dir --index-url", text)) == 1
    assert not re.search(r"\b(apt-get|apt|curl|wget|conda|git clone)\b", text)


class Cluster:
    """Stand-ins for what a script of the page calls, below a folder that stands for /shared."""

    def __init__(self, folder: Path, command: str) -> None:
        self.folder, self.bin = folder, folder / "stand-ins"
        for name in ("jaxfuse/bin", "jaxfuse-source", "stand-ins"):
            (folder / name).mkdir(parents=True)
        (folder / "jaxfuse" / "bin" / "activate").write_text("", encoding="utf-8")
        self.write("python", command)
        self.write("srun", 'while [ "${1#-}" != "$1" ]; do shift; done\n"$@"')
        self.write("scontrol", f'echo "$@" >> {folder}/requeued')

    def write(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def start(self, script: str, restarts: int = 0) -> subprocess.Popen[bytes]:
        own = {**os.environ, "PATH": f"{self.bin}:{os.environ['PATH']}", "SLURM_JOB_ID": "77"}
        own["SLURM_RESTART_COUNT"] = str(restarts)
        return subprocess.Popen(["bash", "-c", script.replace("/shared/", f"{self.folder}/")], env=own)

    @property
    def requeued(self) -> str:
        path = self.folder / "requeued"
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    def saves(self) -> str:
        """A command that waits for SIGTERM, takes a moment to save, and ends with 143."""
        return f"trap 'sleep 0.2; touch {self.folder}/saved; exit 143' TERM; touch {self.folder}/runs\n" + (
            "while true; do sleep 0.02; done"
        )


def test_a_signal_to_the_script_reaches_the_run_which_is_queued_again_once_it_has_saved(tmp_path):
    cluster = Cluster(tmp_path, "")
    cluster.write("python", cluster.saves())
    job = cluster.start(ONE_NODE)
    while not (tmp_path / "runs").is_file():
        assert job.poll() is None
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    assert job.wait(20) == 143
    assert (tmp_path / "saved").is_file()
    assert cluster.requeued == "requeue 77\n"


@pytest.mark.parametrize("script", [ONE_NODE, SEVERAL_NODES], ids=["one node", "several nodes"])
@pytest.mark.parametrize(("code", "requeued"), [(0, ""), (2, ""), (143, "requeue 77\n")])
def test_a_run_is_queued_again_after_143(tmp_path, script, code, requeued):
    cluster = Cluster(tmp_path, f"exit {code}")
    assert cluster.start(script).wait(20) == code
    assert cluster.requeued == requeued


@pytest.mark.parametrize("code", [PROCESS_LOST, 128 + signal.SIGKILL])
@pytest.mark.parametrize(("restarts", "requeued"), [(19, "requeue 77\n"), (20, "")])
def test_a_run_that_lost_a_process_is_queued_again_but_not_for_ever(tmp_path, code, restarts, requeued):
    cluster = Cluster(tmp_path, f"exit {code}")
    assert cluster.start(SEVERAL_NODES, restarts).wait(20) == code
    assert cluster.requeued == requeued
