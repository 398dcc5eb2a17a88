import pytest
from matplotlib.figure import Figure

from jaxfuse.report import canvas


@pytest.fixture
def saved(monkeypatch) -> list[Figure]:
    """The figures that are saved."""
    figures: list[Figure] = []
    save = canvas.save
    monkeypatch.setattr(canvas, "save", lambda figure, path: figures.append(figure) or save(figure, path))
    return figures
