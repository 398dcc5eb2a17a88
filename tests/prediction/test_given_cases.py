"""Cases that a command is given: whole ones are worked on, the others left out by name."""

from configs import cmff
from jaxfuse.config import parse
from jaxfuse.prediction.given_cases import given_cases
from tests.made_cases import head, write_case


def test_a_case_without_a_file_is_left_out_by_name(tmp_path):
    images, said = head((8, 8, 8), 0), []
    for name, modalities in {"a": ("t1", "t2"), "b": ("t1",), "c": ("t1", "t2")}.items():
        write_case(tmp_path / "in", name, {one: images[one] for one in modalities})
    given = given_cases(tmp_path / "in", parse(cmff.get_config("tiny")).data, ("t1", "t2"), said.append)
    assert [one.id for one in given.files] == ["a", "c"]
    assert list(given.batch.refused) == ["b"]
    (sentence,) = said
    assert sentence.startswith("left out: case b has no t2 image")
    assert given.reads == [("--input", tmp_path / "in")]
