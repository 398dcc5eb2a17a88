from pathlib import Path

from jaxfuse.report.evaluation import Evaluation, write_evaluation
from jaxfuse.report.parts import Part, TextTable
from tests.report.test_evaluation import ODD, method


def test_a_part_stands_on_the_page_as_texts(tmp_path):
    part = Part(
        "Groups", [TextTable([{"Group": ODD, "Dice": "0.500"}], 1, "by site")], ["note"], {"light": "a", "dark": "b"}
    )
    methods = {"m": method("m", {"c1": 0})}
    page = Evaluation("brats", "prediction", Path("ref"), methods, None, parts=[part])
    write_evaluation(tmp_path / "report.html", page)
    text = (tmp_path / "report.html").read_text()
    assert "<h2>Groups</h2>" in text
    assert "<h3>by site</h3>" in text
    assert '<td class="num">0.500</td>' in text
    assert 'srcset="b"' in text
    assert ODD not in text
