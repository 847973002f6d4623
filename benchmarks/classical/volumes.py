"""Classical methods on a volume: the outline of one slice in, an outline of every slice out.

Their settings were chosen on synthetic volumes (seed 777_100_001), the weights of "geodesic" on volumes for training, none on
sets that results are reported on.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from classical.colours import Colours
from classical.geodesic import OutlinedStack, find_alike, grow_cut, rim, smoothed
from classical.propagate import Step, outwards, registered, seeded, walked
from classical.working import Working, connected, working

Floats = NDArray[np.float32]
MaskArray = NDArray[np.bool_]
Spacing: TypeAlias = tuple[float, float, float]
OnVolume: TypeAlias = Callable[[Floats, int, MaskArray, Spacing], MaskArray]
"""(slices (T, H, W) in [0, 1], the prompted slice, its outline (H, W), not empty, mm between slices, rows, columns) →
outlines (T, H, W)."""

PIXELS: Spacing = (1.0, 1.0, 1.0)
MARGIN = 2.0  # side of the region that is seen, over the longer side of the outline's box
SIDE = 64  # pixels of the region, at most, for methods that go from slice to slice
VOXELS = 300_000  # that GrowCut works on, at most
GEODESIC_SIDE = 48  # pixels of the region, at most, for the geodesic method
ENDS = 10.0  # radii of the outline on either side of it where the geodesic method takes the object to have ended


def copied(stack_thw: Floats, start: int, mask_hw: MaskArray, spacing_mm: Spacing = PIXELS) -> MaskArray:
    """The same outline on every slice."""
    return np.repeat(mask_hw[None], len(stack_thw), axis=0)


def slice_to_slice(stack_thw: Floats, start: int, mask_hw: MaskArray, spacing_mm: Spacing = PIXELS, *, step: Step) -> MaskArray:
    """From each slice to its neighbour, outwards."""
    seen = working(stack_thw, mask_hw, margin=MARGIN, side=SIDE)
    return seen.back(outwards(step, seen.stack_thw, start, seen.mask_hw))


def intensities(stack_thw: Floats, start: int, mask_hw: MaskArray, spacing_mm: Spacing = PIXELS) -> MaskArray:
    """What looks like the object of the prompted slice, and hangs together with it."""
    seen = working(stack_thw, mask_hw, margin=MARGIN, side=SIDE)
    learnt = Colours.learnt(seen.stack_thw[start], seen.mask_hw)
    alike = np.stack([learnt.likeness(slice_hw) for slice_hw in seen.stack_thw]) >= 0.5
    alike[start] = seen.mask_hw
    parts = connected(alike)
    return seen.back(np.isin(parts, np.unique(parts[start][seen.mask_hw])))


def grown_cut(stack_thw: Floats, start: int, mask_hw: MaskArray, spacing_mm: Spacing = PIXELS) -> MaskArray:
    """GrowCut in three dimensions: seeds on the prompted slice, and background around the region of every slice."""
    seen = working(stack_thw, mask_hw, margin=MARGIN, side=2 * SIDE, most=VOXELS)
    seeds = np.zeros(seen.stack_thw.shape, np.int32)
    seeds[start] = seeded(seen.mask_hw, 0.25)
    rim(seeds, 2)
    return seen.back(smoothed(grow_cut(seen.stack_thw, seeds, (1.0, 1.0, 1.0)) == 1))


def geodesic(stack_thw: Floats, start: int, mask_hw: MaskArray, spacing_mm: Spacing = PIXELS) -> MaskArray:
    """What geodesic distances, greys and optical flow from the outline speak for; seeds at the window's sides and ends."""
    found = np.zeros(stack_thw.shape, bool)
    near, seen, outlined_stack = near_outline(stack_thw, start, mask_hw, spacing_mm)
    found[near] = seen.back(find_alike(outlined_stack))
    return found


def near_outline(
    stack_thw: Floats, start: int, mask_hw: MaskArray, spacing_mm: Spacing
) -> tuple[slice, Working, OutlinedStack]:
    """The slices that the geodesic method looks at, their working grid, and the outline there, measured in its radii."""
    radius_mm = float(np.sqrt(mask_hw.sum() * spacing_mm[1] * spacing_mm[2] / np.pi))
    reach = max(3, int(np.ceil(ENDS * radius_mm / spacing_mm[0])))
    near = slice(max(0, start - reach), min(len(stack_thw), start + reach + 1))
    seen = working(stack_thw[near], mask_hw, margin=MARGIN, side=GEODESIC_SIDE, most=VOXELS, pixel_hw=spacing_mm[1:])
    sides = (1, *(whole / own for whole, own in zip(seen.region.shape_hw, seen.mask_hw.shape, strict=True)))
    first, second, third = (mm * pixels / radius_mm for mm, pixels in zip(spacing_mm, sides, strict=True))
    goes_on = near.start > 0, near.stop < len(stack_thw)
    return near, seen, OutlinedStack(seen.stack_thw, start - near.start, seen.mask_hw, (first, second, third), goes_on)


VOLUME_METHODS: Mapping[str, OnVolume] = {
    "copy": copied,
    "registration": partial(slice_to_slice, step=registered),
    "random walker": partial(slice_to_slice, step=walked),
    "classifier": intensities,
    "grow cut": grown_cut,
    "geodesic": geodesic,
}
