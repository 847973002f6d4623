"""From a prompt to an outline of the prompted slice: what the other classical methods start from.

An outline is taken as it is, a box goes through GrabCut, a click through region growing.
"""

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from classical.working import connected, fitting, resized
from medical_sam2.errors import PromptError
from medical_sam2.prompts import FramePrompt
from medical_sam2.tracking.frames import region_around

Floats = NDArray[np.float32]
MaskArray = NDArray[np.bool_]

LEAST_OF_BOX = 0.2  # share of the ellipse in a box that GrabCut must find
SIDE = 256  # pixels that GrabCut and region growing work on, at most


def outlined(picture: Floats, prompt: FramePrompt) -> MaskArray:
    """The object that a prompt means on its own picture.

    Args:
        picture: (H, W) or (H, W, 3) in [0, 1].
        prompt: a mask, a box, or one positive click, in pixels of the picture.

    Returns:
        (H, W) bool, never empty.

    Raises:
        PromptError: it is none of these, or an empty mask.
    """
    if prompt.mask_hw is not None and prompt.mask_hw.any():
        return prompt.mask_hw
    if prompt.box_xyxy is not None:
        x_low, y_low, x_high, y_high = (float(x) for x in prompt.box_xyxy)
        return grab_cut(picture, (x_low, y_low, x_high, y_high))
    if len(prompt.points_xy) and prompt.labels[0] == 1:
        x, y = (round(float(along)) for along in prompt.points_xy[0])
        return grown(picture, x, y)
    raise PromptError("the prompt is no outline, box or positive click", "give one of these")


def grab_cut(picture: Floats, box_xyxy: tuple[float, float, float, float]) -> MaskArray:
    """GrabCut (OpenCV) within a box, seeing as much again around it; the ellipse in the box where it finds next to nothing."""
    region = region_around(box_xyxy, (picture.shape[0], picture.shape[1]), margin=2.0)
    shape = fitting(region.shape_hw, SIDE)
    seen = resized(picture[region.rows, region.columns], shape)
    scale = np.array([shape[1] / region.width, shape[0] / region.height] * 2)
    edges = np.add(box_xyxy, (0, 0, 1, 1)) - (region.left, region.top) * 2
    x_low, y_low, x_high, y_high = edges * scale
    inside = np.zeros(shape, np.uint8)
    rows, columns = slice(int(y_low), max(int(y_low) + 1, round(y_high))), slice(int(x_low), max(int(x_low) + 1, round(x_high)))
    inside[rows, columns] = cv2.GC_PR_FGD
    whole = np.zeros(picture.shape[:2], bool)
    whole[region.rows, region.columns] = resized(_cut(seen, inside), region.shape_hw) >= 0.5
    full = ellipse((picture.shape[0], picture.shape[1]), box_xyxy)
    return whole if whole.sum() >= LEAST_OF_BOX * full.sum() else full


def _cut(seen: Floats, inside: NDArray[np.uint8]) -> MaskArray:
    if inside.all():  # GrabCut learns the background from what lies outside of the box
        inside[[0, -1]] = inside[:, [0, -1]] = cv2.GC_BGD
    colours = np.round(255 * (seen if seen.ndim == 3 else np.repeat(seen[..., None], 3, axis=2))).astype(np.uint8)
    cv2.setRNGSeed(0)
    try:
        cv2.grabCut(colours, inside, (0, 0, 0, 0), np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_MASK)
    except cv2.error:  # it refuses boxes of too few pixels to model
        return np.zeros(seen.shape[:2], bool)
    return cleaned((inside == cv2.GC_FGD) | (inside == cv2.GC_PR_FGD))


def ellipse(shape_hw: tuple[int, int], box_xyxy: tuple[float, float, float, float]) -> MaskArray:
    """The ellipse that fills a box."""
    x_low, y_low, x_high, y_high = box_xyxy
    y, x = np.ogrid[: shape_hw[0], : shape_hw[1]]
    across, down = (x_high - x_low + 1) / 2, (y_high - y_low + 1) / 2
    return np.asarray(((x - (x_low + x_high) / 2) / across) ** 2 + ((y - (y_low + y_high) / 2) / down) ** 2 <= 1)


def cleaned(mask_hw: MaskArray) -> MaskArray:
    """The largest part, its holes filled."""
    parts = connected(mask_hw)
    if parts.max() > 1:
        mask_hw = parts == 1 + int(np.bincount(parts.ravel())[1:].argmax())
    return np.asarray(ndimage.binary_fill_holes(mask_hw))


def grown(picture: Floats, x: int, y: int) -> MaskArray:
    """Region growing from a click: of all tolerances, the one at which the region hardly grows as it is loosened.

    The region is what hangs together with the click and differs from the colour around it by no more than the tolerance.
    Regions of less than 0.4 % or more than 35 % of the picture do not count; where none counts, a disc of 16 % of its side.
    """
    shape = fitting((picture.shape[0], picture.shape[1]), SIDE)
    seen = np.atleast_3d(cv2.GaussianBlur(resized(picture, shape), (0, 0), 1.0))
    row, column = (min(int(at * to / of), to - 1) for at, to, of in zip((y, x), shape, picture.shape[:2], strict=True))
    near = seen[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
    differs = np.linalg.norm(seen - np.median(near, axis=(0, 1)), axis=2)
    found = _steadiest(differs, row, column)
    if found is None:
        found = np.hypot(*np.ogrid[-row : shape[0] - row, -column : shape[1] - column]) <= 0.08 * max(shape)
    filled = np.asarray(ndimage.binary_fill_holes(found), bool)
    smooth = np.asarray(ndimage.binary_opening(filled), bool)
    kept = smooth if smooth[row, column] else filled
    parts = connected(kept)
    whole = resized(parts == parts[row, column], (picture.shape[0], picture.shape[1])) >= 0.5
    whole[y, x] = True
    return whole


def _steadiest(differs: Floats, row: int, column: int) -> MaskArray | None:
    """As maximally stable extremal regions are chosen: by the growth of the area between neighbouring tolerances."""
    tolerances = np.geomspace(0.02, 0.6, 24)
    regions = [_around(differs <= tolerance, row, column) for tolerance in tolerances]
    areas = np.array([region.mean() for region in regions])
    counts = [i for i in range(1, len(areas) - 1) if 0.004 <= areas[i] <= 0.35]
    if not counts:
        return None
    return regions[min(counts, key=lambda i: (areas[i + 1] - areas[i - 1]) / areas[i])]


def _around(near: MaskArray, row: int, column: int) -> MaskArray:
    near[row, column] = True
    parts = connected(near)
    return parts == parts[row, column]
