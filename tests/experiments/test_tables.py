"""Published tables: rows open at both presets, ask for scores that there are, and stand beside what is printed."""

import ast
import csv
from pathlib import Path

import numpy as np
import pytest

from experiments.tables import cmff, fuse4seg, hinet, hyperfusion, infinet, making
from experiments.tables.published import Column, Line, Published, markdown, number, write
from jaxfuse.metrics.fusion import METRICS as OF_FUSED
from jaxfuse.metrics.names import names_of
from jaxfuse.metrics.protocols import PROTOCOLS
from jaxfuse.metrics.synthesis import METRICS as OF_SYNTHESIZED

TABLES = [table for module in (cmff, fuse4seg, hinet, hyperfusion, infinet) for table in module.TABLES]
SCORES = {protocol.name: set(names_of(protocol.metrics)) for protocol in PROTOCOLS}
SCORES |= {"synthesis": set(names_of(OF_SYNTHESIZED)), "fusion": set(names_of(OF_FUSED))}


def asked(preset, **given):
    return making.Asked(preset, (0,), Path("runs"), Path("data"), Path("held"), given)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.key)
def test_rows_open_at_both_presets_and_ask_for_scores_that_there_are(table):
    for line in table.lines:
        assert line.absent or line.argument, "a row is made, or says why not"
        for preset in () if line.absent else (making.DEMO, making.PAPER):
            argument, config = making.config_of(table, line, asked(preset))
            recipe = making.recipe_of(table, line)
            assert argument.startswith(f"configs/{recipe}.py:{'tiny' if preset == making.DEMO else 'paper'}")
            assert set(line.phases) <= set(config.schedule)
        assert set(line.published) <= set(table.columns)
        assert all(np.isfinite(number(text)) for text in line.published.values())
    assert {column.metric for column in table.columns.values()} <= SCORES[table.protocol[0]]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return making.Asked(making.DEMO, (0,), tmp_path_factory.mktemp("demo"), None, None, {})


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.key)
def test_a_demo_has_cases_to_score(table, demo):
    line = next(line for line in table.lines if not line.absent)
    assert len(list(making.held_out(table, line, demo).iterdir())) >= 2


def test_keys_are_unique_and_runs_of_one_name_are_of_one_training():
    assert len({table.key for table in TABLES}) == len(TABLES)
    runs: dict[tuple[str, str], set[tuple[str, ...]]] = {}
    for table in TABLES:
        for line in table.lines:
            runs.setdefault((making.recipe_of(table, line), line.training), set()).add((line.argument, *line.options))
    assert all(len(found) == 1 for (_, name), found in runs.items() if name != "default")


def test_of_all_networks_of_fuse4seg_s_tables_one_is_not_made_and_the_rivals_read_the_pair_of_their_table():
    absent = {
        line.name for table in fuse4seg.TABLES if table.key != "fuse4seg_table_3" for line in table.lines if line.absent
    }
    assert absent == {"DDFM"}
    for table in fuse4seg.TABLES[:3]:
        pair = table.key.removeprefix("fuse4seg_table_1_").split("_")
        for line in table.lines:
            _, config = making.config_of(table, line, asked(making.DEMO))
            for option in line.options:
                path, _, value = option.removeprefix("--config.").partition("=")
                assert isinstance(_at(config, path), tuple), "an option that the recipe has"
                assert ast.literal_eval(value) in (tuple(pair), ("+".join(pair),))


def _at(config, path):
    for name in path.split("."):
        config = config[name]
    return config


TWO = Published(
    "made_up",
    "A table",
    "cmff",
    ("brats",),
    {"Dice ET": Column("ET", "dice", 100, 1), "Dice mean": Column("mean", "dice", 100, 1)},
    (
        Line("ours", {"Dice ET": "75.7", "Dice mean": "82.8"}, "row=ours"),
        Line("of others", {"Dice mean": "81.0±2.0"}, absent="it is quoted"),
        Line("from pictures", {}, "row=voc", needs="voc=voc.data.root"),
    ),
    ("A note.",),
)


def test_values_are_read_from_the_summary_in_the_units_of_the_paper():
    scores = {name: {"dice": {"mean": mean}} for name, mean in {"ET": 0.5, "WT": 0.8, "TC": 0.6}.items()}
    summary = {"primary": "S_F", "outputs": {"S_F": scores, "S_A": {}}}
    found = making.values(TWO, TWO.lines[0], summary)
    assert found == pytest.approx({"Dice ET": 50.0, "Dice mean": 100 * 1.9 / 3})


def test_a_row_without_its_data_says_what_it_needs():
    without = making.with_reasons(TWO, asked(making.DEMO))
    assert [line.absent for line in without.lines] == ["", "it is quoted", "it needs --voc DIR"]
    assert making.with_reasons(TWO, asked(making.DEMO, voc=Path("voc"))).lines[2].absent == ""


def test_a_table_holds_both_numbers_and_names_what_was_not_made(tmp_path):
    made = {"ours": [{"Dice ET": 70.0, "Dice mean": 80.0}, {"Dice ET": 74.0, "Dice mean": 80.0}]}
    text = write(making.with_reasons(TWO, asked(making.DEMO)), made, "Ours: made up.", tmp_path)
    (line,) = [line for line in text.splitlines() if line.startswith("| ours")]
    assert [cell.strip() for cell in line.split("|")[1:-1]] == ["ours", "72.0 ± 2.8", "75.7", "80.0 ± 0.0", "82.8"]
    assert "- of others: not made here: it is quoted." in text
    assert "- from pictures: not made here: it needs --voc DIR." in text
    rows = list(csv.DictReader((tmp_path / "made_up.csv").read_text().splitlines()))
    assert len(rows) == 4
    assert {row["published"] for row in rows} == {"75.7", "82.8"}
    assert (tmp_path / "made_up.png").stat().st_size > 1000
    assert "72.0" not in markdown(TWO, {}, "")
