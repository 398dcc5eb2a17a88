"""Post-processing of label maps of cases, on the whole grid of their files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxfuse.data.facts import CaseFacts, counted
from jaxfuse.data.prepared import Prepared
from jaxfuse.data.preprocess import uncrop
from jaxfuse.postprocessing.note import note_of
from jaxfuse.postprocessing.plan import Images, Plan, StoredPlan
from jaxfuse.postprocessing.steps import Labels


@dataclass(frozen=True)
class Postprocessing:
    """A plan as it is applied to label maps of cases, on the grid of their files, where it was chosen as well."""

    stored: StoredPlan

    @property
    def plan(self) -> Plan:
        """The steps that are applied."""
        return self.stored.plan

    def __call__(self, labels: Labels, case: Prepared) -> Labels:
        """Returns class indices on a case's crop after all steps."""
        return on_whole_grid(self.plan, labels, case)

    def chosen_on(self, facts: CaseFacts) -> bool:
        """Tells whether the plan was chosen on this case, by what its images measure; names may be those of others."""
        own = images_of(facts)
        return any(_same(own, images) for images in self.stored.images.values())

    def note(self, facts: CaseFacts) -> str:
        """Returns what the header of the case's label map says of it."""
        return note_of(self.plan, on_it=self.chosen_on(facts))

    def told(self) -> str:
        """Says what is applied, and from where."""
        return f"post-processing of {self.stored.path}: {self.plan.told()}"


def on_whole_grid(plan: Plan, labels: Labels, case: Prepared) -> Labels:
    """Applies a plan to class indices on a case's crop, as to the whole of its grid."""
    facts = case.facts
    whole = plan(uncrop(labels, case, 0), facts.steps_mm)
    return whole[tuple(slice(a, a + n) for a, n in zip(facts.crop_start, facts.shape, strict=True))]


def images_of(facts: CaseFacts) -> Images:
    """Returns what tells the images of a case from those of others: mean and standard deviation of each, as stored."""
    return {
        name: (float(mean), float(std)) for name, mean, std in zip(facts.modalities, facts.mean, facts.std, strict=True)
    }


def _same(one: Images, other: Images) -> bool:
    shared = one.keys() & other.keys()
    return bool(shared) and all(one[name] == other[name] for name in shared)


def warning_of(cases: Sequence[str]) -> str:
    """Says which cases a plan was chosen on, so that their scores say too much for it; empty where none."""
    if not cases:
        return ""
    more = f" and {len(cases) - 5} more" if len(cases) > 5 else ""
    return (
        f"Warning: the post-processing was chosen on {counted(len(cases), 'case')} of these "
        f"({', '.join(cases[:5])}{more}); report scores of others"
    )
