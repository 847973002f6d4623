"""Which intensities become black and white: decided here for volumes, images of a set, the page and previews alike.

A CT in Hounsfield units is shown through a window of its tissue; anything else from its 0.5th to its 99.5th percentile. Padding
and background tell nothing of an image (METHOD §4): planes of one value at its borders are left out, whatever the value, and so
is a value that fills a quarter of the rest, as around a head without its skull.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from math import ceil, floor, inf, isfinite
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import ConfigError, read_number

CT_WINDOWS = {"soft": (40.0, 400.0), "lung": (-500.0, 1500.0), "bone": (400.0, 1800.0), "brain": (40.0, 80.0)}
"""Level and width in Hounsfield units."""
PERCENTILES = (0.5, 99.5)
BACKGROUND = 0.25  # of an image's voxels, from which on a single value is no tissue
BESIDE = 0.5  # of the range of tissue, at most, is given to a background that lies beside it
BRIGHT = 0.6  # mean of what is shown, from which on the network is shown the negative
SAMPLE = 2_000_000  # voxels that decide
PADDED_HU = -1100.0  # below air: what scanners and resampling put where nothing was measured
HIGHEST_HU = 3100.0  # of 12 bits
OUTLIERS = 0.05  # of a CT's voxels, at most, are metal or padding of an odd value in its midst
RANGES_BEYOND = 32  # times the usual range of intensities that outliers may lie beyond it
LEVELS = 65_535  # steps of the codes that the page is sent
HUGE = 1e100  # its square, and sums of such squares, are numbers still; what is larger is scaled before it is squared
NOISE = 0.7  # share of the variance that neighbours do not have in common, from which on there is nothing but noise
SAMPLED_PLANES, PAIRS = 8, 64  # that are looked at, at most; that are needed, at least


@dataclass(frozen=True)
class Window:
    """Intensities that become black and white.

    Args:
        low: becomes 0.
        high: becomes 1.
        source: who chose it, in words; two windows of the same intensities are equal.
        negative: whether the network is shown the slices of a volume as a negative, since most of it is bright.
    """

    low: float
    high: float
    source: str = field(default="as given", compare=False)
    negative: bool = False

    def apply(self, values: NDArray[np.generic]) -> NDArray[np.float32]:
        """Intensities in [0, 1]; what is not a number becomes 0. Offsets are taken off before anything is rounded."""
        values, low = np.asarray(values), self.low
        if values.dtype.kind in "iu" and values.dtype.itemsize == 8 and self.high - self.low < 2**52:
            values, low = _without_offset(values, self.low, self.high)
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = np.subtract(values, low, dtype=np.float64)
            scaled /= self.high - self.low
        np.nan_to_num(scaled, copy=False, nan=0.0, posinf=1.0, neginf=0.0)
        return np.clip(scaled, 0, 1, out=scaled).astype(np.float32)

    def for_network(self, values: NDArray[np.generic]) -> NDArray[np.float32]:
        """The same, dark where most of the volume lies, so that an inverted volume is no other one."""
        return 1 - self.apply(values) if self.negative else self.apply(values)

    def as_bytes(self, values: NDArray[np.generic]) -> NDArray[np.uint8]:
        """The same as bytes, for eyes."""
        return np.rint(255 * self.apply(values)).astype(np.uint8)

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g} ({self.source}{', as a negative' if self.negative else ''})"


class Image(Protocol):
    """A volume, or a picture."""

    @property
    def array(self) -> NDArray[np.generic]:
        """Its intensities."""
        ...

    @property
    def modality(self) -> str | None:
        """DICOM code of what took it, where known."""
        ...


@dataclass(frozen=True, eq=False)
class Windows:
    """The windows of an image: looked at once, then chosen for each object.

    Args:
        image: a volume or a picture.
        name: see `choose_window`.
        negative: whether a bright image may be shown as its negative: a volume, but no image of a set, which would look uneven.
    """

    image: Image
    name: str | Window = "auto"
    negative: bool = True

    @cached_property
    def hounsfield(self) -> bool:
        """Whether the window depends on what is pointed at."""
        return self.name == "auto" and in_hounsfield(self.image.array, self.image.modality)

    @cached_property
    def _same(self) -> Window:
        named = named_window(self.name)
        if named is not None:
            check_visible(named, self.image.array)
            return named
        found = percentile_window(self.image.array)
        return replace(found, negative=self.negative and _bright(found, self.image.array))

    def of(self, inside: NDArray[np.generic] | None = None) -> Window:
        """The window of an object by the intensities at its own prompts; the one to begin with where there are none."""
        return hounsfield_window(inside, self.image.modality) if self.hounsfield else self._same


def choose_window(image: Image, name: str | Window = "auto", *, inside: NDArray[np.generic] | None = None) -> Window:
    """The window that an image is seen through.

    Args:
        image: a volume or a picture.
        name: "auto", "percentile" (0.5 to 99.5, METHOD §4), a CT window ("soft", "lung", "bone", "brain"), "low,high", or the
            window itself.
        inside: intensities at the prompts; on a CT in Hounsfield units "auto" takes the window that shows them best.

    Raises:
        ConfigError: no such window, or one that shows nothing of the image.
    """
    return Windows(image, name).of(inside)


def named_window(name: str | Window) -> Window | None:
    """The window that a user named or gave in numbers; None for "auto" and "percentile", which depend on the image.

    Raises:
        ConfigError: no such window.
    """
    if isinstance(name, Window):
        return name
    if not isinstance(cast("object", name), str):
        problem = f"window {repr(name)[:60]} is neither a name nor a Window"
        raise ConfigError(problem, 'give Window(low, high), "LOW,HIGH" or a name, such as "auto"')
    if name in CT_WINDOWS:
        return _levelled(name, f"{name}, as given")
    if name in {"auto", "percentile"}:
        return None
    try:
        low, high = map(read_number, name.split(","))
    except ValueError:
        raise ConfigError(f"unknown window {name!r}", f"choose auto, percentile, {', '.join(CT_WINDOWS)} or LOW,HIGH") from None
    if not (isfinite(low) and isfinite(high) and low < high):
        raise ConfigError(f"window {name!r} is empty or endless", "give LOW,HIGH with LOW below HIGH")
    return Window(low, high)


BLANK = "all voxels have the same value: there is nothing to outline"


def is_blank(array: NDArray[np.generic]) -> bool:
    """Whether no two finite intensities of an image, slab by slab, differ: NaN and infinities count as background."""
    first: Any = None
    for slab in array:
        finite = slab[np.isfinite(slab)]
        if finite.size:
            first = finite[0] if first is None else first
            if (finite != first).any():
                return False
    return True


# On one grey a network still outlines something round at the click, which looks plausible.
def check_visible(window: Window, array: NDArray[np.generic]) -> None:
    """Refuse a window through which an image of several intensities is all one grey; raises ConfigError."""
    ends = np.stack([array.min(), array.max()])
    if ends[0] != ends[1] and not np.ptp(window.as_bytes(ends)):
        values = f"the image's values go from {ends[0]:g} to {ends[1]:g}"
        problem = f"window {window.low:g} to {window.high:g} shows one grey: {values}"
        raise ConfigError(problem, "give LOW,HIGH among these, or leave the window out")


# A large background would take both percentiles: they are of what lies on it, and degenerate images still need a range.
def percentile_window(array: NDArray[np.generic]) -> Window:
    """From the 0.5th to the 99.5th percentile of the finite values of the content, without its background.

    A background stays darker, or brighter, than what is on it: the window reaches for it, by half of the range at most, or all
    the way where there is nothing but noise beside it.
    """
    levels, base = _levels(array)
    background, tissue = _background(levels)
    if not len(tissue):
        low = base + (background if background is not None else 0)
        return Window(low, low + max(1.0, abs(low) / 1000), "it holds one value")
    low, high = (float(x) for x in np.percentile(tissue, PERCENTILES))
    if high <= low:
        low, high = float(tissue[0]), float(tissue[-1])
    if background is not None:
        room = inf if high <= low or only_noise(array, base + background) else BESIDE * (high - low)
        low, high = max(min(low, background), low - room), min(max(high, background), high + room)
    if high <= low:
        high = low + max(1.0, abs(low + base) / 1000)
    if base:  # integers so large that a float would not hold them
        low, high = floor(low), ceil(high)
    source = "percentiles 0.5 to 99.5" + (f", background {base + background:g} left out" if background is not None else "")
    source += "".join(f", of which {base + end:g} is far from all else" for end in (low, high) if _lonely(tissue, end))
    return Window(base + low, base + high, source)


def whole_range(array: NDArray[np.generic]) -> Window:
    """Smallest to largest intensity; where 16 bits cannot tell all, without what lies absurdly far from the rest."""
    if array.dtype.kind in "iu":
        lowest, highest = int(array.min()), int(array.max())
        if 0 < highest - lowest <= LEVELS:
            return Window(lowest, highest)
    usual = percentile_window(array)
    reach = RANGES_BEYOND * (usual.high - usual.low)
    low = max(usual.low - reach, float(np.fmin.reduce(array, axis=None)))
    high = min(usual.high + reach, float(np.fmax.reduce(array, axis=None)))
    return Window(low, max(high, low + (usual.high - usual.low)))


# Wrong either way is bad: an MR through a window of a CT is black, a CT through percentiles loses its soft tissue.
def in_hounsfield(array: NDArray[np.generic], modality: str | None) -> bool:
    """Whether it is a CT in Hounsfield units: as the file says, if its values can be; else by air, water and what lies between.

    Without a modality, values count as Hounsfield units where they are whole, begin with air near −1000, have tissue around 0,
    little between the two, and next to nothing beyond 12 bits (metal, odd padding): no phases, velocities, or other modalities
    in large numbers.
    """
    if modality not in {None, "CT"} or array.dtype.kind not in "if":  # unsigned numbers hold no air
        return False
    if modality == "CT" and _within_ct(_levels(array, content_only=False)[0]):
        return True  # its padding may be its only air
    levels, base = _levels(array)
    if len(levels) and levels[0] < PADDED_HU:
        levels = levels[np.searchsorted(levels, levels[0], "right") :]
    if not len(levels) or base or modality == "CT":
        return modality == "CT" and _within_ct(levels)
    levels = _without_outliers(levels, PADDED_HU, HIGHEST_HU)
    low, high = np.percentile(levels, PERCENTILES)
    return bool(PADDED_HU <= low <= -850 and high <= HIGHEST_HU) and _air_and_water(levels)


def hounsfield_window(inside: NDArray[np.generic] | None, modality: str | None = "CT") -> Window:
    """The window of a CT that shows these intensities best; that of soft tissue where there are none."""
    known = "the file says CT" if modality == "CT" else "a CT, guessed from its values"
    if inside is None or not inside.size:
        return _levelled("soft", f"soft: {known}")
    middle = float(np.median(inside.astype(np.float64)))
    name = "lung" if middle < -250 else "bone" if middle > 350 else "soft"
    return _levelled(name, f"{name}: {known}")


def _levels(array: NDArray[np.generic], *, content_only: bool = True) -> tuple[NDArray[np.float64], int]:
    """Finite intensities of the content, or of a regular sample of it, in order; less a number where they are huge integers."""
    part: NDArray[Any] = array[content_box(array)] if content_only else array
    step = max(1, ceil((part.size / SAMPLE) ** (1 / part.ndim)))
    values = part[(slice(None, None, step),) * part.ndim].ravel()
    if values.dtype.kind not in "iu":
        levels = values.astype(np.float64)
        return np.sort(levels[np.isfinite(levels)]), 0
    lowest, highest = int(values.min()), int(values.max())
    base = lowest if max(-lowest, highest) > 2**52 and highest - lowest < 2**62 else 0
    return np.sort((values - values.dtype.type(base)).astype(np.float64)), base


def _background(levels: NDArray[np.float64]) -> tuple[float | None, NDArray[np.float64]]:
    """The value that fills a quarter of an image, darker or brighter than all else, and what is left without it."""
    for value in levels[np.linspace(0, len(levels) - 1, 9).astype(int)].tolist() if len(levels) else ():
        first, last = np.searchsorted(levels, value, "left"), np.searchsorted(levels, value, "right")
        at_an_end = min(first, len(levels) - last) <= PERCENTILES[0] / 100 * len(levels)
        if at_an_end and last - first >= BACKGROUND * len(levels):
            return float(value), np.delete(levels, slice(first, last))
    return None, levels


# Metal and padding look like this, and so does a bright thing on black: not to be distinguished here, but named in a note.
def _lonely(levels: NDArray[np.float64], end: float) -> bool:
    """Whether an end of a window is one value, with more room to the next one than all others take."""
    rest = levels[levels != end]
    return 0 < len(rest) < len(levels) and float(np.abs(rest - end).min()) > float(np.ptp(rest)) > 0


def _within_ct(levels: NDArray[np.float64]) -> bool:
    """Whether these can be Hounsfield units, some of fat or air among them."""
    low, high = np.percentile(_without_outliers(levels, -5000, 32_000), PERCENTILES) if len(levels) else (0.0, 0.0)
    return bool(-5000 < low <= -50 and high < 32_000 and high - low >= 100)


def _without_outliers(levels: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """What lies between, where hardly anything does not; else all."""
    first, last = np.searchsorted(levels, low, "left"), np.searchsorted(levels, high, "right")
    return levels[first:last] if last - first >= (1 - OUTLIERS) * len(levels) else levels


def _bright(window: Window, array: NDArray[np.generic]) -> bool:
    """Whether most of the content lies in the bright half of a window."""
    levels, base = _levels(array)
    return bool(Window(window.low - base, window.high - base).apply(levels).mean() > BRIGHT)


def _air_and_water(levels: NDArray[np.float64]) -> bool:
    """Whether air and soft tissue stand apart. What was resampled is no longer whole, and must show them more clearly."""

    def density(low: float, high: float) -> float:
        return float(np.searchsorted(levels, high, "right") - np.searchsorted(levels, low, "left")) / len(levels) / (high - low)

    whole = bool((levels == np.rint(levels)).mean() > 0.99)
    air, tissue, between = density(-1100, -600), density(-150, 150), density(-400, -200)
    if not whole:  # not a slope that happens to lie there, but a peak of air
        air = density(-1050, -950)
    return air * 500 >= 0.01 and tissue * 300 >= 0.05 and between < min(air, tissue) * (0.6 if whole else 0.2)


def _without_offset(values: NDArray[Any], low: float, high: float) -> tuple[NDArray[Any], float]:
    """Large integers less a whole number below the window, and the window's lower end less the same: nothing is rounded."""
    bounds = np.iinfo(values.dtype)
    base = min(max(floor(low), bounds.min), bounds.max)
    return np.clip(values, base, max(base, min(ceil(high), bounds.max))) - values.dtype.type(base), low - base


