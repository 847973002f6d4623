"""Statistics: counted by hand, and written as strict JSON and CSV."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medical_sam2.errors import GeometryError
from medical_sam2.io.labels import object_boxes
from medical_sam2.statistics import measure, rows_to_csv, slices_to_csv, to_csv, to_json
from medical_sam2.volume import Segmentation, SliceConfidence, Volume
from tests.strategies import seeds, shapes

AFFINE = np.array([[0, -2.0, 0, 10], [0.5, 0, 0, -20], [0, 0, 3.0, 30], [0, 0, 0, 1]])


def example() -> tuple[Volume, Segmentation]:
    array = np.zeros((5, 6, 7), np.int16)
    labels = np.zeros((5, 6, 7), np.uint8)
    labels[1:3, 2, 3] = 4
    array[1:3, 2, 3] = 10, 30
    return Volume(array, AFFINE), Segmentation(labels, AFFINE, names={4: "liver", 9: "spleen"})


def test_an_object_by_hand() -> None:
    liver, spleen = measure(*example())
    assert (liver.label, liver.name, liver.voxels) == (4, "liver", 2)
    assert (liver.volume_mm3, liver.volume_ml) == pytest.approx((6.0, 0.006))
    assert (liver.low_ijk, liver.high_ijk) == ((1, 2, 3), (2, 2, 3))
    assert liver.centroid_mm == pytest.approx((10 - 2 * 2, -20 + 0.5 * 1.5, 30 + 3 * 3))
    assert (liver.mean, liver.sd, liver.minimum, liver.maximum) == (20, 10, 10, 30)
    assert (spleen.label, spleen.voxels, spleen.volume_mm3, spleen.centroid_mm, spleen.mean) == (9, 0, 0, None, None)


def test_objects_that_overlap_are_counted_whole() -> None:
    volume, segmentation = example()
    kidney, tumour = np.zeros((5, 6, 7), np.uint8), np.zeros((5, 6, 7), np.uint8)
    kidney[:, 2, 3], tumour[2:4, 2, 3:5] = 1, 2
    labels = np.where(tumour, tumour, kidney)
    rows = measure(volume, Segmentation(labels, AFFINE, layers=(kidney, tumour)))
    assert [(row.label, row.voxels, row.shared_voxels) for row in rows] == [(1, 5, 2), (2, 4, 2)]
    assert [row.maximum for row in rows] == [30, 30]
    assert [row.shared_voxels for row in measure(volume, segmentation)] == [0, 0]


@given(shapes, seeds, st.sampled_from([np.uint8, np.uint16, np.uint32]))
def test_every_voxel_is_counted_once(shape: tuple[int, int, int], seed: int, dtype: type) -> None:
    rng = np.random.default_rng(seed)
    values = rng.choice(np.iinfo(dtype).max, size=3).astype(dtype)
    labels = rng.choice(np.append(values, dtype(0)), size=shape)
    array = rng.normal(size=shape)
    rows = measure(Volume(array, AFFINE), Segmentation(labels, AFFINE))
    assert [row.label for row in rows] == sorted(set(labels.ravel().tolist()) - {0})
    for row in rows:
        places = np.argwhere(labels == row.label)
        assert row.voxels == len(places)
        assert row.low_ijk == tuple(places.min(axis=0))
        assert row.high_ijk == tuple(places.max(axis=0))
        np.testing.assert_allclose(row.centroid_mm, (AFFINE @ [*places.mean(axis=0), 1])[:3])
        np.testing.assert_allclose(
            [row.mean, row.sd, row.minimum, row.maximum],
            [function(array[labels == row.label]) for function in (np.mean, np.std, np.min, np.max)],
        )


def test_voxels_that_are_not_finite_have_no_intensity() -> None:
    volume, segmentation = example()
    array = volume.array.astype(np.float32)
    array[1, 2, 3] = np.nan
    liver, _ = measure(Volume(array, AFFINE), segmentation)
    assert (liver.voxels, liver.mean, liver.sd) == (2, 30, 0)
    array[2, 2, 3] = np.inf
    liver, _ = measure(Volume(array, AFFINE), segmentation)
    assert (liver.voxels, liver.mean, liver.maximum) == (2, None, None)
    assert json.loads(to_json([liver]))[0]["mean"] is None


def test_json_holds_every_field() -> None:
    rows = measure(*example())
    liver, spleen = json.loads(to_json(rows))
    assert {**liver, "low_ijk": (1, 2, 3), "high_ijk": (2, 2, 3), "centroid_mm": rows[0].centroid_mm} == vars(rows[0])
    assert spleen["name"] == "spleen"
    assert spleen["low_ijk"] is None


def test_csv_has_a_column_for_every_number() -> None:
    rows = measure(*example())
    liver, spleen = csv.DictReader(io.StringIO(to_csv(rows)))
    assert (liver["name"], liver["voxels"], liver["high_i"], liver["mean"]) == ("liver", "2", "2", "20.0")
    assert float(liver["centroid_z_mm"]) == pytest.approx(39)
    assert (spleen["voxels"], spleen["low_k"], spleen["centroid_x_mm"], spleen["maximum"]) == ("0", "", "", "")
    assert list(liver)[:5] == ["object", "name", "voxels", "volume_mm3", "volume_ml"]
    assert None not in liver
    assert None not in spleen


def test_units_are_in_the_names_of_columns() -> None:
    """Hounsfield units where it is a CT, and only there."""
    volume, segmentation = example()
    air_to_bone = np.linspace(-1000, 900, volume.array.size).astype(np.int16).reshape(volume.shape)
    ct = Volume(air_to_bone, AFFINE, modality="CT")
    liver, _ = csv.DictReader(io.StringIO(to_csv(measure(ct, segmentation))))
    assert {"mean_hu", "sd_hu", "minimum_hu", "maximum_hu"} < set(liver)
    assert float(liver["minimum_hu"]) >= -1000
    assert "mean" not in liver
    (other, _) = csv.DictReader(io.StringIO(to_csv(measure(Volume(ct.array, AFFINE, modality="MR"), segmentation))))
    assert {"mean", "sd", "minimum", "maximum"} < set(other)
    assert not any(column.endswith(("_hu", "_unit")) for column in other)


def test_rows_of_several_units_say_theirs() -> None:
    rows = [{"mean": 1.5, "intensity_unit": "HU"}, {"mean": 2.5, "intensity_unit": ""}]
    assert rows_to_csv(rows, ["mean", "intensity_unit"]) == "mean,intensity_unit\n1.5,HU\n2.5,\n"
    assert rows_to_csv(rows[:1], ["mean", "intensity_unit"]) == "mean_hu\n1.5\n"
    assert rows_to_csv([], ["mean", "intensity_unit"]) == "mean\n"


def test_boxes_of_nothing() -> None:
    assert object_boxes(np.zeros((2, 2, 2), np.uint8)) == {}


def test_another_grid_is_refused() -> None:
    volume, _ = example()
    with pytest.raises(GeometryError, match="shape"):
        measure(volume, Segmentation(np.zeros((1, 2, 3), np.uint8), AFFINE))


def test_each_slice_tells_whose_confidence_it_has() -> None:
    """A judge of what is handed out and a decoder that saw one view alone are not the same."""
    volume, segmentation = example()
    rows = SliceConfidence(4, "SPL", 3, 0.75, 2, source="consensus"), SliceConfidence(4, "LPS", 1, 0.5, 1, look_here=True)
    text = slices_to_csv(replace(segmentation, confidence=rows), volume.orientation)
    first, second = csv.DictReader(io.StringIO(text))
    assert (first["name"], first["confidence"], first["area_px"], first["source"]) == ("liver", "0.7500", "2", "consensus")
    assert (second["look_here"], second["source"]) == ("1", "decoder")
