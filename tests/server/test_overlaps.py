"""What is drawn where another structure is: shown as it will be applied, and what others keep of it is told."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medical_sam2.prompts import Mask
from medical_sam2.server.gestures import encode_runs, volume_prompts
from medical_sam2.server.inference_queue import InferenceQueue
from medical_sam2.server.segmentation import SessionVolume
from medical_sam2.server.session import Session
from medical_sam2.server.state import Gesture
from medical_sam2.strokes import region_of
from medical_sam2.tracking.plan import PLANES
from tests.server.conftest import Served, session
from tests.server.test_editing import Editor
from tests.server.test_editing_sets import Gallery, patch
from tests.server.test_gestures import T, tracked
from tests.server.test_gestures import drawn as gesture
from tests.server.test_gestures import said as say

FRAME_HW = 13, 11

pytestmark = pytest.mark.usefixtures("inline")


@pytest.fixture
def editor(served: Served, tmp_path: Path) -> Editor:
    one = Editor(served, tmp_path)
    one.click(1, 1)
    one.track()
    one.do("structures")
    return one


@pytest.mark.parametrize("kind", ["mask", "lasso", "box"])
def test_what_lies_wholly_in_another_one_is_refused(editor: Editor, kind: str) -> None:
    """It would vanish on its slice, and tracking would leave debris of it on others."""
    t, said = drawn(editor, kind)
    assert "all of it lies in structure 1, which keeps what it has" in editor.do("say", 422, **said)["error"]
    assert not editor.state["fresh"]
    editor.do("structures/2/move", by=-1)
    editor.do("say", **said)
    shown = editor.served.store.get(editor.id).frame_labels("axial", t)
    assert (shown == 2).any()
    editor.track()
    assert ((PLANES["axial"].apply(editor.labels, "LPS")[t] == 2) == (shown == 2)).all()


def test_a_click_in_the_midst_of_another_one_says_who_keeps_it(editor: Editor) -> None:
    t, said = drawn(editor, "points")
    editor.do("say", **said)
    place = editor.served.store.get(editor.id)
    assert len(place.notes) == 1
    assert place.notes[0].startswith("all of it lies in structure 1, which keeps what it has")
    assert not (place.frame_labels("axial", t) == 2).any()  # as it will be when it is applied


def test_what_lies_in_part_in_another_one_is_shown_as_it_is_applied_and_told(editor: Editor) -> None:
    t, said = drawn(editor, "mask")
    first = PLANES["axial"].apply(editor.labels, "LPS")[t] == 1
    y = int(np.argwhere(first)[0, 0])
    wide = np.zeros_like(first)
    wide[y : y + 3] = True
    said["runs"] = encode_runs(wide)
    editor.do("say", **said)
    place = editor.served.store.get(editor.id)
    assert any("left to structure 1" in note for note in place.notes)
    shown = place.frame_labels("axial", t)
    assert ((shown == 1) == first).all()
    editor.track()
    assert (PLANES["axial"].apply(editor.labels, "LPS")[t] == shown).all()


def drawn(editor: Editor, kind: str) -> tuple[int, Any]:
    """A slice through the first structure, and what is drawn for the second one in the midst of it."""
    t, y, x = (round(each) for each in PLANES["axial"].project(editor.case.voxel(1), editor.case.volume.shape, "LPS"))
    mask = np.zeros(PLANES["axial"].apply(editor.labels, "LPS")[t].shape, bool)
    mask[y : y + 2, x : x + 2] = True
    corners = [[y, x], [y, x + 1], [y + 1, x + 1], [y + 1, x]]
    forms: dict[str, Any] = {
        "mask": {"runs": encode_runs(mask)},
        "lasso": {"points": corners},
        "box": {"points": corners[::2]},
        "points": {"points": corners[:1], "positive": [True]},
    }
    return t, {"label": 2, "plane": "axial", "t": t, "kind": kind, **forms[kind]}


@pytest.fixture
def new_session(tmp_path: Path, queue: InferenceQueue) -> Session:
    """About the phantom, with two structures."""
    one, _ = session(tmp_path / "s", queue, "LPS")
    one.add_structure(0)
    one.add_structure(1)
    return one


def over(kind: str, label: int, x: float) -> Gesture:
    """Something drawn around (9, x) of the axial frame."""
    inside: dict[str, Any] = {"positive": (True,)}
    if kind == "mask":
        wide = np.zeros(FRAME_HW, bool)
        wide[8:11, int(x) - 2 : int(x) + 3] = True
        found = gesture("mask", runs=encode_runs(wide))
    elif kind == "lasso":
        found = gesture("lasso", (7.0, x - 2), (7.0, x + 2), (11.0, x + 2), (11.0, x - 2), **inside)
    elif kind == "scribble":
        found = gesture("scribble", (9.0, x - 2), (9.0, x + 2), **inside, width=2.0)
    else:
        found = gesture("ball", (9.0, x), **inside, width=5.0)
    return replace(found, label=label)


@pytest.mark.parametrize(
    ("first", "second"),
    [pair for pair in product(("ball", "scribble", "mask", "lasso"), repeat=2) if pair != ("scribble",) * 2],
)
def test_what_two_new_structures_are_drawn_on_stays_with_the_first(new_session: Session, first: str, second: str) -> None:
    """Applied as it was shown; balls and scribbles of two on the same voxels were refused when they were applied."""
    image, drawn_on = new_session.image, np.zeros(FRAME_HW, bool)
    assert isinstance(image, SessionVolume)
    for each in (over(first, 1, 4.0), over(second, 2, 6.0)):
        say(new_session, each)
        (prompt,) = volume_prompts(each, image.volume)
        voxels = np.argwhere(prompt.array_ijk) if isinstance(prompt, Mask) else region_of(prompt, image.volume.shape, 2)
        i, j, _ = voxels[voxels[:, 2] == T].T
        drawn_on[j, i] |= new_session.frame_labels("axial", T)[j, i] == each.label  # what is shown of it
    shown = new_session.frame_labels("axial", T).copy()
    assert {*np.unique(shown[drawn_on]).tolist()} == {1, 2}
    assert (shown == tracked(new_session)[..., T].T)[drawn_on].all()


def test_on_images_too(served: Served, tmp_path: Path) -> None:
    """The second of two new structures had the pixels of both when it was applied."""
    one = Gallery(served, tmp_path)
    for label, mask in ((1, patch(10, 30, 10, 30)), (2, patch(10, 30, 20, 40))):
        one.do("structures")
        one.draw(label, mask, 0)
    shown = one.shown(0)
    assert [(shown == label).sum() for label in (1, 2)] == [400, 200]
    one.track()
    assert (one.shown(0) == shown).all()
