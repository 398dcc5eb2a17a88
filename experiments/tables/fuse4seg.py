"""The tables of Fuse4Seg (Tables 1 to 3 of the paper): segmentation of pairs of BraTS-Fuse, and fused images.

    python -m experiments.tables.fuse4seg
    python -m experiments.tables.fuse4seg --preset paper --tables fuse4seg_table_1_t1_t2 --root DIR --held-out DIR
        --out DIR

With --preset paper --root is a BraTS folder. --held-out holds labeled cases of it for the parts of Table 1, and the
folders MRI_CT, MRI_PET and MRI_SPECT of the Harvard collection for Tables 2 and 3. The networks are trained on magnetic
resonance alone and fuse the other kinds without having seen any, one of two readings of the paper. Networks of others
that segment see both modalities as channels; those that fuse are trained by configs/fusion.py, without labels.
"""

from configs.fuse4seg import RIVALS
from experiments.tables.making import main
from experiments.tables.published import Column, Line, Published, in_order

NOT_HERE = "it samples from a diffusion model, which is not part of this library"
SEGMENTATION = {
    "Dice": Column("mean", "dice", 100, 2),
    "mIoU": Column("mean", "iou", 100, 2),
    "HD95": Column("mean", "hd95_mm", digits=2),
}
# Name of a row -> the row of the recipe.
ROWS = {
    "UNet 3+": "unet_3plus",
    "AttnUNet": "attention_unet",
    "SwinUNet": "swin_unet",
    "CASCADE": "cascade",
    "EMCAD": "emcad",
    "FILM + nnU-Net": "film_nnunet",
    "FILM + nnU-Net-P": "film_nnunet_p",
    "Fuse4Seg": "full",
}
PAIRS = {
    "t1+t2": (
        "85.23 79.12 6.84",
        "87.56 81.34 5.67",
        "84.76 82.07 5.42",
        "86.45 80.21 6.12",
        "87.12 78.64 7.03",
        "88.05 82.36 5.31",
        "88.32 81.02 5.58",
        "89.24 83.45 4.97",
    ),
    "t1+t1ce": (
        "88.14 81.76 5.45",
        "89.67 83.32 4.98",
        "89.33 84.02 4.72",
        "88.76 82.45 5.21",
        "88.34 80.67 5.78",
        "89.98 83.90 4.61",
        "90.00 83.50 4.85",
        "90.85 85.23 4.48",
    ),
    "t1+flair": (
        "86.92 80.34 5.87",
        "88.45 82.12 5.35",
        "88.50 82.60 5.14",
        "87.56 81.02 5.61",
        "86.13 79.68 6.02",
        "88.92 82.70 5.03",
        "89.02 82.84 5.27",
        "89.78 84.12 4.89",
    ),
}
FUSION = {
    "EN": Column("", "en_bits", digits=2),
    "SD": Column("", "sd", digits=2),
    "SF": Column("", "sf", digits=2),
    "MI": Column("", "mi_nats", digits=2),
    "SCD": Column("", "scd", digits=2),
    "VIF": Column("", "vif", digits=2),
    "Qabf": Column("", "qabf", digits=2),
}
# Name of a row -> the row of configs/fusion.py; empty where there is none.
OTHERS = {
    "DIDFuse": "didfuse",
    "U2Fusion": "u2fusion",
    "RFN-Nest": "rfn_nest",
    "DDcGAN": "ddcgan",
    "TarDAL": "tardal",
    "CDDFuse": "cddfuse",
    "DDFM": "",
}
COLLECTIONS = {
    "MRI_CT": (
        "4.37 58.34 34.64 1.71 .69 .41 .38",
        "4.21 61.98 32.54 2.08 .75 .37 .46",
        "4.97 70.36 33.42 1.98 .68 .43 .52",
        "4.26 62.56 30.61 1.72 .65 .38 .42",
        "4.35 61.14 28.38 1.94 .92 .32 .56",
        "4.49 71.36 34.02 2.16 1.18 .44 .56",
        "4.77 69.35 32.77 1.98 1.03 .41 .54",
        "4.83 76.19 35.56 2.20 1.21 .49 .57",
    ),
    "MRI_PET": (
        "3.97 65.12 24.62 1.63 .42 .41 .53",
        "3.83 59.66 24.58 1.61 .44 .32 .43",
        "3.84 64.50 25.51 1.77 .39 .52 .62",
        "3.78 66.33 23.48 1.72 .35 .36 .47",
        "4.02 65.63 23.54 1.62 .32 .46 .54",
        "4.02 74.15 25.48 1.78 1.42 .57 .65",
        "4.06 71.42 25.69 1.66 .49 .54 .71",
        "4.45 75.11 29.20 1.87 1.68 .66 .65",
    ),
    "MRI_SPECT": (
        "2.97 55.12 13.69 1.51 .42 .46 .51",
        "3.45 45.66 14.58 1.54 .44 .36 .45",
        "3.53 44.50 16.51 1.89 .39 .51 .62",
        "3.33 49.33 13.48 1.72 .35 .46 .36",
        "3.02 65.63 15.54 1.62 .32 .48 .58",
        "3.67 52.68 17.32 1.83 .96 .58 .64",
        "3.57 56.42 16.81 1.66 .49 .53 .55",
        "4.17 62.61 22.56 1.87 1.58 .68 .70",
    ),
}
ABLATIONS = {
    "w/o decoder": ("", "6.50 40.50 .75 4.20 1.50 .85 .65"),
    "FILM + nnU-Net": ("film_nnunet", "6.60 42.20 .85 4.30 1.60 .88 .68"),
    "FILM + nnU-Net-P": ("film_nnunet_p", "6.65 41.00 .80 4.25 1.55 .86 .67"),
    "w/o adversarial loss in pre-training": ("wo_adv_pretrain", "6.70 46.00 .89 4.40 1.70 .90 .71"),
    "w/o adversarial loss in cooperative training": ("wo_adv_coop", "6.78 45.31 .83 4.38 1.65 .89 .70"),
    "w/o cross-attention": ("wo_cross_attention", "6.73 43.79 .86 4.35 1.62 .88 .69"),
    "full": ("full", "6.86 47.05 .98 4.50 1.75 .95 .75"),
}


