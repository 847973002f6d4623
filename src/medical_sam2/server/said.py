"""All that was said in a session, told at once: as a command line, and as a file of prompts.

What later gestures took back is left out, as in tracking. A result that was corrected came about step by step: told at once,
the same words may find something a little different.
"""

import io
import shlex
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from medical_sam2.io.prompt_file import save_prompts
from medical_sam2.prompts import Box, Mask, Point, Prompt
from medical_sam2.server.gestures import lasso_of, volume_prompts
from medical_sam2.server.refusals import InvalidRequest, NotFound
from medical_sam2.server.segmentation import SessionVolume
from medical_sam2.server.session import Session
from medical_sam2.strokes import Brush, Lasso, Scribble, ShapeInterpolation, SliceRange, Stroke
from medical_sam2.tracking.contradictions import last_words
from medical_sam2.tracking.plan import array_axis, primary_view
from medical_sam2.volume import Volume

FILE = "prompts.json"


def command_line(session: Session, views: str) -> str:
    """The options of `medsam2 segment` that say the same; where they cannot, they name the file of prompts.

    Raises:
        NotFound: nothing was said.
        InvalidRequest: of a set of images.
    """
    volume, prompts, names = _said(session)
    words = _options(prompts, volume)
    if words is None:
        words = ["--prompts", FILE]
    else:
        named = {prompt.object for prompt in prompts}
        words += [f"--name {shlex.quote(f'{label}:{name}')}" for label, name in names.items() if label in named]
    window = session.image.window_name
    words += [f"--views {views}"] * (views != "one") + [f"--window {shlex.quote(window)}"] * (window != "auto")
    return " ".join(["medsam2 segment IMAGE", *words, "-o labels.nii.gz"])


def prompt_file(session: Session) -> tuple[bytes, str]:
    """The file of prompts and its name; where it names outlines that were painted, a zip with those beside it.

    Raises:
        NotFound: nothing was said.
        InvalidRequest: of a set of images.
    """
    volume, prompts, names = _said(session)
    with TemporaryDirectory(dir=session.folder) as folder:
        save_prompts(Path(folder) / FILE, prompts, names, volume)
        files = sorted(Path(folder).iterdir())
        if len(files) == 1:
            return files[0].read_bytes(), FILE
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w", zipfile.ZIP_STORED) as archive:
            for file in files:
                archive.writestr(zipfile.ZipInfo(file.name), file.read_bytes())
        return data.getvalue(), "prompts.zip"


def _said(session: Session) -> tuple[Volume, list[Prompt], Mapping[int, str]]:
    """The prompts that count, of objects as files number them; a lasso by its places as long as nothing was said against it."""
    image, state = session.image, session.history.state
    if not isinstance(image, SessionVolume):
        raise InvalidRequest("a set of images has no file of prompts; download its label images")
    said = [replace(gesture, label=state.numbers[gesture.label]) for gesture in state.gestures]
    given = [(gesture, prompt) for gesture in said for prompt in volume_prompts(gesture, image.volume)]
    if not given:
        raise NotFound("prompt: nothing was said yet")
    lassos = {id(prompt): lasso_of(gesture, image.volume) for gesture, prompt in given if gesture.kind == "lasso"}
    kept = last_words([prompt for _, prompt in given], image.volume.shape)
    return image.volume, [each for prompt in kept for each in _sayable(lassos.get(id(prompt), prompt))], state.numbered_names


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
