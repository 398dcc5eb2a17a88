import pytest

from jaxfuse.report import figures


@pytest.fixture
def drawn(monkeypatch) -> list[dict]:
    """The figures asked for, in order; they are not painted."""
    calls: list[dict] = []
    for name in ("segmentation_panel", "translation_panel"):
        monkeypatch.setattr(figures, name, lambda path, **asked: calls.append({"path": path, **asked}))
    return calls
