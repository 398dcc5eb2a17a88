"""The tables of CMFT and CMFF (Tables 2 to 5 of the paper): BraTS 2017 and 2018.

    python -m experiments.tables.cmff
    python -m experiments.tables.cmff --preset paper --root DIR --held-out DIR --out DIR --voc DIR

Both years have the same rows here: what is trained for one is scored once and stands beside the numbers of either. The
paper scored the challenge's validation cases, whose labels are not public.
"""

from dataclasses import replace

from experiments.tables.making import main
from experiments.tables.published import Column, Line, Published, in_order

REGIONS = ("ET", "WT", "TC", "mean")
METRICS = {"Dice": ("dice", 3), "sensitivity": ("sensitivity", 3), "HD95": ("hd95_mm", 3)}
COLUMNS = {
    f"{title} {region}": Column(region, metric, digits=digits)
    for title, (metric, digits) in METRICS.items()
    for region in REGIONS
}
NAMES = " ".join(name.replace(" ", "_") for name in COLUMNS)
# Name of a row -> the argument of the recipe, its phases, and what it needs.
ROWS = {
    "S_A": ("row=S_A+S_B", ("branch_a",), ""),
    "S_B": ("row=S_A+S_B", ("branch_b",), ""),
    "S_A + S_B": ("row=S_A+S_B", (), ""),
    "w/o MG": ("row=wo_MG", (), ""),
    "w CA": ("row=w_CA", (), ""),
    "random": ("row=random", (), ""),
    "voc": ("row=voc", (), "voc=voc.data.root"),
    "self": ("row=self", (), ""),
    "ours": ("row=ours", (), ""),
}
YEAR_2017 = in_order(
    NAMES,
    ".752 .799 .787 .779 .760 .787 .770 .772 3.735 11.640 8.307 7.894",
    ".429 .886 .656 .657 .471 .875 .643 .663 13.373 6.072 10.781 10.075",
    ".672 .864 .759 .765 .715 .834 .709 .753 7.944 7.032 7.824 7.600",
    ".762 .898 .808 .823 .781 .890 .809 .827 3.144 5.531 7.388 5.354",
    ".765 .896 .799 .820 .776 .884 .753 .804 3.402 4.981 8.066 5.483",
    ".725 .870 .754 .783 .766 .867 .774 .802 5.826 6.664 8.748 7.079",
    ".725 .879 .778 .794 .768 .899 .766 .811 5.202 6.639 8.642 6.828",
    ".751 .898 .779 .809 .785 .884 .768 .812 3.161 4.775 7.238 5.058",
    ".757 .900 .828 .828 .756 .904 .792 .817 3.170 5.155 6.999 5.108",
)
YEAR_2018 = in_order(
    NAMES,
    ".786 .807 .812 .802 .862 .816 .826 .835 4.350 10.060 9.670 8.027",
    ".444 .898 .704 .682 .468 .905 .708 .694 11.164 5.212 9.895 8.757",
    ".721 .873 .797 .797 .770 .863 .782 .805 4.255 6.301 7.323 5.960",
    ".781 .900 .822 .834 .794 .916 .836 .849 3.948 4.449 7.348 5.248",
    ".788 .901 .833 .841 .836 .921 .829 .862 3.788 5.140 6.265 5.064",
    ".755 .873 .771 .800 .772 .886 .811 .823 5.340 6.084 9.082 6.835",
    ".760 .896 .785 .814 .744 .911 .747 .800 3.300 4.700 8.427 5.476",
    ".767 .898 .832 .833 .767 .886 .821 .825 3.029 5.272 6.296 4.865",
    ".791 .903 .836 .843 .846 .919 .835 .867 3.992 4.998 6.369 5.120",
)
QUOTED = "the paper quotes it from the challenge's board; its network is not part of this library"
MEANS = {name: COLUMNS[name] for name in ("Dice mean", "HD95 mean")}
OTHERS_2017 = {
    "Kamnitsas (ensemble)": ".812 5.081",
    "Wang (ensemble)": ".843 5.097",
    "Isensee (ensemble)": ".808 7.000",
    "Jungo (ensemble)": ".813 6.092",
    "Hu (ensemble)": ".733 21.557",
    "Casamitjana (ensemble)": ".743 8.317",
    "Islam": ".775 11.706",
    "Jesson": ".788 6.597",
    "Roy": ".800 7.718",
    "Pereira": ".809 6.647",
    "Castillo": ".757 9.043",
}
OTHERS_2018 = {
    "Myronenko (ensemble)": ".866 5.099",
    "Isensee (ensemble)": ".861 4.400",
    "Puch (ensemble)": ".809 7.420",
    "Chandra": ".827 7.293",
    "Ma": ".796 7.070",
    "Chen": ".810 6.096",
}


def _lines(published):
    """Returns the rows of one year."""
    found = []
    for (name, (argument, phases, needs)), row in zip(ROWS.items(), published, strict=True):
        values = {key.replace("_", " "): value for key, value in row.items()}
        found.append(Line(name, values, argument, phases, needs=needs))
    return tuple(found)


def _quoted(others, ours):
    """Returns the rows of a table that compares with others, ours last."""
    rows = {name: in_order("Dice_mean HD95_mean", text)[0] for name, text in others.items()}
    lines = [
        Line(name, {key.replace("_", " "): value for key, value in row.items()}, absent=QUOTED)
        for name, row in rows.items()
    ]
    return (*lines, replace(ours, published={name: ours.published[name] for name in MEANS}))


PAPER_2017, PAPER_2018 = _lines(YEAR_2017), _lines(YEAR_2018)
OTHER_PAIRING = Line(
    "ours, T1+FLAIR and T2+T1c",
    {"Dice mean": ".822", "sensitivity mean": ".844", "HD95 mean": "5.789"},
    "row=other_pairs",
)
TABLES = (
    Published(
        "cmff_table_2",
        "CMFF, Table 2: ablations on BraTS 2017, validation cases",
        "cmff",
        ("brats",),
        COLUMNS,
        PAPER_2017,
        ("Table 3 prints other values for ours (ET .762, WT .898, TC .823), of the same mean; these are Table 2's.",),
    ),
    Published(
        "cmff_table_3",
        "CMFF, Table 3: others on BraTS 2017, validation cases",
        "cmff",
        ("brats",),
        MEANS,
        _quoted(OTHERS_2017, PAPER_2017[-1]),
    ),
    Published(
        "cmff_table_4",
        "CMFF, Table 4: ablations on BraTS 2018, validation cases",
        "cmff",
        ("brats",),
        COLUMNS,
        (*PAPER_2018, OTHER_PAIRING),
        ("The table's head reads WT, ET, TC; its numbers are ET, WT, TC, as Table 5 shows.",),
    ),
    Published(
        "cmff_table_5",
        "CMFF, Table 5: others on BraTS 2018, validation cases",
        "cmff",
        ("brats",),
        MEANS,
        _quoted(OTHERS_2018, PAPER_2018[-1]),
    ),
)

if __name__ == "__main__":
    main(TABLES, __doc__)
