"""python -m jaxfuse.env [--json]

Prints what a report of a fault has to say: versions, Python, the system, devices and their memory, caches and their
sizes, environment variables that matter, and the last error of a command of jaxfuse. The home folder is written ~.
Nothing is sent anywhere: look through the text before you pass it on.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import flags

from jaxfuse import cli, last_error, surroundings
from jaxfuse.data.settings import cache_folder
from jaxfuse.errors import UserError


def define_flags() -> None:
    """Declares the options of the command."""
    flags.DEFINE_bool("json", False, "Print JSON.")


def main(argv: list[str]) -> int:
    """Prints the surroundings; returns 0."""
    cli.no_arguments(argv)
    found = without_home(facts())
    print(json.dumps(found, indent=1) if flags.FLAGS.json else "\n".join(lines(found)))
    return 0


def facts() -> dict[str, Any]:
    """Returns all that is told, by names."""
    return {
        "versions": surroundings.versions(),
        "revision": surroundings.revision(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "host": surroundings.host(),
        "devices": devices(),
        "caches": caches(),
        "variables": surroundings.variables(),
        "last_error": dict(last_error.kept()),
    }


def devices() -> list[dict[str, Any]] | str:
    """Returns each device with its memory, in bytes where it is told; or the reason why JAX finds none."""
    import jax

    try:
        found = jax.devices()
    except RuntimeError as error:
        return " ".join(str(error).split())
    told = []
    for device in found:
        memory = device.memory_stats() or {}
        sizes = {name: memory.get(f"bytes_{name}") for name in ("limit", "in_use")}
        told.append({"name": str(device), "kind": device.device_kind, **sizes})
    return told


def caches() -> dict[str, Any]:
    """Returns the folder of caches and the bytes of what lies in it; or the reason why it has no place."""
    try:
        folder = cache_folder()
        inside = sorted(folder.iterdir()) if folder.is_dir() else []
        return {"folder": str(folder), "bytes": {path.name: size(path) for path in inside}}
    except UserError as error:
        return {"folder": str(error), "bytes": {}}
    except OSError as error:
        return {"folder": f"{error.filename} ({error.strerror})", "bytes": {}}


def size(path: Path) -> int:
    """Returns the bytes of a file, or of all files below a folder; links are not followed."""
    if not path.is_dir() or path.is_symlink():
        return path.lstat().st_size
    total = 0
    for top, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(top, name)).st_size
            except FileNotFoundError:  # another process has cleared it
                continue
    return total


def without_home(value: Any) -> Any:
    """Returns the same with ~ for the home folder: whose it is tells nothing of a fault."""
    home = os.path.expanduser("~")
    if isinstance(value, str):
        return value.replace(home, "~") if len(home) > 1 else value
    if isinstance(value, Mapping):
        return {name: without_home(item) for name, item in value.items()}
    return [without_home(item) for item in value] if isinstance(value, list) else value


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yields the facts for a reader, a line each."""
    yield from (f"{name:<20}{version}" for name, version in found["versions"].items())
    yield from (f"{name:<20}{found[name]}" for name in ("revision", "python", "system", "host") if found[name])
    if isinstance(found["devices"], str):
        yield f"{'devices':<20}none: {found['devices']}"
    else:
        yield from (f"{'device':<20}{_device(one)}" for one in found["devices"])
    yield f"{'caches':<20}{found['caches']['folder']}"
    yield from (f"  {name:<32}{_megabytes(count)}" for name, count in found["caches"]["bytes"].items())
    yield from (f"{name}={value}" for name, value in found["variables"].items())
    error = found["last_error"]
    if not error:
        yield f"{'last error':<20}none is kept"
        return
    yield f"{'last error':<20}{error.get('time')}, version {error.get('version')}: {error.get('command')}"
    yield from (f"  {line}" for line in str(error.get("told")).splitlines())


def _device(one: Mapping[str, Any]) -> str:
    memory = f", {_megabytes(one['limit'])}, {_megabytes(one['in_use'] or 0)} in use" if one["limit"] else ""
    return f"{one['name']} ({one['kind']}){memory}"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


if __name__ == "__main__":
    define_flags()
    cli.run(main)
