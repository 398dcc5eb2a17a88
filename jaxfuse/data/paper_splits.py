"""Splits of the papers, as far as they tell them: by the names of cases where these are named, else by their numbers.

Where a paper tells numbers only, `data.split_seed` draws who is who. What a paper tests on becomes the side `test`,
which is held out: `jaxfuse.predict --side test` labels it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxfuse.data.splits import Split, split_cases
from jaxfuse.data.subject_names import SubjectOf, cases_by_subject
from jaxfuse.errors import UserError


@dataclass(frozen=True)
class PaperSplit:
    """The split of one paper and data set.

    Attributes:
        told: what the paper tells, for sentences.
        subjects: how many there are; 0: any number.
        val, test: how many of them validate and test, if they are drawn.
        names: all of them, if they are named.
        test_names: those that test, if they are named.
    """

    told: str
    subjects: int = 0
    val: int = 0
    test: int = 0
    names: tuple[str, ...] = ()
    test_names: tuple[str, ...] = ()

    def of(self, ids_and_groups: Sequence[tuple[str, str]], *, seed: int, subject: SubjectOf) -> Split:
        """Splits these cases; refuses others than the paper had."""
        pairs, ids = sorted(ids_and_groups), [case for case, _ in ids_and_groups]
        found = cases_by_subject(ids, subject)
        if missing := sorted(set(self.names) - set(ids)):
            raise self._refusal(f"{len(ids)} cases are here, and {missing[0]} is not among them")
        if strange := sorted(set(ids) - set(self.names)) if self.names else []:
            raise self._refusal(f"{len(ids)} cases are here, and {strange[0]} is none of the paper's")
        if self.subjects and len(found) != self.subjects:
            raise self._refusal(f"{len(ids)} cases of {len(found)} subjects are here")
        test = self.test_names or _drawn(pairs, self.test, seed, subject)
        left = [pair for pair in pairs if pair[0] not in set(test)]
        val = _drawn(left, self.val, seed, subject)
        train = tuple(case for case, _ in left if case not in set(val))
        return {"train": train, "val": val, "test": tuple(test)}

    def _refusal(self, found: str) -> UserError:
        advice = "name a split file, or leave data.split empty"
        return UserError(f"data.split is 'paper', whose split is of {self.told}; {found}: {advice}")


def _drawn(pairs: Sequence[tuple[str, str]], count: int, seed: int, subject: SubjectOf) -> tuple[str, ...]:
    return split_cases(pairs, seed=seed, val_count=count, subject=subject)["val"] if count else ()


_ISEG = tuple(f"subject-{number}" for number in range(1, 11))
_ISLES = {
    "training": tuple(f"training_{number}" for number in range(1, 29)),
    "testing": tuple(f"testing_{number}" for number in range(1, 18)),
}

PAPER_SPLITS = {
    "cmff": PaperSplit("285 subjects of BraTS 2017 or 2018, all of which train", subjects=285),
    "hinet_brats": PaperSplit("285 subjects of BraTS 2018, 57 of which test", subjects=285, test=57),
    "hinet_isles": PaperSplit(
        "cases training_1 to 28 and testing_1 to 17 of ISLES 2015",
        names=(*_ISLES["training"], *_ISLES["testing"]),
        test_names=_ISLES["testing"],
    ),
    "hyperfusion_iseg": PaperSplit(
        "subject-1 to 10 of iSeg-2017, 6 of which train, 1 validates and 3 test", val=1, test=3, names=_ISEG
    ),
    # A validation is plotted, and of the 120 only these two numbers are told: 10 of the 90 validate.
    "hyperfusion_stroke": PaperSplit("120 subjects, 30 of which test", subjects=120, val=10, test=30),
    # Two of ten test. The authors' own log of scores tells these two.
    "infinet": PaperSplit(
        "subject-1 to 10 of iSeg-2017, of which 9 and 10 test", names=_ISEG, test_names=("subject-9", "subject-10")
    ),
}


def paper_split(name: str) -> PaperSplit:
    """Returns the split of a recipe's paper; refuses a name without one."""
    if name not in PAPER_SPLITS:
        raise UserError(
            "data.split is 'paper', and the paper of this recipe tells no split of such data; name a split file, or "
            "leave data.split empty"
        )
    return PAPER_SPLITS[name]
