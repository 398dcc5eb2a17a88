"""The documentation tells the truth: its links, its commands and their options exist, its Python runs."""

import functools
import importlib
import importlib.util
import re
import runpy
import shlex
from pathlib import Path

import pytest
import yaml
from absl import flags
from ml_collections import ConfigDict

import jaxfuse
from jaxfuse import named_recipe
from jaxfuse.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "experiments" / "README.md"])
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
pages = pytest.mark.parametrize("page", TEXTS)

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:python -m|jaxfuse) [^`]+)`")
_PATH = re.compile(r"`((?:jaxfuse|configs|experiments|tests|docs)/[\w./]*)`")
# The page on adding a paper has a test of its own for its files, `two_layers`.
_PLACEHOLDERS = ("NAME", "COMMAND", "/X.py", "a/b.py", "test_b.py", "two_layers")


def blocks(page: str, language: str) -> list[str]:
    return [code for name, code in _FENCED.findall(TEXTS[page]) if name == language]


def commands(page: str) -> list[list[str]]:
    """Every `python -m MODULE ...` of a page as words, `python` and `-m` left out; `jaxfuse X` is jaxfuse.X."""
    indented = re.findall(r"^    ((?:python -m|jaxfuse) (?:.*\\\n)*.*)", TEXTS[page], re.MULTILINE)
    lines = [line for code in blocks(page, "sh") for line in code.replace("\\\n", " ").splitlines()]
    said = [*lines, *(re.sub(r"\\?\n", " ", text) for text in (*indented, *_INLINE.findall(TEXTS[page])))]
    found = []
    for line in said:
        for part in line.split("&&"):
            words = shlex.split(part.replace("...", "").replace("[", "").replace("]", ""), comments=True)
            if len(words) > 2 and words[0].endswith("python") and words[1] == "-m":
                found.append(words[2:])
            elif len(words) > 1 and Path(words[0]).name == "jaxfuse" and not words[1].startswith("-"):
                found.append([f"jaxfuse.{words[1]}", *words[2:]])
    return found


@functools.cache
def options_of(module: str) -> set[str]:
    """Names of the flags that a command defines, by itself or for what it finds."""
    is_folder = (ROOT / module.replace(".", "/")).is_dir()
    command = importlib.import_module(f"{module}.__main__" if is_folder else module)
    before = set(flags.FLAGS)
    command.define_flags()
    found = set(flags.FLAGS) - before
    for name in found:
        delattr(flags.FLAGS, name)
    return found


def recipe(named: str) -> ConfigDict:
    """The config that a command line names, `configs/X.py[:ARGUMENT]`."""
    path, _, argument = named.partition(":")
    return runpy.run_path(str(ROOT / path))["get_config"](argument)


def anchors(path: Path) -> set[str]:
    """Names of a page's headings as pages of git have them: lower case, hyphens for spaces, no other signs."""
    text = re.sub(_FENCED, "", path.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.+)$", text, re.M)}


def is_placeholder(text: str) -> bool:
    return any(sign in text for sign in _PLACEHOLDERS)


@pages
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", TEXTS[page])
    here = ROOT / page
    ours = [(here.parent / link if link else here, anchor) for link, anchor in links if "://" not in link]
    assert [path for path, _ in ours if not path.exists()] == []
    assert [(path, anchor) for path, anchor in ours if anchor and anchor not in anchors(path)] == []


@pages
def test_paths_that_are_named_exist(page):
    paths = _PATH.findall(TEXTS[page])
    assert [path for path in paths if not is_placeholder(path) and not (ROOT / path).exists()] == []


@pages
def test_commands_that_are_named_exist(page):
    modules = {words[0] for words in commands(page)} - {"venv", "pytest"}
    assert [name for name in modules if not is_placeholder(name) and importlib.util.find_spec(name) is None] == []


@pages
def test_options_of_commands_exist(page):
    for module, *words in commands(page):
        if not module.startswith("jaxfuse.") or is_placeholder(module):
            continue
        given = [word.removeprefix("--").partition("=")[0] for word in words if word.startswith("--")]
        plain = {name for name in given if not name.startswith("config.")}
        assert plain <= options_of(module), (module, plain)


@pages
def test_options_of_recipes_exist(page):
    for module, *words in commands(page):
        if module not in ("jaxfuse.train", "jaxfuse.benchmark", "jaxfuse.describe"):
            continue
        if {"C", "RECIPE"} & {word.partition(":")[0] for word in words} or any(map(is_placeholder, words)):
            continue
        (named, *_) = [word for word in named_recipe.gathered(["", *words]) if word.startswith("--config=")] or [""]
        if not named:
            continue
        config = recipe(named.removeprefix("--config="))
        for option in re.findall(r"--config\.(?!a\.b)([\w.]+)", " ".join(words)):
            functools.reduce(lambda group, key: group[key], option.split("."), config)


# These have tests of their own.
LONGER = {
    f"docs/how_to/{page}.md" for page in ("choose_an_estimator", "from_jaxopt", "from_others", "new_paper", "python")
}
WITH_PYTHON = [page for page in TEXTS if page.startswith("docs/how_to") and blocks(page, "python")]


@pytest.mark.parametrize("page", [page for page in WITH_PYTHON if page not in LONGER])
def test_python_of_a_page_runs(page, capsys):
    names: dict[str, object] = {}
    exec("\n".join(blocks(page, "python")), names)
    if "check_hypergradient" in TEXTS[page]:
        assert "no test failed" in capsys.readouterr().out


def test_the_front_page_is_short_and_shows_a_picture():
    assert len(TEXTS["README.md"].splitlines()) <= 130
    (picture,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", TEXTS["README.md"])
    assert (ROOT / picture).stat().st_size < 300_000


def test_every_page_can_be_reached_from_the_index():
    index = TEXTS["docs/README.md"]
    others = [path.relative_to(ROOT / "docs").as_posix() for path in PAGES if (ROOT / "docs") in path.parents]
    assert [path for path in others if path != "README.md" and f"({path})" not in index] == []


def test_the_citation_names_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    told = {"cff-version": "1.2.0", "version": jaxfuse.__version__, "license": "Apache-2.0"}
    assert citation == citation | told | {"authors": [{"name": "The jaxfuse developers"}]}
    assert {"message", "title", "type"} <= citation.keys()
    assert jaxfuse.__version__ in TEXTS["CHANGELOG.md"]


def test_every_command_and_every_recipe_is_told_of():
    documented = {words[0] for words in commands("docs/reference/commands.md")}
    assert {f"jaxfuse.{name}" for name in COMMANDS} <= documented
    assert all(path.stem in TEXTS["README.md"] for path in (ROOT / "configs").glob("*.py"))
    assert "exit code" in TEXTS["docs/reference/commands.md"]
