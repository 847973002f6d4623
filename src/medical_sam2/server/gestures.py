"""What is done at the page, as prompts: checked, in pixels of its frame, in voxels of the file; and all of it for a command.

Told at once, what later gestures took back is left out, as in tracking. A result that was corrected came about step by step:
told at once, the same words may find something a little different.

Shapes: H W pixels of a frame.
"""

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from medical_sam2.io import archive
from medical_sam2.io.prompt_file import save_prompts
from medical_sam2.prompts import Box, FramePrompt, Index, Mask, Point, Prompt
from medical_sam2.server import InvalidRequest, NotFound
from medical_sam2.server.state import Gesture, History, State
from medical_sam2.strokes import (
    Brush,
    Diameter,
    Lasso,
    Scribble,
    ShapeInterpolation,
    SliceRange,
    Stroke,
    Voxels,
    diameter_prompt,
    excluding,
    fill,
    lasso_prompt,
    region_of,
    scribble_prompt,
)
from medical_sam2.tracking.limits import last_words, load_ndimage
from medical_sam2.tracking.plan import PLANES, array_axis, primary_view, voxel_at
from medical_sam2.volume import SliceConfidence, Volume

MOST_POINTS, MOST_CLICKS = 4_096, 64
PLACELESS = dict.fromkeys(("mask", "slices", "interpolate", "erase"), 0)
FEWEST = {**PLACELESS, "points": 1, "box": 2, "scribble": 1, "lasso": 3, "diameter": 2, "ball": 1}
MOST = {**FEWEST, "points": MOST_CLICKS, "scribble": MOST_POINTS, "lasso": MOST_POINTS, "diameter": 4, "ball": MOST_POINTS}
PROMPTS = "prompts.json"


def frame_prompt(gesture: Gesture, shape_hw: tuple[int, int]) -> FramePrompt:
    """A gesture in pixels of its frame."""
    places = [(x, y) for y, x in gesture.points_yx]
    if gesture.kind == "mask":
        return FramePrompt.mask(decode_runs(gesture.runs, shape_hw))
    if gesture.kind == "scribble":
        return scribble_prompt(places, gesture.width, shape_hw, positive=gesture.inside)
    if gesture.kind == "lasso":
        return lasso_prompt(places, shape_hw, positive=gesture.inside)
    if gesture.kind == "diameter":
        return diameter_prompt(places, shape_hw)
    if gesture.kind == "points":
        return FramePrompt(np.array(places, np.float32).reshape(-1, 2), np.array(gesture.positive, np.int64))
    (x_low, x_high), (y_low, y_high) = (sorted(pair) for pair in zip(*places, strict=True))
    if gesture.inside:
        return FramePrompt.box(x_low, y_low, x_high, y_high)
    region = np.zeros(shape_hw, bool)
    region[round(y_low) : round(y_high) + 1, round(x_low) : round(x_high) + 1] = True
    return excluding(region)


def volume_prompts(gesture: Gesture, volume: Volume) -> list[Prompt]:
    """A gesture in voxels of the file: several of clicks, one of anything else, none of what takes limits back."""
    if gesture.drawn:
        return [_outline(gesture, volume)]
    if not gesture.of_frame:
        return _of_the_whole(gesture, volume) if gesture.inside or gesture.kind == "ball" else []
    label, inside = gesture.label, gesture.inside
    places = _places(gesture, volume)
    if gesture.kind == "points":
        return [Point(voxel, label, positive) for voxel, positive in zip(places, gesture.positive, strict=True)]
    if gesture.kind == "scribble":
        return [Scribble(places, label, inside, gesture.width)]
    if gesture.kind == "lasso":
        return [lasso_of(gesture, volume)]
    return [Diameter(places, label)] if gesture.kind == "diameter" else [_box(gesture, volume)]


