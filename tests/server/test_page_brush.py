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


def test_a_ball_is_painted_over_slices_and_undone(person: Person, tmp_path: Path) -> None:
    opened(person, tmp_path)
    page = person.page
    pressed(page, "d")
    pressed(page, "[", 2)  # a radius of two pixels
    page.get_by_role("button", name="3D ball").click()
    expect(page.get_by_label("Paint from")).to_have_count(0)
    person.drag("axial", ((5, 3), (5, 6)), SHAPE, SPACING)
    changes(page, 1)
    places = np.moveaxis(np.indices((16, *SHAPE)), 0, -1)
    ball = np.min([np.linalg.norm(places - (MIDDLE, 5, x), axis=-1) for x in (3, 4, 5, 6)], axis=0) <= 2
    person.sees("axial", tmp_path, ball[MIDDLE], SPACING)
    for t, there in enumerate(ball):
        found = page.evaluate(LABELS.replace("axial/8", f"axial/{t}"))
        assert (np.array(found).reshape(SHAPE) > 0).tolist() == there.tolist(), t
    person.view("axial").press("PageUp")
    person.sees("axial", tmp_path, ball[MIDDLE + 1], SPACING)
    pressed(page, "z")
    changes(page, 0)
    person.sees("axial", tmp_path, np.zeros(SHAPE, bool), SPACING)
    pressed(page, "y")
    pressed(page, "k")
    expect(page.get_by_role("button", name="3D ball")).to_have_attribute("aria-pressed", "false")
    pressed(page, "k")
    page.get_by_role("radio", name="Erase").click()
    person.drag("axial", ((5, 3), (5, 3.2)), SHAPE, SPACING)
    changes(page, 2)
    wiped = ball & ~(np.linalg.norm(places - (MIDDLE + 1, 5, 3), axis=-1) <= 2)
    person.sees("axial", tmp_path, wiped[MIDDLE + 1], SPACING)
    pressed(page, "t")
    expect(page.locator(".structures .ml")).to_contain_text("mL")


def test_the_circle_of_the_brush_is_where_it_paints(person: Person, tmp_path: Path) -> None:
    opened(person, tmp_path)
    page = person.page
    pressed(page, "d")
    views = {plane: person.view(plane) for plane in ("axial", "coronal", "sagittal")}
    for plane in ("coronal", "axial"):
        views[plane].hover()
        for other, view in views.items():
            expect(view).to_have_attribute("data-circle", str(other == plane).lower())
    page.mouse.move(2, 2)
    views["sagittal"].focus()  # by keys
    expect(views["sagittal"]).to_have_attribute("data-circle", "true")
    expect(views["axial"]).to_have_attribute("data-circle", "false")


def test_scribbles_lassos_and_diameters_are_drawn_with_keys(person: Person, tmp_path: Path) -> None:
    case, page = opened(person, tmp_path), person.page
    _, y, x = (int(place) for place in PLANES["axial"].project((5, 6, MIDDLE), case.volume.shape, case.code))
    person.view("axial").focus()
    for key in ("e", *"[[[[", "Enter", "ArrowRight", "ArrowRight", "ArrowDown", "Enter"):
        pressed(page, key)
    changes(page, 1)
    scribble = state(page)["said"][0]
    assert (scribble["kind"], scribble["positive"]) == ("scribble", [True])
    assert scribble["points"] == [[y, x], [y, x + 1], [y, x + 2], [y + 1, x + 2]]
    assert labels(person)[y, x : x + 3].all()
    for key in ("s", "-", "ArrowRight", "ArrowDown", "ArrowDown", "ArrowLeft", "Escape", "-", "ArrowRight"):
        pressed(page, key)
    person.view("axial").press("ArrowDown")
    for key in ("ArrowDown", "ArrowLeft", "ArrowLeft", "Enter"):
        pressed(page, key)
    changes(page, 2)
    lasso = state(page)["said"][1]
    assert (lasso["kind"], lasso["positive"], len(lasso["points"])) == ("lasso", [False], 6)
    rows, columns = (np.array(side, int) for side in zip(*lasso["points"], strict=True))
    assert not labels(person)[rows.min() + 1 : rows.max(), columns.min() + 1 : columns.max()].any()
    for key in ("g", "Enter", "ArrowUp", "ArrowUp", "ArrowUp", "ArrowLeft", "Enter"):
        pressed(page, key)
    changes(page, 3)
    diameter = state(page)["said"][2]
    (one, other) = diameter["points"]
    assert (diameter["kind"], [one[0] - other[0], one[1] - other[1]]) == ("diameter", [3, 1])
    for key in ("e", "Enter", "ArrowUp", "PageUp", "Enter", "Escape"):  # another slice: what was begun is dropped
        pressed(page, key)
    changes(page, 3)


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
