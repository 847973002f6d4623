"""Outlined images in files of other programs, pixel for pixel: COCO, QuPath (GeoJSON), Label Studio. Each is one function.

```python
def count(images, names):                                    # AnnotatedImage, one after the other; label → name
    return b"\\n".join(f"{image.source} {(image.labels > 0).sum()}".encode() for image in images)

MINE = Format("counts", (), kind="picture", annotator=count, annotated=".counts.txt")
```
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from medical_sam2.io import atomic
from medical_sam2.io.contours import Polygon, trace_polygons
from medical_sam2.volume import COLOURS

MAKER = "medical-sam2"
TAG, IMAGE = "tag", "image"
"""Names of the controls in Label Studio's template for brushes."""
LOCAL_FILES = "/data/local-files/?d="
RUN_SIZES = (3, 4, 8, 16)
"""Bits that the length of a run may take in Label Studio's packing."""


@dataclass(frozen=True, eq=False)
class AnnotatedImage:
    """An image of a set, and what was outlined on it.

    Args:
        number: of the image in its set, from 1.
        source: file of the image, with the folder that it lies in where that is known ("smears/cell_07.png").
        labels: (H, W) unsigned integers, 0 is background.
        confidence: label → in [0, 1], of those that tracking made.
    """

    number: int
    source: str
    labels: NDArray[np.unsignedinteger]
    confidence: Mapping[int, float] = field(default_factory=dict)

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
            rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
            box = [int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]
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
    called = {"name": _called(label, names), "color": list(COLOURS[(label - 1) % len(COLOURS)])}
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
