"""One slice as a picture: grey values in true proportions, coloured outlines, prompts and letters.

Letters of all scripts: of each text the first font that has them all. Pillow's own font has letters from A to Z and no ö, ß or
é. Further ones are those that are there: DejaVu, which matplotlib brings, and the usual ones of the system. Where none has a
letter, a box would be drawn; something legible is, instead.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from unicodedata import bidirectional, combining, normalize

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, features

from medical_sam2.errors import list_first
from medical_sam2.prompts import FramePrompt
from medical_sam2.volume import Colour

BACKGROUND, TEXT, MUTED, INSIDE, OUTSIDE = (18, 18, 20), (235, 235, 235), (160, 160, 165), (40, 210, 90), (240, 60, 60)
_FINE = 2  # drawn so many times larger, then reduced: smooth outlines
_LINE, _FILL = 3, 0.16  # width in fine pixels, opacity
_RIM = 0.6  # opacity of the dark pixel around an outline, which is else lost on a ground of its colour
_MARGIN, _LEGEND = 10.0, 22  # left of a legend, and height of a line of it
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
OWN = ""
OF_SYSTEMS = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf"),
    *("NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "wqy-microhei.ttc", "DroidSansFallbackFull.ttf"),
    *("NotoSansArabic-Regular.ttf", "NotoSansHebrew-Regular.ttf", "NotoSansDevanagari-Regular.ttf", "NotoSansThai-Regular.ttf"),
    *("Arial Unicode.ttf", "arial.ttf", "segoeui.ttf", "msyh.ttc", "msgothic.ttc", "malgun.ttf", "Nirmala.ttc", "tahoma.ttf"),
)
"""Files that Linux, macOS and Windows have; Pillow looks for them where the system keeps fonts."""
NO_LETTER, TO_THE_RIGHT = "\U0010fffd", "\u200e"
"""What no font has, and a sign that is not seen: what follows a name lies to the right of it."""


@dataclass(frozen=True)
class PreviewCrop:
    """The part of a slice that a picture shows."""

    low_yx: tuple[int, int]  # first row and column
    size_yx: tuple[int, int]  # how many of each
    scale_yx: tuple[float, float]  # pixels of the picture for each of the slice, along rows and columns

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of the picture."""
        height, width = (max(1, round(n * scale)) for n, scale in zip(self.size_yx, self.scale_yx, strict=True))
        return width, height

    def cut(self, slice_hw: NDArray[np.generic]) -> NDArray[np.generic]:
        """This part of a slice."""
        (top, left), (rows, columns) = self.low_yx, self.size_yx
        return slice_hw[top : top + rows, left : left + columns]

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where the centre of a pixel of the slice lies in the picture."""
        (top, left), (down, right) = self.low_yx, self.scale_yx
        return (x - left + 0.5) * right, (y - top + 0.5) * down


@dataclass(frozen=True)
class DrawnLine:
    """A line that was drawn by hand on a slice."""

    # x to the right, y down, pixel centres at integers, in the order in which they were drawn
    places_xy: Sequence[tuple[float, float]]
    positive: bool = True  # whether it means the object
    width: float = 0  # in pixels of the slice; shown as 2 of the picture at least


def tile(
    image: NDArray[np.generic],
    maps_hw: Sequence[NDArray[np.generic]],
    crop: PreviewCrop,
    colours: Mapping[int, Colour],
    prompts: Sequence[FramePrompt] = (),
    *,
    lines: Sequence[DrawnLine] = (),
    thin: bool = False,
) -> Image.Image:
    """A slice (H, W), or an image (H, W, 3), of uint8, with the objects of its label maps outlined and its prompts marked.

    Outlines are smooth, and cover one pixel and a half; `thin` ones cover one, without being smoothed, which would blur them.
    Where an object touches a larger one, the smaller one's is drawn alone.
    """
    fine, line = (1, 1) if thin else (_FINE, _LINE)
    large = PreviewCrop(crop.low_yx, crop.size_yx, (crop.scale_yx[0] * fine, crop.scale_yx[1] * fine))
    picture = Image.fromarray(crop.cut(image)).convert("RGB").resize(large.size_px, Image.Resampling.BICUBIC)
    parts = _large_first([crop.cut(labels_hw) for labels_hw in maps_hw])
    for place, (part, label) in enumerate(parts):
        smaller = [other for beside, other in parts[place + 1 :] if beside is part]
        joined = np.isin(part, [label, *smaller]) if smaller else None
        paint(picture, part == label, colours[label], line=line, joined_hw=joined)
    for prompt in prompts:
        if prompt.mask_hw is not None:
            paint(picture, crop.cut(prompt.mask_hw) != 0, TEXT, fill=0)
        if prompt.settled_hw is not None:
            drawn = np.asarray(crop.cut(prompt.settled_hw), np.int8)
            paint(picture, drawn > 0, INSIDE)
            paint(picture, drawn < 0, OUTSIDE)
    for each in lines:
        _trace(picture, each, large, fine)
    picture = picture.resize(crop.size_px, Image.Resampling.BOX)
    for prompt in prompts:
        mark(picture, prompt, crop)
    for each in lines:
        if not each.positive:
            _sign(picture, each.places_xy[len(each.places_xy) // 2], crop, positive=False)
    return picture


# Outlines of a nucleus and of its cell run side by side: the outer one must not hide the inner one.
def _large_first(parts: Sequence[NDArray[np.generic]]) -> list[tuple[NDArray[np.generic], int]]:
    """Each object with the label map that it lies in, the smallest last."""
    found = [(part, *np.unique(part[part != 0], return_counts=True)) for part in parts]
    sizes = [(size, part, label) for part, labels, counts in found for label, size in zip(labels, counts, strict=True)]
    return [(part, int(label)) for _, part, label in sorted(sizes, key=lambda each: -int(each[0]))]


def _trace(picture: Image.Image, line: DrawnLine, crop: PreviewCrop, fine: int) -> None:
    """A line with round ends, and a dark border, so that it is seen on any ground."""
    draw, places = ImageDraw.Draw(picture), [crop.place(x, y) for x, y in line.places_xy]
    width = max(2 * fine, round(line.width * min(crop.scale_yx)))
    for colour, across in ((BACKGROUND, width + 2 * fine), (INSIDE if line.positive else OUTSIDE, width)):
        draw.line(places, fill=colour, width=across, joint="curve")
        for end in (places[0], places[-1]):
            draw.circle(end, across / 2, fill=colour)


def corners_yx(prompt: FramePrompt) -> list[tuple[float, float]]:
    """Rows and columns of the outermost pixels that a prompt is about."""
    places = [(y, x) for x, y in prompt.points_xy.tolist()]
    if prompt.box_xyxy is not None:
        places += [(y, x) for x, y in prompt.box_xyxy.reshape(2, 2).tolist()]
    for region in (prompt.mask_hw, prompt.settled_hw):
        if region is not None and region.any():
            pixels = np.argwhere(region)
            places += [
                (low_or_high[0], low_or_high[1]) for low_or_high in (pixels.min(axis=0).tolist(), pixels.max(axis=0).tolist())
            ]
    return places


def paint(
    picture: Image.Image,
    mask_hw: NDArray[np.bool_],
    colour: Colour,
    *,
    fill: float = _FILL,
    line: int = _LINE,
    joined_hw: NDArray[np.bool_] | None = None,
) -> None:
    """Outline a mask, with a dark rim, and faintly fill it, stretched over the picture.

    Args:
        picture: what is painted on.
        mask_hw: (H, W).
        colour: of outline and filling.
        fill: opacity of the filling.
        line: width of the outline, in pixels of the picture.
        joined_hw: (H, W), the mask and what touches it without an outline between them; unless given, the mask.
    """
    region = _stretched(mask_hw, picture.size)
    whole = region if joined_hw is None else region | _stretched(joined_hw, picture.size)
    rim = ~whole & ~_eroded(~region, 1)
    picture.paste((0, 0, 0), (0, 0), Image.fromarray((255 * _RIM * rim).astype(np.uint8)))
    opacity = np.where(_eroded(whole, line), 255 * fill, 255.0) * region
    picture.paste(colour, (0, 0), Image.fromarray(opacity.astype(np.uint8)))


def _eroded(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """What is farther than `width` pixels from the mask's border, in rows and columns; the picture's edge is no border.

    Shifted views: 4 ms for a picture of 900×900, where Pillow's minimum filter takes 600.
    """
    for axis, size in enumerate(mask.shape):
        padded = np.pad(mask, [(width, width) if axis == a else (0, 0) for a in range(2)], mode="edge")
        shifted = (padded.take(range(start, start + size), axis) for start in range(2 * width + 1))
        mask = np.logical_and.reduce(list(shifted))
    return mask


def _stretched(mask_hw: NDArray[np.bool_], size_px: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask at the picture's size, smooth where it is enlarged; what is too small to show is one dot, not lost."""
    soft = Image.fromarray(mask_hw.astype(np.uint8) * 255).resize(size_px, Image.Resampling.BILINEAR)
    sharp = np.asarray(soft) >= 128
    if not sharp.any():
        places = (np.argwhere(mask_hw) + 0.5) * np.array(size_px[::-1]) / mask_hw.shape
        sharp = np.zeros(size_px[::-1], bool)
        sharp[tuple(places.astype(int).T)] = True
    return sharp