def leave_to_first(prompts: Sequence[Prompt], shape_ijk: Sequence[int], priority: Sequence[int] = ()) -> list[Prompt]:
    """Prompts of several structures without the voxels that another one was drawn on before them, or that has priority.

    A line of which something is left to another structure becomes the voxels that it painted or enclosed; a prompt of which
    nothing would be left stays whole.

    Args:
        prompts: in their order.
        shape_ijk: of the volume.
        priority: labels, the first before the second, all before the others.
    """
    ranks, owners = {label: rank for rank, label in enumerate(priority)}, np.zeros(tuple(shape_ijk), np.uint8)
    drawn = [n for n, each in enumerate(prompts) if _settles(each)]
    if len({prompts[n].object for n in drawn}) < 2:
        return list(prompts)
    found = list(prompts)
    for n in sorted(drawn, key=lambda n: ranks.get(found[n].object, len(ranks))):
        each, axis = found[n], min(found[n].planes())
        voxels = np.argwhere(each.array_ijk) if isinstance(each, Mask) else region_of(each, shape_ijk, axis)
        free = voxels[np.isin(owners[tuple(voxels.T)], (0, each.object))]
        owners[tuple(free.T)] = each.object
        if not 0 < len(free) < len(voxels):
            continue
        if isinstance(each, Mask | Lasso):
            found[n] = Mask(_filled(free, shape_ijk), each.object, each.axis if isinstance(each, Mask) else axis)
        else:
            found[n] = Brush(free, each.object)
    return found


def _settles(prompt: Prompt) -> bool:
    return isinstance(prompt, Mask) or (isinstance(prompt, Scribble | Lasso | Brush) and prompt.positive)


def _filled(voxels: Voxels, shape_ijk: Sequence[int]) -> NDArray[np.bool_]:
    array = np.zeros(tuple(shape_ijk), bool)
    array[tuple(voxels.T)] = True
    return array


def leave_drawn(prompt: FramePrompt, others: Iterable[FramePrompt]) -> FramePrompt:
    """A prompt of an image without the pixels that are outlined of other structures; whole where nothing would be left."""
    if prompt.mask_hw is None:
        return prompt
    left = prompt.mask_hw & ~np.any([other.mask_hw for other in others if other.mask_hw is not None] or [False], axis=0)
    return replace(prompt, mask_hw=left) if left.any() else prompt


def _of_the_whole(gesture: Gesture, volume: Volume) -> list[Prompt]:
    """Limits along the axis of their plane, slices that were erased, a ball, or the wish for shapes between outlines."""
    if gesture.kind == "interpolate":
        return [ShapeInterpolation(gesture.label)]
    if gesture.kind == "ball":
        return [Brush(ball_voxels(gesture, volume), gesture.label, gesture.inside)]
    view = PLANES[gesture.plane]
    axis = array_axis(volume, view)
    first, last = sorted(view.slice_index(t, volume.shape[axis], volume.orientation) for t in gesture.frames)
    if gesture.kind == "slices":
        return [SliceRange(first, last, gesture.label, axis)]
    corners = (first, [0, 0, 0]), (last, [size - 1 for size in volume.shape])
    low, high = ([end if a == axis else ends[a] for a in range(3)] for end, ends in corners)
    return [Box((low[0], low[1], low[2]), (high[0], high[1], high[2]), gesture.label, positive=False)]


def ball_voxels(gesture: Gesture, volume: Volume) -> Voxels:
    """Voxels (N, 3) that a ball touches on its way along a line; it is round in mm, and touches one voxel at least."""
    places = np.array(_places(gesture, volume))
    ways = [np.linspace(one, other, 2 + int(2 * np.abs(other - one).max())) for one, other in pairwise(places)]
    last = np.array(volume.shape) - 1
    centres = np.unique(np.clip(np.rint(np.concatenate([places, *ways])), 0, last).astype(np.intp), axis=0)
    _, rows, columns = PLANES[gesture.plane].spacing(volume.spacing_mm, volume.orientation)
    radius_mm = gesture.width / 2 * min(rows, columns)
    reach = (radius_mm / np.array(volume.spacing_mm)).astype(np.intp)
    low, high = np.maximum(centres.min(0) - reach, 0), np.minimum(centres.max(0) + reach, last)
    apart = np.ones(high - low + 1, bool)
    apart[tuple((centres - low).T)] = False
    distance = load_ndimage().distance_transform_edt(apart, sampling=volume.spacing_mm)
    return np.argwhere(distance <= radius_mm + 1e-6) + low


def lasso_of(gesture: Gesture, volume: Volume) -> Lasso:
    """A lasso by its places, not by what it encloses."""
    return Lasso(_places(gesture, volume), gesture.label, gesture.inside)


