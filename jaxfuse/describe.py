"""python -m jaxfuse.describe --config C [--rows] [--cost] [--json]

Says what a config builds, without data and without compiling: parameters by player and by the paper's names of the
networks, what is transferred between phases. `--rows` lists presets, rows and variants instead. `--cost` compiles
one step of each phase for this machine's backend and adds its operations and memory.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from jaxfuse import cli
from jaxfuse.errors import UserError


def define_flags() -> None:
    config_flags.DEFINE_config_file("config", None, "Recipe, such as configs/cmff.py:paper.", lock_config=True)
    flags.DEFINE_bool("rows", False, "List the config's presets, rows and data variants.")
    flags.DEFINE_bool("cost", False, "Compile one step of each phase here, and add its operations and memory.")
    flags.DEFINE_bool("json", False, "Print JSON.")
    flags.mark_flag_as_required("config")


def choices(path: str) -> dict[str, dict[str, str]]:
    """Presets, rows and data variants of a config file, each with its one line."""
    spec = importlib.util.spec_from_file_location("recipe", path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise UserError(f"{path} is not a config file; give a Python file such as configs/cmff.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {"presets": dict(module.PRESETS), "rows": dict(module.ROWS), "data": dict(module.VARIANTS)}


def describe(config: Any, *, cost: bool) -> dict[str, Any]:
    """What each phase builds: {"name", "phases": {phase: {"steps", "players", "networks", "transfers"[, "cost"]}}}."""
    from jaxfuse.config import parse
    from jaxfuse.data.settings import declared_facts
    from jaxfuse.engine.build import abstract_state, build_system

    experiment = parse(config)
    phases: dict[str, Any] = {}
    states: dict[str, Any] = {}
    for name in experiment.schedule:
        phase = experiment.phases[name]
        modalities, classes = declared_facts(experiment.data_of(phase))
        system = build_system(phase, modalities, classes, phase.steps or 1)
        states[name] = abstract_state(system, phase, modalities)
        params = states[name].params
        phases[name] = {
            "length": {"steps": phase.steps} if phase.steps else {"epochs": phase.epochs},
            "patch": list(phase.patch),
            "players": {player: _count(tree) for player, tree in params.items()},
            "networks": {network: _count(tree) for network, tree in system.networks(params).items()},
            "transfers": _transfers(phase.rules, params, states),
        }
        if cost:
            phases[name]["cost"] = _cost(system, phase, modalities, states[name])
    title = {key: getattr(experiment, key) for key in ("name", "preset", "row", "variant")}
    return {**title, "phases": phases, "result": list(experiment.result)}


def _count(tree: Any) -> int:
    import math

    import jax

    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _transfers(rules: Any, params: Any, states: dict[str, Any]) -> list[dict[str, Any]]:
    import jax

    from jaxfuse.learning.transfer import apply_rules

    listed = []
    for rule in rules:
        moved: list[int] = []

        def move(params: Any, donors: Any, rule: Any = rule, moved: list[int] = moved) -> Any:
            result, count = apply_rules(params, [rule], {(rule.donor, rule.best): donors})
            moved.append(count)
            return result

        jax.eval_shape(move, params, states[rule.donor].params)
        listed.append({"source": f"{rule.donor}:{rule.source}", "target": rule.target, "values": moved[0]})
    return listed


def _cost(system: Any, phase: Any, modalities: Any, state: Any) -> dict[str, Any]:
    from jaxfuse.engine.build import example_batch
    from jaxfuse.engine.programs import Programs, program_cost

    batch = example_batch(phase, modalities, margin=system.geometry.margin)
    programs = Programs(system)
    return {"backend": programs.placement.backend, **program_cost(programs.step.lower(state, batch).compile())}


def _as_text(facts: dict[str, Any]) -> str:
    lines = [" ".join(filter(None, [facts["name"], facts["preset"], f"row={facts['row']}", facts["variant"]]))]
    for name, phase in facts["phases"].items():
        ((unit, length),) = phase["length"].items()
        lines.append(f"\nphase {name}: {length} {unit}, patch {' x '.join(map(str, phase['patch']))}")
        lines += [f"  {network:<24}{count:>14,}" for network, count in phase["networks"].items()]
        lines += [f"  player {player:<17}{count:>14,}" for player, count in phase["players"].items()]
        lines += [f"  {t['source']} -> {t['target']}: {t['values']:,} values" for t in phase["transfers"]]
        for key, value in phase.get("cost", {}).items():
            lines.append(f"  {key:<24}{value:>14,}" if isinstance(value, int) else f"  {key:<24}{value:>14}")
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    cli.no_arguments(argv)
    if flags.FLAGS.rows:
        found = choices(config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0])
        lines = [
            f"{kind}\n" + "\n".join(f"  {n or '(default)':<14}{t}" for n, t in e.items())
            for kind, e in found.items()
            if e
        ]
        print(json.dumps(found, indent=1) if flags.FLAGS.json else "\n".join(lines))
        return 0
    facts = describe(flags.FLAGS.config, cost=flags.FLAGS.cost)
    print(json.dumps(facts, indent=1) if flags.FLAGS.json else _as_text(facts))
    return 0


if __name__ == "__main__":
    define_flags()
    cli.run(main)