def _of_pair(pair, printed):
    """Returns the part of Table 1 for one pair of modalities."""
    values = in_order("Dice mIoU HD95", *printed)
    shown, reads = f"--config.pairs=('{pair}',)", tuple(pair.split("+"))
    fused, channels = f"--config.network.combos=('{pair}',)", f"--config.alone.args.reads={reads}"
    lines = tuple(
        Line(name, one, f"row={row}", options=(shown, channels if row in RIVALS else fused))
        for (name, row), one in zip(ROWS.items(), values, strict=True)
    )
    notes = (
        "Ours is a mean over the regions of BraTS; the paper's mean over classes is not spelled out.",
        "UNet 3+ to EMCAD see both modalities as channels, and none starts from weights of ImageNet.",
    )
    key = f"fuse4seg_table_1_{pair.replace('+', '_')}"
    title = f"Fuse4Seg, Table 1, lower part: segmentation of {' and '.join(pair.upper().split('+'))}, BraTS-Fuse"
    return Published(key, title, "fuse4seg", ("brats",), SEGMENTATION, lines, notes)


def _of_collection(collection, printed):
    """Returns the part of Table 2 for one kind of pair, and what needs no network beside it."""
    values = in_order(" ".join(FUSION), *printed)
    lines = [
        Line(name, one, f"row={row},data=brats", config="fusion", image="fused")
        if row
        else Line(name, one, absent=NOT_HERE)
        for (name, row), one in zip(OTHERS.items(), values, strict=False)
    ]
    lines.append(Line("Fuse4Seg", values[-1], "row=full", image="fused"))
    lines += [Line(f"{name} (no network)", {}, "row=full", image=name) for name in ("mean", "maximum")]
    notes = (
        "The upper part of the paper's Table 1 holds the same numbers under the names of pairs of BraTS-Fuse.",
        "MI is in nats.",
    )
    key, title = f"fuse4seg_table_2_{collection.lower()}", f"Fuse4Seg, Table 2: {collection.replace('_', '-')}, Harvard"
    return Published(key, title, "fuse4seg", ("fusion",), FUSION, tuple(lines), notes, pairs=collection)


def _ablations():
    """Returns Table 3, whose columns stand in another order."""
    lines = []
    for name, (row, text) in ABLATIONS.items():
        (printed,) = in_order("EN SD VIF SF MI SCD Qabf", text)
        if row:
            lines.append(Line(name, printed, f"row={row}", image="fused"))
        else:
            lines.append(
                Line(name, printed, absent="without the decoder there is no fused image, of which the paper has scores")
            )
    notes = ("The paper names no data for this table; ours fuses the pairs of MRI and CT.",)
    title = "Fuse4Seg, Table 3: ablations, fused images"
    return Published("fuse4seg_table_3", title, "fuse4seg", ("fusion",), FUSION, tuple(lines), notes, pairs="MRI_CT")


TABLES = (
    *(_of_pair(pair, printed) for pair, printed in PAIRS.items()),
    *(_of_collection(collection, printed) for collection, printed in COLLECTIONS.items()),
    _ablations(),
)

if __name__ == "__main__":
    main(TABLES, __doc__)
