"""The page of an evaluation: what it says is what cases.csv says, whatever the cases are called."""

import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from jaxfuse.labels import label_scheme
from jaxfuse.metrics.names import metric_of
from jaxfuse.metrics.protocols import BRATS, METRICS
from jaxfuse.metrics.regions import score_case, summary_document
from jaxfuse.report.evaluation import Compared, Evaluation, Method, write_evaluation
from tests.made_cases import nested_cubes

SCHEME, ODD = label_scheme("brats"), "<script>alert(1)</script>"


def classes(shift: int, *, without: int | None = None) -> np.ndarray:
    """Class indices of nested cubes, moved along the first axis; one class may be absent."""
    label = np.roll(nested_cubes((14, 12, 10), {2: 4, 1: 3, 3: 2}), shift, axis=0)
    return np.where(label == without, 0, label)


def method(folder: str, shifts: dict[str, int], *, one_empty: float = math.nan, refused: bool = False) -> Method:
    """A method whose predictions are off by so many voxels; the enhancing tumor of one case is not found."""
    rows = []
    for case, shift in shifts.items():
        pred = classes(shift, without=3 if shift > 1 else None)
        given = {"spacing_mm": (1.0, 1.0, 1.0), "one_empty": one_empty, "case": case, "output": "prediction"}
        rows += score_case(pred, classes(0), SCHEME, protocol=BRATS, **given)
    summary = summary_document(rows, primary="prediction", one_empty=one_empty)
    left_out = {"without_prediction": ["z9"], "without_reference": [], "refused": {ODD: "is no volume"}}
    nothing = {"without_prediction": [], "without_reference": [], "refused": {}}
    return Method(Path(folder), rows, summary | {"labels": "brats"} | (left_out if refused else nothing))


def page(tmp_path: Path, compared: Compared | None = None, **methods: Method) -> str:
    write_evaluation(tmp_path / "report.html", Evaluation("brats", "prediction", Path("ref"), methods, compared))
    return (tmp_path / "report.html").read_text(encoding="utf-8")


class _Tables(HTMLParser):
    """The texts of the cells of all tables, row by row, by the id of the table; and the tags left open."""

    VOID = ("meta", "input", "br", "line", "rect", "circle", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: dict[str, list[list[str]]] = {}
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.table = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.loaded += [value for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "table":
            self.table = dict(attrs).get("id") or str(len(self.rows))
            self.rows[self.table] = []
        elif tag == "tr":
            self.rows[self.table].append([])
        elif tag in ("td", "th"):
            self.rows[self.table][-1].append("")

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.rows[self.table][-1][-1] += data


def test_the_numbers_of_the_cases_are_those_of_the_table(tmp_path):
    methods = {"a": method("out/a", {"c1": 0, "c2": 1}), "b": method("out/b", {"c1": 2, "c2": 0})}
    parsed = _Tables(page(tmp_path, **methods))
    assert (parsed.open, parsed.loaded) == ([], [])
    head, *rows = parsed.rows["cases"]
    assert [row[:3] for row in rows] == [[c, r, m] for c in ("c1", "c2") for r in ("WT", "TC", "ET") for m in "ab"]
    shown = {tuple(row[:3]): dict(zip(head[3:], row[3:], strict=True)) for row in rows}
    for name, one in methods.items():
        for row in one.rows:
            texts = shown[row["case"], row["region"], name]
            for metric in BRATS.metrics:
                assert texts[f"{metric.title} {metric.arrow}"] == metric.text(row[metric.name])
            assert float(texts["Truth (mm³) "]) == row["truth_mm3"]
    assert shown["c1", "ET", "b"]["HD95 (mm) ↓"] == "undefined"


def test_the_summary_has_the_better_mean_in_bold(tmp_path):
    methods = {"a": method("a", {"c1": 0, "c2": 1}), "b": method("b", {"c1": 2, "c2": 0})}
    text = page(tmp_path, **methods)
    rows = _Tables(text).rows["0"]
    assert [row[:2] for row in rows[1:3]] == [["WT", "a"], ["", "b"]]
    means = [one.summary["outputs"]["prediction"]["WT"]["dice"]["mean"] for one in methods.values()]
    assert [row[2].split(" ")[0] for row in rows[1:3]] == [metric_of("dice", METRICS).text(mean) for mean in means]
    bold = re.findall(r'<td class="num best">([0-9.]+)', text)
    assert bold[0] == f"{max(means):.3f}"
    assert any("1 undefined" in text for text in rows[6])
    assert "best" not in re.findall("<tbody>.*?</tbody>", page(tmp_path, a=methods["a"]), re.DOTALL)[0]


def test_one_case_of_one_method_needs_no_choice_of_either(tmp_path):
    text = page(tmp_path, only=method("only", {"c1": 1}))
    parsed = _Tables(text)
    assert parsed.open == []
    assert [row[:2] for row in parsed.rows["cases"][1:]] == [["c1", region] for region in ("WT", "TC", "ET")]
    assert 'name="region"' in text
    assert 'name="method"' not in text
    assert "Methods compared" not in text


def test_names_cannot_become_markup(tmp_path):
    odd = {ODD: 0, 'c"2': 2}
    compared = Compared([{"Place": "1", "Method": ODD}], [{"Metric": "Dice", "Region": "WT", "Pair": ODD}], [ODD])
    text = page(tmp_path, compared, **{ODD: method(ODD, odd, refused=True), "b": method("b", odd)})
    assert len(re.findall("<script", text)) == 1
    parsed = _Tables(text)
    assert parsed.open == []
    assert {row[0] for row in parsed.rows["cases"][1:]} == set(odd)
    assert {row[2] for row in parsed.rows["cases"][1:]} == {ODD, "b"}


def test_cases_without_a_score_are_named(tmp_path):
    left_out = page(tmp_path, a=method("a", {"c1": 0}, refused=True)).partition("<h2>Left out</h2>")[2]
    assert re.findall("<li>(.*)</li>", left_out) == [
        "<strong>&lt;script&gt;alert(1)&lt;/script&gt;</strong>: is no volume",
        "<strong>z9</strong>: no prediction",
    ]


def test_images_that_have_no_regions_are_scored_without_a_column_of_them(tmp_path):
    outputs = {}
    for output, psnr in (("synthesized", 30.0), ("copy of t1", 20.0)):
        outputs[output] = {"psnr_db": {"mean": psnr, "std": 1.0, "median": psnr, "n": 2, "undefined": 0}}
    summary = {"cases": 2, "outputs": outputs, "refused": {}, "without_prediction": [], "without_reference": []}
    rows = [{"case": case, "output": "synthesized", "psnr_db": value} for case, value in (("a", 29.0), ("b", 31.0))]
    rows.append({"case": "a", "output": "copy of t1", "psnr_db": 20.0})
    one = Method(Path("made"), rows, summary)
    write_evaluation(tmp_path / "r.html", Evaluation("synthesis", "synthesized", Path("ref"), {"made": one}, None))
    tables = _Tables((tmp_path / "r.html").read_text(encoding="utf-8")).rows
    assert tables["cases"] == [["Case", "PSNR (dB) ↑"], ["a", "29.00"], ["b", "31.00"]]
    assert [row[0] for row in tables["0"]] == ["Method", "made", "copy of t1"]


def test_style_and_script_lie_within_the_page(tmp_path):
    text = page(tmp_path, a=method("a", {"c1": 0}))
    assert "addEventListener" in text
    assert "color-scheme: light dark" in text
    assert not re.search(r"<link|@import|url\(|https?://|<script src", text)
