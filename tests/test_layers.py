"""Imports run downward only, papers do not lean on each other, and what needs no JAX starts without it."""

import ast
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from jaxfuse.io.png import write_png
from tests.made_cases import head, nested_cubes, save_volume, write_case

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "jaxfuse"

# Layer -> the layers that it may import, besides itself and those that all may import.
EVERYONE = {"errors", "labels"}
TOOLS = {"arrays", "case_by_case", "options", "patches", "data", "learning", "inference", "io", "metrics", "report"}
TOOLS |= {"augment", "postprocessing", "prediction", "surroundings"}
LAYERS: dict[str, set[str]] = {
    "errors": set(),
    "labels": set(),
    "arrays": set(),
    "patches": set(),
    "recipes": set(),
    "recipe_files": set(),
    "commands": set(),
    "shell_scripts": set(),
    "surroundings": set(),
    "last_error": {"io", "surroundings"},
    "nn": {"arrays"},
    "losses": {"arrays"},
    "augment": {"arrays"},
    "metrics": set(),
    "io": set(),
    "implicit": set(),
    "options": set(),
    "case_by_case": set(),
    "ranges": set(),
    "workers": set(),
    "data": {"patches", "io", "options", "workers"},
    "learning": {"arrays", "implicit"},
    "models": {"nn", "losses", "learning", "arrays", "augment"},
    "networks": {"models", "learning", "arrays"},
    "inference": {"patches", "arrays"},
    "prediction": {"arrays", "case_by_case", "data", "inference", "io", "nn", "patches", "postprocessing"},
    "report": {"io", "metrics", "patches"},
    "postprocessing": {"io", "metrics"},
    "weights": {"io"},
    "scoring": {"case_by_case", "data", "io", "metrics", "postprocessing", "report", "workers"},
    "config": TOOLS | {"ranges"},
    "engine": TOOLS | {"config", "nn", "losses", "weights"},
    "api": TOOLS | {"config", "engine", "scoring", "recipe_files"},
    "brats_fuse": TOOLS | {"config", "engine"},
}
WITHOUT_JAX = EVERYONE | {"case_by_case", "patches", "recipes", "options", "ranges", "metrics", "io", "data"}
WITHOUT_JAX |= {"report", "scoring", "postprocessing", "weights", "workers"}
WITHOUT_JAX |= {"commands", "recipe_files", "shell_scripts", "surroundings", "last_error"}
# Modules that load JAX, whether or not they use it. jaxtyping does so only when asked for an array of it.
LOADS_JAX = {"jax", "jaxlib", "flax", "optax", "orbax", "lineax", "grain", "chex"}
# A paper may be told in several files, the later ones built on the first; a baseline may use the paper that it belongs
# to; rows of a paper may put baselines in the places of its own networks.
ONE_PAPER = {("cmff", "cmft"), ("cmff_joint", "cmff"), ("cmff_joint", "cmft"), ("cmft_rivals", "cmft")}
ONE_PAPER |= {("cmft_groups", "cmft")}
ONE_PAPER |= {("baselines.unet", "cmft")}
ONE_PAPER |= {("fuse4seg", "baselines.film"), ("fuse4seg", "baselines.nnunet2d")}
ONE_PAPER |= {("baselines.mmformer", "baselines.mmformer_layers")}
ONE_PAPER |= {("baselines.cddfuse", "fuse4seg")}
ONE_PAPER |= {("fuse4seg", f"baselines.{name}") for name in ("attention_unet", "unet_3plus", "swin_unet")}
ONE_PAPER |= {("fuse4seg", f"baselines.{name}") for name in ("pvt", "cascade", "emcad")}
ONE_PAPER |= {("baselines.cascade", "baselines.pvt"), ("baselines.emcad", "baselines.pvt")}


