"""Fixtures of the catalogue: a folder of input that must stay as it is, and a command that must refuse."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from configs import hinet
from jaxfuse.engine import run
from jaxfuse.errors import UserError
from tests.commands import call_here
from tests.faults.workshop import Workshop, make_workshop


def checksums(folder: Path) -> dict[str, str]:
    """Path below `folder` -> digest of its content; folders have none."""
    found = {}
    for path in sorted(folder.rglob("*")):
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[path.relative_to(folder).as_posix()] = digest
    return found


@pytest.fixture(scope="session")
def unchanged() -> Callable[[Path], object]:
    """A context that asserts at its end that every file of a folder is what it was, and that none was added."""

    @contextmanager
    def context(folder: Path) -> Iterator[None]:
        before = checksums(folder)
        yield
        assert checksums(folder) == before

    return context


@pytest.fixture(scope="session")
def sentence_of() -> Callable[..., str]:
    """Runs a command, as `tests.commands.call_here`, which must refuse; returns its sentence, which is one line."""

    def refuse(command: ModuleType, *arguments: object, **options: object) -> str:
        with pytest.raises(UserError) as raised:
            call_here(command, *arguments, **options)
        sentence = str(raised.value)
        assert "\n" not in sentence.strip()
        return sentence

    return refuse


@pytest.fixture(scope="session")
def workshop(tmp_path_factory) -> Workshop:
    """Runs and inputs that commands write from; nothing of it may change."""
    return make_workshop(tmp_path_factory.mktemp("workshop"))


@pytest.fixture
def ended_training(tmp_path, monkeypatch) -> Callable[[Path], Path]:
    """Calls a training in a folder that has nothing left to do but its report."""
    monkeypatch.setattr(run, "compilation_cache", lambda folder: None)  # that of the tests stays in use
    monkeypatch.setattr(run.Run, "execute", lambda self: True)
    monkeypatch.setattr(run.Run, "draw_rows", lambda self, related: None)
    config = hinet.get_config("tiny")
    config.data.cache = str(tmp_path / "cache")
    return lambda folder: run.train(config, folder)
