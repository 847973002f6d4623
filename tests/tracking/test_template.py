"""One annotated volume for others: solids of the same look in other places are found and marked; absent ones are left out."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from medical_sam2.errors import ConfigError, GeometryError
from medical_sam2.metrics import dice
from medical_sam2.prompts import Point
from medical_sam2.tracking.frames import Canvas
from medical_sam2.tracking.template import FOUND, Template, cover_frame
from medical_sam2.views import View
from medical_sam2.volume import Segmentation, Volume
from tests.phantoms import directions, segmenter

LOOKS = {1: 0.9, 2: 0.55}
NAMES, COLOURS = {1: "cyst", 2: "stone"}, {1: (1, 2, 3)}


def solids(places: dict[int, tuple[int, int, int]], code: str = "RAS", side: int = 40) -> tuple[Volume, NDArray[np.uint8]]:
    """A volume with balls of different looks, and its labels, stored in the order of a code."""
    labels = np.zeros((side, side, 24), np.uint8)
    ijk = np.indices(labels.shape).transpose(1, 2, 3, 0)
    for label, middle in places.items():
        labels[np.square((ijk - middle) * (1, 1, 1.5)).sum(-1) < 36] = label
    picture = np.vectorize({0: 0.1, **LOOKS}.get)(labels) + np.random.default_rng(0).uniform(-0.01, 0.01, labels.shape)
    picture[0, 0, :12], picture[0, 0, 12:] = 0.0, 1.0  # the same greys are black and white in all of them
    affine = np.eye(4)
    affine[:3, :3] = directions(code) * [1.5 if letter in "SI" else 1.0 for letter in code]
    found = View(code).apply(labels).copy()
    return Volume(View(code).apply(picture).astype(np.float32).copy(), affine), found


@pytest.fixture(scope="module")
def template() -> Template:
    volume, labels = solids({1: (12, 12, 8), 2: (27, 26, 14)})
    return Template(volume, Segmentation(labels, volume.affine, NAMES, colours=COLOURS))


@pytest.mark.parametrize(("code", "side"), [("RAS", 40), ("ASL", 52)])
def test_found_in_another_place(template: Template, code: str, side: int) -> None:
    """In its own grid, whatever the orientation and the extent, with names and colours; nobody counts as having prompted it."""
    volume, labels = solids({1: (26, 15, 15), 2: (12, 30, 7)}, code, side)
    found = segmenter().segment_by_template(volume, template)
    assert (found.affine == volume.affine).all()
    assert (found.names, found.colours) == (NAMES, COLOURS)
    for label in (1, 2):
        assert dice(labels == label, found.labels == label) > 0.9
        rows = [row for row in found.confidence if row.object == label]
        assert not any(row.prompted for row in rows)
        (row,) = [row for row in rows if row.look_here and row.confidence > FOUND]
        axis = View(row.view).order(code)[0]
        assert (labels == label).take(row.slice, axis).any()
    assert not found.warnings


def test_what_is_not_there_is_left_out_and_said(template: Template) -> None:
    volume, labels = solids({1: (26, 15, 15)})
    found = segmenter().segment_by_template(volume, template)
    assert dice(labels == 1, found.labels == 1) > 0.9
    assert not (found.labels == 2).any()
    (said,) = found.warnings
    assert said.startswith("object 2 (stone) of the template was not found and is left out (confidence 0.00")
    (row,) = [row for row in found.confidence if row.object == 2]
    assert (row.look_here, row.area_px, row.source) == (True, 0, "template")


def test_what_is_not_sure_enough_is_left_out(template: Template, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outline that is there, and right, but below the confidence that is needed."""
    volume, _ = solids({1: (26, 15, 15), 2: (12, 30, 7)})
    monkeypatch.setattr("medical_sam2.tracking.template.FOUND", 0.999)
    found = segmenter().segment_by_template(volume, template)
    assert not found.labels.any()
    assert [0 < row.confidence < 0.999 for row in found.confidence] == [True, True]
    assert all("0.999 is needed" in line for line in found.warnings)
    assert len(found.warnings) == 2


def test_what_does_not_lead_back_is_less_sure(template: Template) -> None:
    """A rod of the same look is no ball: what is remembered of it finds the ball worse."""
    volume, _ = solids({1: (26, 15, 15)})
    rod = volume.array.copy()
    rod[rod > 0.8] = 0.1
    rod[8:34, 14:18, 14:17] = LOOKS[1]
    rod[0] = volume.array[0]
    only = Template(
        template.volume, replace(template.annotation, labels=np.where(template.annotation.labels == 1, 1, 0).astype(np.uint8))
    )
    ball, other = (
        max(row.confidence for row in segmenter().segment_by_template(each, only, window="0,1").confidence if row.look_here)
        for each in (volume, replace(volume, array=rod))
    )
    assert other < ball < 1


def test_nothing_found_is_an_empty_result(template: Template) -> None:
    volume, _ = solids({})
    found = segmenter().segment_by_template(volume, template, window="0,1", priority=("stone",))
    assert not found.labels.any()
    assert found.labels.shape == volume.shape
    assert len(found.warnings) == 2


def test_much_smaller_is_another_thing(template: Template) -> None:
    """Of the same look, with voxels of a fifth of the side."""
    volume, labels = solids({1: (26, 15, 15)})
    affine = volume.affine.copy()
    affine[:3, :3] /= 5
    assert dice(labels == 1, segmenter().segment_by_template(volume, template, window="0,1").labels == 1) > 0.9
    assert not segmenter().segment_by_template(replace(volume, affine=affine), template, window="0,1").labels.any()


def test_a_prompt_says_more_than_a_template(template: Template) -> None:
    """An object that is prompted is not looked for."""
    volume, labels = solids({1: (26, 15, 15), 2: (12, 30, 7)})
    found = segmenter().segment_by_template(volume, template, [Point((26, 15, 15), 2)])
    assert any(row.prompted for row in found.confidence if row.object == 2)
    assert not any(row.prompted for row in found.confidence if row.object == 1)
    assert not (found.labels[labels == 2] == 2).any()


def test_a_template_needs_its_own_labels(template: Template) -> None:
    empty = replace(template.annotation, labels=np.zeros_like(template.annotation.labels))
    with pytest.raises(GeometryError, match="nothing is outlined"):
        Template(template.volume, empty)
    with pytest.raises(GeometryError, match="do not share a grid"):
        Template(template.volume, replace(template.annotation, affine=np.diag([2.0, 1, 1, 1])))
    with pytest.raises(ConfigError, match="no objects are called"):
        segmenter().segment_by_template(template.volume, template, priority=("liver",))


@pytest.mark.parametrize("field", [10.0, 33.0, 60.0, 100.0, 150.0])
def test_parts_cover_a_frame_at_one_scale(field: float) -> None:
    canvas = Canvas((100, 60), (1.0, 2.0))
    parts = cover_frame(canvas, (field, field))
    seen = np.zeros(canvas.shape_hw, bool)
    for part in parts:
        seen[part.rows, part.columns] = True
    assert seen.all()
    assert len(parts) <= 9
    if field >= 60:  # else it would take too many
        assert {part.shape_hw for part in parts} == {(min(100, round(field)), min(60, round(field / 2)))}
