"""Space of phantom anatomy: a voxel grid in mm, shapes as signed distances, and smooth random fields.

Everything is a function of position in mm, so that one case drawn on a coarse and on a fine grid shows the
same head.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Volume = Float[np.ndarray, "d h w"]

# The lattice of a smooth field spans this cube, whatever the grid: more than the field of view of a head.
_LATTICE_MM = 260.0
# Mean square of the cubic B-spline, the integral of its square, along one axis.
_BSPLINE_POWER = 151 / 315


@dataclass(frozen=True)
class Grid:
    """Voxel grid of an LPS volume (axis 0 runs to the left, axis 1 to the back, axis 2 to the top).

    Attributes:
        shape: voxels per axis.
        spacing_mm: side of the cubic voxel.
    """

    shape: tuple[int, int, int]
    spacing_mm: float

    def axes_mm(self) -> list[Float[np.ndarray, " n"]]:
        """Positions along each array axis in mm from the center: rightwards, forwards, upwards."""
        return [
            (np.arange(n, dtype=np.float32) - np.float32((n - 1) / 2)) * np.float32(sign * self.spacing_mm)
            for n, sign in zip(self.shape, (-1, -1, 1), strict=True)
        ]

    def affine(self) -> Float[np.ndarray, "4 4"]:
        """Voxel to world in mm, RAS+, with the origin of BraTS: (0, last row, 0)."""
        s = self.spacing_mm
        return np.array([[-s, 0, 0, 0], [0, -s, 0, (self.shape[1] - 1) * s], [0, 0, s, 0], [0, 0, 0, 1]], np.float64)

    def occupancy(self, distance_mm: Volume) -> Volume:
        """Share of each voxel, in [0, 1], that lies inside a surface at signed distance `distance_mm` (inside > 0)."""
        return np.clip(np.float32(0.5) + distance_mm * np.float32(1 / self.spacing_mm), 0, 1)


def ellipsoid_mm(
    position: tuple[Volume, Volume, Volume],
    center: tuple[float, float, float],
    semi_mm: tuple[float, float, float],
    power: float = 2.0,
) -> Volume:
    """Signed distance to a (super)ellipsoid to first order: inside > 0, exact on the surface.

    With r = (sum |u_i|^p)^(1/p) the distance is (1 - r) / |grad r|.
    """
    u = [(q - np.float32(c)) * np.float32(1 / a) for q, c, a in zip(position, center, semi_mm, strict=True)]
    if power == 2.0:
        r = np.sqrt(u[0] ** 2 + u[1] ** 2 + u[2] ** 2) + np.float32(1e-6)
        steps = [v / (r * np.float32(a)) for v, a in zip(u, semi_mm, strict=True)]
    else:
        r = sum(np.abs(v) ** np.float32(power) for v in u) ** np.float32(1 / power) + np.float32(1e-6)
        steps = [(np.abs(v) / r) ** np.float32(power - 1) / np.float32(a) for v, a in zip(u, semi_mm, strict=True)]
    return (1 - r) / (np.sqrt(sum(s**2 for s in steps)) + np.float32(1e-6))


def _bspline_matrix(position_mm: Float[np.ndarray, " n"], scale_mm: float, nodes: int) -> Float[np.ndarray, "n nodes"]:
    """Cubic B-spline weight of every lattice node at every position along one axis."""
    node = (np.arange(nodes) - (nodes - 1) / 2) * scale_mm
    t = np.abs(np.clip(position_mm, -_LATTICE_MM / 2, _LATTICE_MM / 2)[:, None] - node[None]) / scale_mm
    near = 2 / 3 - t**2 + t**3 / 2
    far = np.clip(2 - t, 0, None) ** 3 / 6
    return np.where(t < 1, near, far).astype(np.float32)


def smooth_field(rng: np.random.Generator, grid: Grid, scale_mm: float) -> Volume:
    """Random field with zero mean, unit variance on average and structures of about `scale_mm`.

    White noise on a cubic lattice of side `scale_mm`, interpolated by cubic B-splines; the draw does not
    depend on the grid.
    """
    nodes = int(np.ceil(_LATTICE_MM / scale_mm)) + 4
    field = rng.standard_normal((nodes,) * 3, dtype=np.float32)
    for axis, position in enumerate(grid.axes_mm()):
        field = np.moveaxis(np.tensordot(_bspline_matrix(position, scale_mm, nodes), field, axes=(1, axis)), 0, axis)
    return field * np.float32(_BSPLINE_POWER**-1.5)


def smooth_field_length_mm(scale_mm: float) -> float:
    """Unit of `smooth_field` in mm near a zero crossing: 1 / rms gradient, so |field| * length is about a distance.

    Per axis the mean square gradient is (2/3) / (151/315) / scale^2, from the integrals of the squared
    B-spline and of its squared derivative.
    """
    return scale_mm / np.sqrt(3 * (2 / 3) / _BSPLINE_POWER)
