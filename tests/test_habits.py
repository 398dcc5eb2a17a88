"""Files around the code: workflows, hooks and templates can be read, and the commands in them exist."""

import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from jaxfuse.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
FILES = [*sorted((ROOT / ".github").rglob("*.yml")), ROOT / ".pre-commit-config.yaml"]
READ = {path.relative_to(ROOT).as_posix(): yaml.safe_load(path.read_text(encoding="utf-8")) for path in FILES}
WORKFLOWS = {name: one for name, one in READ.items() if "/workflows/" in name}
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
# Modules of packages that a workflow or an extra installs, which need not be here.
INSTALLED = {"build": "build", "mkdocs": "docs"}
# It comes with Python; looked for within a test, setuptools would warn that it is late.
OF_PYTHON = {"pip"}


def steps(name: str) -> Iterator[dict[str, Any]]:
    for job in WORKFLOWS[name]["jobs"].values():
        yield from job["steps"]


def calls() -> Iterator[tuple[str, str]]:
    """Yields (file, command line) of all that is run."""
    for name in WORKFLOWS:
        for step in steps(name):
            for line in step.get("run", "").splitlines():
                yield name, line
    for repository in READ[".pre-commit-config.yaml"]["repos"]:
        for hook in repository["hooks"]:
            yield ".pre-commit-config.yaml", hook["entry"]
    template = (ROOT / ".github" / "pull_request_template.md").read_text(encoding="utf-8")
    texts = {
        "pull_request_template.md": template,
        **{name: yaml.safe_dump(one, width=10_000) for name, one in READ.items()},
    }
    for name, text in texts.items():
        yield from ((name, line) for line in re.findall(r"`((?:python|ruff|jaxfuse|pytest) [^`]+)`", text))


def fault(line: str) -> str:
    """Says what a command line names that is not there; "" if all is."""
    program, *rest = shlex.split(re.sub(r"\$\(.*\)|\$\{\{.*?\}\}", "x", line))
    if program == "jaxfuse":
        return "" if rest[0] in COMMANDS else f"jaxfuse has no command {rest[0]}"
    if program == "python" and rest[0] == "-m":
        module, *rest = rest[1:]
        known = module in OF_PYTHON | set(INSTALLED) or importlib.util.find_spec(module) is not None
        if not known:
            return f"no module {module}"
    elif program not in ("python", "bash", "ruff", "test"):
        return f"{program} is unknown"
    paths = [word for word in rest if "/" in word and not word.startswith("-") and program != "test"]
    absent = [path for path in paths if not (ROOT / path).exists()]
    extras = re.findall(r"\.\[([\w,]+)\]", line)
    unknown = [one for group in extras for one in group.split(",") if one not in EXTRAS]
    return ", ".join(absent + unknown)


def test_commands_that_are_named_exist():
    found = list(calls())
    assert len(found) >= 12
    assert [(name, line, wrong) for name, line in found if (wrong := fault(line))] == []


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("jaxfuse nosuch", "jaxfuse has no command nosuch"),
        ("python -m nosuch", "no module nosuch"),
        ("bash .ci/nosuch", ".ci/nosuch"),
        ("python -m pip install -e '.[test,nosuch]'", "nosuch"),
        ("make all", "make is unknown"),
    ],
)
def test_a_command_that_does_not_exist_would_be_found(line, wrong):
    assert fault(line) == wrong


def test_the_whole_of_what_lands_is_run_and_packages_for_the_modules_are_installed():
    lines = [line for _, line in calls()]
    assert "bash .ci/run" in lines
    for module, package in INSTALLED.items():
        installs = [line for line in lines if line.startswith("python -m pip install")]
        assert any(f"python -m {module}" in line for line in lines)
        assert any(package in re.split(r"\W+", line) for line in installs)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_may_do_no_more_than_it_needs(name):
    workflow = WORKFLOWS[name]
    assert {"name", True, "permissions", "jobs"} <= set(workflow)  # YAML 1.1 reads `on` as true
    assert workflow["permissions"] == {"contents": "read"}
    writing = {job for job, what in workflow["jobs"].items() if "write" in what.get("permissions", {}).values()}
    assert writing <= {"publish"}
    assert all("@" in step["uses"] for step in steps(name) if "uses" in step)
    assert all(("uses" in step) != ("run" in step) for step in steps(name))


def test_a_release_is_of_the_tag_and_without_a_token():
    release = WORKFLOWS[".github/workflows/release.yml"]
    assert release[True] == {"push": {"tags": ["v*"]}}
    publish = release["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["needs"] == "build"
    assert publish["steps"][-1]["uses"].startswith("pypa/gh-action-pypi-publish@")
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    assert "$GITHUB_REF_NAME" in text
    assert "secrets." not in text


def test_whoever_reports_a_fault_is_asked_for_the_surroundings():
    fields = {one["id"]: one for one in READ[".github/ISSUE_TEMPLATE/fault.yml"]["body"]}
    assert "`jaxfuse env`" in fields["env"]["attributes"]["label"]
    assert fields["env"]["validations"] == {"required": True}
    for name, form in READ.items():
        if "/ISSUE_TEMPLATE/" in name and not name.endswith("config.yml"):
            assert {"name", "description", "body"} <= set(form)
            assert all(one["attributes"]["label"] for one in form["body"])
