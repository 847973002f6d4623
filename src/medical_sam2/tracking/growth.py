"""Objects that were prompted near an end of theirs, where they grow from slice to slice.

From there tracking finds little: an object keeps the size of its small outline, or fades. Parts of the network that learnt
from clips that begin at ends (`from_ends.safetensors`, beside the weights; the encoder and what makes memories stay) find far
more there, and leak. So where one slice was prompted, and hardly any was found on one side of it, the object is tracked once
more with these parts; then the network is asked what a click in the middle of the largest slice of that means, for a click
says nothing of a size, where an outline at an end says a wrong one; and the object is tracked from that outline and the
prompt together. That answer is taken where it is several times as large as the first one, and on its largest slice as on the
prompted one: on sets to train on that tells prompts at ends from others (docs/log.md, 2026-12-01).

Of an object prompted on two slices a click halfway between them is asked first: where it surely means something far larger
than the prompts, these are its ends. Else the same is done as at one end, without those parts, where it stayed small.
"""

import copy
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import WeightsError
from medical_sam2.model.backbone import Backbone
from medical_sam2.model.sam2 import Sam2
from medical_sam2.model.weights import read_tensors
from medical_sam2.prompts import FramePrompt
from medical_sam2.tracking.frames import Region
from medical_sam2.tracking.fusion import Fusion
from medical_sam2.volume import SliceConfidence

END_FILE = "from_ends.safetensors"
FEW = 3  # slices found on a side of the prompts, up to which they may lie at an end of the object
THIN = 0.9  # distances of slices: equivalent radius of a prompt, below which its object may lie on that slice alone
STAYED = 4.0  # times the smaller one of two prompted slices, up to which an object stayed small
SURE = 0.45  # predicted IoU of what a click halfway between two prompts means, from which on it leads inside
LIKE_SHAPE = (
    0.5  # Dice of that and the shape that leads from one to the other, from which on it is the object, where that was lost
)
LOST = 0.5  # share of the voxels of such a shape, below which an object was lost between its prompts
LARGER = 3.0  # times the voxels beside the prompted slices, and the area of these, from which on another answer is taken


Comparison: TypeAlias = Callable[[Sequence[SliceConfidence], Sequence[SliceConfidence]], bool]
"""Whether another answer is taken, by the rows of the first one and its own."""


@dataclass(frozen=True, eq=False)
class InsideOutline:
    """An outline inside of an object, that a click of ours gave."""

    slice: int  # along the array axis
    prompts: Mapping[int, FramePrompt]  # frame → prompt, with that outline
    region: Region | None  # of the frames that they were seen in


@dataclass(frozen=True)
class Retracking:
    """What tracking an object once more needs."""

    new_fusion: Callable[[], Fusion]  # makes an empty one
    refine: Callable[[int, Fusion], NDArray[np.bool_]]  # what was found of an object (I, J, K), as it would be told by now


def load_end_network(network: object, weights: Path) -> Backbone | None:
    """The network with the parts beside its file of weights that learnt from ends of objects; all others are shared.

    Returns:
        None where there is no such file, or for a network of another kind.

    Raises:
        WeightsError: the file is broken, or of another network.
    """
    file = weights.with_name(END_FILE)
    if not isinstance(network, Sam2) or not file.is_file():
        return None
    tensors = {name: tensor.float() for name, tensor in read_tensors(file).items()}
    own = {name.split(".")[0] for name in tensors}
    shared = {id(part): part for name, part in network.named_children() if name not in own}
    other = copy.deepcopy(network, cast("dict[int, object]", shared))  # which takes those as copied already
    known = other.state_dict()
    if any(name not in known or known[name].shape != tensor.shape for name, tensor in tensors.items()):
        raise WeightsError("it does not fit these weights", "train it again for them, or remove the file", subject=file)
    if any(not tensor.isfinite().all() for tensor in tensors.values()):
        raise WeightsError("it holds NaN or infinite numbers", "train it again, or remove the file", subject=file)
    other.load_state_dict(tensors, strict=False)
    return other.eval()