def _levelled(name: str, source: str) -> Window:
    level, width = CT_WINDOWS[name]
    return Window(level - width / 2, level + width / 2, source)


# Borders go round by round, since the planes of one side are flat only when those of another have gone.
def content_box(array: NDArray[np.generic], axes: int | None = None) -> tuple[slice, ...]:
    """An image without the planes at its borders that hold a single value each: padding, whatever the value.

    Args:
        array: of any dimension.
        axes: how many of them are looked at, from the first; all unless given.

    Returns:
        Where it lies, for each of these axes. Everything where all is one value, or where the content is nothing but noise:
        that is no image with padding around it, but a thing on a background.
    """
    count = array.ndim if axes is None else axes
    ends = [[0, size] for size in array.shape[:count]]
    moved = True
    while moved:
        moved = False
        for axis, side in product(range(count), (0, 1)):
            while ends[axis][0] < ends[axis][1] and _flat(array, ends, axis, side):
                ends[axis][side] += 1 - 2 * side
                moved = True
    whole, box = tuple(slice(0, size) for size in array.shape[:count]), tuple(slice(low, high) for low, high in ends)
    nothing = any(low >= high for low, high in ends)
    return whole if nothing or (box != whole and only_noise(array[box])) else box


def only_noise(array: NDArray[np.generic], background: float | None = None) -> bool:
    """Whether neighbours, but for the background, have no more in common than any two values: no axis shows structure."""
    step = max(1, array.shape[-1] // SAMPLED_PLANES)
    part = array[..., step // 2 :: step].astype(np.float64) if array.ndim > 2 else array.astype(np.float64)
    known = np.isfinite(part) if background is None else np.isfinite(part) & (part != background)
    if known.any() and (largest := float(np.abs(part[known]).max())) > HUGE:
        part = part / largest
    spread = float(part[known].var()) if known.any() else 0.0
    shares: list[float] = []
    for axis in range(min(2, part.ndim)):
        one, other = (np.take(part, range(first, part.shape[axis] - 1 + first), axis) for first in (0, 1))
        both = np.take(known, range(part.shape[axis] - 1), axis) & np.take(known, range(1, part.shape[axis]), axis)
        if np.count_nonzero(both) >= PAIRS:
            shares.append(float(np.mean((one[both] - other[both]) ** 2)) / 2)
    return bool(shares) and spread > 0 and min(shares) >= NOISE * spread


def _flat(array: NDArray[np.generic], ends: list[list[int]], axis: int, side: int) -> bool:
    """Whether the outermost plane holds one value; a glance at a few of its voxels comes first."""
    places = [slice(low, high) for low, high in ends]
    places[axis] = slice(ends[axis][0], ends[axis][0] + 1) if side == 0 else slice(ends[axis][1] - 1, ends[axis][1])
    plane = array[tuple(places)]
    if plane.size < 2:
        return False
    first: Any = plane[(0,) * plane.ndim]
    for part in (plane[tuple(slice(None, None, max(1, size // 7)) for size in plane.shape)], plane):
        if not ((part == first) if first == first else (part != part)).all():  # noqa: PLR0124 - not a number
            return False
    return True
