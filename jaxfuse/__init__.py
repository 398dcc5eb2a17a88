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
    from jaxfuse import networks as networks
    from jaxfuse.api.evaluation import evaluate as evaluate
    from jaxfuse.api.predicting import Predictions as Predictions
    from jaxfuse.api.results import Fusion as Fusion
    from jaxfuse.api.results import Segmentation as Segmentation
    from jaxfuse.api.results import Synthesis as Synthesis
    from jaxfuse.api.runs import Run as Run
    from jaxfuse.api.runs import load as load
    from jaxfuse.api.scores import Comparison as Comparison
    from jaxfuse.api.scores import Scores as Scores
    from jaxfuse.api.training import train as train
    from jaxfuse.errors import UserError as UserError

__version__ = "0.1.0"

# Name -> the module that has it.
_PLACES = {
    "load": "jaxfuse.api.runs",
    "Run": "jaxfuse.api.runs",
    "Fusion": "jaxfuse.api.results",
    "Segmentation": "jaxfuse.api.results",
    "Synthesis": "jaxfuse.api.results",
    "Predictions": "jaxfuse.api.predicting",
    "Scores": "jaxfuse.api.scores",
    "Comparison": "jaxfuse.api.scores",
    "UserError": "jaxfuse.errors",
}
# Modules: commands that are called as functions, and the networks.
_MODULES = ("train", "evaluate", "networks")
__all__ = [
    "Comparison",
    "Fusion",
    "Predictions",
    "Run",
    "Scores",
    "Segmentation",
    "Synthesis",
    "UserError",
    "evaluate",
    "load",
    "networks",
    "train",
]


def __getattr__(name: str) -> _Any:
    if name in _MODULES:
        return _import_module(f"jaxfuse.{name}")
    if name not in _PLACES:
        raise AttributeError(f"module 'jaxfuse' has no attribute {name!r}")
    found = globals()[name] = getattr(_import_module(_PLACES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