def may_begin_at_end(rows: Sequence[SliceConfidence], slices: Collection[int], pixel: float) -> bool:
    """Whether hardly anything was found on one side of the only slice that was prompted, though the volume goes on there.

    What is so small there that a ball of that size lies between two slices may be on that one alone: then it is not asked.

    Args:
        rows: of one object in the view that was prompted.
        slices: on which it may be, by their index along the array axis.
        pixel: area of a pixel over the squared distance of slices.
    """
    prompted = [row for row in rows if row.prompted]
    if len(prompted) != 1:  # between several the parts find too much: they learnt from one
        return False
    place, radius = prompted[0].slice, math.sqrt(prompted[0].area_px * pixel / math.pi)
    if radius < THIN:
        return False
    found = [row.slice for row in rows if row.area_px]
    before = sum(at < place for at in found), sum(at < place for at in slices)
    after = sum(at > place for at in found), sum(at > place for at in slices)
    return any(here <= FEW and here < room for here, room in (before, after))


def stayed_small(rows: Sequence[SliceConfidence]) -> bool:
    """Whether an object was found between its two prompted slices hardly larger than on the smaller one: maybe its ends.

    Args:
        rows: of one object in the view that was prompted.
    """
    prompted = {row.slice: row.area_px for row in rows if row.prompted}
    found = {row.slice: row.area_px for row in rows if not row.prompted and row.area_px}
    if len(prompted) != 2 or not any(min(prompted) < at < max(prompted) for at in found):
        return False
    return max(found.values()) < STAYED * min(prompted.values())


def lies_between(
    found: tuple[int, NDArray[np.bool_], float],
    alike: float,
    rows: Sequence[SliceConfidence],
    refine: Callable[[], NDArray[np.bool_]],
    axis: int,
) -> bool:
    """Whether what a click halfway between two prompts means is sure, and far larger than they are: then they are ends.

    Where hardly anything was found between them, it is enough that it is alike the shape that leads from one to the other.

    Args:
        found: frame, mask (H, W), predicted IoU.
        alike: Dice of the mask and that shape.
        rows: of the object in the view that was prompted.
        refine: what was found of it (I, J, K), as it would be told by now; asked where that matters.
        axis: of the array, along which the slices lie.
    """
    largest = max((row.area_px for row in rows if row.prompted), default=0)
    if found[2] >= SURE and found[1].sum() >= LARGER * max(1, largest):
        return True
    prompted = {row.slice: row.area_px for row in rows if row.prompted}
    return alike >= LIKE_SHAPE and was_lost(prompted, np.moveaxis(refine(), axis, 0).sum(axis=(1, 2)))


def was_lost(prompted: Mapping[int, int], areas: NDArray[np.integer]) -> bool:
    """Whether far less of an object was found between its two prompted slices than would lead from one to the other.

    Args:
        prompted: slice → pixels.
        areas: pixels that were found on each slice.
    """
    if len(prompted) != 2:
        return False
    between = areas[min(prompted) + 1 : max(prompted)]
    return int(between.sum()) < LOST * len(between) * sum(prompted.values()) / 2


def grew(before: Sequence[SliceConfidence], after: Sequence[SliceConfidence]) -> bool:
    """Whether another answer is several times as large beside the prompted slices as the first one, and as the prompts are.

    What was prompted where it is largest does not grow from there: without the second part small things on few thick slices
    became what lies around them.
    """
    first, second = ([row.area_px for row in rows if not row.prompted] for rows in (before, after))
    prompted = max((row.area_px for row in before if row.prompted), default=0)
    return sum(second) >= LARGER * sum(first) and max(second, default=0) >= LARGER * max(1, prompted)


def describe_growth(label: int, before: Sequence[SliceConfidence], after: Sequence[SliceConfidence]) -> str:
    """A line for an object of which the answer from inside was taken."""
    if sum(row.prompted for row in before) > 1:
        return (
            f"object {label} seems to be prompted at both of its ends: it was outlined once more from inside; look at it, or "
            "prompt the slice on which it is largest as well, which is surer"
        )
    spans = [len({row.slice for row in rows if row.area_px}) for rows in (before, after)]
    through = f"{spans[1]} slices in place of {spans[0]}"
    return (
        f"object {label} seems to be prompted at one of its ends: it was followed as it grows from there, and outlined once "
        f"more from inside, through {through}; look at its other end, or prompt the slice on which it is largest, which is "
        "surer"
    )
