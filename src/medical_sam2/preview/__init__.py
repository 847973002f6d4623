"""Pictures to judge a segmentation by at a glance, in the way of a radiologist's screen.

A montage of a volume, a film of it, a sheet of many images. `scene` decides which slices and greys they show, `drawing` has
tiles, colours, letters and the fonts that have them.
"""

import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from itertools import zip_longest
from numbers import Integral
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from medical_sam2.errors import ConfigError, list_first
from medical_sam2.intensity_window import Window, percentile_window
from medical_sam2.io.atomic import writing
from medical_sam2.io.voxels import say_size, volume_ml
from medical_sam2.preview import drawing
from medical_sam2.preview.drawing import BACKGROUND, MUTED, Colour, PreviewCrop, describe_lost_names, legible, shown_name
from medical_sam2.preview.scene import PreviewScene
from medical_sam2.prompts import Prompt
from medical_sam2.views import OPPOSITE, THREE_VIEWS, View
from medical_sam2.volume import Segmentation, Volume, colour_of

__all__ = ["animation", "as_html", "contact_sheet", "montage", "save"]
_GAP, _CAPTION = 10, 20
_TALLEST, _NARROW = 460, 120
_NARROWEST = 100  # that a picture may be
_MARGIN = 0.25  # shown around the objects on the strip, as a share of their size
_HTML_PX, _MOST_ROWS, _LONGEST_NAME = 900, 40, 80


