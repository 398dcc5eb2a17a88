"""Fusion of multi-modal brain MRI in JAX: five papers, their learning rules, and implicit gradients.

    import jaxfuse

    run = jaxfuse.load("runs/cmff")
    seg = run.predict("cases/a")

Names are looked up when they are first used: importing the package loads no JAX.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING
from typing import Any as _Any

if TYPE_CHECKING:
    from jaxfuse.api.predicting import Predictions as Predictions
    from jaxfuse.api.results import Segmentation as Segmentation
    from jaxfuse.api.results import Synthesis as Synthesis
    from jaxfuse.api.runs import Run as Run
    from jaxfuse.api.runs import load as load
    from jaxfuse.api.scores import Scores as Scores
    from jaxfuse.errors import UserError as UserError

__version__ = "0.1.0"

# Name -> the module that has it.
_PLACES = {
    "load": "jaxfuse.api.runs",
    "Run": "jaxfuse.api.runs",
    "Segmentation": "jaxfuse.api.results",
    "Synthesis": "jaxfuse.api.results",
    "Predictions": "jaxfuse.api.predicting",
    "Scores": "jaxfuse.api.scores",
    "UserError": "jaxfuse.errors",
}
__all__ = ["__version__", *_PLACES]


def __getattr__(name: str) -> _Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'jaxfuse' has no attribute {name!r}")
    found = globals()[name] = getattr(_import_module(_PLACES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
