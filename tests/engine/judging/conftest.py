import pytest

from jaxfuse.engine.judging import other_runs, synthesis
from jaxfuse.report import figures


@pytest.fixture
def drawn(monkeypatch) -> list[dict]:
    """The figures asked for, in order; they are not painted."""
    calls: list[dict] = []
    places = [(figures, name) for name in ("segmentation_panel", "translation_panel", "comparison")]
    for module, name in (*places, (synthesis, "synthesis_panel"), (other_runs, "synthesis_panel")):
        monkeypatch.setattr(module, name, lambda path, **asked: calls.append({"path": path, **asked}))
    return calls
