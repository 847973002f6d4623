"""Outlined images in files of other programs, pixel for pixel: COCO, QuPath (GeoJSON), Label Studio. Each is one function.

```python
def count(images, names):                                    # AnnotatedImage, one after the other; label → name
    return b"\\n".join(f"{image.source} {(image.labels > 0).sum()}".encode() for image in images)

MINE = Format("counts", (), kind="picture", annotator=count, annotated=".counts.txt")
```

And masks as polygons along the edges of their pixels, and back: pixel for pixel the same. Places are (x, y), column and row:
the centre of the first pixel is (0, 0), and its corners lie at ±0.5. A pixel belongs to what its centre lies in; a centre that
lies on a line belongs to it too, as other programs draw along the centres of pixels.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from urllib.parse import quote

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray

from medical_sam2.io import atomic
from medical_sam2.volume import bounding_box, colour_of

MAKER = "medical-sam2"
TAG, IMAGE = "tag", "image"
"""Names of the controls in Label Studio's template for brushes."""
LOCAL_FILES = "/data/local-files/?d="
RUN_SIZES = (3, 4, 8, 16)
"""Bits that the length of a run may take in Label Studio's packing."""
ON_LINE_PX = 0.01
"""A centre that is not farther from a line lies on it: files round what they store."""
LEVEL = 0.6
"""Between 0 and 1, and over the middle: pixels that touch at a corner alone are apart."""


@dataclass(frozen=True, eq=False)
class Polygon:
    """One part of an object, with its holes."""

    # (N, 2) corners in x and y, the first not repeated; what is inside lies where y turns to when x grows
    outer: NDArray[np.float64]
    holes: tuple[NDArray[np.float64], ...] = ()  # (M, 2) corners of each, the other way round


def trace_polygons(mask_hw: NDArray[np.bool_]) -> list[Polygon]:
    """The parts of a mask (H, W), which may be empty, that hang together by edges of pixels; no outline touches itself."""
    found: list[Polygon] = []
    for outer, *holes in _trace(mask_hw):
        first, *inner = sorted(_simple_rings(outer), key=lambda ring: -abs(_area(ring)))  # around the others lies the part
        inner += [ring for hole in holes for ring in _simple_rings(hole)]
        found.append(Polygon(_turned(first, 1), tuple(_turned(ring, -1) for ring in inner)))
    return found


def trace_rings(mask_hw: NDArray[np.bool_], inset_px: float = 0.0) -> list[NDArray[np.float64]]:
    """One ring (N, 2) for each part of a mask: holes are joined with what surrounds them by a channel along edges (keyhole).

    Args:
        mask_hw: (H, W), any part of it drawn, or none.
        inset_px: how far the ring lies inside, less than half a pixel: it then touches itself nowhere, channels are twice as
            wide, and its corners, rounded, are pixels of the object, as programs expect that fill from pixel to pixel.
    """
    found: list[NDArray[np.float64]] = []
    for outer, *holes in _trace(mask_hw):
        ring = _turned(outer, 1)
        for hole in sorted(holes, key=lambda hole: tuple(hole[_leftmost(hole)])):
            ring = _join(ring, _turned(hole, -1))
        found.append(_inset(_corners(ring), inset_px) if inset_px else ring)
    return found


# Each pixel is given two samples along either axis, at its edges: what is traced between 1 and 0 then lies on the edges.
def _trace(mask_hw: NDArray[np.bool_]) -> Iterator[list[NDArray[np.float64]]]:
    """Of each part its outline and those of its holes, by their corners."""
    rows, columns = box = bounding_box(mask_hw)
    if rows.stop == 0:
        return
    framed = np.pad(mask_hw[box], 1)
    doubled = framed.repeat(2, axis=0).repeat(2, axis=1).astype(np.float64)
    x, y = (_edges(along.start, along.stop - 1) for along in (columns, rows))
    traced = contour_generator(x, y, doubled, fill_type="OuterOffset").filled(LEVEL, 2.0)
    for points, offsets in zip(*traced, strict=True):
        yield [_corners(ring) for ring in np.split(points, offsets[1:-1])]


