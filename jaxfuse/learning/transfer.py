"""Transfer between phases: parameters of a donor take the place of freshly drawn ones, and nothing goes unnoticed."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from jaxfuse.arrays import Params
from jaxfuse.errors import UserError


@dataclass(frozen=True)
class Rule:
    """`target` is a path into the new parameters, `source` one into those of the phase `donor`.

    Paths begin with the player and are separated by slashes. `transform(donor_subtree, target_subtree)` maps
    the donor's values before the check (inflating 2D kernels, say); None takes them as they are.
    """

    target: str
    donor: str
    source: str
    best: bool = False
    transform: Callable[[Params, Params], Params] | None = None


def parse_rule(entry: Any) -> Rule:
    """Reads (target, "phase:source"[, "module:function"]); "phase@best:source" takes the best checkpoint.

    Raises:
        UserError: the entry is not so built, or names no function.
    """
    texts = isinstance(entry, tuple | list) and all(isinstance(part, str) for part in entry)
    if not texts or len(entry) not in (2, 3) or ":" not in entry[1]:
        raise UserError(
            f"transfer rule {entry!r} is not understood; write (target, 'phase:source') or "
            "(target, 'phase:source', 'module:function')"
        )
    phase, source = entry[1].split(":", 1)
    phase, _, which = phase.partition("@")
    if which not in ("", "last", "best"):
        raise UserError(f"transfer rule {tuple(entry)} asks for the checkpoint {which!r}; choose @last or @best")
    return Rule(entry[0], phase, source, which == "best", _transform(entry[2]) if len(entry) == 3 else None)


def _transform(name: str) -> Callable[[Params, Params], Params]:
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(f"jaxfuse.{module}"), function)
    except (ModuleNotFoundError, AttributeError) as error:
        raise UserError(
            f"transfer rule: {name!r} names no function of jaxfuse ({error}); write module:function"
        ) from error


def apply_rules(
    params: Mapping[str, Params], rules: Sequence[Rule], donors: Mapping[tuple[str, bool], Mapping[str, Params]]
) -> tuple[dict[str, Params], int]:
    """Carries out every rule; returns the parameters and the number of values that were transferred.

    Args:
        donors: (phase, best) -> that phase's parameters by player.

    Raises:
        UserError: a path is absent on either side, or the subtrees differ in structure or shapes; the message
            shows both.

    Example:
        A new network takes over the trunk of a generator and keeps its own head.

        >>> import jax.numpy as jnp
        >>> from jaxfuse.learning.transfer import apply_rules, parse_rule
        >>> fresh = {"net": {"trunk": {"kernel": jnp.zeros((3, 2))}, "head": jnp.zeros(4)}}
        >>> trained = {"generators": {"ab": {"trunk": {"kernel": jnp.ones((3, 2))}, "head": jnp.ones(1)}}}
        >>> rule = parse_rule(("net/trunk", "transition:generators/ab/trunk"))
        >>> params, values = apply_rules(fresh, [rule], {("transition", False): trained})
        >>> values  # of the six weights of the kernel
        6
        >>> float(params["net"]["trunk"]["kernel"].sum()), float(params["net"]["head"].sum())
        (6.0, 0.0)
    """
    result, moved = dict(params), 0
    for rule in rules:
        fresh = _subtree(result, rule.target, "the new parameters")
        given = _subtree(donors[rule.donor, rule.best], rule.source, f"the parameters of phase {rule.donor}")
        if rule.transform is not None:
            given = rule.transform(given, fresh)
        if _shapes(fresh) != _shapes(given):
            raise UserError(
                f"transfer {rule.donor}:{rule.source} -> {rule.target}: the trees differ.\n"
                f"target:\n{_listing(fresh)}\nsource:\n{_listing(given)}"
            )
        result = _replaced(result, rule.target.split("/"), given)
        moved += sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(given))
    return result, moved


def _subtree(tree: Mapping[str, Any], path: str, where: str) -> Params:
    node: Any = tree
    for i, part in enumerate(path.split("/")):
        if not isinstance(node, Mapping) or part not in node:
            known = ", ".join(node) if isinstance(node, Mapping) else "a leaf"
            reached = "/".join(path.split("/")[:i]) or "the top"
            raise UserError(f"transfer path {path!r} matches nothing in {where}: {reached} has {known}")
        node = node[part]
    return node


def _replaced(tree: Mapping[str, Any], path: Sequence[str], value: Params) -> dict[str, Any]:
    head, *rest = path
    return {**tree, head: _replaced(tree[head], rest, value) if rest else value}


def _shapes(tree: Params) -> dict[str, tuple[int, ...]]:
    return {jax.tree_util.keystr(path): tuple(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _listing(tree: Params) -> str:
    return "\n".join(f"  {path} {shape}" for path, shape in _shapes(tree).items())
