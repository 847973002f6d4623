"""What is drawn where another structure is: shown as it will be applied, and what others keep of it is told."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medical_sam2.server.gestures import encode_runs
from medical_sam2.tracking.plan import PLANES
from tests.server.conftest import Served
from tests.server.test_editing import Editor

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