def mark(picture: Image.Image, prompt: FramePrompt, crop: PreviewCrop) -> None:
    """The box in white, clicks as green discs with a plus or red ones with a minus."""
    draw = ImageDraw.Draw(picture)
    if prompt.box_xyxy is not None:
        x_low, y_low, x_high, y_high = (float(edge) for edge in prompt.box_xyxy)
        draw.rectangle((*crop.place(x_low - 0.5, y_low - 0.5), *crop.place(x_high + 0.5, y_high + 0.5)), outline=TEXT, width=1)
    for (x, y), label in zip(prompt.points_xy.tolist(), prompt.labels.tolist(), strict=True):
        _sign(picture, (x, y), crop, positive=bool(label))


def _sign(picture: Image.Image, place_xy: tuple[float, float], crop: PreviewCrop, *, positive: bool) -> None:
    draw, (across, down) = ImageDraw.Draw(picture), (round(place) for place in crop.place(*place_xy))
    draw.circle((across, down), 6, fill=INSIDE if positive else OUTSIDE, outline=TEXT)
    draw.line((across - 3, down, across + 3, down), fill=TEXT, width=2)
    if positive:
        draw.line((across, down - 3, across, down + 3), fill=TEXT, width=2)


def letters(picture: Image.Image, code: str, opposite: Mapping[str, str], size: int = 14) -> None:
    """The directions of the patient at the edges with room for them; `code` is the view's: frames, rows down, columns right."""
    draw, (width, height) = ImageDraw.Draw(picture), picture.size
    _, down, right = code
    for letter, place, anchor, along, across in (
        (opposite[right], (4, height / 2), "lm", width, height),
        (right, (width - 4, height / 2), "rm", width, height),
        (opposite[down], (width / 2, 3), "mt", height, width),
        (down, (width / 2, height - 3), "mb", height, width),
    ):
        if along > 3 * size and across > 1.5 * size:  # two letters on top of each other say nothing, nor do pieces of one
            write(draw, place, letter, anchor=anchor, size=size)


