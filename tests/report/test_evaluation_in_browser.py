"""The page of an evaluation in a browser: clicks sort, fields filter, the wheel and the keys turn slices."""

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from jaxfuse.labels import label_scheme
from jaxfuse.metrics.calibration import METRICS
from jaxfuse.metrics.groups import by_table, scores_by_group
from jaxfuse.metrics.statistics import statistics
from jaxfuse.report.calibration import calibration_part
from jaxfuse.report.canvas import CLASS_COLORS
from jaxfuse.report.evaluation import Evaluation, write_evaluation
from jaxfuse.report.groups import groups_part
from jaxfuse.report.lesions import lesions_part
from jaxfuse.report.parts import Part
from jaxfuse.report.pictured import Pictured
from jaxfuse.report.planes import VIEWS, plane
from jaxfuse.report.shown_cases import Pictures
from tests.report.test_evaluation import ODD, method

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="there is no Chromium to open the page in"),
]
SHAPE, SHIFTS = (9, 8, 7), {"c1": 0, "c2": 1, "c10": 2, ODD: 1}
# What a script of the test finds in the page is written into it as JSON.
HARNESS = """<script>
(async () => {
  const found = {}, wait = () => new Promise((done) => setTimeout(done, 20));
  const all = (selector) => [...document.querySelectorAll(selector)];
  const told = () => document.querySelector("#viewer output").textContent;
  while (document.querySelector("#viewer") && !told().startsWith("voxel")) await wait();
  try { STEPS } catch (error) { found.error = String(error); }
  const out = document.createElement("pre");
  out.id = "found";
  out.textContent = JSON.stringify(found);
  document.body.append(out);
})();
</script></body>"""
COLUMN = """
  const column = (name) => all("#cases th").findIndex((head) => head.textContent.trim().startsWith(name));
  const texts = (name) => all("#cases tbody tr").filter((row) => !row.hidden)
    .map((row) => row.cells[column(name)].textContent);
  const click = (name) => document.querySelectorAll("#cases th button")[column(name)].click();
"""
VIEWER = """
  const canvas = document.querySelector("#viewer canvas"), slider = document.querySelector("#viewer [type=range]");
  const change = (selector, value) => {
    const field = document.querySelector(selector);
    if (field.type === "checkbox") field.checked = value; else field.value = value;
    field.dispatchEvent(new Event("input", { bubbles: true }));
  };
  const colors = () => {
    const one = JSON.parse(document.getElementById("volumes").textContent).cases[0];
    const axis = one.views[document.querySelector("[name=plane]").value].axis;
    const [width, height] = one.shape.filter((_, index) => index !== axis);
    const pixels = canvas.getContext("2d"), rows = [];
    for (let row = 0; row < height; row++) {
      rows.push([]);
      for (let at = 0; at < width; at++) {
        const x = Math.floor((at + 0.5) * canvas.width / width), y = Math.floor((row + 0.5) * canvas.height / height);
        rows[row].push([...pixels.getImageData(x, y, 1, 1).data.slice(0, 3)]);
      }
    }
    return rows;
  };
"""