def _outline(gesture: Gesture, volume: Volume) -> Mask:
    mask, view = np.zeros(volume.shape, bool), PLANES[gesture.plane]
    frame = view.apply(mask, volume.orientation)[gesture.t]
    frame[:] = frame_prompt(gesture, (frame.shape[0], frame.shape[1])).mask_hw
    return Mask(mask, gesture.label, array_axis(volume, view))


def _box(gesture: Gesture, volume: Volume) -> Box:
    view, frames = PLANES[gesture.plane], gesture.frames or (gesture.t, gesture.t)
    corners = [voxel_at(volume, view, t, y, x) for t, (y, x) in zip(frames, gesture.points_yx, strict=True)]
    low, high = (tuple(pick(*pair) for pair in zip(*corners, strict=True)) for pick in (min, max))
    return Box(low, high, gesture.label, gesture.inside)  # type: ignore[arg-type]


def _places(gesture: Gesture, volume: Volume) -> tuple[Index, ...]:
    """Its points in voxels of the file."""
    return tuple(voxel_at(volume, PLANES[gesture.plane], gesture.t, y, x) for y, x in gesture.points_yx)


# Everything that the network, or a slice of it, would fail on in its own words is refused here, before the journal has it.
def check_gesture(gesture: Gesture, shape_hw: tuple[int, int], frames: int) -> None:
    """Refuse a gesture outside of its frame, empty, or of another form than its kind; raises InvalidRequest."""
    if gesture.kind == "mask":
        decode_runs(gesture.runs, shape_hw)
        return
    height, width = shape_hw
    if not all(-0.5 <= y < height - 0.5 and -0.5 <= x < width - 0.5 for y, x in gesture.points_yx):
        raise InvalidRequest("the click lies outside of the image")
    count = len(gesture.points_yx)
    if gesture.kind == "points" and (not count or count != len(gesture.positive)):
        raise InvalidRequest("each click needs to say whether it lies inside")
    if gesture.kind == "box":
        _check_box(gesture, frames)
    if not FEWEST[gesture.kind] <= count <= MOST[gesture.kind] or (gesture.kind != "points" and len(gesture.positive) > 1):
        raise InvalidRequest(f"a {gesture.kind} has {FEWEST[gesture.kind]} to {MOST[gesture.kind]} places; draw it again")
    if gesture.kind in ("slices", "erase") and gesture.inside:
        _check_frames(gesture, frames, "it needs")
    _check_drawn(gesture, shape_hw)


def _check_frames(gesture: Gesture, frames: int, what: str, apart: int = 0) -> None:
    if len(gesture.frames) != 2 or not 0 <= gesture.frames[0] <= gesture.frames[1] - apart < frames - apart:
        raise InvalidRequest(f"{what} a first and a last slice, from 0 to {frames - 1}")


def _check_box(gesture: Gesture, frames: int) -> None:
    corners = gesture.points_yx
    if len(corners) != 2 or any(round(low) == round(high) for low, high in zip(*corners, strict=True)):
        raise InvalidRequest("a box needs two corners with some room between them")
    if gesture.frames:
        _check_frames(gesture, frames, "a box in 3D needs", apart=1)
    if gesture.frames and not gesture.frames[0] <= gesture.t <= gesture.frames[1]:
        raise InvalidRequest("a box in 3D is drawn on one of its slices")


def _check_drawn(gesture: Gesture, shape_hw: tuple[int, int]) -> None:
    ends = gesture.points_yx
    if gesture.kind == "diameter" and (not gesture.inside or len(set(ends[:2])) == 1 or len(ends) == 3):
        raise InvalidRequest("a diameter goes from one end to another, and the short one too; draw it again")
    if gesture.kind in ("scribble", "ball") and not (isfinite(gesture.width) and gesture.width >= 1):
        raise InvalidRequest(f"a {gesture.kind} is at least one pixel wide")
    if gesture.kind == "lasso" and not fill(np.array([(x, y) for y, x in gesture.points_yx]), shape_hw).any():
        raise InvalidRequest("the outline encloses no pixel; draw it larger")