def _edges(first: int, last: int) -> NDArray[np.float64]:
    """Both edges of each pixel of a row, and of one more on either side."""
    return np.arange(first - 1.0, last + 2.0).repeat(2) + np.tile([-0.5, 0.5], last - first + 3)


def _corners(ring: NDArray[np.float64]) -> NDArray[np.float64]:
    """A ring without points that repeat another, or lie between their neighbours on a straight line."""
    ring = ring[(ring != np.roll(ring, 1, axis=0)).any(axis=1)]
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    return ring[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]


def _simple_rings(ring: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """The loops of a ring, cut where it passes a corner twice."""
    if len(np.unique(ring, axis=0)) == len(ring):
        yield ring
        return
    path: list[tuple[float, float]] = []
    places: dict[tuple[float, float], int] = {}
    for x, y in ring.tolist():
        if (start := places.get((x, y))) is not None:
            yield np.array(path[start:])
            for passed in path[start:]:
                del places[passed]
            del path[start:]
        places[x, y] = len(path)
        path.append((x, y))
    yield np.array(path)


def _area(ring: NDArray[np.float64]) -> float:
    x, y = ring.T
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2


def _turned(ring: NDArray[np.float64], sign: int) -> NDArray[np.float64]:
    return ring if _area(ring) * sign > 0 else ring[::-1]


def _leftmost(ring: NDArray[np.float64]) -> int:
    return int(np.lexsort((ring[:, 1], ring[:, 0]))[0])


# To the left of a hole's leftmost corner lies the object, up to the first line: the outline's, or of a hole joined before.
def _join(ring: NDArray[np.float64], hole: NDArray[np.float64]) -> NDArray[np.float64]:
    first = _leftmost(hole)
    x, y = hole[first]
    ends = np.roll(ring, -1, axis=0)
    met = (ring[:, 0] == ends[:, 0]) & (ring[:, 0] <= x)
    met &= (np.minimum(ring[:, 1], ends[:, 1]) <= y) & (y <= np.maximum(ring[:, 1], ends[:, 1]))
    edge = max(np.flatnonzero(met), key=lambda place: ring[place, 0])
    bridge = np.array([[ring[edge, 0], y]])
    around = np.roll(hole, -first, axis=0)
    return np.concatenate([ring[: edge + 1], bridge, around, around[:1], bridge, ring[edge + 1 :]])


def _inset(ring: NDArray[np.float64], by: float) -> NDArray[np.float64]:
    """A ring of horizontal and vertical edges, each moved towards what is inside."""
    ahead = np.sign(np.roll(ring, -1, axis=0) - ring)
    inwards = np.stack([-ahead[:, 1], ahead[:, 0]], axis=1)
    return ring + by * np.sign(inwards + np.roll(inwards, 1, axis=0))


def fill_polygons(rings: Sequence[NDArray[np.float64]], shape_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels that an odd number of rings surrounds, and those on a line: a ring within another one is a hole.

    Args:
        rings: (N, 2) corners in x and y each, in any direction; parts beyond the image are cut off.
        shape_hw: rows and columns of the image.
    """
    inside, on_line = fill_and_trace(rings, shape_hw)
    return inside | on_line


def fill_and_trace(
    rings: Sequence[NDArray[np.float64]], shape_hw: tuple[int, int]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The same in two parts: what lies inside (of a pixel on a line nobody can tell), and what lies on a line."""
    starts = np.concatenate([np.empty((0, 2)), *rings])
    ends = np.concatenate([np.empty((0, 2)), *(np.roll(ring, -1, axis=0) for ring in rings)])
    height, width = shape_hw
    rows, x = _crossings(starts[:, ::-1], ends[:, ::-1], height, 0.0)
    places = rows * (width + 1) + np.clip(np.ceil(x), 0, width).astype(np.int64)
    flips = np.bincount(places, minlength=height * (width + 1)).reshape(height, width + 1)
    inside = (np.cumsum(flips[:, :width], axis=1) % 2).astype(bool)
    on_line = np.zeros(shape_hw, bool)
    _mark(on_line, starts[:, ::-1], ends[:, ::-1])  # steep lines pass between columns, flat ones between rows
    _mark(on_line.T, starts, ends)
    return inside, on_line


def _mark(on_line: NDArray[np.bool_], starts: NDArray[np.float64], ends: NDArray[np.float64]) -> None:
    along, across = _crossings(starts, ends, on_line.shape[0], ON_LINE_PX)
    nearest = np.rint(across).astype(np.int64)
    on = (np.abs(across - nearest) <= ON_LINE_PX) & (nearest >= 0) & (nearest < on_line.shape[1])
    on_line[along[on], nearest[on]] = True


def _crossings(
    starts: NDArray[np.float64], ends: NDArray[np.float64], size: int, more: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Where edges (from, to; along, across) cross the whole numbers from 0 to `size`: these, and how far across.

    Each edge has its lower end and not its upper one, so that a ring crosses evenly; with `more`, both ends and so much beyond.
    """
    upwards = starts[:, :1] <= ends[:, :1]
    low, high = np.where(upwards, starts, ends), np.where(upwards, ends, starts)
    first = np.clip(np.ceil(low[:, 0] - more), 0, size).astype(np.int64)
    last = np.floor(high[:, 0] + more) + 1 if more else np.ceil(high[:, 0])
    counts = np.maximum(np.clip(last, 0, size).astype(np.int64) - first, 0)
    edges = np.repeat(np.arange(len(starts)), counts)
    along = np.arange(len(edges)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edges]
    length = high[edges, 0] - low[edges, 0]
    part = np.divide(along - low[edges, 0], length, out=np.zeros(len(edges)), where=length > 0)
    return along, low[edges, 1] + np.clip(part, 0, 1) * (high[edges, 1] - low[edges, 1])


@dataclass(frozen=True, eq=False)
class AnnotatedImage:
    """An image of a set, and what was outlined on it."""

    number: int  # of the image in its set, from 1
    source: str  # file of the image, with the folder that it lies in where that is known ("smears/cell_07.png")
    labels: NDArray[np.unsignedinteger]  # (H, W) unsigned integers, 0 is background
    confidence: Mapping[int, float] = field(default_factory=dict)  # label → in [0, 1], of those that tracking made

    def masks(self) -> Iterator[tuple[int, NDArray[np.bool_]]]:
        """Each object that has pixels, ascending: its label, and where it is."""
        for label in np.unique(self.labels[self.labels > 0]).tolist():
            yield label, self.labels == label

    def score(self, key: str, label: int) -> dict[str, float]:
        """Its confidence under that key, or nothing where it is not known."""
        return {key: round(self.confidence[label], 4)} if label in self.confidence else {}


def coco(images: Iterable[AnnotatedImage], names: Mapping[int, str]) -> bytes:
    """A COCO data set: categories by label, one annotation for each object of an image, masks as run lengths.

    The run lengths are COCO's uncompressed ones (down the columns, beginning with what is outside), exact with holes; `bbox` is
    (x, y, width, height). Source: cocodataset.org, format of data.
    """
    listed: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image in images:
        height, width = image.labels.shape
        listed.append({"id": image.number, "file_name": image.source.rpartition("/")[2], "width": width, "height": height})
        for label, mask in image.masks():
            rows, columns = bounding_box(mask)
            box = [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]
            outside_first = [0, *_runs(mask.T)[1]] if mask[0, 0] else _runs(mask.T)[1]
            what = {"id": len(annotations) + 1, "image_id": image.number, "category_id": label, "iscrowd": 0}
            where = {"bbox": box, "area": int(mask.sum()), "segmentation": {"size": [height, width], "counts": outside_first}}
            annotations.append({**what, **image.score("score", label), **where})
    labels = sorted({*names, *(each["category_id"] for each in annotations)})
    categories = [{"id": label, "name": _called(label, names), "supercategory": ""} for label in labels]
    about = {"info": {"description": f"outlined by {MAKER}"}, "licenses": []}
    return _json({**about, "images": listed, "categories": categories, "annotations": annotations})


def geojson(images: Iterable[AnnotatedImage], names: Mapping[int, str]) -> bytes:
    """Polygons with holes for QuPath, one annotation for each object, its class by name and colour.

    Coordinates are pixels of the whole image from its upper left corner: the first pixel reaches from 0 to 1, so all are whole
    numbers. Source: RFC 7946, and QuPath's documentation of its GeoJSON.
    """
    features = [_feature(image, label, mask, names) for image in images for label, mask in image.masks()]
    return _json({"type": "FeatureCollection", "features": features})


def _feature(image: AnnotatedImage, label: int, mask: NDArray[np.bool_], names: Mapping[int, str]) -> dict[str, Any]:
    parts = [_coordinates(polygon) for polygon in trace_polygons(mask)]
    kind, places = ("Polygon", parts[0]) if len(parts) == 1 else ("MultiPolygon", parts)
    called = {"name": _called(label, names), "color": list(colour_of(label))}
    measured = {"measurements": sure} if (sure := image.score("confidence", label)) else {}
    about = {"objectType": "annotation", "classification": called, **measured}
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": places}, "properties": about}


def _coordinates(polygon: Polygon) -> list[list[list[int]]]:
    """The outline, then the holes, each closed."""
    rings = (polygon.outer, *polygon.holes)
    return [np.rint(np.concatenate([ring, ring[:1]]) + 0.5).astype(int).tolist() for ring in rings]


def label_studio(images: Iterable[AnnotatedImage], names: Mapping[int, str]) -> bytes:
    """Tasks of Label Studio, each an image in its local storage, with what was outlined as a prediction of brush masks."""
    return _json([_task(image, names) for image in images])


def _task(image: AnnotatedImage, names: Mapping[int, str]) -> dict[str, Any]:
    height, width = image.labels.shape
    size = {"original_width": width, "original_height": height, "image_rotation": 0}
    numbers = count(1)
    result = [
        {"id": f"{image.number}-{next(numbers)}", "type": "brushlabels", "from_name": TAG, "to_name": IMAGE, **size}
        | image.score("score", label)
        | {"value": {"format": "rle", "rle": _packed(mask), "brushlabels": [_called(label, names)]}}
        for label, mask in image.masks()
    ]
    sure = {"score": round(min(image.confidence.values()), 4)} if image.confidence else {}
    prediction = {"model_version": MAKER, **sure, "result": result}
    return {"data": {IMAGE: LOCAL_FILES + quote(image.source, errors="surrogateescape")}, "predictions": [prediction]}


# Label Studio keeps masks as its page does: pixels of four bytes, packed bit by bit (the format of @thi.ng/rle-pack).
def _packed(mask: NDArray[np.bool_]) -> list[int]:
    """A mask as bytes: how many values follow, their bits, the sizes of runs; then runs, each a size, a length and a value."""
    bits = [f"{4 * mask.size:032b}", f"{8 - 1:05b}", *(f"{size - 1:04b}" for size in RUN_SIZES)]
    for value, length in zip(*_runs(mask), strict=True):
        longest = 1 << RUN_SIZES[-1]
        for start in range(0, 4 * length, longest):
            left = min(4 * length - start, longest)
            size = next(n for n, most in enumerate(RUN_SIZES) if left <= 1 << most)
            bits.append(f"1{size:02b}{left - 1:0{RUN_SIZES[size]}b}{255 * value:08b}")
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def _runs(mask: NDArray[np.bool_]) -> tuple[list[int], list[int]]:
    """Values (0 or 1) and lengths of what follows each other, along the last axis first."""
    flat = mask.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    return flat[starts].astype(int).tolist(), np.diff([*starts.tolist(), flat.size]).tolist()


def _called(label: int, names: Mapping[int, str]) -> str:
    return names.get(label) or f"object {label}"


def _json(content: object) -> bytes:
    return atomic.encode(json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")))