def opened(
    folder: Path,
    steps: str,
    pictures: Pictures | None = None,
    *names: str,
    parts: Sequence[Part] = (),
    scheme: str = "light",
) -> dict:
    """Opens the page of these methods, takes the steps in it, and returns what they found."""
    methods = {name: method(name, SHIFTS) for name in names or ("a", "b")}
    path = folder / "report.html"
    write_evaluation(path, Evaluation("brats", "prediction", Path("ref"), methods, None, pictures, parts))
    page = path.read_text(encoding="utf-8").replace("</body>", HARNESS.replace("STEPS", steps))
    path.write_text(page, encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'browser'}"]
    command += [f"--blink-settings=preferredColorScheme={int(scheme == 'light')}"]
    command += ["--virtual-time-budget=20000", "--dump-dom", path.as_uri()]
    dumped = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    text = re.findall('<pre id="found">(.*)</pre>', dumped)[0]
    found = json.loads(text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert "error" not in found, found["error"]
    return found


def test_a_click_sorts_numbers_as_numbers_and_undefined_last(tmp_path):
    steps = """
      click("HD95"); found.up = texts("HD95"); found.sort = document.querySelector("#cases [aria-sort]").textContent;
      click("HD95"); found.down = texts("HD95");
      click("Case"); found.cases = texts("Case");
    """
    found = opened(tmp_path, COLUMN + steps)
    numbers = [float(text) for text in found["up"] if text != "undefined"]
    assert len(numbers) == 22
    assert numbers == sorted(numbers)
    assert found["up"][22:] == found["down"][22:] == ["undefined"] * 2
    assert [float(text) for text in found["down"][:22]] == numbers[::-1]
    assert found["sort"].strip() == "HD95 (mm) ↓"
    assert found["cases"] == [case for case in (ODD, "c1", "c2", "c10") for _ in range(6)]


def test_fields_filter_by_case_region_and_method(tmp_path):
    steps = """
      const set = (name, value) => {
        const field = document.querySelector(`#filters [name=${name}]`);
        field.value = value;
        field.dispatchEvent(new Event("input", { bubbles: true }));
      };
      const shown = () => document.querySelector("#filters output").textContent;
      found.first = shown();
      set("case", "C1"); found.case = [...new Set(texts("Case"))]; found.told = shown();
      set("region", "ET"); set("method", "b");
      found.all = [texts("Case"), texts("Region"), texts("Method")];
      set("case", "<script>"); found.odd = texts("Case");
    """
    found = opened(tmp_path, COLUMN + steps)
    assert (found["first"], found["told"], found["case"]) == ("24 of 24 rows", "12 of 24 rows", ["c1", "c10"])
    assert found["all"] == [["c1", "c10"], ["ET", "ET"], ["b", "b"]]
    assert found["odd"] == [ODD]


def pictures() -> Pictures:
    """Cases whose voxels all differ; the truth marks one corner, method a another."""
    image = np.arange(1, np.prod(SHAPE) + 1).reshape(SHAPE)
    truth, pred = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    truth[:3, :3, :3], pred[-2:, -2:, -2:] = 1, 3

    def read(case, methods):
        return Pictured(image, "t1", truth, dict.fromkeys(sorted(methods), pred), (1.0, 1.0, 2.0))

    return Pictures(read, label_scheme("brats"), 1)


def test_the_wheel_the_keys_and_the_slider_turn_slices(tmp_path):
    steps = """
      slider.value = 2; slider.dispatchEvent(new Event("input", { bubbles: true })); found.slider = told();
      canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: 50, cancelable: true })); found.wheel = told();
      canvas.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowDown" })); found.key = told();
      for (let times = 0; times < 3; times++) canvas.dispatchEvent(new KeyboardEvent("keydown", { key: "PageUp" }));
      found.end = told();
      change("[name=plane]", "2"); found.plane = [told(), slider.max];
    """
    found = opened(tmp_path, VIEWER + steps, pictures())
    assert [found[name] for name in ("slider", "wheel", "key", "end")] == [f"voxel {at} of 7" for at in (2, 3, 2, 6)]
    assert found["plane"] == ["voxel 1 of 9", "8"]


@pytest.mark.parametrize("number", range(3))
def test_a_slice_is_the_upright_plane_with_the_chosen_labels(tmp_path, number):
    steps = f"""
      change("[name=plane]", "{number}"); change("#viewer [type=range]", "1");
      change("[data-layer='1']", false); found.filled = colors();
      change("[data-layer='0']", false); found.plain = colors();
      slider.value = slider.max; change("[data-layer='1']", true); found.far = canvas.toDataURL().length;
      change("[data-layer='1']", false); found.bare = canvas.toDataURL().length;
    """
    found, shown = opened(tmp_path, VIEWER + steps, pictures(), "a"), pictures().read("c1", {"a"})
    gray = plane(shown.image, VIEWS[number], 1).astype(float)
    low, high = np.quantile(shown.image, (0.005, 0.995))
    gray = (255 * (gray - low) / (high - low)).clip(0, 255)
    np.testing.assert_allclose(np.array(found["plain"]), np.repeat(gray[..., None], 3, axis=2), atol=3)
    fill = np.array([int(CLASS_COLORS[1][at : at + 2], 16) for at in (1, 3, 5)])
    marked = plane(shown.truth, VIEWS[number], 1)[..., None] > 0
    expected = np.where(marked, 0.55 * gray[..., None] + 0.45 * fill, gray[..., None])
    np.testing.assert_allclose(np.array(found["filled"]), expected, atol=3)
    assert found["far"] > found["bare"]


# The table below a title: its columns, and a click on one; the texts of a column, from above.
TITLED = """
  const section = (title) => all("section").find((one) => one.querySelector("h2")?.textContent === title);
  const table = (title) => section(title).querySelector("table");
  const place = (title, name) => [...table(title).tHead.rows[0].cells]
    .findIndex((head) => head.textContent.trim().startsWith(name));
  const down = (title, name) => [...table(title).tBodies[0].rows]
    .map((row) => row.cells[place(title, name)].textContent);
  const press = (title, name) => table(title).tHead.rows[0].cells[place(title, name)].querySelector("button").click();
"""
# (case, number, outcome, mm3, Dice); of the false alarm nothing is to be found.
LESIONS = (
    ("c10", 2, "found", 120.0, 0.91),
    ("c2", 10, "missed", 1500.0, 0.0),
    ("c2", 9, "false alarm", 80.0, 0.0),
    (ODD, 1, "found", 9.0, 0.5),
)


def lesions() -> list[Part]:
    """The lesions of two methods, of which both have the same."""
    rows = [
        {"case": case, "region": "WT", "lesion": number, "outcome": outcome, "volume_mm3": mm3, "found_mm3": mm3 / 2}
        | {"dice": dice, "hd95_mm": 374.0 if dice == 0 else 2.0, "x_mm": -1.5, "y_mm": 2.0, "z_mm": 30.25}
        for case, number, outcome, mm3, dice in LESIONS
    ]
    return lesions_part({"a": rows, "b": rows})


def test_lesions_are_worst_first_and_a_click_sorts_them(tmp_path):
    steps = """
      found.first = down("Lesions", "Volume"); found.cases = down("Lesions", "Case");
      press("Lesions", "Volume"); found.up = down("Lesions", "Volume");
      press("Lesions", "Volume"); found.down = down("Lesions", "Volume");
      press("Lesions", "Lesion"); found.numbers = down("Lesions", "Lesion");
      press("Lesions", "Outcome"); found.outcomes = down("Lesions", "Outcome");
      found.marked = table("Lesions").querySelectorAll("[aria-sort]").length;
      found.others = all("#cases [aria-sort]").length;
    """
    found = opened(tmp_path, TITLED + steps, parts=lesions())
    assert found["first"] == ["1500"] * 2 + ["80"] * 2 + ["9"] * 2 + ["120"] * 2, "by Dice, of equal ones the largest"
    assert found["cases"] == ["c2"] * 4 + [ODD] * 2 + ["c10"] * 2
    assert found["up"] == [text for mm3 in ("9", "80", "120", "1500") for text in (mm3, mm3)]
    assert found["down"] == found["up"][::-1]
    assert found["numbers"] == [text for number in ("1", "2", "9", "10") for text in (number, number)]
    assert found["outcomes"] == ["false alarm"] * 2 + ["found"] * 4 + ["missed"] * 2
    assert (found["marked"], found["others"]) == (1, 0), "the other tables stay as they are"


def test_groups_are_sorted_by_their_means_and_a_group_without_a_score_is_last(tmp_path):
    scores = {"c1": (0.9, 3.0), "c2": (0.7, np.nan), "c10": (0.25, np.nan)}
    rows = [{"case": case, "region": "WT", "dice": dice, "hd95_mm": mm} for case, (dice, mm) in scores.items()]
    grades = by_table("grade", {"c1": "HGG", "c2": "LGG", "c10": "unknown"})
    steps = """
      const title = "Scores by groups";
      found.columns = [...table(title).tHead.rows[0].cells].map((head) => head.textContent.trim());
      press(title, "Dice"); found.up = [down(title, "Group"), down(title, "Dice")];
      press(title, "HD95"); found.mm = [down(title, "Group"), down(title, "HD95")];
      press(title, "HD95"); found.down = down(title, "Group");
    """
    parts = groups_part({"a": {"grade": scores_by_group(rows, grades, ["dice", "hd95_mm"])}})
    found = opened(tmp_path, TITLED + steps, None, "a", parts=parts)
    assert found["columns"] == ["Region", "Group", "Count", "Dice ↑", "HD95 (mm) ↓"]
    assert found["up"] == [["unknown", "LGG", "HGG"], ["0.250", "0.700", "0.900"]]
    groups, texts = found["mm"]
    assert (groups[0], texts[0]) == ("HGG", "3.00")
    assert set(groups[1:]) == set(found["down"][1:]) == {"LGG", "unknown"}
    assert all("1 undefined" in text for text in texts[1:])
    assert found["down"][0] == "HGG", "undefined is last in both directions"


def calibrated(folder: Path) -> Part:
    """Two methods, of which b is too sure of itself."""
    errors = {"a": (0.01, 0.02), "b": (0.2, 0.1)}
    summaries = {
        name: {
            "within": "all voxels",
            "definitions": {one.title: one.definition for one in METRICS},
            "metrics": {one.name: statistics(np.array(values)) for one in METRICS},
        }
        for name, values in errors.items()
    }
    bins = [{"bin": number, "confidence": number / 15 + 0.03, "accuracy": 0.5, "share": 0.1} for number in (7, 10, 14)]
    return calibration_part(folder, summaries, dict.fromkeys(errors, bins))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_calibration_has_its_table_and_the_figure_of_the_page_it_is_on(tmp_path, scheme):
    steps = """
      const title = "Calibration", figure = section(title).querySelector("img");
      await figure.decode();
      found.size = [figure.naturalWidth, figure.naturalHeight];
      found.dark = matchMedia("(prefers-color-scheme: dark)").matches;
      found.shown = figure.currentSrc === figure.src ? "light" : "dark";
      press(title, "ECE"); press(title, "ECE"); found.methods = down(title, "Method"); found.ece = down(title, "ECE");
      found.wide = document.documentElement.scrollWidth <= document.documentElement.clientWidth;
    """
    found = opened(tmp_path, TITLED + steps, parts=[calibrated(tmp_path)], scheme=scheme)
    assert min(found["size"]) > 300
    assert (found["dark"], found["shown"]) == (scheme == "dark", scheme)
    assert found["methods"] == ["b", "a"]
    assert found["ece"][0].startswith("0.1500 ± ")
    assert found["wide"], "nothing but tables scrolls to the side"
