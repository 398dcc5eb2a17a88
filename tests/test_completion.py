"""Completion of the command line: what bash offers, and what stands in the scripts of zsh and fish."""

import shutil
import subprocess

import pytest
from absl import flags

from jaxfuse import completion, recipe_files
from jaxfuse.commands import COMMANDS
from tests.refusals import refused

# Reads lines, and prints what is offered at the end of each, between bars.
_DRIVER = r"""
while IFS= read -r COMP_LINE; do
    COMP_POINT=${#COMP_LINE}
    _jaxfuse
    printf '%s|' "${COMPREPLY[@]}"
    echo
done
"""


@pytest.fixture(scope="module")
def words():
    before = set(flags.FLAGS)
    found = completion.words()
    assert set(flags.FLAGS) == before
    return found


@pytest.fixture(scope="module")
def offered(words):
    """Asks bash what it offers at the end of lines -> the words of each."""

    def complete(*lines: str) -> list[list[str]]:
        script = completion.SHELLS["bash"](words) + _DRIVER
        given = {"input": "".join(f"{line}\n" for line in lines), "capture_output": True, "text": True}
        done = subprocess.run(["bash", "--norc", "-c", script], **given, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        return [line.split("|")[:-1] for line in done.stdout.splitlines()]

    return complete


def test_bash_offers_what_may_follow(offered):
    cases = {
        "jaxfuse ": list(COMMANDS),
        "jaxfuse pre": ["predict"],
        "jaxfuse train ": list(recipe_files.names()),
        "jaxfuse train cm": ["cmff"],
        "jaxfuse train cmff:t": ["tiny"],
        "jaxfuse train cmff:tiny,row=S": ["S_A", "S_B", "S_A+S_B"],
        "jaxfuse train --config=cmff:tiny,row=w": ["wo_MG", "w_CA"],
        "jaxfuse describe --config hyperfusion:data=": ["iseg", "stroke"],
        "jaxfuse train cmff --preset ": ["tiny", "paper"],
        "jaxfuse train cmff --preset=p": ["paper"],
        "jaxfuse train configs/infinet.py --row a": ["aggregated", "axial"],
        "jaxfuse train cmff --row=unet": [],
        "jaxfuse train cmff --wor": ["--workdir="],
        "jaxfuse train cmff --config.data.roo": ["--config.data.root="],
        "jaxfuse predict --workdir runs/a --missing ": ["refuse", "zero", "impute"],
        "jaxfuse predict --missing=z": ["zero"],
        "jaxfuse predict --over": ["--overlap=", "--overwrite"],
        "jaxfuse predict --workdir ": [],
        "jaxfuse predict runs": [],
        "jaxfuse completion ": ["bash", "zsh", "fish"],
    }
    assert dict(zip(cases, offered(*cases), strict=True)) == {line: found or [""] for line, found in cases.items()}


def test_every_option_is_offered(words, offered):
    shown = offered(*(f"jaxfuse {command} --" for command in COMMANDS))
    for options, found in zip(words.options.values(), shown, strict=True):
        named = [f"--{one.name}{'=' if one.takes_value else ''}" for one in options if one.name != "first"]
        assert found == (named or [""])
    assert {"workdir", "config", "row"} <= {one.name for one in words.options["train"]}


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_are_told_the_same_words(words, shell):
    script = completion.SHELLS[shell](words)
    told = [*COMMANDS, *recipe_files.names(), "S_A+S_B", "config.data.root", "brats2023", words.version]
    assert [word for word in told if word not in script] == []
    if program := shutil.which(shell):
        checked = subprocess.run([program, "-n", "-c", script], capture_output=True, text=True, check=False)
        assert (checked.returncode, checked.stderr) == (0, "")


def test_fish_quotes_what_an_option_is_for(words):
    assert "-d 'Recipe, such as" in completion.SHELLS["fish"](words)
    assert completion.shell_scripts._fish("it's \\") == "'it\\'s \\\\'"


def test_the_command_prints_the_script(words, capsys):
    assert completion.main(["completion", "bash"]) == 0
    assert capsys.readouterr() == (completion.SHELLS["bash"](words), "")


@pytest.mark.parametrize("given", [[], ["tcsh"], ["bash", "zsh"]])
def test_what_is_no_shell_is_refused(given):
    told = f"{' '.join(given) or 'nothing'!r} is no shell; name one of bash, zsh, fish: jaxfuse completion bash"
    refused(told, completion.main, ["completion", *given])
