"""The table of InfiNet (Table 1 of the paper): infant tissue.

python -m experiments.tables.infinet
python -m experiments.tables.infinet --preset paper --root DIR --held-out DIR --out DIR
"""

from experiments.tables.making import main
from experiments.tables.published import Column, Line, Published, in_order

COLUMNS = {tissue: Column(tissue, "dice") for tissue in ("CSF", "GM", "WM")}
PRINTED = dict(
    zip(
        ("single", "double", "sagittal", "coronal", "axial", "aggregated", "ensemble", "densenet"),
        in_order(
            "CSF GM WM",
            "0.764 0.784 0.767",
            "0.779 0.819 0.792",
            "0.912 0.871 0.831",
            "0.898 0.851 0.822",
            "0.916 0.875 0.847",
            "0.926 0.887 0.856",
            "0.940 0.901 0.880",
            "0.958 0.919 0.901",
        ),
        strict=True,
    )
)
HIDDEN = "the labels of the challenge's test subjects are not public"
LINES = (
    Line("coronal U-Net, single arm", PRINTED["single"], "row=unet_single"),
    Line("coronal U-Net, double arm", PRINTED["double"], "row=unet_double"),
    Line("sagittal InfiNet", PRINTED["sagittal"], "row=aggregated", ("sagittal",)),
    Line("coronal InfiNet", PRINTED["coronal"], "row=aggregated", ("coronal",)),
    Line("axial InfiNet", PRINTED["axial"], "row=aggregated", ("axial",)),
    Line("InfiNet, views aggregated", PRINTED["aggregated"], "row=aggregated"),
    Line("InfiNet, single encoder (announced, not printed)", {}, "row=single_encoder"),
    Line("InfiNet, ensemble, challenge test data", PRINTED["ensemble"], absent=HIDDEN),
    Line(
        "3D-DenseNet, challenge test data",
        PRINTED["densenet"],
        absent="the paper quotes it from the challenge's board; its network is not part of this library",
    ),
)
TABLES = (
    Published(
        "infinet_table_1",
        "InfiNet, Table 1: iSeg-2017, two subjects",
        "infinet",
        ("iseg",),
        COLUMNS,
        LINES,
        ("Which two subjects were tested is not named; 9 and 10 give numbers near the printed ones.",),
    ),
)

if __name__ == "__main__":
    main(TABLES, __doc__)
