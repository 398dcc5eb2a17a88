"""Modules that bundles carry along: the files themselves, and none that needs more than a bundle has."""

import ast
from pathlib import Path

import jaxfuse
from jaxfuse.engine.exported.carried_modules import LEFT_OUT, carried, foreign, renamed, runner_files

PACKAGE = Path(jaxfuse.__file__).parent


def test_they_need_numpy_nibabel_and_jax_alone():
    assert foreign() == {}


def test_they_are_the_files_of_jaxfuse_but_for_the_names_of_imports():
    files = runner_files()
    for module in carried():
        own = PACKAGE.joinpath(*module.split(".")[1:])
        path = own / "__init__.py" if own.is_dir() else own.with_suffix(".py")
        copied = files[path.relative_to(PACKAGE).as_posix()]
        if f"{module}.".startswith(tuple(f"{name}." for name in LEFT_OUT)):
            assert "is not part of a bundle" in copied
            continue
        lines = zip(path.read_text().splitlines(), copied.splitlines(), strict=True)
        for before, after in lines:
            assert before == after or before.strip().startswith(("from jaxfuse", "from jaxtyping"))
    assert {"prediction/predictor.py", "data/preprocess.py", "inference/tiling.py", "io/nifti.py"} <= set(files)


def test_all_that_they_import_from_the_package_is_carried():
    files = runner_files()
    for name, text in files.items():
        for node in ast.walk(ast.parse(text, name)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("runner"):
                place = node.module.replace(".", "/").removeprefix("runner/")
                assert {f"{place}.py", f"{place}/__init__.py"} & set(files), f"{name} imports {node.module}"


def test_imports_are_renamed_and_words_are_not():
    lines = ['"""Words of jaxfuse."""', "", "from jaxfuse.io import (", "    npz,", ")", "from jaxtyping import Float"]
    source = "\n".join([*lines, 'X = "jaxfuse"'])
    assert renamed(source).splitlines()[2:6] == [
        "from runner.io import (",
        "    npz,",
        ")",
        "from runner.annotations import Float",
    ]
    assert renamed(source).count("jaxfuse") == 2
