"""The page of completed cases: what the command's own test does not reach."""

from jaxfuse.report.completed import PANELS_SHOWN, CompletedCase, write_completed_report


def test_many_cases_are_tabled_and_the_first_are_shown(tmp_path):
    cases = []
    for number in range(PANELS_SHOWN + 3):
        panel = tmp_path / f"case{number}.png"
        panel.write_bytes(b"a picture")
        cases.append(CompletedCase(f"case{number}", False, {"WT": float(number)}, panel))
    path = tmp_path / "report.html"
    write_completed_report(
        path,
        cases,
        target="t1",
        sources=("t2", "flair"),
        facts=[("Input", "<in>")],
        left_out={"z": "t1 is <0> everywhere"},
    )
    page = path.read_text()
    assert page.count("<td>its own</td>") == len(cases)
    assert page.count("data:image/png;base64,") == PANELS_SHOWN
    assert "The panels of the other 3 cases lie beside this page." in page
    assert "Synthesized." not in page
    assert "&lt;in&gt;" in page
