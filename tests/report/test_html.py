import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxfuse.engine.run_folder.metric_writer import MetricWriter
from jaxfuse.io.png import write_png
from jaxfuse.io.tables import read_json, read_rows, write_json, write_rows
from jaxfuse.report import html
from jaxfuse.report.html import write_report
from jaxfuse.report.page import Section
from tests.refusals import refused

GOLDEN, CASES = Path(__file__).parent / "golden", ("a", "b", "c")  # b has the lowest Dice, a the highest


def make_workdir(folder: Path, *, row: str = "ours", dice: float = 0.5, pictures: bool = False) -> Path:
    """A run that came to a segmentation of this mean Dice, after a translation."""
    config = {"name": "cmff", "preset": "", "row": row, "variant": "", "seed": 0, "data": {"root": ""}}
    write_json(folder / "config.json", {**config, "schedule": ["transition", "fusion"]})
    command = "python -m jaxfuse.train --config configs/cmff.py"
    told = {
        "device": "1 x cpu",
        "seeds": {"seed": 7},
        "variables": {"XLA_FLAGS": "--dump=/a"},
        "earlier": [{"host": "b"}],
    }
    write_json(folder / "environment.json", {"versions": {"jax": "0.10.2"}, **told, "command": command})
    facts = {"fingerprint": "abc", "modalities": ("t1", "flair"), "train": ["d"], "val": CASES}
    write_json(folder / "dataset.json", facts)
    for phase, name in (("transition", "translation"), ("fusion", "brats_penalty")):
        given = read_json(GOLDEN / f"{name}.json")
        if phase == "fusion":
            given["summary"]["outputs"]["S_F"]["mean"]["dice"]["mean"] = dice
        write_json(folder / "results" / phase / "summary.json", given["summary"])
        write_rows(folder / "results" / phase / "cases.csv", given["rows"])
    if pictures:
        _write_metrics(folder)
        for name in ("fusion/a", "fusion/b", "fusion/d", "transition/a"):
            write_png(folder / "figures" / f"{name}.png", np.zeros((4, 4), np.uint8))
    return folder


def _write_metrics(folder: Path) -> None:
    writer = MetricWriter(folder)
    for step in range(10, 201, 10):
        writer.write(step, "transition", "train", {"generators/loss": 4.0 / step, "discriminators/loss": 0.25})
    for step in range(10, 401, 10):
        writer.write(step, "fusion", "train", {"net/loss": 3 * 0.99**step, "net/S_F": 0.99**step})
        if step % 100 == 0:
            writer.write(step, "fusion", "val", {"S_F/dice/mean": 1 - 0.99**step, "S_F/hd95_mm/mean": 3000 / step})
    writer.close()


class _Page(HTMLParser):
    """Collects the addresses that a browser would load, and the tags left open."""

    VOID = ("meta", "img", "br", "source", "link", "line", "circle")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "srcset", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    return _html(make_workdir(tmp_path_factory.mktemp("runs") / "cmff", pictures=True))


def _text(page: str) -> str:
    without_style = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", without_style))


def _html(folder: Path, **options: Any) -> str:
    return write_report(folder, **options).read_text(encoding="utf-8")


def _report(folder: Path, **options: Any) -> str:
    """The text of the report of a run."""
    return _text(_html(folder, **options))


def test_the_page_loads_nothing_from_outside(page):
    parsed = _Page(page)
    assert parsed.open == []
    # Curves for light and dark, three panels of the fusion, one of the transition.
    assert len(parsed.addresses) == 6
    assert all(address.startswith("data:image/png;base64,") for address in parsed.addresses)
    assert not re.search(r"<script|<link|@import|url\(|https?://", page)


def test_a_dark_screen_has_curves_of_its_own(page):
    # Browsers take no "(not print)" as a condition.
    assert re.findall('<source media="(.*?)"', page) == ["screen and (prefers-color-scheme: dark)"]


def test_the_time_of_a_slice_is_not_that_of_a_subject(tmp_path):
    path = make_workdir(tmp_path / "slices") / "results" / "fusion" / "summary.json"
    document = read_json(path)
    document["seconds_per_slice"] = document.pop("seconds_per_subject")
    write_json(path, document)
    assert set(re.findall("3.2 s per [a-z]+", _report(tmp_path / "slices"))) == {"3.2 s per slice"}


def test_the_worst_case_comes_first_with_its_panel(page):
    worst = _text(page).partition("The worst cases")[2]
    assert worst.index("b 0.000") < worst.index("a 1.000")
    assert page.index('alt="panel of b"') < page.index("Other cases") < page.index('alt="panel of d"')


def test_what_ran_is_said_and_phantoms_are_called_phantoms(page):
    text = _text(page)
    facts = ("cmff · ours", "transition → fusion", "1 x cpu", "configs/cmff.py", "jax 0.10.2", "1 training, 3 val")
    for fact in (*facts, "Phantom scores."):
        assert fact in text, fact
    assert "seeds: seed" in text
    for kept_apart in ("XLA_FLAGS", "earlier", "Overfit check"):
        assert kept_apart not in page


def test_training_cases_in_the_validation_are_said(tmp_path):
    folder = make_workdir(tmp_path)
    write_json(folder / "config.json", {"name": "cmff", "row": "ours", "data": {"root": "/data/brats"}})
    write_json(folder / "dataset.json", {"train": CASES[:1], "val": CASES[:1]})
    assert re.findall("Overfit check|Phantom scores", _report(folder)) == ["Overfit check"]
    write_json(folder / "dataset.json", {"train": CASES[:2], "val": CASES[1:]})
    assert "1 of 2 validation cases are training cases too" in _report(folder)


