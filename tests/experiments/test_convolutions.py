"""The table of forms of a convolution marks the form that the library takes among those that it measured."""

from experiments.throughput import convolutions


def test_every_part_has_a_row_in_which_the_form_of_the_rule_was_measured(monkeypatch):
    monkeypatch.setattr(convolutions, "SECONDS", 0.01)
    rows = list(convolutions._rows((1, (3, 4), 3, 2, 1, 2, 3), ["plain", "0", "1", "2"]))
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [row[1] for row in cells] == ["convolution", "image", "kernel"]
    assert [[bool(cell) for cell in row[3:]] for row in cells] == [[True, False, False, True]] * 3
    assert [[number for number, cell in enumerate(row[3:]) if cell.endswith("*")] for row in cells] == [[3]] * 3