def save(
    path: str | Path,
    volume: Volume,
    segmentation: Segmentation,
    prompts: Sequence[Prompt] = (),
    *,
    window: Window | None = None,
) -> list[str]:
    """Write a montage (`.png`, `.jpg`), or a film through the slices (`.gif`), whole or not at all.

    Returns:
        A line if names are shown otherwise, since no font here has their letters.

    Raises:
        ConfigError: the file's name ends otherwise.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".gif":
        film = animation(volume, segmentation, prompts, window=window)
        palette = film[len(film) // 2].quantize()  # one for all: no flicker, and less to store
        first, *others = (picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in film)
        with writing(Path(path)) as stream:
            first.save(stream, "GIF", save_all=True, append_images=others, duration=90, loop=0)
    elif suffix in {".png", ".jpg", ".jpeg"}:
        picture = montage(volume, segmentation, prompts, window=window)
        with writing(Path(path)) as stream:
            picture.save(stream, "PNG" if suffix == ".png" else "JPEG")
    else:
        raise ConfigError(f"a preview cannot be written as {suffix or 'a file without a suffix'}", "use .png, .jpg or .gif")
    return describe_lost_names(segmentation.names)


def montage(
    volume: Volume,
    segmentation: Segmentation,
    prompts: Sequence[Prompt] = (),
    *,
    width_px: int = 1200,
    slices: int = 8,
    window: Window | None = None,
) -> Image.Image:
    """Three planes through the objects, or the prompted slices; a strip of slices along them; a legend with their volumes.

    Planes and strip once for each window that the network saw objects through, with a line that names these. As on a
    radiologist's screen: the patient's right is on the left, anterior or superior is up, lengths are true in mm.

    Args:
        volume: the image.
        segmentation: in the image's grid.
        prompts: clicks, boxes and outlines to mark.
        width_px: width of the picture.
        slices: how many on the strip.
        window: intensities shown as black and white; unless given, those that the network saw.

    Raises:
        GeometryError: the segmentation is not in the grid of the volume.
        InputError: one of them is something else.
        ConfigError: no slices, or too narrow a picture.
    """
    _check_sizes(width_px=width_px, slices=slices)
    scene = PreviewScene(volume, segmentation, prompts, window)
    rows: list[Image.Image] = []
    for each in scene.split():
        rows += [*_heading(each, width_px), _planes(each, width_px), _strip(each, width_px, slices)]
    return _stacked([*rows, _legend(scene, width_px)], width_px)


def _check_sizes(**sizes: int) -> None:
    """Refuse a picture of nothing; raises ConfigError."""
    for name, given in sizes.items():
        least = _NARROWEST if name == "width_px" else 1
        if isinstance(given, bool) or not isinstance(cast("object", given), Integral) or given < least:
            raise ConfigError(f"{name}={repr(given)[:40]} leaves nothing to see", f"give {least} or more")


def as_html(segmentation: Segmentation) -> str:
    """What a notebook shows of a segmentation, at most 1 MB: a montage as an inline PNG, and a table of the first 40 objects.

    The table has names (escaped, cut after 80 characters), volumes in mL (voxels, where millimetres mean nothing) and the mean
    confidence of the slices that nobody prompted, a predicted IoU in [0, 1]. Beside names and grey values nothing of the image
    is in it: no path, no header, no warning's text. Without its image (`Segmentation.image`) it is drawn on plain grey.

    Raises:
        GeometryError: the image has another grid.
    """
    plain = np.broadcast_to(np.uint8(0), segmentation.labels.shape)
    scene = PreviewScene(segmentation.image or Volume(plain, segmentation.affine), segmentation)
    picture = _stacked([_planes(scene, _HTML_PX), _strip(scene, _HTML_PX, 8)], _HTML_PX)
    png = io.BytesIO()
    picture.quantize().save(png, "PNG")  # a byte a pixel
    rows = [_html_row(scene, label, voxels) for label, voxels in list(scene.voxels.items())[:_MOST_ROWS]]
    unprompted = [
        (len(scene.voxels) - len(rows), "more objects"),
        (len(segmentation.warnings), "warnings, in <code>warnings</code>"),
    ]
    return (
        f'<img alt="slices with outlines" src="data:image/png;base64,{b64encode(png.getvalue()).decode()}">'
        f"<table><tr><th></th><th>object</th><th>name</th><th>volume</th><th>confidence</th></tr>{''.join(rows)}</table>"
        + "".join(f"<p>{count} {what}</p>" for count, what in unprompted if count)
    )


def _html_row(scene: PreviewScene, label: int, voxels: int) -> str:
    sure, name = scene.segmentation.mean_confidence(label), scene.segmentation.names.get(label, "")
    cut = name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…"
    red, green, blue = scene.colours[label]
    square = f'<td style="background:rgb({int(red)},{int(green)},{int(blue)})">&emsp;</td>'
    cells = (str(label), escape(cut), _size(scene, voxels), "" if sure is None else f"{sure:.2f}")
    return f"<tr>{square}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def animation(
    volume: Volume,
    segmentation: Segmentation,
    prompts: Sequence[Prompt] = (),
    *,
    width_px: int = 480,
    frames: int = 60,
    window: Window | None = None,
) -> list[Image.Image]:
    """A film through the slices with the objects, and a little beyond, in up to `frames` pictures; otherwise as `montage`.

    Several windows show the same slice one below the other.
    """
    _check_sizes(width_px=width_px, frames=frames)
    scene = PreviewScene(volume, segmentation, prompts, window)
    view = scene.main_view
    axis = view.order(scene.axes)[0]
    first, last = scene.extent(axis)
    beyond = max(2, (last - first) // 6)
    shown = range(max(0, first - beyond), min(volume.shape[axis], last + beyond + 1))
    crop = whole_slice(scene, view, _fitting([_size_mm(scene, view)], width_px - 2 * _GAP))
    legend = _legend(scene, width_px)
    prompted = [_frame(scene, view, t) for t in scene.prompted(view)]
    parts = [(each, _heading(each, width_px)) for each in scene.split()]
    film: list[Image.Image] = []
    for index in _with_prompted(_spread(shown, frames), prompted, frames):
        t = _frame(scene, view, index)
        rows = [[*heading, _centred(_plane(each, view, t, crop), width_px)] for each, heading in parts]
        film.append(_stacked([*(row for part in rows for row in part), legend], width_px))
    return film


def contact_sheet(
    images: Sequence[NDArray[np.generic]],
    masks: Sequence[NDArray[np.integer] | NDArray[np.bool_] | None] = (),
    captions: Sequence[str] = (),
    *,
    columns: int = 6,
    tile_px: int = 190,
    names: Mapping[int, str] | None = None,
) -> Image.Image:
    """Many 2D images side by side with their objects outlined.

    Args:
        images: (H, W) or (H, W, 3) each, of any size; what is not uint8 is shown between its 0.5 and 99.5 percentiles.
        masks: (H, W) labels or bool of each image; None, or too few, where there is none.
        captions: one line for each, cut where it is too long.
        columns: how many side by side.
        tile_px: largest side of an image on the sheet.
        names: label → name for a legend, "object 1" and so on where there is none; None: no legend.

    Raises:
        ConfigError: tiles, or columns, of nothing.
    """
    _check_sizes(columns=columns, tile_px=tile_px)
    colours = {label: colour_of(label) for mask in masks if mask is not None for label in np.unique(mask[mask != 0]).tolist()}
    cells = [
        _cell(image, mask, caption or "", colours, tile_px)
        for image, mask, caption in zip_longest(images, masks[: len(images)], captions[: len(images)])
    ]
    columns = max(1, min(columns, len(cells)))
    step_x, step_y = tile_px + _GAP, tile_px + _CAPTION + _GAP
    sheet = Image.new("RGB", (columns * step_x + _GAP, -(-len(cells) // columns) * step_y + _GAP), BACKGROUND)
    for place, cell in enumerate(cells):
        sheet.paste(cell, (_GAP + place % columns * step_x, _GAP + place // columns * step_y))
    if names is None:
        return sheet
    entries = [(colour_of(label), shown_name(names, label)) for label in sorted({*colours, *names})]
    return _stacked([sheet, drawing.legend(entries, sheet.width)], sheet.width)


def _cell(
    image: NDArray[np.generic], mask: NDArray[np.generic] | None, caption: str, colours: Mapping[int, Colour], tile_px: int
) -> Image.Image:
    pixels = image if image.dtype == np.uint8 else percentile_window(image).as_bytes(image)
    height, width = image.shape[:2]
    scale = tile_px / max(height, width)
    whole = PreviewCrop((0, 0), (height, width), (scale, scale))
    picture = drawing.tile(pixels, [] if mask is None else [mask], whole, colours, thin=True)
    return _captioned(_centred(picture, tile_px, tile_px), caption)


def shorten(name: str, most: int) -> str:
    """A name without its middle where it is too long: beginnings and ends tell names apart."""
    start = (most - 1) // 2
    return name if len(name) <= most else f"{name[:start]}…{name[start + 1 - most :]}"


def _heading(scene: PreviewScene, width_px: int) -> list[Image.Image]:
    """A line that names the objects of a scene that is one of several, and its window; nothing where it is the only one."""
    if scene.looked_at is None:
        return []
    names = list_first([shown_name(scene.segmentation.names, label) for label in sorted(scene.looked_at)])
    line = Image.new("RGB", (width_px, _CAPTION), BACKGROUND)
    drawing.write(ImageDraw.Draw(line), (_GAP, 2), legible(f"{names}: intensities from {scene.grey}"), size=12, colour=MUTED)
    return [line]


def _planes(scene: PreviewScene, width_px: int) -> Image.Image:
    sizes = [_size_mm(scene, view) for view in THREE_VIEWS]
    px_per_mm = _fitting(sizes, width_px - 4 * _GAP)
    pictures = [_plane(scene, view, scene.frame(view), whole_slice(scene, view, px_per_mm)) for view in THREE_VIEWS]
    drawing.scale_bar(pictures[0] if pictures[0].width > _NARROW else max(pictures, key=lambda each: each.width), px_per_mm)
    return _row(pictures, width_px)


def _plane(scene: PreviewScene, view: View, t: int, crop: PreviewCrop) -> Image.Image:
    picture = draw_slice(scene, view, t, crop)
    drawing.letters(picture, view.code, OPPOSITE)
    captions = (f"{view.name}   {_index(scene, view, t)}", view.name, "")  # of a thin stack there is room for less
    return _captioned(picture, next(each for each in captions if drawing.text_px(each, 12) < picture.width))


def _strip(scene: PreviewScene, width_px: int, slices: int) -> Image.Image:
    view = scene.main_view
    first, last = scene.extent(view.order(scene.axes)[0])
    usual = [_frame(scene, view, index) for index in _spread(range(first, last + 1), slices)]
    frames = _with_prompted(usual, scene.prompted(view) or [scene.frame(view)], slices)
    crop = _around(scene, view, (width_px - (slices + 1) * _GAP) // slices)
    pictures: list[Image.Image] = []
    for t in frames:
        picture, caption = draw_slice(scene, view, t, crop), _index(scene, view, t)
        room = round(drawing.text_px(caption, 12)) + 4  # which a slice of a thin stack has not
        pictures.append(_captioned(_centred(picture, max(room, picture.width)), caption))
    return _row(pictures, width_px)


def draw_slice(scene: PreviewScene, view: View, t: int, crop: PreviewCrop) -> Image.Image:
    """Frame t of a view with its objects and prompts, cut and stretched by `crop`."""
    grey = scene.grey.as_bytes(view.apply(scene.volume.array, scene.axes)[t])
    labels = [view.apply(each, scene.axes)[t] for each in scene.segmentation.maps]
    return drawing.tile(grey, labels, crop, scene.colours, scene.prompts_on(view, t), lines=scene.lines_on(view, t))


def _frame(scene: PreviewScene, view: View, index: int) -> int:
    return view.slice_index(index, scene.volume.shape[view.order(scene.axes)[0]], scene.axes)


def _index(scene: PreviewScene, view: View, t: int) -> str:
    """The slice as a user names it: its index along the array axis of the file."""
    return f"{'ijk'[view.order(scene.axes)[0]]} = {_frame(scene, view, t)}"


def _spread(indices: range, count: int) -> list[int]:
    places = np.linspace(indices[0], indices[-1], min(count, len(indices)))
    return np.rint(places).astype(int).tolist()


def _with_prompted(usual: Sequence[int], prompted: Sequence[int], most: int) -> list[int]:
    """Slices to show, up to `most`, ascending: those with prompts before others; the nearest to them make room."""
    kept = prompted if len(prompted) <= most else [prompted[place] for place in _spread(range(len(prompted)), most)]
    others = [t for t in usual if t not in kept]
    while len(others) + len(kept) > most:
        others.remove(min(others, key=lambda t: min(abs(t - shown) for shown in kept)))
    return sorted([*kept, *others])


def _size_mm(scene: PreviewScene, view: View) -> tuple[float, float]:
    """Width and height of a slice."""
    _, rows, columns = view.order(scene.axes)
    shape, spacing = scene.volume.shape, scene.volume.spacing_mm
    return shape[columns] * spacing[columns], shape[rows] * spacing[rows]


def _fitting(sizes_mm: Sequence[tuple[float, float]], width_px: int) -> float:
    """Pixels per mm with which pictures of these sizes fit beside each other."""
    return min(width_px / sum(width for width, _ in sizes_mm), _TALLEST / max(height for _, height in sizes_mm))


def whole_slice(scene: PreviewScene, view: View, px_per_mm: float) -> PreviewCrop:
    """All of a slice, in true proportions."""
    _, rows, columns = view.order(scene.axes)
    shape, (_, down, right) = scene.volume.shape, view.spacing(scene.volume.spacing_mm, scene.axes)
    return PreviewCrop((0, 0), (shape[rows], shape[columns]), (down * px_per_mm, right * px_per_mm))


def _around(scene: PreviewScene, view: View, side_px: int) -> PreviewCrop:
    """A square in mm around all objects and all that was pointed at, as far as the image reaches."""
    _, *places = view.order(scene.axes)
    _, *flips = view.flipped(scene.axes)
    spacing = [scene.volume.spacing_mm[place] for place in places]
    extents = [scene.extent(place) for place in places]
    for at, along in enumerate(zip(*scene.pointed_at(view), strict=True)):
        indices = [scene.volume.shape[places[at]] - 1 - place if flips[at] else place for place in along]
        extents[at] = (min(extents[at][0], *map(round, indices)), max(extents[at][1], *map(round, indices)))
    side_mm = (1 + 2 * _MARGIN) * max((last - first + 1) * mm for (first, last), mm in zip(extents, spacing, strict=True))
    low: list[int] = []
    size: list[int] = []
    for place, flip, mm, (first, last) in zip(places, flips, spacing, extents, strict=True):
        whole = scene.volume.shape[place]
        size.append(min(whole, max(8, round(side_mm / mm))))
        start = min(max(0, round((first + last + 1 - size[-1]) / 2)), whole - size[-1])
        low.append(whole - size[-1] - start if flip else start)
    px_per_mm = side_px / max(n * mm for n, mm in zip(size, spacing, strict=True))
    return PreviewCrop((low[0], low[1]), (size[0], size[1]), (spacing[0] * px_per_mm, spacing[1] * px_per_mm))


def _legend(scene: PreviewScene, width_px: int) -> Image.Image:
    """What the colours mean, and how large each object is."""
    rows = ((label, _size(scene, voxels)) for label, voxels in scene.voxels.items())
    names = {label: shown_name(scene.segmentation.names, label) for label in scene.voxels}
    return drawing.legend([(scene.colours[label], f"{names[label]}   {size}") for label, size in rows], width_px)


def _size(scene: PreviewScene, voxels: int) -> str:
    return say_size(voxels, volume_ml(voxels, scene.volume)) if voxels else "not found"


def _captioned(picture: Image.Image, caption: str) -> Image.Image:
    framed = Image.new("RGB", (picture.width, picture.height + _CAPTION), BACKGROUND)
    framed.paste(picture, (0, 0))
    drawing.write(ImageDraw.Draw(framed), (1, picture.height + 4), legible(caption), size=12, colour=MUTED)
    return framed


def _centred(picture: Image.Image, width_px: int, height_px: int | None = None) -> Image.Image:
    height_px = height_px or picture.height
    framed = Image.new("RGB", (width_px, height_px), BACKGROUND)
    framed.paste(picture, ((width_px - picture.width) // 2, (height_px - picture.height) // 2))
    return framed


def _row(pictures: Sequence[Image.Image], width_px: int) -> Image.Image:
    row = Image.new("RGB", (width_px, max(picture.height for picture in pictures)), BACKGROUND)
    free = width_px - sum(picture.width for picture in pictures)
    gap = min(free / (len(pictures) + 1), 4 * _GAP)
    x = (free - gap * (len(pictures) - 1)) / 2
    for picture in pictures:
        row.paste(picture, (round(x), (row.height - picture.height) // 2))
        x += picture.width + gap
    return row


def _stacked(rows: Sequence[Image.Image], width_px: int) -> Image.Image:
    whole = Image.new("RGB", (width_px, sum(row.height + _GAP for row in rows) + _GAP), BACKGROUND)
    y = _GAP
    for row in rows:
        whole.paste(row, (0, y))
        y += row.height + _GAP
    return whole
