"""A view turns a volume into a sequence of slices and back: a permutation of axes and flips, nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import ConfigError

T = TypeVar("T", bound=np.generic)

OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}
AXIS = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}


def check_code(code: str) -> str:
    """Return `code` if it names each anatomical axis once ("RAS", "LPS", "SPL" …), else raise ConfigError."""
    if len(code) != 3 or any(letter not in AXIS for letter in code) or len({AXIS[letter] for letter in code}) != 3:
        raise ConfigError(f"orientation {code!r} does not name each of the three axes once", "use a code such as RAS")
    return code


@dataclass(frozen=True)
class View:
    """Where frames, rows and columns of a slice sequence run to.

    `View("SPL")` plays frames towards Superior, rows towards Posterior, columns towards Left. Every method takes `axes`,
    the directions in which the array's own axes run ("RAS" unless given), so that no reoriented copy is ever needed.

    Args:
        code: three letters, one of each pair R/L, A/P, S/I.

    >>> stack = AXIAL.apply(np.zeros((4, 5, 6)))
    >>> stack.shape
    (6, 5, 4)
    """

    code: str

    def __post_init__(self) -> None:
        check_code(self.code)

    @property
    def reversed(self) -> "View":
        """The same slices, played backwards."""
        return View(OPPOSITE[self.code[0]] + self.code[1:])

    @property
    def axis(self) -> int:
        """Anatomical axis along which frames run: 0 sagittal, 1 coronal, 2 axial."""
        return AXIS[self.code[0]]

    @property
    def name(self) -> str:
        """The plane's name."""
        return ("sagittal", "coronal", "axial")[self.axis]

    def order(self, axes: str = "RAS") -> tuple[int, int, int]:
        """Array axes that become frames, rows and columns."""
        places = [AXIS[letter] for letter in check_code(axes)]
        first, second, third = (places.index(AXIS[letter]) for letter in self.code)
        return first, second, third

    def flipped(self, axes: str = "RAS") -> tuple[bool, bool, bool]:
        """Whether frames, rows and columns run against their array axis."""
        first, second, third = (axes[place] != letter for place, letter in zip(self.order(axes), self.code, strict=True))
        return first, second, third

    def slice_index(self, t: int, frames: int, axes: str = "RAS") -> int:
        """Index of frame t of so many along its array axis; its own inverse."""
        return frames - 1 - t if self.flipped(axes)[0] else t

    def apply(self, array_ijk: NDArray[T], axes: str = "RAS") -> NDArray[T]:
        """The slice stack (T, H, W) of a volume (I, J, K): a strided view of it, not a copy."""
        return array_ijk.transpose(self.order(axes))[self._steps(axes)]

    def invert(self, stack_thw: NDArray[T], axes: str = "RAS") -> NDArray[T]:
        """The volume (I, J, K) of a slice stack (T, H, W): exactly undoes `apply`, without a copy."""
        return stack_thw[self._steps(axes)].transpose(np.argsort(self.order(axes)))

    def project(self, index_ijk: Sequence[float], shape_ijk: Sequence[int], axes: str = "RAS") -> tuple[float, float, float]:
        """Where a voxel index lies in the stack: (t, row, column), in voxels, fractions kept."""
        t, row, column = (
            shape_ijk[place] - 1 - index_ijk[place] if flip else index_ijk[place]
            for place, flip in zip(self.order(axes), self.flipped(axes), strict=True)
        )
        return t, row, column

    def spacing(self, spacing_ijk: Sequence[float], axes: str = "RAS") -> tuple[float, float, float]:
        """Distances in mm between frames, rows and columns."""
        first, second, third = (spacing_ijk[place] for place in self.order(axes))
        return first, second, third

    def _steps(self, axes: str) -> tuple[slice, slice, slice]:
        first, second, third = (slice(None, None, -1 if flip else None) for flip in self.flipped(axes))
        return first, second, third


AXIAL = View("SPL")
"""Frames run to Superior, rows to Posterior, columns to Left."""
CORONAL = View("PIL")
"""Frames run to Posterior, rows to Inferior, columns to Left."""
SAGITTAL = View("LIP")
"""Frames run to Left, rows to Inferior, columns to Posterior."""
THREE_VIEWS = (AXIAL, CORONAL, SAGITTAL)
"""One of each plane, forwards."""
SIX_VIEWS = (AXIAL, CORONAL, SAGITTAL, AXIAL.reversed, CORONAL.reversed, SAGITTAL.reversed)
"""Each plane forwards and backwards."""
