"""python -m experiments.throughput.parity [--systems cmff cmft]

Is a peer the same computation? It gets the weights of its System by their names; then one prediction and one step of
both are compared, in float32 at small sizes: outputs and losses (within 1e-4 of the largest value) and the gradient of
every weight (within 1e-3).
"""

from __future__ import annotations

import argparse
from typing import Any

import jax
import numpy as np
import torch

from experiments.throughput.names import copy_weights, to_torch, torch_names
from experiments.throughput.rules import Recorded
from experiments.throughput.systems import CASES

FORWARD = 1e-4
# Below this share of a player's largest gradient a leaf may be rounding alone, as of a bias that a norm takes away.
LEAST = 1e-2


def compare(name: str, size: str = "tiny") -> dict[str, float]:
    """Returns the largest differences of a System and its peer: of outputs, losses and gradients, in shares of 1."""
    case = CASES[name](size)
    # At this rate a step moves weights by about as much as they are apart.
    rules = dict.fromkeys(case.rules, Recorded(1e-2))
    system, peer, batch = case.ours(case.optimizers(rules), "float32"), case.peer(rules), case.example()
    state = jax.jit(system.init)(jax.random.key(0), batch)
    state = state.replace(params=_shaken(state.params))
    for player, net in peer.players.items():
        copy_weights(state.params[player], net)
    there = to_torch(batch)
    found = {"outputs": _outputs(system, state, peer, batch, there)}
    after, metrics = jax.jit(system.train_step)(state, batch)
    theirs = peer.step(there)
    if set(theirs) != set(metrics):
        raise ValueError(f"losses on one side only: {sorted(set(theirs) ^ set(metrics))}")
    found["losses"] = max(_apart(float(value), float(theirs[term].detach())) for term, value in metrics.items())
    found["gradients"] = max(_gradients(after.opt_state[player], net) for player, net in peer.players.items())
    return found


def _shaken(params: Any) -> Any:
    """Moves weights off zero and one: biases, scales, slopes, and kernels that start at zero.

    Other kernels stay as drawn, so that activations keep their size and no softmax saturates.
    """
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))

    def moved(leaf: Any, key: Any) -> Any:
        still = leaf.ndim > 1 and bool((leaf != 0).any())
        return leaf if still else leaf + 0.05 * jax.random.normal(key, leaf.shape)

    return jax.tree.unflatten(structure, [moved(leaf, key) for leaf, key in zip(leaves, keys, strict=True)])


def _outputs(system: Any, state: Any, peer: Any, batch: Any, there: Any) -> float:
    ours = jax.jit(system.predict)(state, {"image": batch["image"]})
    for net in peer.players.values():
        net.eval()
    with torch.no_grad():
        theirs = peer.predict(there["image"])
    for net in peer.players.values():
        net.train()
    return max(_apart(np.moveaxis(np.asarray(ours[name]), -1, 1), value.numpy()) for name, value in theirs.items())


def _gradients(recorded: Any, net: torch.nn.Module) -> float:
    """Returns the largest difference of any weight's gradient, in shares of the largest gradient of its leaf."""
    ours = torch_names(recorded)
    scale = LEAST * max(float(np.abs(gradient).max()) for gradient in ours.values())
    apart = []
    for name, parameter in net.named_parameters():
        theirs = np.zeros(parameter.shape, np.float32) if parameter.grad is None else parameter.grad.numpy()
        difference = np.abs(ours[name] - theirs).max()
        apart.append(float(difference / max(scale, float(np.abs(ours[name]).max()))))
    return max(apart)


def _apart(ours: Any, theirs: Any) -> float:
    return float(np.abs(ours - theirs).max() / max(float(np.abs(ours).max()), 1e-6))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", choices=CASES, default=list(CASES))
    failed = 0
    for name in parser.parse_args().systems:
        found = compare(name)
        held = max(found["outputs"], found["losses"]) < FORWARD and found["gradients"] < CASES[name]("tiny").gradient
        failed += not held
        print(name, "same" if held else "DIFFERENT", *(f"{what} {apart:.1e}" for what, apart in found.items()))
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
