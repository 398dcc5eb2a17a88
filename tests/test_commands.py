"""The table of commands: all that there are, each told of."""

from pathlib import Path

from jaxfuse.commands import COMMANDS, module_of

PACKAGE = Path(__file__).resolve().parents[1] / "jaxfuse"


def test_every_module_with_a_command_is_in_the_table_and_no_other():
    own = {path.stem for path in PACKAGE.glob("*.py") if "cli.run(" in path.read_text()}
    own |= {path.parent.name for path in PACKAGE.glob("*/__main__.py")}
    assert set(COMMANDS) == own
    assert module_of("train") == "jaxfuse.train"


def test_every_command_is_told_of_in_a_line_and_on_the_page_of_commands():
    page = (PACKAGE.parent / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
    for name, told in COMMANDS.items():
        assert told
        assert len(told) <= 100
        assert f"`jaxfuse {name}" in page
