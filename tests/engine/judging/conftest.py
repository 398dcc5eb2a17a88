import pytest

from jaxfuse.engine.judging import fused_images, other_runs, synthesis
from jaxfuse.report import figures


@pytest.fixture
def drawn(monkeypatch) -> list[dict]:
    """The figures asked for, in order; they are not painted."""
    calls: list[dict] = []
    places = [(figures, name) for name in ("segmentation_panel", "translation_panel", "comparison")]
    places += [(synthesis, "synthesis_panel"), (other_runs, "synthesis_panel"), (fused_images, "fusion_panel")]
    for module, name in places:
        monkeypatch.setattr(module, name, lambda path, **asked: calls.append({"path": path, **asked}))
    return calls
