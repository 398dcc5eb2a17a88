"""Tables of groups that do not name the cases, or are none."""

import re

from jaxfuse import evaluate
from tests.faults.catalogue import table
from tests.scoring.test_groups import written

CASES = "".join(f"c{n},HGG\n" for n in range(6))


@table(
    "text, words",
    (
        "`evaluate --groups`: a table without a case that is scored",
        "refused, by name",
        "case,grade\nc0,HGG\n",
        "names no group for c1, c2",
    ),
    (
        "`evaluate --groups`: a table without a column case",
        "refused",
        "id,grade\nc0,HGG\n",
        "has the columns id, grade; give a column case",
    ),
    (
        "`evaluate --groups`: a table without a grouping",
        "refused",
        "case\nc0\n",
        "has the columns case; give a column case",
    ),
    (
        "`evaluate --groups`: a column with the name of groups that are made without a table",
        "refused",
        "case,number of lesions\nc0,few\n",
        "has the column number of lesions, a name of groups that are made without",
    ),
    ("`evaluate --groups`: a case in two rows", "refused", f"case,grade\nc0,LGG\n{CASES}", "names the case c0 twice"),
    (
        "`evaluate --groups`: a row that is cut short",
        "refused",
        f"case,grade,site\n{CASES}",
        "row 2 of .* has 2 values; give 3",
    ),
    ("`evaluate --groups`: a table that is no text", "refused", b"case,\xff\xfe\n", "cannot be read"),
)
def test_tables_of_groups(sentence_of, tmp_path, text, words):
    written(tmp_path)
    path = tmp_path / "groups.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    _refused(sentence_of, tmp_path, words, groups=path)


@table(
    "sizes, words",
    ("`evaluate --sizes_mm3`: bounds that fall", "refused", "10,5", "--sizes_mm3 is 10,5; give volumes"),
    ("`evaluate --sizes_mm3`: a word", "refused", "small", "--sizes_mm3 is small; give volumes"),
)
def test_bounds(sentence_of, tmp_path, sizes, words):
    written(tmp_path)
    _refused(sentence_of, tmp_path, words, sizes_mm3=sizes)


def _refused(sentence_of, root, words, **options):
    folders = {"pred": root / "pred", "ref": root / "ref", "out": root / "out"}
    told = sentence_of(evaluate, **folders, protocol="isles2022", pictures=0, **options)
    assert re.search(words, told)
    assert not (root / "out").exists()
