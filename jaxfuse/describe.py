"""python -m jaxfuse.describe RECIPE [--preset P] [--row NAME] [--rows] [--cost [--volume 240,240,155]] [--json]

Says what a config builds, without reading images and without compiling: parameters by player and by the paper's names
of the networks, what is transferred between phases, and what preparing the data of a root takes in memory and on disk.
`--rows` lists presets, rows and variants instead. `--cost` compiles one step of each phase for this machine's backend
and adds its operations and memory. `--cost --device h200` compiles it for that card, which need not be there (extra
`h200`), and adds the kernels of a step and of a prediction, the bytes that they move, beside the least that they have
to, the memory that they need, and the time that the bytes take at the card's bandwidth. Options that are `auto` are
settled by that machine. `--volume 240,240,155` adds the memory of the prediction of a whole volume, in tiles of the
training patch, and the bytes that come to the host.

`--cost --devices N [--space S] [--shard_state]` compiles the step of a training on N devices, S of which share each
example, and tells the memory of each and the exchanges among them; a CPU plays as many. With `--device` it simulates
how long the exchanges take, over NVLink in machines of eight and InfiniBand between them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from jaxfuse import cli, named_recipe
from jaxfuse.errors import UserError
from jaxfuse.recipe_files import choices


def define_flags() -> None:
    """Declares the options of the command."""
    named_recipe.define_flags()
    flags.DEFINE_bool("rows", False, "List the config's presets, rows and data variants.")
    flags.DEFINE_bool("cost", False, "Compile one step of each phase here, and add its operations and memory.")
    flags.DEFINE_string("device", None, "With --cost: a card to compile for, one of h200, h100, a100, l40s.")
    flags.DEFINE_list("volume", None, "With --cost: sides of a volume whose prediction is compiled too.")
    flags.DEFINE_integer("devices", None, "With --cost: the devices of a training; as config.devices.", lower_bound=1)
    flags.DEFINE_integer("space", None, "With --devices: how many share an example; as config.space.", lower_bound=1)
    flags.DEFINE_bool("shard_state", None, "With --devices: they share the state; as config.shard_state.")
    flags.DEFINE_bool("json", False, "Print JSON.")


def main(argv: list[str]) -> int:
    """Prints the description; returns 0."""
    cli.no_arguments(argv)
    options = flags.FLAGS
    if options.rows:
        found = choices(Path(config_flags.get_config_filename(options["config"]).partition(":")[0]))
        text = _choices_as_text(found)
    else:
        # Imported late: --help, --rows and a mistyped option need no JAX.
        from jaxfuse.engine.cost.gpus import gpu_named
        from jaxfuse.engine.description import describe

        if options.device and not options.cost:
            raise UserError("--device is a card to compile for, and nothing is compiled without --cost; add it")
        if options.volume and not options.cost:
            raise UserError("--volume is the size of a volume to compile for, and nothing is compiled without --cost")
        gpu = gpu_named(options.device) if options.device else None
        volume = sides_of(options.volume) if options.volume else None
        found = describe(_on_devices(options), cost=options.cost, gpu=gpu, volume=volume)
        text = _as_text(found)
    print(json.dumps(found, indent=1) if options.json else text)
    return 0


def sides_of(words: Sequence[str]) -> tuple[int, ...]:
    """Reads the sides of a volume.

    Raises:
        UserError: these are not three numbers of 1 and more.
    """
    if len(words) != 3 or not all(word.strip().isdecimal() and int(word) for word in words):
        raise UserError(f"--volume is {','.join(words)!r}; give three sides of 1 and more, such as 240,240,155")
    return tuple(map(int, words))


def _on_devices(options: Any) -> ConfigDict:
    """Returns the config with the devices that the command's own options ask for."""
    import jax

    asked = {name: getattr(options, name) for name in ("devices", "space", "shard_state")}
    asked = {name: value for name, value in asked.items() if value is not None}
    if asked and not options.cost:
        raise UserError(f"--{min(asked)} is for programs that are compiled, and nothing is without --cost; add it")
    if "devices" in asked:
        asked["devices"] = str(options.devices)
        if not options.device:
            jax.config.update("jax_num_cpu_devices", options.devices)
    config = options.config.copy_and_resolve_references()
    config.update(asked)
    return config


def _choices_as_text(found: Mapping[str, Mapping[str, str]]) -> str:
    lines = []
    for kind, entries in found.items():
        if entries:
            width = max(14, *(len(name) + 2 for name in entries))
            lines += [kind, *(f"  {name or '(default)':<{width}}{told}" for name, told in entries.items())]
    return "\n".join(lines)


def _as_text(facts: Mapping[str, Any]) -> str:
    lines = [" ".join(filter(None, [facts["name"], facts["preset"], f"row={facts['row']}", facts["variant"]]))]
    lines += [f"  {name} is {value}, as auto" for name, value in facts.get("settled", {}).items()]
    for name, needs in facts["data"].items():
        lines.append(
            f"  {name}: {needs['told'] if needs else 'its root is not on this machine, and nothing is predicted'}"
        )
    for name, phase in facts["phases"].items():
        ((unit, length),) = phase["length"].items()
        lines.append(f"\nphase {name}: {length} {unit}, patch {' x '.join(map(str, phase['patch']))}")
        lines += [f"  {network:<24}{count:>14,}" for network, count in phase["networks"].items()]
        lines += [f"  player {player:<17}{count:>14,}" for player, count in phase["players"].items()]
        lines += [f"  {t['source']} -> {t['target']}: {t['values']:,} values" for t in phase["transfers"]]
        for key, value in phase.get("cost", {}).items():
            lines += _cost_lines(key, value, "  ")
    return "\n".join(lines)


def _cost_lines(name: str, value: Any, before: str) -> list[str]:
    """The lines of a figure, or of a group of them under its name."""
    if not isinstance(value, Mapping):
        told = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
        return [f"{before + name:<26}{told:>18}"]
    if "largest" in value:
        told = f"{value['count']:,} times, {value['bytes'] / 1e6:,.3f} MB together"
        return [f"{before + name:<26}{told}, {value['largest'] / 1e6:,.3f} MB the largest"]
    title = name if value else f"{name}: none"
    return [before + title, *(line for key, one in value.items() for line in _cost_lines(key, one, before + "  "))]


if __name__ == "__main__":
    define_flags()
    cli.run(main)
