"""The page of completed cases: what the command's own test does not reach."""

from jaxfuse.report.completed import PANELS_SHOWN, CompletedCase, write_completed_report


def test_many_cases_are_tabled_and_the_first_are_shown(tmp_path):
    cases = []
    for number in range(PANELS_SHOWN + 3):
        panel = tmp_path / f"case{number}.png"
        panel.write_bytes(b"a picture")
        cases.append(CompletedCase(f"case{number}", (), {"WT": float(number)}, panel))
    path = tmp_path / "report.html"
    write_completed_report(
        path,
        cases,
        targets=("t1",),
        sources="t2 and flair",
        facts=[("Input", "<in>")],
        left_out={"z": "t1 is <0> everywhere"},
    )
    page = path.read_text()
    assert page.count("<td>its own</td>") == len(cases)
    assert page.count("data:image/png;base64,") == PANELS_SHOWN
    assert "The panels of the other 3 cases are files of their own in the folder of this page." in page
    assert "Synthesized." not in page
    assert "&lt;in&gt;" in page


def test_each_modality_has_its_column(tmp_path):
    panel = tmp_path / "a.png"
    panel.write_bytes(b"a picture")
    case = CompletedCase("a", ("t1", "flair"), {"WT": 1.0}, panel)
    options = {"targets": ("t1", "t2", "flair"), "sources": "the others", "facts": [], "left_out": {}}
    write_completed_report(tmp_path / "report.html", [case], **options)
    page = (tmp_path / "report.html").read_text()
    assert "<th>t1</th><th>t2</th><th>flair</th>" in page
    made = "<td><strong>synthesized</strong></td>"
    assert f"<td>a</td>{made}<td>its own</td>{made}" in page
    assert "1 of 1 cases lack t1 or t2 or flair: it was\nmade from the others" in page
    assert "<strong>a</strong>, t1, flair synthesized" in page