def scale_bar(picture: Image.Image, px_per_mm: float) -> None:
    """A bar of 1, 2 or 5 times a power of ten mm, about a fifth of the picture long."""
    draw, (width, height) = ImageDraw.Draw(picture), picture.size
    lengths_mm = [n * 10.0**power for power in range(-3, 4) for n in (1, 2, 5)]
    length_mm = max((length for length in lengths_mm if length * px_per_mm <= width / 4), default=lengths_mm[0])
    right, bottom = width - 10, height - 8
    left = right - length_mm * px_per_mm
    draw.line((left, bottom, right, bottom), fill=TEXT, width=2)
    write(draw, ((left + right) / 2, bottom - 4), f"{length_mm:g} mm", anchor="mb", size=11)


def text_px(text: str, size: int = 13) -> float:
    """How wide a text is."""
    return font_for(text, size).getlength(text, direction=direction(text))


def write(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    *,
    anchor: str = "la",
    size: int = 13,
    colour: Colour = TEXT,
) -> None:
    """Text, legible on any ground."""
    font, order = font_for(text, size), direction(text)
    draw.text(place, text, fill=colour, font=font, anchor=anchor, direction=order, stroke_width=1, stroke_fill=(0, 0, 0))


def legend(entries: Sequence[tuple[Colour, str]], width_px: int) -> Image.Image:
    """A coloured square and a text of each object, in as many lines as they need."""
    entries = entries or [(BACKGROUND, "no object was found")]
    places: list[tuple[float, int]] = []
    x, line = _MARGIN, 0
    for _, text in entries:
        width = 48 + text_px(text, 14)
        if x + width > width_px and x > _MARGIN:
            x, line = _MARGIN, line + 1
        places.append((x, line * _LEGEND))
        x += width
    picture = Image.new("RGB", (width_px, (line + 1) * _LEGEND), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    for (colour, text), (left, top) in zip(entries, places, strict=True):
        draw.rectangle((left, top + 4, left + 12, top + 16), fill=colour)
        write(draw, (left + 20, top + 10), text, anchor="lm", size=14)
    return picture


def font_for(text: str, size: int) -> Font:
    """The first font that has all letters of a text, in pixels; Pillow's own where there is none."""
    return _load(next((file for file in _files() if _has_all(file, text)), OWN), size) or ImageFont.load_default(size)


def can_draw(text: str) -> bool:
    """Whether a font has all letters of a text, and they can be put in order."""
    return any(_has_all(file, text) for file in _files())


def legible(text: str, instead: str | None = None) -> str:
    """The text; where no font has its letters the same without accents; where that is none either, something else.

    Args:
        text: to be drawn.
        instead: of a text that cannot be; unless given, the text with "_" for each letter that is missing.
    """
    plain = "".join(each for each in normalize("NFKD", text.replace("ß", "ss")) if not combining(each))
    if can_draw(text) or can_draw(plain):
        return text if can_draw(text) else plain
    return "".join(each if can_draw(each) else "_" for each in plain) if instead is None else instead


def shown_name(names: Mapping[int, str], label: int) -> str:
    """What an object is called in pictures: by its name, or its number where it has none that can be drawn."""
    name = legible(names.get(label, ""), "")
    return name + TO_THE_RIGHT * _runs_left(name) if name else f"object {label}"


def describe_lost_names(names: Mapping[int, str]) -> list[str]:
    """A line if pictures show other names than these, for want of a font."""
    lost = [label for label, name in names.items() if not can_draw(name)]
    what = "pictures show the name without accents, or the object's number"
    return [f"no font here has all letters of the name of object {list_first(lost)}: {what}"] if lost else []


def _runs_left(text: str) -> bool:
    return any(bidirectional(each) in ("R", "AL") for each in text)


def direction(text: str) -> str | None:
    """How Pillow is to put a text in order: as a line from left to right, also where its first letter runs to the left."""
    return "ltr" if _runs_left(text) and features.check("raqm") else None


def _files() -> Iterator[str]:
    yield OWN
    if (found := find_spec("matplotlib")) is not None and found.origin is not None:
        yield str(Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf")
    yield from OF_SYSTEMS


@cache
def _load(file: str, size: int) -> Font | None:
    try:
        return ImageFont.truetype(file, size) if file else ImageFont.load_default(size)
    except OSError:
        return None


# Letters from right to left are put in order, and joined, by a library that Pillow may lack.
def _has_all(file: str, text: str) -> bool:
    ordered = features.check("raqm") or not _runs_left(text)
    return _load(file, 20) is not None and ordered and all(each.isspace() or _has(file, each) for each in set(text))


@cache
def _has(file: str, letter: str) -> bool:
    """Whether a font draws a letter otherwise than one that no font has."""
    return _drawn(file, letter) != _drawn(file, NO_LETTER)


def _drawn(file: str, letter: str) -> bytes:
    picture = Image.new("L", (48, 48))
    ImageDraw.Draw(picture).text((12, 8), letter, fill=255, font=_load(file, 20))
    return picture.tobytes()
