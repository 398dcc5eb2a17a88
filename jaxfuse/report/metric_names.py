"""How metrics are printed: their names, digits, and which way is better."""

from __future__ import annotations

import math
from collections.abc import Mapping

# Printed name, digits, and whether more is better; other metrics are printed under their own name.
_METRICS: Mapping[str, tuple[str, int, bool]] = {
    "dice": ("Dice", 3, True),
    "dice_nonempty": ("Dice, truth not empty", 3, True),
    "iou": ("IoU", 3, True),
    "sensitivity": ("Sensitivity", 3, True),
    "specificity": ("Specificity", 4, True),
    "hd_mm": ("HD (mm)", 2, False),
    "hd_voxels": ("HD (voxels)", 2, False),
    "hd95_mm": ("HD95 (mm)", 2, False),
    "mhd_mm": ("MHD (mm)", 2, False),
    "asd_mm": ("ASD (mm)", 2, False),
    "assd_mm": ("ASSD (mm)", 2, False),
    "iseg_mhd_mm": ("iSeg MHD (mm)", 2, False),
    "iseg_asd_mm": ("iSeg ASD (mm)", 2, False),
    "mhd_dubuisson_mm": ("Dubuisson MHD (mm)", 2, False),
    "psnr_db": ("PSNR (dB)", 2, True),
    "nmse": ("NMSE", 4, False),
    "official_psnr_db": ("PSNR (dB), official", 2, True),
    "official_nmse": ("NMSE, official", 4, False),
    "official_ssim": ("SSIM, official", 3, True),
    "mae": ("MAE", 4, False),
    "en_bits": ("EN (bits)", 2, True),
    "sd": ("SD", 2, True),
    "sf": ("SF", 2, True),
    "mi_nats": ("MI (nats)", 2, True),
    "scd": ("SCD", 2, True),
    "vif": ("VIF", 3, True),
    "qabf": ("Qabf", 3, True),
    "ssim": ("SSIM", 3, True),
    "ssim_255": ("SSIM, range 255", 3, True),
}


def printed(metric: str, value: float) -> str:
    """A value with the digits of its metric."""
    if not math.isfinite(value):
        return "undefined"
    return f"{value:.{_METRICS[metric][1]}f}" if metric in _METRICS else f"{value:.4g}"


def title_of(metric: str) -> str:
    """The printed name."""
    return _METRICS[metric][0] if metric in _METRICS else metric


def arrow_of(metric: str) -> str:
    """Which way is better, where that is known."""
    return ("↑" if _METRICS[metric][2] else "↓") if metric in _METRICS else ""
