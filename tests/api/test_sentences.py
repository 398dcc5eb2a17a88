"""Sentences of the commands in the words of Python."""

import pytest

from jaxfuse.api.sentences import in_python, told_in_python
from jaxfuse.errors import OutputError
from tests.refusals import refused


@pytest.mark.parametrize(
    ("sentence", "told"),
    [
        ("move it, name another --out, or pass --overwrite to replace it",
         "move it, name another out, or pass overwrite to replace it"),
        ("choose anew by python -m jaxfuse.postprocess --workdir runs/a, or pass --postprocessing none",
         "choose anew by python -m jaxfuse.postprocess --workdir runs/a, or pass postprocessing none"),
        ("give it with --config.voc.data.root=DIR", "give it with voc.data.root=DIR"),
        ("a--b is no flag", "a--b is no flag"),
    ],
)  # fmt: skip
def test_options_lose_their_dashes_and_commands_keep_them(sentence, told):
    assert in_python(sentence) == told


def test_an_error_stays_of_its_kind():
    def fails():
        with told_in_python():
            raise OutputError("name another --out")

    refused("^name another out$", fails)
    with pytest.raises(OutputError):
        fails()
