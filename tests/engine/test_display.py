"""The lines printed on a terminal and into a log file."""

import io
import math

from rich.console import Console

from jaxfuse.engine import display as module
from jaxfuse.engine.display import Countdown, Display, clock


def display(*, terminal: bool) -> tuple[Display, io.StringIO]:
    text = io.StringIO()
    return Display(Console(file=text, force_terminal=terminal, width=200, highlight=False, color_system=None)), text


def test_clock():
    shown = {0: "0:00", 59.6: "1:00", 123: "2:03", 3600: "1:00:00", 3723: "1:02:03", math.inf: "?", math.nan: "?"}
    assert {seconds: clock(seconds) for seconds in shown} == shown


def test_log_file_gets_text_as_it_is_ends_of_phases_and_totals_of_counted_work():
    shown, text = display(terminal=False)
    shown.say("affine [1 0 0] [red]")
    shown.start("fusion", 0, 4)
    shown.step(2, steps_per_s=2.0, wait_share=0.0, losses={"net/loss": 1.0})
    shown.step(4, steps_per_s=2.0, wait_share=0.25, losses={"net/S_A": 7.0, "net/loss": 0.123456})
    shown.stop()
    shown._spoke = math.inf  # the last line was just now
    for done in (1, 2, 3):
        shown.report("preparing cases", done, 3)
    said, ended, counted = text.getvalue().splitlines()
    assert (said, counted) == ("affine [1 0 0] [red]", "preparing cases: 3 of 3")
    assert ended == "fusion 4/4: 2.00 steps/s, 0:00 left, data wait 25%, net/loss 0.1235"


def test_log_file_gets_a_line_now_and_then(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    shown, text = display(terminal=False)
    shown.start("fusion", 0, 100)
    for done in range(1, 60):
        now[0] += 1.0
        shown.step(done, steps_per_s=0.0, wait_share=0.0, losses={"a": 1.0})
    assert [line.split(":")[0] for line in text.getvalue().splitlines()] == ["fusion 21/100", "fusion 42/100"]
    assert "? left" in text.getvalue()


def test_a_terminal_overwrites_the_line_of_counted_work_and_shows_a_bar():
    shown, text = display(terminal=True)
    for done in (1, 2):
        shown.report("preparing cases", done, 2)
    assert text.getvalue() == "preparing cases: 1 of 2\rpreparing cases: 2 of 2\n"
    shown.start("fusion", 3, 4)
    shown.step(4, steps_per_s=2.0, wait_share=0.5, losses={"net/loss": 0.5})
    shown.stop()
    assert "4/4" in text.getvalue()
    assert "2.00 steps/s, 0:00 left, data wait 50%, net/loss 0.5" in text.getvalue()


def test_items_are_counted_with_the_time_left_for_the_others(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    shown, text = display(terminal=False)
    tell = shown.tally(5, before=2)
    for done, item in enumerate("abc", start=3):
        now[0] += 60.0
        tell(f"out/{item}", done)
    assert text.getvalue().splitlines() == [
        "3 of 5: out/a (60.0 s each, 2:00 left)",
        "4 of 5: out/b (60.0 s each, 1:00 left)",
        "5 of 5: out/c (60.0 s each, 0:00 left)",
    ]
    countdown = Countdown(10)
    now[0] += 30.0
    # Items that were there already take no time.
    assert (countdown.left(3), countdown.left(8, worked=3), countdown.left(8, worked=0)) == ("1:10", "0:20", "1:00")


def test_counted_work_tells_its_rate_and_the_time_left_by_what_took_time(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    shown, text = display(terminal=True)
    # Three are there already; the first of the others shows when its time began.
    for done, worked, seconds in ((1, 0, 0.0), (2, 0, 0.0), (3, 0, 0.0), (4, 1, 3.0), (5, 2, 3.0), (6, 3, 3.0)):
        now[0] += seconds
        shown.report("preparing cases", done, 6, worked)
    for done in (1, 2, 3, 4):
        now[0] += 0.25
        shown.report("reading files", done, 4)
    assert [line.rstrip() for line in text.getvalue().replace("\r", "\n").splitlines()] == [
        "preparing cases: 1 of 6",
        "preparing cases: 2 of 6",
        "preparing cases: 3 of 6",
        "preparing cases: 4 of 6 (3.0 s each, 0:06 left)",
        "preparing cases: 5 of 6 (3.0 s each, 0:03 left)",
        "preparing cases: 6 of 6",
        "reading files: 1 of 4",
        "reading files: 2 of 4 (4.0 a second, 0:00 left)",
        "reading files: 3 of 4 (4.0 a second, 0:00 left)",
        "reading files: 4 of 4",
    ]