@cache
def _modules() -> dict[Path, Path]:
    return {path.relative_to(PACKAGE): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def _imported(path: Path) -> set[str]:
    """Every module that a file imports, at its top or later; `from a import b` counts as a.b as well as a."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@cache
def _existing() -> set[str]:
    return {_dotted(module) for module in _modules()}


def _own(path: Path) -> set[str]:
    """The modules of jaxfuse that a file imports, without the package's name."""
    names = {name.removeprefix("jaxfuse.") for name in _imported(path) if name.startswith("jaxfuse.")}
    return {name for name in names if name in _existing() or f"{name}.__init__" in _existing()}


def _shown(path: Path) -> set[str]:
    """The names that a file imports by `from ... import`."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name for node in nodes for alias in node.names}


def _layer(relative: Path) -> str:
    return relative.parts[0].removesuffix(".py")


def _below_the_commands():
    """Modules that have a layer; top-level ones without are commands, which may import everything."""
    modules = [path for path in _modules() if path.name not in ("__init__.py", "__main__.py")]
    return [path for path in modules if len(path.parts) > 1 or _layer(path) in LAYERS]


@pytest.mark.parametrize("relative", _below_the_commands(), ids=str)
def test_a_module_imports_only_what_lies_below_it(relative):
    layer = _layer(relative)
    assert layer in LAYERS, f"{relative} lies in no layer; say in this test what it may import"
    reached = {name.split(".")[0] for name in _own(_modules()[relative])}
    assert reached <= LAYERS[layer] | EVERYONE | {layer}


def test_commands_are_imported_by_commands_only():
    commands = {_layer(path) for path in _modules() if len(path.parts) == 1} - set(LAYERS) - {"__init__"}
    assert {"train", "evaluate", "verify"} <= commands
    for relative, path in _modules().items():
        if _layer(relative) not in commands and relative.name != "__main__.py":
            assert not commands & {name.split(".")[0] for name in _own(path)}, relative


def _paper(module: str) -> str:
    """The paper that a module of `models` belongs to: a file, or a package with all its files; "" for none."""
    layer, *parts = module.removeprefix("jaxfuse.").removesuffix(".__init__").split(".")
    below = 2 if parts[:1] == ["baselines"] else 1
    return ".".join(parts[:below]) if layer == "models" and len(parts) >= below else ""


def _dotted(relative: Path) -> str:
    return ".".join(relative.with_suffix("").parts)


def _is_paper_package(relative: Path) -> bool:
    return relative.name == "__init__.py" and relative.parts[0] == "models" and bool(_paper(_dotted(relative)))


def test_a_file_and_a_package_are_one_paper_each():
    files = {"models.cmff": "cmff", "models.fuse4seg.fusion": "fuse4seg", "models.fuse4seg.__init__": "fuse4seg"}
    files |= {"models.baselines.unet": "baselines.unet", "models.baselines.film.heads": "baselines.film"}
    files |= dict.fromkeys(("models", "models.__init__", "models.baselines", "nn.conv", "jax.numpy"), "")
    assert {module: _paper(module) for module in files} == files


def test_a_paper_never_imports_another():
    for relative, path in _modules().items():
        if _layer(relative) != "models":
            continue
        paper = _paper(_dotted(relative))
        for name in _own(path):
            other = _paper(name)
            assert other in ("", paper) or (paper, other) in ONE_PAPER, f"{paper} imports {other}"


def test_only_the_batch_pipeline_imports_grain_and_host_layers_no_jax():
    for relative, path in _modules().items():
        loaded = {name.split(".")[0] for name in _imported(path)} & LOADS_JAX
        if _layer(relative) in WITHOUT_JAX:
            assert loaded <= ({"grain"} if str(relative) == "data/pipeline.py" else set()), relative
        elif str(relative) != "data/pipeline.py":
            assert "grain" not in loaded, relative


def test_recipes_and_experiments():
    for path in sorted((ROOT / "configs").glob("*.py")):
        outside = {name.split(".")[0] for name in _imported(path)} - set(sys.stdlib_module_names)
        assert outside <= {"jaxfuse", "ml_collections"}, path
        assert _own(path) == {"recipes"}, path
    outside = {name.split(".")[0] for name in _imported(PACKAGE / "recipes.py")} - set(sys.stdlib_module_names)
    assert outside <= {"jaxfuse", "ml_collections"}
    for path in _modules().values():
        assert not {name.split(".")[0] for name in _imported(path)} & {"experiments", "configs", "tests"}, path


def test_package_files_import_nothing():
    for relative, path in _modules().items():
        if relative in (Path("implicit/__init__.py"), Path("implicit/solvers/__init__.py")):
            continue  # packages for users of their own, which show them their names
        if relative == Path("__init__.py"):
            continue  # its names are looked up when they are used: tests/test_init.py
        if _is_paper_package(relative):
            # A paper of several files is found by the name of the whole, as one of a single file is.
            assert {_paper(name) for name in _imported(path)} <= {_paper(_dotted(relative))}, relative
            assert all(name.startswith("make_") for name in _shown(path)), relative
            continue
        if relative.name == "__init__.py":
            text = path.read_text()
            assert not _imported(path), relative
            assert not text, f"{relative} must be empty"


def test_implicit_gradients_need_jax_lineax_and_optax_alone():
    for relative, path in _modules().items():
        if relative.parts[0] == "implicit":
            outside = {name.split(".")[0] for name in _imported(path)} - set(sys.stdlib_module_names)
            assert outside <= {"jax", "lineax", "optax", "numpy", "jaxfuse"}, path


WATCH = """
import sys
{program}
loaded = sorted({names!r} & set(sys.modules))
assert not loaded, f"loaded: {{loaded}}"
"""


def _runs_without_jax(program: str) -> None:
    code = WATCH.format(program=program, names=LOADS_JAX)
    environment = {**os.environ, "COLUMNS": "200"}
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr


def test_reading_a_recipe_loads_no_jax():
    for path in sorted((ROOT / "configs").glob("*.py")):
        _runs_without_jax(f"from configs import {path.stem}\n{path.stem}.get_config('tiny')")


@pytest.mark.parametrize("options", [("--protocol=brats", "--labels=brats", "--pictures=1"), ("--protocol=fusion",)])
def test_evaluating_loads_no_jax(tmp_path, options):
    if "--protocol=fusion" in options:
        for folder in ("pred", "ref/t1", "ref/t2"):
            write_png(tmp_path / folder / "a.png", np.random.default_rng(0).integers(0, 256, (44, 44), np.uint8))
    else:
        for folder in ("pred", "ref"):
            save_volume(tmp_path / folder / "case.nii.gz", nested_cubes((6, 6, 6), {1: 1}))
    places = [f"--{name}={tmp_path / name}" for name in ("pred", "ref", "out")]
    _runs_without_jax(_command("evaluate", [*places, *options]))
    assert (tmp_path / "out" / "summary.json").is_file()
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert ("Slice by slice" in page) == ("--pictures=1" in options)


def test_verifying_loads_no_jax(tmp_path):
    write_case(tmp_path, "BraTS2021_00001", head((8, 8, 8), 0) | {"seg": nested_cubes((8, 8, 8), {2: 1})})
    _runs_without_jax(_command("verify", [f"--root={tmp_path}", "--json"]))


def _command(name: str, options: list[str]) -> str:
    return (
        f"from absl import flags\nfrom jaxfuse import {name}\n{name}.define_flags()\n"
        f"flags.FLAGS({[name, *options]!r})\nassert not {name}.main([{name!r}])"
    )
