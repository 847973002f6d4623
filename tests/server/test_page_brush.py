"""The brush at the page as an eraser and between intensities, and what is pointed at with keys alone, in a real browser."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import expect

from medical_sam2.tracking.plan import PLANES
from tests.server.browsing import Person
from tests.server.test_page_gestures import LABELS, MIDDLE, SHAPE, SPACING, changes, on_slice, opened, pressed, state

pytestmark = pytest.mark.usefixtures("inline")


def labels(person: Person) -> np.ndarray[Any, Any]:
    """What the middle axial slice holds, as the server has it."""
    return np.array(person.page.evaluate(LABELS)).reshape(SHAPE) > 0


def test_the_brush_erases(person: Person, tmp_path: Path) -> None:
    opened(person, tmp_path)
    page = person.page
    pressed(page, "d")
    pressed(page, "[", 5)
    painted = np.zeros(SHAPE, bool)
    person.drag("axial", ((3, 2), (3, 8)), SHAPE, SPACING)
    changes(page, 1)
    painted[3, 2:9] = True
    assert (labels(person) == painted).all()
    page.get_by_role("radio", name="Erase").click()
    person.drag("axial", ((3, 4), (3, 5)), SHAPE, SPACING)
    changes(page, 2)
    painted[3, 4:6] = False
    person.sees("axial", tmp_path, painted, SPACING)
    page.keyboard.down("Shift")  # the other way round
    person.drag("axial", ((3, 5), (3, 5.3)), SHAPE, SPACING)
    page.keyboard.up("Shift")
    changes(page, 3)
    painted[3, 5] = True
    person.sees("axial", tmp_path, painted, SPACING)


def test_the_brush_keeps_to_intensities(person: Person, tmp_path: Path) -> None:
    case, page = opened(person, tmp_path), person.page
    pressed(page, "d")
    pressed(page, "]", 3)
    page.get_by_label("Paint from").fill("0.6")
    page.get_by_label("Paint from").press("Enter")
    person.drag("axial", ((3, 5), (9, 5)), SHAPE, SPACING)
    changes(page, 1)
    there = on_slice(case, case.truth == 1)
    assert (labels(person) == there).all()  # the object alone is so bright; the stroke was much wider
    person.sees("axial", tmp_path, there, SPACING)
    page.get_by_label("Paint from").fill("")
    page.get_by_label("Paint from").press("Enter")
    page.get_by_label("Paint to").fill("0.6")
    page.get_by_label("Paint to").press("Enter")
    page.get_by_role("radio", name="Erase").click()
    person.drag("axial", ((3, 5), (9, 5)), SHAPE, SPACING)
    changes(page, 2)
    assert (labels(person) == there).all()  # nothing of it is so dark
    page.get_by_label("Paint to").fill("")
    page.get_by_label("Paint to").press("Enter")
    person.view("axial").focus()
    pressed(page, "[", 9)
    y, x = (int(axis[len(axis) // 2]) for axis in np.nonzero(there))
    person.drag("axial", ((y, x), (y, x + 0.3)), SHAPE, SPACING)
    changes(page, 3)
    assert not labels(person)[y, x]


def test_everything_is_pointed_at_with_keys_alone(person: Person, tmp_path: Path) -> None:
    """As the column "without" of docs/viewer.md has it: clicks, boxes, boxes in 3D, brush, at the cross hair."""
    case, page = opened(person, tmp_path), person.page
    t, y, x = (int(place) for place in PLANES["axial"].project((5, 6, MIDDLE), case.volume.shape, case.code))
    person.view("axial").focus()
    pressed(page, "Enter")
    changes(page, 1)
    pressed(page, "ArrowLeft", 2)
    pressed(page, "ArrowUp")
    pressed(page, "-")
    changes(page, 2)
    first, second = state(page)["said"]
    assert (first["t"], first["points"], first["positive"]) == (t, [[y, x]], [True])
    assert (second["points"], second["positive"]) == ([[y - 1, x - 2]], [False])
    assert not labels(person)[y - 1, x - 2]
    pressed(page, "b")
    pressed(page, "ArrowDown", 3)
    pressed(page, "ArrowRight", 4)
    pressed(page, "Enter")
    changes(page, 3)
    box = state(page)["said"][2]
    assert (box["kind"], box["points"]) == ("box", [[y - 1, x - 2], [y + 2, x + 2]])
    for key in ("c", "i", "b", "ArrowDown", "ArrowRight", "Enter", "Enter"):  # outside: the second Enter uses it
        pressed(page, key)
    changes(page, 4)
    solid = state(page)["said"][3]
    assert (solid["kind"], len(solid["frames"]), solid["positive"]) == ("box", 2, [False])
    assert not labels(person)[y + 2 : y + 4, x + 2 : x + 4].any()
    for key in ("i", "d", *"[[[[[", "PageUp", "PageDown", "Enter", "ArrowLeft", "Enter"):
        pressed(page, key)
    changes(page, 5)
    assert labels(person)[y + 3, x + 2 : x + 4].all()
    for key in ("-", "ArrowRight", "Enter"):
        pressed(page, key)
    changes(page, 6)
    assert not labels(person)[y + 3, x + 2 : x + 4].any()
    expect(page.locator(".structures .name")).to_have_count(1)
