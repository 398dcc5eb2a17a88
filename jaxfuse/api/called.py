"""Modules of commands that are called as functions: `jaxfuse.evaluate(...)` beside `python -m jaxfuse.evaluate`.

A module of a package is an attribute of it, once it was imported, and a function of its name would be hidden by it.
"""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class CallableModule(ModuleType):
    """A module of which a call is one of a function that lies elsewhere, and is imported with the first call."""

    _called: str

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Calls the function of the Python interface."""
        return self.function(*args, **options)

    @property
    def function(self) -> Any:
        """The function."""
        module, _, name = self._called.partition(":")
        return getattr(import_module(module), name)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.function)


def callable_module(name: str, function: str) -> None:
    """Makes a call of the module one of `function`, as MODULE:FUNCTION names it; not of a program that is run."""
    if name != "__main__":
        module = sys.modules[name]
        module.__class__ = CallableModule
        module.__dict__["_called"] = function
