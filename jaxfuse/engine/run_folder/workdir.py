"""The folder of a run: its name, what it holds, and whether a config may go on in it."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxfuse import surroundings
from jaxfuse.engine.devices.placement import Placement
from jaxfuse.engine.run_folder.compiled import remove_cut
from jaxfuse.errors import UserError
from jaxfuse.io.folders import writable_folder
from jaxfuse.io.outputs import keep_apart, keep_whole
from jaxfuse.io.tables import read_json, write_json
from jaxfuse.io.whole_file import remove_begun
from jaxfuse.options import flat

ENVIRONMENT = "environment.json"
_EARLIER = "earlier"
# In the folder of a run whose weights others have trained: which files they are of.
CONVERTED = "converted.json"
# Of the processes of a run: they decide what is computed.
_ALIKE = ("jaxfuse", "jax", "jaxlib", "flax", "optax", "grain", "numpy")


def changes_nothing(option: str) -> bool:
    """Tells whether a run may resume with another value of this option.

    Those are lengths, logging, loading, preparing, saving by time, and the devices.
    """
    parts = option.split(".")
    lengths = ("steps", "epochs", "log_every", "checkpoint_minutes", "time_limit", "patience", "prepare_workers")
    return parts[-1] in lengths or parts[0] in ("loader", "devices", "space", "shard_state")


def default_workdir(config: Any, overrides: Mapping[str, Any]) -> Path:
    """Returns runs/<config>[-<preset>][-<row>][-<data>][-<6 hex digits of the overrides that matter>]."""
    parts = [config.name, config.preset, config.row if config.row != "ours" else "", config.variant]
    matter = {key: repr(value) for key, value in sorted(overrides.items()) if not changes_nothing(key)}
    if matter:
        parts.append(hashlib.sha256(json.dumps(matter).encode()).hexdigest()[:6])
    return Path("runs", "-".join(filter(None, parts)))


def check_workdir(workdir: Path, roots: Iterable[str]) -> None:
    """Refuses a folder that holds something else than a run, or lies among the data; nothing is written.

    `roots`: folders of data; the empty ones are phantoms.

    Raises:
        UserError: the folder is one of those.
    """
    try:
        if (workdir / CONVERTED).is_file():
            raise UserError(
                f"{workdir} holds weights that jaxfuse.convert has read, and nothing is trained there; start from them "
                "with --config.PHASE.start, in another --workdir"
            )
        keep_apart(workdir, "--workdir", [("data.root", Path(root)) for root in sorted({*roots} - {""})])
        keep_whole(workdir, "--workdir", own=_is_run(workdir), kind="run of jaxfuse")
    except OSError as error:
        raise UserError(
            f"the folder {workdir} cannot be looked into ({error.strerror}); name another with --workdir"
        ) from error


def _is_run(workdir: Path) -> bool:
    """Tells whether the config in a folder is one of a run: other programs have files of this name."""
    path = workdir / "config.json"
    config = read_json(path) if path.is_file() else {}
    return isinstance(config, dict) and {"preset", "row", "variant"} <= config.keys()


def open_workdir(workdir: Path, config: Any) -> Path:
    """Makes the folder and writes the config; if it holds a run, checks that it is this one. Returns its absolute path.

    What a run that was killed had begun to write there is removed.

    Raises:
        UserError: the folder cannot be written, or holds a run of another config (listed option by option).
    """
    workdir = writable_folder(workdir, "--workdir")
    remove_begun(workdir)
    wanted = json.loads(config.to_json_best_effort())
    path = workdir / "config.json"
    if path.exists() and has_begun(workdir):
        _check_same(workdir, read_json(path), wanted)
    write_json(path, wanted)
    return workdir


def has_begun(workdir: Path) -> bool:
    """Tells whether a phase has been trained here. A run refused before that binds nobody to its config."""
    return (workdir / "checkpoints").is_dir()


def begun_config(workdir: Path) -> dict[str, Any] | None:
    """Returns the config of the run in a folder as it was written; None where no run has begun there."""
    return read_json(workdir / "config.json") if _is_run(workdir) and has_begun(workdir) else None


def _check_same(workdir: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    old, new = flat(before), flat(now)
    # An option that is newer than the run is as good as absent where it is empty.
    differ = [
        key
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not changes_nothing(key) and (key in old or new[key] != "")
    ]
    if differ:
        lines = "; ".join(f"{key}: {old.get(key, 'absent')!r} there, {new.get(key, 'absent')!r} now" for key in differ)
        raise UserError(f"{workdir} holds a run of another config ({lines}); name another --workdir")


def read_config(workdir: Path) -> ConfigDict:
    """Reads the config of a finished or running run, lists turned back into tuples."""
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError(f"{workdir} is not a run: it has no config.json; give the folder that training printed")
    return ConfigDict(_tuples(read_json(path)))


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def note_environment(workdir: Path, placement: Placement, config: Any) -> None:
    """Writes `environment.json`: the surroundings of this call and the seeds.

    Those of earlier calls that differ stay in it, the oldest first: a run may go on elsewhere.
    """
    path = workdir / ENVIRONMENT
    seeds = {name: value for name, value in flat(config).items() if name.rpartition(".")[2].endswith("seed")}
    now = {**environment(placement), "seeds": {name: value for name, value in seeds.items() if value is not None}}
    before = read_json(path) if path.is_file() and has_begun(workdir) else {}
    earlier = before.pop(_EARLIER, [])
    write_json(path, {**now, _EARLIER: [*earlier, *([before] if before and before != now else [])]})


def statement(config: Any, workdir: Path) -> dict[str, Any]:
    """Returns what has to be the same in all processes of a run: versions, folder, and options."""
    options = flat(json.loads(config.to_json_best_effort()))
    versions = {package: version for package, version in surroundings.versions().items() if package in _ALIKE}
    return {**versions, "workdir": str(workdir.absolute()), **{f"config.{name}": options[name] for name in options}}


def environment(placement: Placement) -> dict[str, Any]:
    """Returns versions, the machine, the devices in use, variables that matter, and the command."""
    return {
        "versions": surroundings.versions(),
        "revision": surroundings.revision(),
        "python": platform.python_version(),
        "device": placement.device_name,
        "backend": placement.backend,
        "host": surroundings.host(),
        "system": platform.platform(),
        "variables": surroundings.variables(),
        "command": surroundings.command(),
    }


def compilation_cache(folder: Path) -> None:
    """Keeps compiled programs, so that a second run of the same sizes starts at once.

    Each kind of processor has its own folder: machines may share a home folder, and a program compiled for one CPU
    can be illegal on another. A program that was cut short, by a kill while it was written, is removed.
    """
    compiled = folder / f"compiled-{processor()}"
    remove_cut(compiled)
    jax.config.update("jax_compilation_cache_dir", str(compiled))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def processor() -> str:
    """Returns a short name for this machine's instruction set."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.is_file() else [platform.processor()]
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), lines[0] if lines else "")
    return f"{platform.machine()}-{hashlib.sha256(flags.encode()).hexdigest()[:8]}"


def related_runs(workdir: Path) -> list[Path]:
    """Lists the other runs beside this one, whose rows may stand in the same table."""
    return sorted(
        path.parent for path in workdir.parent.glob("*/dataset.json") if path.parent != workdir and path.is_file()
    )