def test_related_rows_stand_side_by_side_only_on_the_same_data(tmp_path):
    mine = make_workdir(tmp_path / "mine", row="S_A", dice=0.4)
    better = make_workdir(tmp_path / "better", row="ours")
    elsewhere = make_workdir(tmp_path / "elsewhere", row="random", dice=0.9)
    write_json(elsewhere / "dataset.json", {"fingerprint": "other"})
    text = _report(mine, related=[mine, better, elsewhere, tmp_path / "absent"])
    rows = text[text.index("Rows trained so far") :]
    assert rows.index("ours") < rows.index("S_A (this run)")
    assert "random" not in rows
    assert "Rows trained so far" not in _report(mine)


def test_what_is_missing_is_left_out(tmp_path):
    write_json(tmp_path / "config.json", {"name": "cmff"})
    page = _html(tmp_path)
    assert _Page(page).addresses == []
    for word in ("Results", "Learning curves", "Dice", "Phantom", "Rows trained", "Device"):
        assert word not in _text(page), word
    assert not (tmp_path / "figures").exists()


def test_a_folder_without_a_run_is_refused_and_names_from_files_cannot_become_markup(tmp_path):
    refused("no config.json", write_report, tmp_path)
    write_json(tmp_path / "config.json", {"name": "<b>bold</b>"})
    assert "<b>bold" not in write_report(tmp_path).read_text(encoding="utf-8")


def test_a_half_written_metric_row_is_tolerated_and_a_broken_one_refused(tmp_path):
    write_json(tmp_path / "config.json", {"name": "cmff"})
    whole = '{"step": 7, "phase": "fusion", "split": "train", "net/loss": "nan", "net/S_F": 0.5}\n'
    (tmp_path / "metrics.jsonl").write_text(whole + '{"step": 8, "ph')
    assert "7 steps" in _report(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step"\n' + whole)
    refused("line 1", write_report, tmp_path)


def test_learning_curves_are_tables_too(tmp_path):
    write_json(tmp_path / "config.json", {"name": "cmff"})
    _write_metrics(tmp_path)
    write_report(tmp_path)
    rows = read_rows(tmp_path / "results/fusion/learning_curve.csv")
    assert [row["step"] for row in rows] == [100, 200, 300, 400]
    assert rows[0]["S_F/dice/mean"] == pytest.approx(1 - 0.99**100)
    assert not (tmp_path / "results/transition").exists()


def make_synthesis(folder: Path, *, row: str, psnr: float, target: str = "flair") -> Path:
    """A run that judged synthesized volumes beside a copied source."""
    write_json(folder / "config.json", {"name": "hinet", "row": row, "schedule": ["synthesis"]})
    write_json(folder / "dataset.json", {"fingerprint": "abc"})
    summary = {"kind": "synthesis", "primary": "synthesized", "target": target, "cases": 5, "seconds_per_subject": 2}
    summary["outputs"] = {}
    for output, mean, undefined in (("synthesized", psnr, 0), ("copy of t1", 20.0, 1)):
        common = {"n": 5 - undefined, "undefined": undefined}
        scores = {"psnr_db": mean, "nmse": 1 / mean, "ssim": mean / 30}
        made = {name: {"mean": value, "std": value / 20, "median": value, **common} for name, value in scores.items()}
        summary["outputs"][output] = made
    summary["definitions"] = {"Grids": "160 x 180 x 155 voxels of each subject"}
    write_json(folder / "results" / "synthesis" / "summary.json", summary)
    return folder


def test_syntheses_on_the_same_data_stand_side_by_side_best_psnr_first(tmp_path):
    mine = make_synthesis(tmp_path / "mine", row="early", psnr=23.0)
    others = [
        make_synthesis(tmp_path / "better", row="hybrid", psnr=25.0),
        make_synthesis(tmp_path / "other", row="to_t2", psnr=24.0, target="t2"),
        make_workdir(tmp_path / "segmentation", row="unet"),
    ]
    page = _html(mine, related=others)
    assert _Page(page).open == []
    text = _text(page)
    rows = text[text.index("Rows trained so far") : text.index("How to repeat it")]
    assert "PSNR (dB) ↑ NMSE ↓ SSIM ↑ Row flair t2 flair t2 flair t2 Cases" in rows
    # The better one has no value in the column of t2.
    assert "hybrid better 25.00 0.0400 0.833 5" in rows
    assert rows.index("hybrid") < rows.index("to_t2") < rows.index("early (this run)")
    assert "unet" not in rows
    assert "highest PSNR first" in rows


def test_a_section_is_an_entry_of_sections(tmp_path, monkeypatch):
    write_json(tmp_path / "config.json", {"name": "cmff"})
    told = Section(lambda run: {"name": run.config["name"] + "<"}, "<h2>Told of {{ name }}</h2>")
    silent = Section(lambda run: None, "<h2>Nothing</h2>")
    monkeypatch.setattr(html, "SECTIONS", (*html.SECTIONS, told, silent))
    assert re.findall("<h2>(?:Told|Nothing).*", _html(tmp_path)) == ["<h2>Told of cmff&lt;</h2>"]
