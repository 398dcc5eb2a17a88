"""The checker of annotations while tests run; `conftest.py` installs it before jaxfuse is imported."""

import ast

from beartype import BeartypeConf, beartype
from jaxtyping import _import_hook, install_import_hook

# The tower lets an int stand where a float is expected, as PEP 484 and pyright do.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))


class _Transformer(_import_hook.JaxtypingTransformer):
    """Decorates all functions, but of those within functions the ones with a shape in their annotations alone.

    They are decorated anew whenever the outer function runs, which takes longer than all else in tracing a network.
    """

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        inner = any(isinstance(parent, ast.FunctionDef) for parent in self._parents)
        super().visit_FunctionDef(node)
        if inner and not _has_shape(node):
            node.decorator_list.pop()
        return node


def _has_shape(node: ast.FunctionDef) -> bool:
    arguments = [child.annotation for child in ast.walk(node.args) if isinstance(child, ast.arg)]
    parts = [part for a in [*arguments, node.returns] if a is not None for part in ast.walk(a)]
    return any(isinstance(part, ast.Constant) and isinstance(part.value, str) for part in parts)


def install() -> None:
    """From here on the annotations of every module of jaxfuse that is imported are checked."""
    _import_hook.JaxtypingTransformer = _Transformer
    install_import_hook("jaxfuse", "tests.shape_checks.checked")
