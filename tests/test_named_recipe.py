"""The recipe among the arguments: every way of naming it is one, and what is said twice is refused."""

from pathlib import Path

import pytest

from jaxfuse.named_recipe import gathered
from tests.refusals import refused

CMFF = Path(__file__).resolve().parents[1] / "configs" / "cmff.py"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("cmff", ""),
        (f"{CMFF}", ""),
        ("cmff:tiny", ":tiny"),
        ("cmff --preset tiny", ":tiny"),
        ("--preset=tiny --config cmff", ":tiny"),
        ("-config=cmff -preset tiny", ":tiny"),
        (f"--config={CMFF}:tiny,row=S_A", ":tiny,row=S_A"),
        ("cmff:tiny --row S_A", ":tiny,row=S_A"),
        ("cmff:row=S_A --preset=tiny", ":tiny,row=S_A"),
        ("cmff --row S_A+S_B --data x --preset tiny", ":tiny,row=S_A+S_B,data=x"),
        ("--config cmff:,row=S_A", ":row=S_A"),
        ("cmff:", ":"),
    ],
)
def test_a_recipe_is_gathered_from_its_parts(given, text):
    rest = ["--workdir", "runs/a", "--config.fusion.steps=3"]
    assert gathered(["train", *given.split(), *rest]) == ["train", f"--config={CMFF}{text}", *rest]


def test_what_does_not_name_a_recipe_stays_as_it_is():
    for words in (["--workdir=a"], ["--preset", "tiny"], [], ["--config"], ["--", "--config", "cmff"], ["--config="]):
        assert gathered(["train", *words]) == ["train", *words]
    assert gathered(["train", "cmff", "stray", "--", "--row"]) == ["train", f"--config={CMFF}", "stray", "--", "--row"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("cmff --config hinet", "the recipe is given twice, as cmff and in --config; leave one out"),
        ("cmff:tiny --preset paper", "the preset is given twice, in cmff:tiny and as --preset=paper; leave one out"),
        ("cmff:row=S_A --row=S_B", "the row is given twice, in cmff:row=S_A and as --row=S_B"),
        ("cmff --data=a --data=b", "the data variant is given twice, as a and in --data=b"),
    ],
)
def test_what_is_said_twice_is_refused(given, told):
    refused(told, gathered, ["train", *given.split()])
