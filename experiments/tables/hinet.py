"""The tables of Hi-Net (Tables I to V of the paper): one modality from two others.

    python -m experiments.tables.hinet
    python -m experiments.tables.hinet --preset paper --tables hinet_table_1 --root DIR --held-out DIR --out DIR

With --preset paper name the tables of one data set: I to III and V are of BraTS 2018, IV is of ISLES 2015. Of BraTS the
window is scored that the paper's code cuts.
"""

from experiments.tables.making import main
from experiments.tables.published import Column, Line, Published

COLUMNS = {"PSNR": Column("", "psnr_db", digits=2), "NMSE": Column("", "nmse", digits=4)}
COLUMNS |= {"SSIM": Column("", "ssim", digits=4)}
WINDOW = ("--window=40:200,20:200",)
# Row of the recipe -> what the paper calls it; sources are named where one alone is read.
SINGLE = {
    "pix2pix": "Pix2pix from {first}",
    "pix2pix_second": "Pix2pix from {second}",
    "cyclegan": "cycleGAN from {first}",
    "cyclegan_second": "cycleGAN from {second}",
}
ROWS = {**SINGLE, "mmsyns": "MM-Syns", "full": "Hi-Net"}


def _printed(text):
    return dict(zip(COLUMNS, text.split(), strict=True))


def _table(key, title, variant, sources, printed, notes=()):
    """Returns a table of all methods for one target, by (first, second) source."""
    target = {"": "flair", "isles": "t2"}.get(variant, variant)
    names = dict(zip(("first", "second"), sources, strict=True))
    lines = tuple(
        Line(
            title_of.format(**names),
            _printed(text),
            ",".join(filter(None, (f"row={row}", variant and f"data={variant}"))),
        )
        for (row, title_of), text in zip(ROWS.items(), printed, strict=True)
    )
    window = () if variant == "isles" else WINDOW
    return Published(key, title, "hinet", ("synthesis", f"--target={target}"), COLUMNS, lines, notes, on_paper=window)


ABLATIONS = {
    "degraded1": "23.75±1.303 .0387±.008 .8836±.031",
    "degraded2": "24.47±1.245 .0294±.009 .8892±.031",
    "degraded3": "23.83±0.912 .0338±.012 .8878±.027",
    "early": "22.84±0.975 .0421±.009 .8612±.032",
    "late": "23.63±1.110 .0342±.008 .8745±.029",
    "full": "25.05±1.325 .0258±.009 .8909±.030",
}
TABLES = (
    _table(
        "hinet_table_1",
        "Hi-Net, Table I: FLAIR from T1 and T2, BraTS 2018",
        "",
        ("T1", "T2"),
        (
            "22.93±1.033 .0412±.009 .8726±.027",
            "22.86±0.918 .0419±.008 .8694±.029",
            "22.65±1.398 .0459±.014 .8352±.040",
            "22.42±1.379 .0499±.010 .8344±.028",
            "23.15±1.101 .0358±.009 .8622±.029",
            "25.05±1.325 .0258±.009 .8909±.030",
        ),
    ),
    _table(
        "hinet_table_2",
        "Hi-Net, Table II: T2 from T1 and FLAIR, BraTS 2018",
        "t2",
        ("T1", "FLAIR"),
        (
            "23.34±1.282 .0903±.029 .8815±.036",
            "23.44±1.267 .0882±.027 .8746±.034",
            "22.52±0.958 .1344±.028 .8511±.037",
            "22.38±0.874 .1259±.033 .8328±.028",
            "23.09±0.108 .1022±.045 .8635±.029",
            "24.70±1.534 .0676±.028 .9126±.036",
        ),
        ("The deviation 0.108 of MM-Syns is an evident misprint.",),
    ),
    _table(
        "hinet_table_3",
        "Hi-Net, Table III: T1 from T2 and FLAIR, BraTS 2018",
        "t1",
        ("T2", "FLAIR"),
        (
            "23.74±1.140 .0248±.007 .9036±.030",
            "22.73±1.670 .0336±.027 .8573±.032",
            "23.36±1.045 .0269±.007 .8862±.031",
            "22.81±1.923 .0309±.029 .8321±.043",
            "22.94±0.821 .0329±.011 .0833±.027",
            "25.23±1.387 .0180±.007 .9145±.033",
        ),
        ("The SSIM .0833 of MM-Syns is an evident misprint.",),
    ),
    _table(
        "hinet_table_4",
        "Hi-Net, Table IV: T2 from T1 and FLAIR, ISLES 2015",
        "isles",
        ("T1", "FLAIR"),
        (
            "21.70±0.906 .1009±.012 .8228±.036",
            "21.65±0.899 .1064±.023 .8160±.024",
            "20.12±0.609 .1502±.021 .7734±.028",
            "20.28±0.353 .1439±.009 .7735±.027",
            "20.36±0.704 .1419±.017 .8223±.025",
            "22.46±0.854 .0881±.015 .8414±.030",
        ),
    ),
    Published(
        "hinet_table_5",
        "Hi-Net, Table V: ablations, FLAIR from T1 and T2, BraTS 2018",
        "hinet",
        ("synthesis", "--target=flair"),
        COLUMNS,
        tuple(
            Line("Hi-Net" if row == "full" else row, _printed(text), f"row={row}") for row, text in ABLATIONS.items()
        ),
        on_paper=WINDOW,
    ),
)

if __name__ == "__main__":
    main(TABLES, __doc__)
