"""The tables of HyperFusionNet (Tables 2 to 4 of the paper): stroke lesions and infant tissue.

    python -m experiments.tables.hyperfusion
    python -m experiments.tables.hyperfusion --preset paper --tables hyperfusion_table_4 --root DIR --held-out DIR
        --out DIR

With --preset paper name the tables of one data set: 2 and 3 are of stroke cases, 4 is of iSeg-2017.
"""

from experiments.tables.making import main
from experiments.tables.published import Column, Line, Published

STROKE = {"Dice": Column("lesion", "dice", 100, 1), "HD": Column("lesion", "hd_mm", digits=3)}
TISSUES = {tissue: Column(tissue, "dice", 100, 1) for tissue in ("CSF", "WM", "GM")}
TABLES = (
    Published(
        "hyperfusion_table_2",
        "HyperFusionNet, Table 2: stroke lesions",
        "hyperfusion",
        ("stroke",),
        STROKE,
        (
            Line("baseline", {"Dice": "65.6±18.0", "HD": "87.756±20.386"}, "row=baseline,data=stroke"),
            Line("HyperFusionNet", {"Dice": "67.7±16.5", "HD": "85.462±14.496"}, "row=full,data=stroke"),
        ),
        ("The paper states no unit of HD; ours is in mm. The stroke cases of the paper are not public.",),
    ),
    Published(
        "hyperfusion_table_3",
        "HyperFusionNet, Table 3: stroke lesions, 2D networks",
        "hyperfusion",
        ("stroke",),
        {"Dice": STROKE["Dice"]},
        (
            Line("2D baseline, cross-entropy", {"Dice": "41.9"}, "row=baseline_2d,data=stroke"),
            Line("+ incremental filters", {"Dice": "43.0"}, "row=incremental_2d,data=stroke"),
            Line("+ ResFuse", {"Dice": "46.6"}, "row=resfuse_2d,data=stroke"),
            Line("+ Combo loss", {"Dice": "47.1"}, "row=full_2d,data=stroke"),
            Line("HyperFusionNet 2D, cross-entropy", {"Dice": "46.6"}, "row=resfuse_2d,data=stroke"),
            Line("HyperFusionNet 2D, Dice loss", {"Dice": "45.9"}, "row=dice_2d,data=stroke"),
            Line("HyperFusionNet 2D, focal loss", {"Dice": "39.0"}, "row=focal_2d,data=stroke"),
            Line("HyperFusionNet 2D, Tversky loss", {"Dice": "43.6"}, "row=tversky_2d,data=stroke"),
        ),
        ("The row with ResFuse and the one with cross-entropy are one network; the paper prints it twice.",),
    ),
    Published(
        "hyperfusion_table_4",
        "HyperFusionNet, Table 4: iSeg-2017, three subjects",
        "hyperfusion",
        ("iseg",),
        TISSUES,
        (
            Line("baseline", {"CSF": "93.4±2.9", "WM": "89.6±3.5", "GM": "87.4±2.7"}, "row=baseline"),
            Line("HyperFusionNet", {"CSF": "93.6±2.5", "WM": "90.2±2.2", "GM": "87.8±2.3"}, "row=full"),
        ),
        ("The paper has WM above GM, the reverse of other results on iSeg; its columns may be swapped.",),
    ),
)

if __name__ == "__main__":
    main(TABLES, __doc__)