# Runs come from a client: those that would write outside of the mask, or twice, must not reach numpy.
def decode_runs(runs: Sequence[int], shape_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask (H, W) of runs, start and length, row by row; raises InvalidRequest if they leave the frame or their order."""
    starts, lengths = np.array(runs[::2], np.int64), np.array(runs[1::2], np.int64)
    size = shape_hw[0] * shape_hw[1]
    if len(starts) != len(lengths) or not len(starts) or (lengths < 1).any() or (starts < 0).any():
        raise InvalidRequest("the outline is broken or empty; draw it again")
    ends = starts + lengths
    if ends[-1] > size or (starts[1:] < ends[:-1]).any():
        raise InvalidRequest("the outline leaves the slice; draw it again")
    steps = np.zeros(size + 1, np.int8)
    np.add.at(steps, starts, 1)
    np.add.at(steps, ends, -1)
    return (steps[:-1].cumsum() > 0).reshape(shape_hw)


def answer_mask(gesture: Gesture, shape_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """What a gesture made of its structure on its frame (H, W)."""
    return decode_runs(gesture.answer, shape_hw) if gesture.answer else np.zeros(shape_hw, bool)


def clicks_inside(gesture: Gesture) -> list[tuple[int, int]]:
    """Row and column of each positive click."""
    clicks = zip(gesture.points_yx, gesture.positive, strict=True) if gesture.kind == "points" else ()
    return [(round(y), round(x)) for (y, x), positive in clicks if positive]


def encode_runs(mask_hw: NDArray[np.bool_]) -> tuple[int, ...]:
    """The runs of a mask: start and length, row by row."""
    edges = np.flatnonzero(np.diff(mask_hw.ravel().astype(np.int8), prepend=0, append=0))
    return tuple(int(x) for start, end in zip(edges[::2], edges[1::2], strict=True) for x in (start, end - start))


def command_line(volume: Volume, state: State, views: str, window: str, reading: Sequence[str] = ()) -> str:
    """The options of `medsam2 segment` that say all that was said; where they cannot, they name the file of prompts.

    Args:
        volume: about which it was said.
        state: of the session.
        views: through which it is tracked.
        window: of the intensities that the network sees.
        reading: options that say how the image is read.

    Raises:
        NotFound: nothing was said.
    """
    prompts, names = _said(volume, state), state.numbered_names
    words = _options(prompts, volume)
    if words is None:
        words = ["--prompts", PROMPTS]
    else:
        named = {prompt.object for prompt in prompts}
        words += [f"--name {shlex.quote(f'{label}:{name}')}" for label, name in names.items() if label in named]
    words += [f"--views {views}"] * (views != "one") + [f"--window {shlex.quote(window)}"] * (window != "auto")
    return " ".join(["medsam2 segment IMAGE", *reading, *words, "-o labels.nii.gz"])


def not_said(history: History, voxels: Mapping[int, int], rows: Iterable[SliceConfidence], views: str = "one") -> Iterator[str]:
    """What neither the options nor the file of prompts tell of a session, and what they tell otherwise; one line each.

    Args:
        history: of the session.
        voxels: label → voxels of the result that stands.
        rows: of that result; planes tell which structures were tracked through several views.
        views: that the command is told, for all structures.
    """
    state, states = history.state, history.states[: history.place + 1]
    names, erased = state.names, {each.label for each in state.gestures if each.kind == "erase"}
    said, planes = {each.label for each in state.gestures if each.kind != "erase"}, dict[int, set[str]]()
    for row in rows:
        planes.setdefault(row.object, set()).add(row.view)
    otherwise = {label for label in said & planes.keys() if (len(planes[label]) > 1) != (views != "one")}
    results = [each.tracked for each in states if each.tracked]
    steps = pairwise([None, *results])  # what comes to stand without that more was said is an edit
    edited = any(new != old and new.included == (old.included if old else frozenset()) for old, new in steps if new)
    facts = {
        "not in it, as nothing is said of them": {label for label in names if voxels.get(label)} - said,
        "not in it: slices that were erased of": erased,
        f"--views {views} is for all; here tracked through {'several views' if views == 'one' else 'one view'}": otherwise,
    }
    yield from (f"{fact}: {', '.join(names[label] for label in sorted(which))}" for fact, which in facts.items() if which)
    if state.priority:
        yield "not in it: the order of structures (--priority)"
    if edited:
        yield "not in it: what was merged, split, finished or loaded from a file"


def prompt_file(volume: Volume, state: State, place: Path) -> tuple[bytes, str]:
    """All that was said as a file of prompts, and its name; a zip where outlines that were painted lie beside it.

    Args:
        volume: about which it was said.
        state: of the session.
        place: folder in which it is written for a moment.

    Raises:
        NotFound: nothing was said.
    """
    with TemporaryDirectory(dir=place) as folder:
        save_prompts(Path(folder) / PROMPTS, _said(volume, state), state.numbered_names, volume)
        files = sorted(Path(folder).iterdir())
        if len(files) == 1:
            return files[0].read_bytes(), PROMPTS
        return archive.pack((file.name, file.read_bytes()) for file in files), "prompts.zip"


def _said(volume: Volume, state: State) -> list[Prompt]:
    """The prompts that count, of objects as files number them; a lasso by its places as long as nothing was said against it."""
    said = [replace(gesture, label=state.numbers[gesture.label]) for gesture in state.gestures]
    given = [(gesture, prompt) for gesture in said for prompt in volume_prompts(gesture, volume)]
    if not given:
        raise NotFound("prompt: nothing was said yet")
    lassos = {id(prompt): lasso_of(gesture, volume) for gesture, prompt in given if gesture.kind == "lasso"}
    kept = last_words([prompt for _, prompt in given], volume.shape)
    return [each for prompt in kept for each in _sayable(lassos.get(id(prompt), prompt))]


def _sayable(prompt: Prompt) -> Iterator[Prompt]:
    """What is left of a line is no line any more: it is said row by row, as lines as wide as a voxel."""
    if not isinstance(prompt, Brush):
        yield prompt
        return
    across = min(prompt.planes())
    along = max({0, 1, 2} - {across})
    rest = [axis for axis in range(3) if axis != along]
    row: list[tuple[int, int, int]] = []
    for i, j, k in sorted(map(tuple, prompt.voxels.tolist()), key=lambda v: (*(v[axis] for axis in rest), v[along])):
        voxel = int(i), int(j), int(k)
        if row and (voxel[along] != row[-1][along] + 1 or any(voxel[axis] != row[-1][axis] for axis in rest)):
            yield Scribble((row[0], row[-1]), prompt.object, prompt.positive, 1)
            row = []
        row.append(voxel)
    yield Scribble((row[0], row[-1]), prompt.object, prompt.positive, 1)


def _options(prompts: Sequence[Prompt], volume: Volume) -> list[str] | None:
    """Prompts as options; None where only a file can say them."""
    widths = {prompt.width for prompt in prompts if isinstance(prompt, Scribble)}
    outlined = {prompt.object for prompt in prompts if isinstance(prompt, Lasso) and prompt.positive}
    joined = {prompt.object for prompt in prompts if isinstance(prompt, ShapeInterpolation)}
    limits = [prompt for prompt in prompts if isinstance(prompt, SliceRange)]
    others = [prompt for prompt in prompts if isinstance(prompt, Point | Box | Stroke)]
    if len(widths) > 1 or joined - outlined or (joined and joined != outlined):
        return None
    if any(isinstance(prompt, Mask) for prompt in prompts) or not all(_along(each, others, volume) for each in limits):
        return None
    words = [_option(prompt) for prompt in others]
    words += [f"--slices {each.object}:{each.first} {each.last}" for each in limits]
    return words + [f"--width {width:g}" for width in widths] + ["--interpolate"] * bool(joined)


def _along(limits: SliceRange, others: Sequence[Point | Box | Stroke], volume: Volume) -> bool:
    """Whether limits are of the axis that their object is prompted along, which the options take them to be."""
    view = primary_view(volume, [prompt for prompt in others if prompt.object == limits.object])
    return array_axis(volume, view) == limits.axis


def _option(prompt: Point | Box | Stroke) -> str:
    if isinstance(prompt, Point):
        return f"--{'point' if prompt.positive else 'negative'} {prompt.object}:{_numbers([prompt.index_ijk])}"
    against = "" if prompt.positive else "negative-"
    if isinstance(prompt, Box):
        return f"--{against}box {prompt.object}:{_numbers([prompt.low_ijk, prompt.high_ijk])}"
    return f"--{against}{prompt.kind} {prompt.object}:{_numbers(prompt.places_ijk)}"


def _numbers(places: Iterable[Sequence[float]]) -> str:
    return " ".join(f"{round(number, 3) + 0:g}" for place in places for number in place)
