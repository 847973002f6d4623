"""Where a look is worth most after tracking: the slices of all structures, by how far the outline is expected to be off there.

What is expected to be wrong on a slice is (1 − Dice) · area, with the Dice that the confidence, a predicted IoU, amounts to;
where a structure grew suddenly, it is all that it grew by. That over the length of the outline, which goes with the square root
of the area, is how far it has to be moved. Slices are ordered by that times the share that is wrong: one of which nothing is
right comes before a large one that is a little off all around. A correction mends the slices beside it too: a suggestion tells
what it gains there as well, and they are not suggested.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from medical_sam2.server.segmentation import IMAGE, SessionResult, SessionVolume
from medical_sam2.tracking.confidence import find_leaks
from medical_sam2.volume import SliceConfidence

REACH = 2  # slices beside a corrected one that are expected to change with it
MOST = 12  # suggestions
DISAGREE = 0.25  # how undecided the voxels of a structure are on a slice, of 1, from which views disagree there


@dataclass(frozen=True)
class ReviewSuggestion:
    """A slice that is worth a look.

    Args:
        row: its confidence.
        gain_px: voxels that a correction there is expected to mend.
        reason: in two or three words.
    """

    row: SliceConfidence
    gain_px: int
    reason: str


def suggest_reviews(
    result: SessionResult, image: SessionVolume | None, frame_px: Mapping[str, int], drawn: Collection[int]
) -> list[ReviewSuggestion]:
    """The slices of all structures that are worth a look, the one whose outline is expected to be off the most first.

    Args:
        result: what was tracked.
        image: the volume; None for a set of images, whose neighbours are nothing to each other.
        frame_px: plane → pixels of a frame.
        drawn: structures that a person outlined or drew a box around.
    """
    leaks = find_leaks(result.rows, frame_px, drawn) if image else []
    grown = {(each.object, each.view, t): each.before_px or 0 for each in leaks for t in each.slices}
    wrong = {row.key: _wrong(row, grown) for row in result.rows if row.area_px and not row.prompted}
    reach = REACH if image else 0
    gains = {key: sum(wrong.get((*key[:2], key[2] + by), 0) for by in range(-reach, reach + 1)) for key in wrong}
    open_ = [row for row in result.rows if gains.get(row.key, 0) >= 1]
    chosen: dict[tuple[int, str, int], SliceConfidence] = {}
    for row in sorted(open_, key=lambda row: (-rank_wrong(wrong[row.key], row.area_px), row.slice)):
        if len(chosen) < MOST and not any((*row.key[:2], row.slice + by) in chosen for by in range(-reach, reach + 1)):
            chosen[row.key] = row
    return [ReviewSuggestion(row, round(gains[key]), _reason(row, grown, result, image)) for key, row in chosen.items()]


def expect_wrong(confidence: float, area_px: int) -> float:
    """Voxels that are expected to be wrong on a slice: (1 − Dice) · area, of the Dice of a predicted IoU."""
    return (1 - 2 * confidence / (1 + confidence)) * area_px


def rank_wrong(wrong_px: float, area_px: int) -> float:
    """What slices are ordered by: the share that is wrong, times how far its outline is off."""
    return (wrong_px / area_px) * wrong_px / sqrt(area_px)


def _wrong(row: SliceConfidence, grown: Mapping[tuple[int, str, int], int]) -> float:
    """Voxels that are expected to be wrong on a slice."""
    unsure = expect_wrong(row.confidence, row.area_px)
    return max(unsure, row.area_px - grown[row.key]) if row.key in grown else unsure


def _reason(
    row: SliceConfidence,
    grown: Mapping[tuple[int, str, int], int],
    result: SessionResult,
    image: SessionVolume | None,
) -> str:
    if row.key in grown:
        return "grew suddenly" if grown[row.key] else "fills the slice"
    if image and _views_disagree(row, result, image):
        return "views disagree"
    return "unsure" if row.look_here else f"{round(100 * row.confidence)} % sure"


def _views_disagree(row: SliceConfidence, result: SessionResult, image: SessionVolume) -> bool:
    """Whether several views were tracked, and what they make of a slice together is undecided."""
    views: Sequence[str] = list({each.view for each in result.rows if each.object == row.object} - {IMAGE})
    if len(views) < 2 or result.uncertainty is None:
        return False
    inside = image.frame_labels(result.labels, row.view, row.slice) == row.object
    doubt = image.frame_labels(result.uncertainty, row.view, row.slice)[inside]
    return bool(doubt.size) and float(np.mean(doubt)) / 255 > DISAGREE
