"""Classical methods on a volume: the outline of one slice in, an outline of every slice out.

Their settings were chosen on synthetic volumes (seed 777_100_001), those of "geodesic" on sets for training, none on sets that
results are reported on.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from classical.colours import Colours
from classical.geodesic import grow_cut, nearer, rim, smoothed
from classical.propagate import Step, outwards, registered, seeded, walked
from classical.working import connected, working

Floats = NDArray[np.float32]
MaskArray = NDArray[np.bool_]
OnVolume: TypeAlias = Callable[[Floats, int, MaskArray], MaskArray]
"""(slices (T, H, W) in [0, 1], the prompted slice, its outline (H, W), not empty) → outlines (T, H, W)."""

MARGIN = 2.0  # side of the region that is seen, over the longer side of the outline's box
SIDE = 64  # pixels of the region, at most, for methods that go from slice to slice
VOXELS = 300_000  # that GrowCut works on, at most
ENDS = 3.0  # slices on either side of the prompt, in radii of the outline in pixels, beyond which the object has ended


def copied(stack_thw: Floats, start: int, mask_hw: MaskArray) -> MaskArray:
    """The same outline on every slice."""
    return np.repeat(mask_hw[None], len(stack_thw), axis=0)


def slice_to_slice(stack_thw: Floats, start: int, mask_hw: MaskArray, *, step: Step) -> MaskArray:
    """From each slice to its neighbour, outwards."""
    seen = working(stack_thw, mask_hw, margin=MARGIN, side=SIDE)
    return seen.back(outwards(step, seen.stack_thw, start, seen.mask_hw))


def intensities(stack_thw: Floats, start: int, mask_hw: MaskArray) -> MaskArray:
    """What looks like the object of the prompted slice, and hangs together with it."""
    seen = working(stack_thw, mask_hw, margin=MARGIN, side=SIDE)
    learnt = Colours.learnt(seen.stack_thw[start], seen.mask_hw)
    alike = np.stack([learnt.likeness(slice_hw) for slice_hw in seen.stack_thw]) >= 0.5
    alike[start] = seen.mask_hw
    parts = connected(alike)
    return seen.back(np.isin(parts, np.unique(parts[start][seen.mask_hw])))


def grown_cut(stack_thw: Floats, start: int, mask_hw: MaskArray) -> MaskArray:
    """GrowCut in three dimensions: seeds on the prompted slice, and background around the region of every slice."""
    seen = working(stack_thw, mask_hw, margin=MARGIN, side=2 * SIDE, most=VOXELS)
    seeds = np.zeros(seen.stack_thw.shape, np.int32)
    seeds[start] = seeded(seen.mask_hw, 0.25)
    rim(seeds, 2)
    return seen.back(smoothed(grow_cut(seen.stack_thw, seeds, (1.0, 1.0, 1.0)) == 1))


def geodesic(stack_thw: Floats, start: int, mask_hw: MaskArray) -> MaskArray:
    """GrowCut whose ways are long over edges and through greys unlike the outline's; seeds at the window's sides and ends."""
    seen = working(stack_thw, mask_hw, margin=MARGIN, side=SIDE, most=VOXELS)
    ends = max(2, round(ENDS * float(np.sqrt(seen.mask_hw.sum() / np.pi))))
    near = slice(max(0, start - ends), start + ends + 1)
    found = np.zeros(seen.stack_thw.shape, bool)
    found[near] = nearer(
        seen.stack_thw[near], start - near.start, seen.mask_hw, goes_on=(near.start > 0, near.stop < len(found))
    )
    return seen.back(found)


VOLUME_METHODS: Mapping[str, OnVolume] = {
    "copy": copied,
    "registration": partial(slice_to_slice, step=registered),
    "random walker": partial(slice_to_slice, step=walked),
    "classifier": intensities,
    "grow cut": grown_cut,
    "geodesic": geodesic,
}
