"""The site of the documentation: it is built without a warning, and has all pages and all names of the library."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxfuse import implicit
from jaxfuse.implicit import solvers

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    call = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    # Without the theme's note about its successor.
    surroundings = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(call, cwd=ROOT, env=surroundings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


@pytest.mark.docs
def test_the_site_has_every_page(site):
    pages = [path for pattern in ("*.md", "*.ipynb") for path in (ROOT / "docs").rglob(pattern)]
    names = [path.relative_to(ROOT / "docs").with_suffix("") for path in pages]
    assert len(names) > 20
    for name in (*names, Path("changelog"), Path("contributing"), Path("experiments/README")):
        assert (site / (name.parent if name.name == "README" else name) / "index.html").is_file(), name


@pytest.mark.docs
def test_links_out_of_the_folder_of_documentation_lead_to_pages_of_the_site(site):
    assert 'href="../../experiments/"' in (site / "explanation" / "phantoms" / "index.html").read_text(encoding="utf-8")


@pytest.mark.docs
def test_docstrings_are_pages_of_reference(site):
    page = (site / "reference" / "implicit" / "index.html").read_text(encoding="utf-8")
    assert "where lower_yy q = upper_y (implicit function theorem)" in page
    assert [name for name in implicit.__all__ if f'id="jaxfuse.implicit.{name}"' not in page] == []


def test_every_public_name_of_implicit_gradients_is_in_the_reference():
    lines = (ROOT / "docs" / "reference" / "implicit.md").read_text(encoding="utf-8").splitlines()
    listed = [line.removeprefix("::: jaxfuse.implicit.") for line in lines if line.startswith(":::")]
    assert sorted(listed) == sorted([*implicit.__all__, *(f"solvers.{name}" for name in solvers.__all__)])
