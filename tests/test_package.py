"""The installed package: a wheel from the source archive, complete and small, and its commands away from a checkout."""

import ast
import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import jaxfuse

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
VERSION = jaxfuse.__version__
MEGABYTE = 1_000_000
# Where a package is named otherwise than what one imports of it, or is brought by one that cannot do without it.
DISTRIBUTIONS = {"PIL": "pillow", "absl": "absl-py", "orbax": "orbax-checkpoint", "skimage": "scikit-image"}
DISTRIBUTIONS |= {"jaxlib": "jax", "ml_dtypes": "jax", "markupsafe": "jinja2", "mlflow": "mlflow-skinny"}

# JAX imports it where programs are exported, and does not require it.
THROUGH_JAX = {"flatbuffers"}


def kept(folder: str) -> set[str]:
    """The files of a folder of the checkout that belong to the package, from its top on."""
    paths = (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in paths}


def built(kind: str, source: Path, out: Path) -> Path:
    """Builds an archive as `pip` does, in a process of its own."""
    out.mkdir(exist_ok=True)
    program = f"from setuptools import build_meta; build_meta.build_{kind}({str(out)!r})"
    done = subprocess.run([sys.executable, "-c", program], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (archive,) = out.iterdir()
    return archive


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    """The source archive, built from a copy: building leaves files behind."""
    pytest.importorskip("setuptools", minversion="77", reason="the extra `test` brings setuptools 77")
    source = tmp_path_factory.mktemp("source")
    ignored = shutil.ignore_patterns("__pycache__", ".git", "runs", "build", "dist", ".venv", "*.egg-info", "docs")
    shutil.copytree(ROOT, source / "jaxfuse", ignore=ignored)
    return built("sdist", source / "jaxfuse", source / "dist")


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return built("wheel", folder / f"jaxfuse-{VERSION}", folder / "dist")


def test_the_wheel_holds_the_package_and_the_recipes_and_nothing_else(sdist, wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        about = {name for name in names if name.startswith(f"jaxfuse-{VERSION}.dist-info/")}
        told = email.message_from_bytes(archive.read(f"jaxfuse-{VERSION}.dist-info/METADATA"))
        commands = archive.read(f"jaxfuse-{VERSION}.dist-info/entry_points.txt").decode()
    assert names - about == kept("jaxfuse") | {f"jaxfuse/{name}" for name in kept("configs")}
    assert "jaxfuse/py.typed" in names
    assert wheel.stat().st_size < 2 * MEGABYTE
    assert (told["Name"], told["Version"], told["License-Expression"]) == ("jaxfuse", VERSION, "Apache-2.0")
    assert "jaxfuse = jaxfuse.__main__:main" in commands
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "setup.py"} <= inside
    assert not [name for name in inside if name.startswith(("tests", "experiments", "docs"))]


def imported(path: Path) -> set[str]:
    """The packages that a module imports, those within functions included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


def required(group: list[str]) -> set[str]:
    """The names of requirements, as package indexes compare them."""
    return {re.match(r"[\w-]+", one).group().lower().replace("_", "-") for one in group}


def test_what_the_package_imports_is_what_it_requires():
    modules = [ROOT / name for top in ("jaxfuse", "configs") for name in kept(top) if name.endswith(".py")]
    foreign = set().union(*map(imported, modules)) - set(sys.stdlib_module_names) - {"jaxfuse"}
    used = {DISTRIBUTIONS.get(name, name.lower().replace("_", "-")) for name in foreign}
    needed = required(PROJECT["dependencies"])
    optional = set().union(*map(required, PROJECT["optional-dependencies"].values()))
    assert needed - THROUGH_JAX <= used <= needed | optional


@pytest.fixture(scope="module")
def place(wheel, tmp_path_factory) -> Path:
    """An environment of the wheel and, from the running one, the packages that it requires; nothing of a checkout."""
    place = tmp_path_factory.mktemp("place")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place / "venv")], check=True)
    python = place / "venv" / "bin" / "python"
    (packages,) = (place / "venv").glob("lib/python*/site-packages")
    running = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "required.pth").write_text("\n".join(running))
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, str(wheel)], check=True)
    return place


def call(place: Path, *words: object) -> str:
    """Calls the console command in an empty folder; returns what it prints."""
    away = place / "away"
    away.mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"JAXFUSE_CACHE": str(place / "cache"), "JAX_PLATFORMS": "cpu", "COLUMNS": "200"}
    command = [place / "venv" / "bin" / words[0], *words[1:]]
    done = subprocess.run(
        list(map(str, command)), cwd=away, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_commands_of_the_wheel_away_from_a_checkout(place):
    where = Path(call(place, "python", "-c", "import jaxfuse; print(jaxfuse.__file__)").strip())
    assert (place / "venv") in where.parents
    assert call(place, "jaxfuse", "--version") == f"jaxfuse {VERSION}\n"
    assert "Done" in call(place, "jaxfuse", "train", "cmff", "--preset", "tiny")
    cases = next((place / "cache" / "phantoms").rglob("*_seg.nii.gz")).parents[1]
    call(place, "jaxfuse", "predict", "--workdir", "runs/cmff-tiny", "--input", cases, "--output", "labels")
    labels = {path.name for path in (place / "away" / "labels").glob("*.nii.gz")}
    assert labels == {f"{case.name}.nii.gz" for case in cases.iterdir()}
    scores = ["--pred", "labels", "--ref", cases, "--protocol", "brats", "--out", "scores"]
    call(place, "jaxfuse", "evaluate", *scores)
    assert (place / "away" / "scores" / "summary.json").is_file()
    call(place, "jaxfuse", "export", "--workdir", "runs/cmff-tiny", "--output", "bundle")
    call(place, "python", "bundle/run.py", "--input", cases, "--output", "again")
    for name in labels:
        made, again = (nib.load(place / "away" / folder / name).get_fdata() for folder in ("labels", "again"))
        np.testing.assert_array_equal(made, again)
