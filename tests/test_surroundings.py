"""Surroundings: what is told of versions and the machine, and that no secret is among the variables."""

import subprocess
import sys
import types
from importlib.machinery import ModuleSpec

import jaxfuse
from jaxfuse import surroundings


def test_versions_are_of_what_computes():
    found = surroundings.versions()
    assert found["jaxfuse"] == jaxfuse.__version__
    assert set(surroundings.REQUIRED) < set(found)
    assert "not installed as a package" not in [found[name] for name in ("jax", "numpy", "nibabel")]


def test_what_is_not_installed_is_told_if_it_is_needed(monkeypatch):
    monkeypatch.setattr(surroundings, "REQUIRED", ("no-such-package",))
    monkeypatch.setattr(surroundings, "_OPTIONAL", ("another-one",))
    assert surroundings.versions() == {
        "jaxfuse": jaxfuse.__version__,
        "no-such-package": "not installed as a package",
    }


def test_the_revision_is_that_of_the_checkout(monkeypatch, tmp_path):
    def git(*words: str) -> str:
        own = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", "-C", str(tmp_path), *own, *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    (tmp_path / "jaxfuse").mkdir()
    monkeypatch.setattr(surroundings, "__file__", str(tmp_path / "jaxfuse" / "surroundings.py"))
    assert surroundings.revision() == ""
    git("init", "-q")
    assert surroundings.revision() == ""  # no commit yet
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-q", "-m", "a", "--no-verify")
    assert surroundings.revision() == git("rev-parse", "HEAD")
    (tmp_path / "a").write_text("2")
    assert surroundings.revision() == git("rev-parse", "HEAD") + "-dirty"
    monkeypatch.setenv("PATH", "")
    assert surroundings.revision() == ""


def test_the_command_is_the_module_or_the_script_that_was_called(monkeypatch):
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(sys, "argv", ["work/mine.py", "--input", "a b"])
    assert surroundings.command() == "python work/mine.py --input 'a b'"
    main.__spec__ = ModuleSpec("jaxfuse.train", None)
    assert surroundings.command() == "python -m jaxfuse.train --input 'a b'"
    main.__spec__ = ModuleSpec("jaxfuse.brats_fuse.__main__", None)
    assert surroundings.command() == "python -m jaxfuse.brats_fuse --input 'a b'"
    main.__spec__ = None
    monkeypatch.setattr(sys, "argv", [""])
    assert surroundings.command() == "python"


def test_the_machine_is_told_with_its_memory(monkeypatch):
    assert surroundings.memory_bytes() > 1e8
    assert surroundings.host().endswith(f"{surroundings.memory_bytes() / 1e9:.1f} GB")
    monkeypatch.setattr(surroundings, "memory_bytes", lambda: 0)
    assert surroundings.host().endswith(" cores")


def test_variables_that_matter_and_no_other(monkeypatch):
    for name in (
        "XLA_FLAGS",
        "JAX_PLATFORMS",
        "WANDB_API_KEY",
        "HOME",
        "AWS_SECRET_ACCESS_KEY",
        "CUDA_VISIBLE_DEVICES",
    ):
        monkeypatch.setenv(name, name.lower())
    found = surroundings.variables()
    assert {found.get(name) for name in ("XLA_FLAGS", "JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES")} == {
        "xla_flags",
        "jax_platforms",
        "cuda_visible_devices",
    }
    assert not {"WANDB_API_KEY", "HOME", "AWS_SECRET_ACCESS_KEY"} & set(found)
