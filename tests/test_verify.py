"""The command: exit codes, output, and a start without JAX."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from jaxfuse import verify
from jaxfuse.data.verify import Problem, Verdict
from jaxfuse.verify import show
from tests.commands import call_here
from tests.made_cases import head, nested_cubes, write_case


def make(root: Path, *, without: str = "") -> Path:
    arrays = head((12, 12, 12), 0) | {"seg": nested_cubes((12, 12, 12), {2: 3, 1: 2, 4: 1})}
    return write_case(root, "p", {suffix: array for suffix, array in arrays.items() if suffix != without}).parent


def command(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run([sys.executable, "-m", "jaxfuse.verify", *arguments], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_sound_data_exit_with_0(tmp_path):
    code, out, err = command("--root", str(make(tmp_path)))
    assert (code, err) == (0, "")
    summary, needs = out.strip().splitlines()
    assert summary == "1 case of 1 subject (without remarks: 1), layout generic, labels brats; fatal: 0, warnings: 0"
    assert needs.startswith("preparing 1 case takes at most 90 MB of memory")


def test_fatal_problem_exits_with_1_and_json_is_alone_on_standard_output(tmp_path):
    code, out, err = command("--root", str(make(tmp_path, without="t2")), "--json")
    assert (code, err) == (1, "")
    verdict = json.loads(out)
    assert verdict["problems"] == [{"case": "p", "severity": "fatal", "message": "no t2 image: p_t2.nii.gz is missing"}]
    assert (verdict["cases"], verdict["fatal"], verdict["warnings"], verdict["needs"]) == (["p"], 1, 0, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [("--root .", "no case lies under"), ("", "--root DIR"), ("--root . --layuot=x", "layuot"), (".", "--root DIR")],
)
def test_usage_mistakes_exit_with_2_and_one_sentence(tmp_path, arguments, message):
    code, out, err = command(*(str(tmp_path) if one == "." else one for one in arguments.split()))
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert "Traceback" not in err


def test_table_prints_brackets_as_they_are(capsys):
    problem = Problem("p", "fatal", "affine [1 0 0 0; 0 1 0 0] [red]")
    show(Verdict(Path("r"), "generic", "brats", ("t1",), ("p",), {"p": ("p",)}, (problem,)), Console(width=120))
    assert "affine [1 0 0 0; 0 1 0 0] [red]" in capsys.readouterr().out


def test_folds_are_written_in_the_form_of_nnunet(tmp_path):
    for number in range(4):
        write_case(tmp_path / "set", f"p{number}", head((12, 12, 12), number) | {"seg": nested_cubes((12, 12, 12))})
    call_here(verify, root=tmp_path / "set", write_splits=tmp_path / "splits_final.json", folds=2)
    folds = json.loads((tmp_path / "splits_final.json").read_text())
    assert [sorted(fold) for fold in folds] == [["train", "val"]] * 2
    assert sorted(case for fold in folds for case in fold["val"]) == ["p0", "p1", "p2", "p3"]
