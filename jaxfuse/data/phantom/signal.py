"""Signal of tissue: relaxation at 3 T, sequence equations, gadolinium, flow, bias field and noise.

Relaxation times (ms) and proton densities (relative to water) at 3 T:

* White and cortical gray matter, T1: Wright et al., MAGMA 21:121, 2008 (838 and 1607; putamen 1332, caudate
  1395, here one deep gray value). T2: Stanisz et al., Magn Reson Med 54:507, 2005 (69 and 99), with blood
  (1932, 275).
* Cerebrospinal fluid: T1 4163, Lin et al., Proc ISMRM 2001; T2 503, Piechnik et al., Magn Reson Med 61:579, 2009.
* Proton densities of white matter, gray matter and fluid: BrainWeb (Kwan et al., IEEE Trans Med Imaging
  18:1085, 1999).
* Solid glioma before contrast: T1 1863 +- 70 in high-grade tumors, MR fingerprinting, de Blank et al.,
  Radiol Imaging Cancer 1, 2019; T2 toward the 172 +- 53 of Badve et al., AJNR 38:492, 2017, since that
  method reads T2 short. Edema: T1 1578 +- 331 around glioblastoma, Badve et al.
* Enhancing tumor: its concentration of gadolinium is chosen so that T1 drops by 838 +- 210 ms, and by 123 +- 74
  in the edema, as measured in glioblastoma ("Quantitative T1 mapping indicates tumor infiltration beyond the
  enhancing part of glioblastomas", NMR Biomed, 2020).
* Deep gray T2, gliosis, necrosis, choroid plexus, methemoglobin and the densities of diseased tissue have no
  single published table; they are set between their neighbors so that the order of gray values known from
  radiology holds (necrosis near fluid on T1 and T2, gliosis like edema on FLAIR, methemoglobin bright on T1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Values = float | np.floating | Float[np.ndarray, "..."]

# Gadobutrol at 3 T and 37 degrees, per mmol/l and s: human plasma and human blood
# (Szomolanyi et al., Invest Radiol 54:559, 2019).
R1_PLASMA = 4.97
R1_BLOOD = 3.47


class Tissue(NamedTuple):
    """T1 and T2 in ms and the proton density relative to water, at 3 T and without contrast agent."""

    t1_ms: float
    t2_ms: float
    density: float


TISSUES_3T: Mapping[str, Tissue] = {
    "fluid": Tissue(4163, 503, 1.00),
    "gray": Tissue(1607, 99, 0.86),
    "white": Tissue(838, 69, 0.77),
    "deep gray": Tissue(1360, 75, 0.84),
    "blood": Tissue(1932, 275, 0.88),
    "choroid plexus": Tissue(1900, 150, 0.90),
    "gliosis": Tissue(1250, 120, 0.85),
    "methemoglobin": Tissue(450, 65, 0.80),
    "edema": Tissue(1578, 150, 0.88),
    "non-enhancing": Tissue(1863, 150, 0.90),
    "enhancing": Tissue(1500, 120, 0.88),
    "necrosis": Tissue(2500, 250, 0.93),
}


class Sequence(NamedTuple):
    """Timing in ms of a spin echo; `ti_ms` is the inversion time, None without inversion."""

    tr_ms: float
    te_ms: float
    ti_ms: float | None = None


class Scanner(NamedTuple):
    """A scanner: what it makes of the same head.

    Attributes:
        tissues: the relaxation at its field strength.
        noise: least and greatest standard deviation, as a share of the brain's mean signal.
        bias: least and greatest amplitude of the logarithm of its sensitivity.
        gain: least and greatest mean of the stored brain.
    """

    tissues: Mapping[str, Tissue]
    noise: tuple[float, float]
    bias: tuple[float, float]
    gain: tuple[float, float]


# Receive sensitivity differs by some ten per cent across the head.
SCANNER_3T = Scanner(TISSUES_3T, noise=(0.03, 0.05), bias=(0.06, 0.14), gain=(200, 1000))

# Usual clinical timing at 3 T. The inversion time nulls fluid: see `null_inversion_ms`.
SEQUENCES: Mapping[str, Sequence] = {
    "t1": Sequence(600, 10),
    "t1ce": Sequence(600, 10),
    "t2": Sequence(5000, 100),
    "flair": Sequence(9000, 120, 2450),
}


def spin_echo(density: Values, t1_ms: Values, t2_ms: Values, *, tr_ms: float, te_ms: float) -> Values:
    """Signal of a spin echo, TE << TR: density (1 - exp(-TR/T1)) exp(-TE/T2)."""
    return density * (1 - np.exp(-tr_ms / t1_ms)) * np.exp(-te_ms / t2_ms)


def inversion_recovery(
    density: Values, t1_ms: Values, t2_ms: Values, *, tr_ms: float, te_ms: float, ti_ms: float
) -> Values:
    """Magnitude of an inversion-recovery spin echo: density |1 - 2 exp(-TI/T1) + exp(-TR/T1)| exp(-TE/T2)."""
    return density * np.abs(1 - 2 * np.exp(-ti_ms / t1_ms) + np.exp(-tr_ms / t1_ms)) * np.exp(-te_ms / t2_ms)


def null_inversion_ms(t1_ms: float, tr_ms: float) -> float:
    """Inversion time that nulls a tissue: T1 (ln 2 - ln(1 + exp(-TR/T1)))."""
    return float(t1_ms * (np.log(2) - np.log1p(np.exp(-tr_ms / t1_ms))))


def shortened_t1_ms(t1_ms: Values, concentration_mmol_l: Values, *, r1: float = R1_PLASMA) -> Values:
    """T1 in ms with contrast agent: 1/T1' = 1/T1 + r1 C, with r1 in l/(mmol s)."""
    return 1 / (1 / t1_ms + r1 * concentration_mmol_l / 1000)


def flow_remaining(velocity_mm_s: float, *, te_ms: float, slice_mm: float) -> float:
    """Share in [0, 1] of flowing spins that meet both pulses of a spin echo: max(0, 1 - v (TE/2) / slice)."""
    return max(0.0, 1 - velocity_mm_s * te_ms / 2000 / slice_mm)


def sequence_signal(sequence: Sequence, density: Values, t1_ms: Values, t2_ms: Values) -> Values:
    """Signal of one tissue under one sequence, per unit of gain."""
    if sequence.ti_ms is None:
        return spin_echo(density, t1_ms, t2_ms, tr_ms=sequence.tr_ms, te_ms=sequence.te_ms)
    return inversion_recovery(density, t1_ms, t2_ms, tr_ms=sequence.tr_ms, te_ms=sequence.te_ms, ti_ms=sequence.ti_ms)


def rician(signal: Float[np.ndarray, "*space"], sigma: float, rng: np.random.Generator) -> Float[np.ndarray, "*space"]:
    """Magnitude of `signal` plus complex Gaussian noise of standard deviation `sigma` per channel.

    Gudbjartsson and Patz, Magn Reson Med 34:910, 1995: E[magnitude^2] = signal^2 + 2 sigma^2; without
    signal the mean is sigma sqrt(pi/2).
    """
    real = signal + sigma * rng.standard_normal(signal.shape, dtype=np.float32)
    imaginary = sigma * rng.standard_normal(signal.shape, dtype=np.float32)
    return np.hypot(real, imaginary)
