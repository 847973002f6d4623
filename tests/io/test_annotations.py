"""Annotations of images are read by other programs' libraries, and mean the same pixels."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools.coco import COCO
from shapely import contains_xy
from shapely.geometry import shape
from shapely.ops import unary_union

from medical_sam2.errors import ConfigError
from medical_sam2.io import registry
from medical_sam2.io.annotations import AnnotatedImage

NAMES = {1: "cell", 300: 'Ødem "x"'}


def images() -> list[AnnotatedImage]:
    """Noise (holes, parts that touch at corners, the first pixel drawn or not), an empty one and a full one."""
    rng = np.random.default_rng(0)
    noisy = [rng.choice([0, 1, 2, 300], (9, 14), p=[0.4, 0.3, 0.2, 0.1]).astype(np.uint16) for _ in range(4)]
    noisy[0][0, 0], noisy[1][0, 0] = 1, 0
    arrays = [*noisy, np.zeros((3, 5), np.uint16), np.full((400, 300), 2, np.uint16)]
    return [AnnotatedImage(n, f"smears/ö {n}.png", array, {1: 0.87654}) for n, array in enumerate(arrays, 1)]


def written(name: str) -> Any:
    (format,) = registry.annotation_formats([name])
    return json.loads(format.annotate(images(), NAMES))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools, with numpy 2
def test_pycocotools_reads_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.json").write_text(json.dumps(written("coco")))
    found = COCO(str(tmp_path / "a.json"))
    capsys.readouterr()
    assert {each["id"]: each["name"] for each in found.cats.values()} == {**NAMES, 2: "object 2"}
    assert [found.imgs[image.number]["file_name"] for image in images()] == [f"ö {n}.png" for n in range(1, 7)]
    for image in images():
        labels = np.zeros(image.labels.shape, int)
        for each in found.imgToAnns[image.number]:
            mask = found.annToMask(each).astype(bool)
            labels[mask] = each["category_id"]
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert (each["area"], each["bbox"]) == (mask.sum(), box)
            assert each.get("score") == (0.8765 if each["category_id"] == 1 else None)
        np.testing.assert_array_equal(labels, image.labels)


def test_geojson_covers_the_pixels() -> None:
    """As QuPath counts them: the first pixel reaches from 0 to 1."""
    (format,) = registry.annotation_formats(["geojson"])
    for image in images():
        found = json.loads(format.annotate([image], NAMES))
        assert found["type"] == "FeatureCollection"
        for each, (label, mask) in zip(found["features"], image.masks(), strict=True):
            area, (rows, columns) = shape(each["geometry"]), np.indices(mask.shape)
            assert area.is_valid
            assert area.area == mask.sum()
            np.testing.assert_array_equal(contains_xy(area, columns + 0.5, rows + 0.5), mask)
            about = each["properties"]
            assert about["objectType"] == "annotation"
            assert about["classification"]["name"] == NAMES.get(label, "object 2")
            assert len(about["classification"]["color"]) == 3
            assert about.get("measurements") == ({"confidence": 0.8765} if label == 1 else None)
    assert unary_union([shape(each["geometry"]) for each in found["features"]]).bounds == (0, 0, 300, 400)


def unpacked(data: list[int]) -> NDArray[np.uint8]:
    """Label Studio's run lengths, by the description of @thi.ng/rle-pack."""
    bits = "".join(f"{byte:08b}" for byte in data)
    place = 0

    def take(count: int) -> int:
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    total, word = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        repeated, length = take(1), take(sizes[take(2)]) + 1
        values += [take(word)] * length if repeated else [take(word) for _ in range(length)]
    return np.array(values, np.uint8)


def test_label_studio_reads_it() -> None:
    for image, task in zip(images(), written("label-studio"), strict=True):
        assert task["data"] == {"image": f"/data/local-files/?d=smears/%C3%B6%20{image.number}.png"}
        (prediction,) = task["predictions"]
        assert prediction["score"] == 0.8765
        labels = np.zeros(image.labels.shape, int)
        for each, (label, _) in zip(prediction["result"], image.masks(), strict=True):
            assert (each["original_height"], each["original_width"]) == labels.shape
            assert each["value"]["brushlabels"] == [NAMES.get(label, "object 2")]
            pixels = unpacked(each["value"]["rle"]).reshape(*labels.shape, 4)
            assert (pixels == pixels[..., :1]).all()
            labels[pixels[..., 3] == 255] = label
        np.testing.assert_array_equal(labels, image.labels)


def test_a_format_of_ones_own(tmp_path: Path) -> None:
    lines = [
        "from medical_sam2.io.registry import Format",
        "def count(images, names):",
        "    return b''.join(b'%d' % (image.labels > 0).sum() for image in images)",
        "MINE = Format('counts', (), kind='picture', annotator=count, annotated='.counts.txt')",
    ]
    (tmp_path / "mine.py").write_text("\n".join(lines))
    (format,) = registry.annotation_formats([f"{tmp_path / 'mine.py'}:MINE"])
    assert format.annotate(images()[4:], NAMES) == b"0120000"


@pytest.mark.parametrize("name", ["cocoo", "nifti", "medical_sam2.io.registry:NIFTI"])
def test_what_is_none(name: str) -> None:
    with pytest.raises(ConfigError, match="format of annotations"):
        registry.annotation_formats(["coco", name])
