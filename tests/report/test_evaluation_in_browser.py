"""The page of an evaluation in a browser: clicks sort, fields filter, the wheel and the keys turn slices."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from jaxfuse.labels import label_scheme
from jaxfuse.report.canvas import CLASS_COLORS
from jaxfuse.report.evaluation import Evaluation, write_evaluation
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


def opened(folder: Path, steps: str, pictures: Pictures | None = None, *names: str) -> dict:
    """Opens the page of these methods, takes the steps in it, and returns what they found."""
    methods = {name: method(name, SHIFTS) for name in names or ("a", "b")}
    path = folder / "report.html"
    write_evaluation(path, Evaluation("brats", "prediction", Path("ref"), methods, None, pictures))
    page = path.read_text(encoding="utf-8").replace("</body>", HARNESS.replace("STEPS", steps))
    path.write_text(page, encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'browser'}"]
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
