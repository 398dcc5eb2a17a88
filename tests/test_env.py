"""`jaxfuse env`: all that a report of a fault has to say, and no home folder."""

import json

import jax
import pytest

from jaxfuse import env, last_error
from jaxfuse.env import caches, devices, lines, size, without_home
from tests.commands import call_here


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    monkeypatch.setenv("JAXFUSE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "cases" / "a").mkdir(parents=True)
    (tmp_path / "cache" / "cases" / "a" / "image").write_bytes(bytes(1000))
    (tmp_path / "cache" / "cases" / "b").write_bytes(bytes(500))
    (tmp_path / "cache" / "cases" / "link").symlink_to("/usr")
    return tmp_path


def test_everything_is_told_as_json(place, capsys):
    last_error.keep(f"{place}/data is not there")
    call_here(env, json=True)
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {
        "versions",
        "revision",
        "python",
        "system",
        "host",
        "devices",
        "caches",
        "variables",
        "last_error",
    }
    assert found["versions"]["jax"] == jax.__version__
    assert [one["name"] for one in found["devices"]] == [str(device) for device in jax.devices()]
    assert found["caches"]["folder"] == "~/cache"
    assert found["variables"]["JAXFUSE_CACHE"] == "~/cache"
    assert found["last_error"]["told"] == "~/data is not there"


def test_everything_is_told_in_lines(place, capsys):
    call_here(env)
    shown = capsys.readouterr().out
    assert "last error          none is kept" in shown
    last_error.keep("a\nb")
    call_here(env)
    shown = capsys.readouterr().out.splitlines()
    assert shown[-2:] == ["  a", "  b"]
    for begun in ("jax  ", "python  ", "device  ", "caches  ", "  cases  ", "JAXFUSE_CACHE=~/cache", "last error  "):
        assert any(line.startswith(begun) for line in shown), begun


def test_caches_are_measured_without_following_links(place):
    assert caches()["bytes"]["cases"] == 1500
    assert size(place / "cache" / "cases" / "link") == len("/usr")
    assert size(place / "cache" / "cases" / "b") == 500


def test_a_cache_without_a_place_is_told(place, monkeypatch):
    monkeypatch.setenv("JAXFUSE_CACHE", "~nobody-has-this-name/cache")
    assert "has no place" in caches()["folder"]
    monkeypatch.setenv("JAXFUSE_CACHE", str(place / "absent"))
    assert caches() == {"folder": str(place / "absent"), "bytes": {}}


def test_devices_that_fail_are_told(monkeypatch, place):
    def fails():
        raise RuntimeError("no\n  backend")

    monkeypatch.setattr(jax, "devices", fails)
    assert devices() == "no backend"
    assert "devices             none: no backend" in list(lines(env.facts()))


def test_memory_of_a_device_is_told():
    told = {"name": "cuda:0", "kind": "H200", "limit": 140_000_000_000, "in_use": None}
    assert env._device(told) == "cuda:0 (H200), 140,000.0 MB, 0.0 MB in use"


def test_a_home_folder_at_the_root_replaces_nothing(monkeypatch):
    monkeypatch.setenv("HOME", "/")
    assert without_home(["/a/b"]) == ["/a/b"]
