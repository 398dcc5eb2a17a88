"""The catalogue itself: its page is what the tests say, and each input stands in it once."""

from tests.faults.catalogue import PAGE, kinds, page


def test_the_page_is_that_of_the_tests():
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m tests.faults.catalogue"


def test_each_input_stands_once_and_has_an_answer():
    rows = [row for _, of_kind in kinds() for row in of_kind]
    assert len({row.given for row in rows}) == len(rows)
    assert all(row.right for row in rows)
