"""Public tensors to our arrays and back, by the lines of a part; another file is refused in one sentence."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

import numpy as np

from jaxfuse.errors import UserError
from jaxfuse.weights.lines import COUNTERS, Arrays, Line, Ours, Part, counters

# Dictionaries within which trainers keep a state dict.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "params", "params_ema", "weights")
# What `torch.nn.DataParallel` puts before every name.
PARALLEL = "module"
# Names that a sentence lists.
_LISTED = 3


def read_part(part: Part, found: Arrays, here: Ours, where: str) -> dict[str, np.ndarray]:
    """Returns our arrays by their paths, float32, from the tensors of a public code.

    Args:
        here: our network.
        where: the file, for a sentence.

    Raises:
        UserError: tensors are missing, none of the network's, or of other sides than ours.
    """
    lines = part.lines(here)
    _check_ours(part, lines, here)
    given = bare(found, {line.theirs for line in lines})
    _check_names(part, lines, given, where)
    tensors: Arrays = {line.theirs: np.asarray(given[line.theirs], np.float32) for line in lines}
    if part.settle is not None:
        tensors = part.settle(tensors, here)
    made: dict[str, np.ndarray] = {}
    for line in lines:
        value = _fitting(line, tensors[line.theirs], here, where)
        number, count = line.share
        whole = made.setdefault(line.ours, np.empty(here.shapes[line.ours], np.float32))
        np.split(whole, count, -1)[number][...] = value
    return made


def write_part(part: Part, arrays: Arrays, sources: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Returns the tensors of a public code by their names, from all arrays that our network has.

    Raises:
        UserError: the code has no name for an array, or one name for several that differ.
    """
    here = Ours({path: array.shape for path, array in arrays.items()}, sources)
    lines = part.lines(here)
    _check_ours(part, lines, here)
    made: dict[str, np.ndarray] = {}
    for line in lines:
        value = line.write(np.asarray(arrays[line.ours]))
        if line.theirs in made and not np.array_equal(made[line.theirs], value):
            first = next(one.ours for one in lines if one.theirs == line.theirs)
            raise UserError(
                f"the public code has one tensor {line.theirs} for {first} and {line.ours}, which differ in this run, "
                "so that no file of its can hold both; write our own names, with --to jaxfuse"
            )
        made[line.theirs] = value
    return made | dict(counters(lines))


def bare(found: Arrays, expected: Collection[str]) -> Arrays:
    """Returns tensors without `module` in their names, of those dictionaries in the file that hold most of them."""
    plain = {".".join(word for word in name.split(".") if word != PARALLEL): name for name in found}
    within = [plain]
    for wrapper in WRAPPERS:
        start = f"{wrapper}."
        within.append({name.removeprefix(start): own for name, own in plain.items() if name.startswith(start)})
    chosen = max(within, key=lambda names: len(names.keys() & set(expected)))
    return {name: found[own] for name, own in chosen.items()}


def matched(part: Part, found: Arrays, here: Ours) -> int:
    """Counts the tensors of a part that a file holds."""
    expected = {line.theirs for line in part.lines(here)}
    return len(bare(found, expected).keys() & expected)


def _check_ours(part: Part, lines: Sequence[Line], here: Ours) -> None:
    """Refuses a network of ours that is another one than the public code's."""
    ours = {line.ours for line in lines}
    if absent := sorted(ours - here.shapes.keys()):
        raise UserError(
            f"this recipe's network has no {listed(absent)}, which the public code has; choose the row and the sizes "
            "of the public code"
        )
    if not part.partial and (further := sorted(here.shapes.keys() - ours)):
        raise UserError(
            f"this recipe's network has {listed(further)}, for which the public code has no name; choose the row and "
            "the sizes of the public code"
        )


def _check_names(part: Part, lines: Sequence[Line], given: Arrays, where: str) -> None:
    expected = {line.theirs for line in lines}
    missing = sorted(expected - given.keys())
    left_out = (*part.ignored, COUNTERS)
    stray = sorted(
        name for name in given.keys() - expected if not any(fnmatchcase(name, pattern) for pattern in left_out)
    )
    if not missing and not stray:
        return
    faults = [f"{len(missing)} of its {len(expected)} tensors are missing, {listed(missing)}"] if missing else []
    faults += [f"{len(stray)} of the file's are none of it, {listed(stray)}"] if stray else []
    raise UserError(
        f"{where} is not read as {part.name}: {'; '.join(faults)}; name the file that holds it, or another table and "
        "recipe"
    )


def _fitting(line: Line, theirs: np.ndarray, here: Ours, where: str) -> np.ndarray:
    shape = line.shape(here.shapes[line.ours])
    try:
        value = line.read(theirs, here.shapes[line.ours])
    except ValueError:
        value = None
    if value is None or value.shape != shape:
        raise UserError(
            f"{where}: {line.theirs} has the sides {theirs.shape}, which do not make {line.ours} of {shape}; choose "
            "the recipe's sizes and modalities to be those of the file"
        )
    return value


def listed(names: Sequence[str]) -> str:
    """Returns the first names, and how many more there are."""
    shown = ", ".join(names[:_LISTED])
    return f"{shown} and {len(names) - _LISTED} more" if len(names) > _LISTED else shown
