"""Every global name that functions read is defined, which linters are told to pass over: shape strings look alike."""

import builtins
import dis
import importlib
import pkgutil
import types
from collections.abc import Iterator

import jaxfuse


def test_no_function_reads_a_name_that_is_not_there():
    for found in pkgutil.walk_packages(jaxfuse.__path__, "jaxfuse."):
        module = importlib.import_module(found.name)
        spec = module.__spec__
        assert spec is not None
        code = spec.loader.get_code(found.name)
        missing = {name for name in read_names(code) if not hasattr(module, name) and not hasattr(builtins, name)}
        assert not missing, f"{found.name} reads {', '.join(sorted(missing))}"


def test_such_a_name_is_found():
    code = compile("import os\ndef f(x: 'b h w'):\n    return [os.sep + there(x) for y in x]\n", "", "exec")
    assert set(read_names(code)) == {"os", "there"}


def read_names(code: types.CodeType) -> Iterator[str]:
    """Names that functions and classes of a module read from it; what its own lines read fails when it is imported."""
    for part in code.co_consts:
        if isinstance(part, types.CodeType):
            yield from (str(step.argval) for step in dis.get_instructions(part) if step.opname == "LOAD_GLOBAL")
            yield from read_names(part)
