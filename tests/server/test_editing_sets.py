"""What is done to structures of a set of images: each image by itself; what was edited is not outlined anew, and is undone."""

import io
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from medical_sam2.server.editing import tell_outlined_anew
from medical_sam2.server.segmentation import SessionImageSet, SessionResult
from medical_sam2.server.state import Gesture, ResultRecord, State, Structure
from medical_sam2.volume import SliceConfidence
from tests.server.conftest import Served
from tests.server.test_editing import Edited

pytestmark = pytest.mark.usefixtures("inline")
IMAGES, SIDE = 3, 64  # as large as the known network sees, so that it answers to the pixel
FIRST = (20, 14)  # a place in the bright structure of the first image


def ring(t: int) -> NDArray[np.bool_]:
    """What is bright on an image: a block with a hole, further down on each; and on the last a speck apart."""
    mask = np.zeros((SIDE, SIDE), bool)
    mask[14 + 4 * t : 34 + 4 * t, 8:26] = True
    mask[22 + 4 * t : 26 + 4 * t, 16:20] = False
    if t == 2:
        mask[2:5, 2:5] = True
    return mask


def block(t: int) -> NDArray[np.bool_]:
    """What is less bright."""
    mask = np.zeros((SIDE, SIDE), bool)
    mask[12:30, 38 + t : 52 + t] = True
    return mask


def patch(top: int, bottom: int, left: int, right: int) -> NDArray[np.bool_]:
    """A rectangle of an image."""
    mask = np.zeros((SIDE, SIDE), bool)
    mask[top:bottom, left:right] = True
    return mask


class Gallery(Edited):
    """A session with both structures outlined in all images."""

    def __init__(self, served: Served, folder: Path) -> None:
        super().__init__(served, served.post("sessions")["id"])
        for t in range(IMAGES):
            picture = np.random.default_rng(t).integers(18, 23, (SIDE, SIDE)).astype(np.uint8)  # no padding
            picture[ring(t)], picture[block(t)] = 220, 120
            Image.fromarray(picture).save(path := folder / f"{t}.png")
            answer = served.http.put(f"/api/sessions/{self.id}/files?suffix=.png", content=path.read_bytes())
            assert answer.status_code == 200, answer.text
        assert served.post(f"sessions/{self.id}/open")["kind"] == "set"

    def click(self, label: int, place: tuple[int, int], t: int = 0, *, new: bool = True) -> None:
        if new:
            self.do("structures")
        self.do("say", label=label, plane="image", t=t, kind="points", points=[place], positive=[True])

    def draw(self, label: int, mask: NDArray[np.bool_], t: int) -> None:
        """With the brush."""
        edges = np.flatnonzero(np.diff(mask.ravel().astype(int), prepend=0, append=0))
        runs = [int(x) for start, end in zip(edges[::2], edges[1::2], strict=True) for x in (start, end - start)]
        self.do("say", label=label, plane="image", t=t, kind="mask", runs=runs)

    @property
    def labels(self) -> list[NDArray[np.uint8]]:
        return [array.copy() for array in self.served.store.get(self.id).result().labels]

    def shown(self, t: int) -> NDArray[np.uint8]:
        data = self.served.http.get(f"/api/sessions/{self.id}/labels/image/{t}").content
        return np.frombuffer(data, np.uint8).reshape(SIDE, SIDE)


@pytest.fixture
def gallery(served: Served, tmp_path: Path) -> Gallery:
    one = Gallery(served, tmp_path)
    for label, mask in ((1, ring(0)), (2, block(0))):
        one.do("structures")
        one.draw(label, mask, 0)
    one.track()
    for t, array in enumerate(one.labels):
        assert ((array == 1) == ring(t)).all()
        assert ((array == 2) == block(t)).all()
    return one


def test_two_are_merged_on_every_image_and_come_apart_by_undo(gallery: Gallery) -> None:
    gallery.do("structures/2", name="cell", colour="#112233")
    (merged,) = gallery.do("structures/1/merge", into=2)["structures"]
    assert (merged["name"], merged["colour"], merged["value"], merged["images"]) == ("cell", "#112233", 2, IMAGES)
    for t, array in enumerate(gallery.labels):
        assert ((array == merged["label"]) == (ring(t) | block(t))).all()
        assert (gallery.shown(t) == array).all()
    assert gallery.state["said"] == []
    gallery.do("undo")
    for t, array in enumerate(gallery.labels):
        assert (array == ring(t) + 2 * block(t)).all()
    assert "merged with another" in gallery.do("structures/1/merge", 422, into=1)["error"]


def test_what_was_merged_stays_when_others_are_outlined(gallery: Gallery) -> None:
    (merged,) = gallery.do("structures/1/merge", into=2)["structures"]
    gallery.do(f"structures/{merged['label']}", name="both", colour="#102030")
    before = gallery.labels
    gallery.do("structures")
    gallery.draw(4, ground := patch(40, 64, 0, 64), 0)
    gallery.track()
    for t, (old, new) in enumerate(zip(before, gallery.labels, strict=True)):
        assert ((new == merged["label"]) == (old > 0)).all()
        assert ((new == 4) == (~(ring(t) | block(t)) if t else ground)).all()


def test_where_it_is_pointed_at_it_changes_and_nowhere_else(gallery: Gallery) -> None:
    """Its other images were outlined by nobody's word that is still known: nothing could outline them anew."""
    (merged,) = gallery.do("structures/1/merge", into=2)["structures"]
    gallery.draw(merged["label"], drawn := patch(40, 50, 30, 60), 1)
    assert ((gallery.shown(1) == merged["label"]) == drawn).all()
    gallery.track()
    for t, array in enumerate(gallery.labels):
        assert ((array == merged["label"]) == (drawn if t == 1 else ring(t) | block(t))).all()
    assert gallery.state["fresh"] == 0
    gallery.draw(merged["label"], other := patch(0, 9, 0, 9), 0)  # and it is so after the next one, too
    gallery.track()
    for t, expected in enumerate((other, drawn, ring(2) | block(2))):
        assert ((gallery.labels[t] == merged["label"]) == expected).all()


def test_parts_are_split_image_by_image_by_their_size(gallery: Gallery) -> None:
    merged = gallery.do("structures/2/merge", into=1)["structures"][0]["label"]
    first, second, third = gallery.do(f"structures/{merged}/split")["structures"]
    assert [each["name"] for each in (first, second, third)] == ["structure 1", "structure 1 2", "structure 1 3"]
    assert [each["images"] for each in (first, second, third)] == [IMAGES, IMAGES, 1]
    assert first["value"] == 1
    assert len({first["colour"], second["colour"], third["colour"]}) == 3
    for t, array in enumerate(gallery.labels):
        speck = patch(2, 5, 2, 5) & (t == 2)
        assert ((array == first["label"]) == (ring(t) & ~speck)).all()
        assert ((array == second["label"]) == block(t)).all()
        assert ((array == third["label"]) == speck).all()
    assert "one part on every image" in gallery.do(f"structures/{second['label']}/split", 422)["error"]


def test_too_many_parts_are_refused(gallery: Gallery) -> None:
    many = np.zeros((SIDE, SIDE), bool)
    many[40:64:4, 0:24:4] = True
    gallery.do("structures")
    gallery.draw(3, many, 0)
    gallery.track()
    assert "it has 36 parts, more than 16" in gallery.do("structures/3/split", 422)["error"]


@pytest.mark.parametrize(
    "steps", [{"fill_holes": True}, {"largest": True}, {"least_px": 10}, {"fill_holes": True, "largest": True}]
)
def test_holes_islands_and_small_parts(gallery: Gallery, steps: dict[str, Any]) -> None:
    answer = gallery.do("structures/1/finish", **steps)
    assert answer["structures"][0]["edited"]
    for t, array in enumerate(gallery.labels):
        expected = ring(t)
        if "fill_holes" in steps:
            expected[22 + 4 * t : 26 + 4 * t, 16:20] = True
        if "largest" in steps or "least_px" in steps:
            expected[2:5, 2:5] = False
        assert ((array == 1) == expected).all()
        assert ((array == 2) == block(t)).all()
    gallery.click(2, (14, 50), 1, new=False)  # another one is outlined anew, this one is not
    gallery.track()
    after = gallery.labels
    gallery.do("undo"), gallery.do("undo")
    for t in range(IMAGES):
        assert ((after[t] == 1) == (gallery.labels[t] == 1)).all()
    gallery.do("undo")
    assert ((gallery.labels[2] == 1) == ring(2)).all()


def test_clicks_that_finishing_undoes_are_told(gallery: Gallery) -> None:
    """Those only that were followed until then."""
    said: dict[str, Any] = {"label": 1, "plane": "image", "kind": "points"}
    gallery.do("say", t=2, points=[[3, 4], [24, 10]], positive=[True, True], **said)
    gallery.do("say", t=1, points=[[28, 17], [40, 50]], positive=[False, False], **said)
    gallery.track()
    assert (gallery.labels[2][3, 4], gallery.labels[1][28, 17]) == (1, 0)
    answer = gallery.do("structures/1/finish", fill_holes=True, largest=True)
    assert answer["notes"] == [
        "image 3: the positive click at 4 3 lies outside of structure 1 since it was finished",
        "image 2: the negative click at 17 28 lies inside of structure 1 since it was finished",
    ]
    assert gallery.do("structures/1/finish", fill_holes=True, largest=True)["notes"] == []


def test_a_hole_that_is_another_one_stays_its_own(gallery: Gallery) -> None:
    gallery.do("structures")
    gallery.draw(3, hole := patch(22, 26, 16, 20), 0)
    gallery.track()
    assert gallery.do("structures/1/finish", fill_holes=True)["notes"] == ["48 pixels were left to other structures"]
    assert ((gallery.labels[0] == 3) == hole).all()
    for t, array in enumerate(gallery.labels):  # what is drawn is the ground, and found in every hole
        assert ((array == 1) == ring(t)).all()


def test_what_is_left_out_of_an_image_has_no_confidence_there(gallery: Gallery) -> None:
    rows = gallery.served.http.get(f"/api/sessions/{gallery.id}/rows").json()
    assert {(row["label"], row["t"]) for row in rows} == {(label, t) for label in (1, 2) for t in range(IMAGES)}
    gallery.do("structures/1/finish", least_px=int(ring(0).sum()))  # the others are as large, but for the speck
    gallery.draw(1, patch(0, 1, 0, 1), 1)
    gallery.track()
    gallery.do("structures/1/finish", least_px=9)
    rows = gallery.served.http.get(f"/api/sessions/{gallery.id}/rows").json()
    assert {row["t"] for row in rows if row["label"] == 1} == {0, 2}


@pytest.mark.parametrize(
    ("path", "form", "said"),
    [
        ("finish", {}, "nothing was chosen"),
        ("finish", {"smooth_mm": 2.0}, "no size in mm; fill holes, keep the largest part, or drop parts of few pixels"),
        ("finish", {"grow_mm": -2.0, "largest": True}, "no size in mm"),
        ("finish", {"min_volume_ml": 1.0}, "no size in mm"),
        ("finish", {"least_px": 4000}, "nothing would be left"),
        ("move", {"by": 1}, "no order: a pixel goes to the one that is surer of it"),
        ("merge", {"into": 9}, "no structure 9"),
    ],
)
def test_what_makes_no_sense_in_a_set_is_refused_in_one_line(
    gallery: Gallery, path: str, form: dict[str, Any], said: str
) -> None:
    before = gallery.state
    assert said in gallery.do(f"structures/1/{path}", 422, **form)["error"]
    assert gallery.state == before


def test_an_earlier_segmentation_is_for_volumes(gallery: Gallery) -> None:
    before, upload = gallery.state, gallery.served.post("sessions")["id"]
    gallery.served.http.put(f"/api/sessions/{upload}/files?suffix=.png", content=b"anything")
    assert "loaded into a volume" in gallery.do("outlines", 422, upload=upload)["error"]
    assert gallery.state == before
    assert [each["id"] for each in gallery.served.http.get("/api/sessions").json()] == [gallery.id]


def test_pixels_are_for_images(served: Served, ct: Path) -> None:
    id = served.upload(ct)
    state = served.post(f"sessions/{id}/structures", version=0)
    click = {"label": 1, "plane": "axial", "t": 8, "kind": "points", "points": [[6, 5]], "positive": [True]}
    state = served.post(f"sessions/{id}/say", version=state["version"], **click)
    served.post(f"sessions/{id}/track", version=state["version"])
    session = served.store.get(id)
    assert session.job
    session.job.wait(60)
    form = {"version": session.history.version, "least_px": 5}
    answer = served.http.post(f"/api/sessions/{id}/structures/1/finish", json=form)
    assert (answer.status_code, answer.json()["error"]) == (422, "the least part of a volume is told in mL")


def test_what_is_not_yet_applied_is_applied_first(gallery: Gallery) -> None:
    gallery.click(1, (20, 9), new=False)
    for path, form in (("finish", {"largest": True}), ("split", {}), ("merge", {"into": 2})):
        assert "apply them first" in gallery.do(f"structures/1/{path}", 422, **form)["error"]
    assert "apply the changes first" in gallery.do("structures/2", 422, locked=True)["error"]
    gallery.do("structures")
    assert "not tracked yet; apply it first" in gallery.do("structures/3/finish", 422, largest=True)["error"]


def test_a_locked_structure_stays_as_it_is(gallery: Gallery) -> None:
    before = gallery.labels
    assert gallery.do("structures/1", locked=True)["structures"][0]["locked"]
    for path, form in (("remove", {}), ("finish", {"largest": True}), ("split", {}), ("merge", {"into": 2})):
        assert "locked" in gallery.do(f"structures/1/{path}", 422, **form)["error"]
    place = {"label": 1, "plane": "image", "t": 0, "kind": "points", "points": [[1, 1]], "positive": [True]}
    assert "locked" in gallery.do("say", 422, **place)["error"]
    gallery.do("structures")
    notes = gallery.do("say", label=3, plane="image", t=0, kind="points", points=[FIRST], positive=[True])["notes"]
    assert notes == ["structure 1 is locked there"]  # of another one in the midst of it
    assert ((gallery.shown(0) == 1) == ring(0)).all()
    gallery.track()
    for old, new in zip(before, gallery.labels, strict=True):
        assert ((old == 1) == (new == 1)).all()
    assert not gallery.do("structures/1", locked=False)["structures"][0]["locked"]


def test_names_and_numbers_reach_the_files(gallery: Gallery) -> None:
    merged = gallery.do("structures/1/merge", into=2)["structures"][0]["label"]
    gallery.do(f"structures/{merged}", name="cell", value=40)
    data = gallery.served.http.get(f"/api/sessions/{gallery.id}/download/zip").content
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for t, name in enumerate(sorted(archive.namelist())):
            found = np.asarray(Image.open(io.BytesIO(archive.read(name))))
            assert ((found == 40) == (ring(t) | block(t))).all()
            assert set(np.unique(found)) == {0, 40}
    coco = gallery.served.http.get(f"/api/sessions/{gallery.id}/download/coco.json").json()
    assert [(each["id"], each["name"]) for each in coco["categories"]] == [(40, "cell")]


def test_edits_are_there_after_a_new_start(gallery: Gallery) -> None:
    merged = gallery.do("structures/1/merge", into=2)["structures"][0]["label"]
    before = gallery.labels
    store = gallery.served.store
    store._sessions.pop(gallery.id).close()  # as after a new start
    assert store.get(gallery.id).history.state.edited == {merged}
    gallery.do("structures")
    gallery.draw(4, patch(40, 64, 0, 64), 0)
    gallery.track()
    for old, new in zip(before, gallery.labels, strict=True):
        assert ((new == merged) == (old == merged)).all()


@pytest.fixture
def greedy(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> Gallery:
    """The first structure is edited. On one image alone the network makes all of it of a click, among all it does not."""
    gallery.do("structures/1/finish", largest=True)
    monkeypatch.setattr(SessionImageSet, "segment_frame", lambda *_: ring(0))
    return gallery


def has(gallery: Gallery, label: int, mask: NDArray[np.bool_], t: int = 0) -> None:
    """A structure is this on an image, as it is shown and as it is downloaded."""
    assert ((gallery.shown(t) == label) == mask).all()
    if not gallery.state["fresh"]:
        assert ((gallery.labels[t] == label) == mask).all()


def test_what_another_one_gives_up_comes_back_to_the_edited_one(greedy: Gallery) -> None:
    greedy.click(2, FIRST, new=False)
    has(greedy, 1, patch(0, 0, 0, 0))
    has(greedy, 2, ring(0))
    greedy.track()
    has(greedy, 1, ring(0))
    has(greedy, 2, block(0))
    greedy.do("undo")
    has(greedy, 2, ring(0))
    greedy.do("undo")
    has(greedy, 1, ring(0))


def test_it_comes_back_later_too_and_when_the_other_one_is_removed(greedy: Gallery) -> None:
    taken, kept = ring(0) & patch(0, 26, 0, 64), ring(0) & patch(26, 64, 0, 64)
    greedy.click(3, FIRST)
    greedy.draw(3, taken, 0)  # over what the click took, and it keeps this
    for step in ("shown", "track", "new start"):
        if step == "track":
            greedy.track()
        if step == "new start":
            greedy.served.store._sessions.pop(greedy.id).close()
        has(greedy, 3, taken)
        has(greedy, 1, kept)
    version = greedy.state["version"]
    greedy.do("structures/3/remove")
    has(greedy, 1, ring(0))
    greedy.do("undo")
    has(greedy, 1, kept)
    greedy.draw(3, patch(50, 60, 50, 60), 0)  # elsewhere
    has(greedy, 1, ring(0))
    greedy.track()
    has(greedy, 1, ring(0))
    assert greedy.state["version"] == version + 4


def test_of_two_edited_ones_too(greedy: Gallery) -> None:
    """What takes is not outlined anew either, but changes where it is pointed at."""
    greedy.do("structures/2/finish", fill_holes=True, least_px=1)
    greedy.click(2, FIRST, new=False)
    greedy.track()
    has(greedy, 2, ring(0))
    has(greedy, 1, patch(0, 0, 0, 0))
    greedy.draw(2, block(0), 0)
    greedy.track()
    has(greedy, 1, ring(0))
    has(greedy, 2, block(0))


def test_its_own_gesture_is_no_loss(greedy: Gallery) -> None:
    greedy.click(2, FIRST, new=False)
    greedy.draw(1, own := ring(0) & patch(0, 20, 0, 64), 0)
    greedy.track()
    has(greedy, 1, own)


def test_who_takes_of_another_one_is_told(greedy: Gallery) -> None:
    place: dict[str, Any] = {"label": 2, "plane": "image", "t": 0, "kind": "points", "points": [FIRST], "positive": [True]}
    (told,) = greedy.do("say", **place)["notes"]
    assert f"object 2 took {ring(0).sum()} pixels of object 1: " in told
    assert "take the click back" in told
    assert greedy.do("say", **place)["notes"] == []  # it has them by now


def test_files_of_a_set_are_called_by_the_files_that_were_chosen(served: Served, tmp_path: Path) -> None:
    """One that cannot be read is counted, pages of one are told apart."""
    id = served.post("sessions")["id"]
    for number, pages in enumerate(([0], [], [1], [2, 0])):
        images = [Image.fromarray((200 * ring(t) + 20).astype(np.uint8)) for t in pages]
        file = tmp_path / f"{number}.tif"
        if images:
            images[0].save(file, save_all=True, append_images=images[1:])
        content = file.read_bytes() if images else b"broken"
        assert served.http.put(f"/api/sessions/{id}/files?suffix=.tif", content=content).status_code == 200
    served.post(f"sessions/{id}/open")
    one = Edited(served, id)
    one.do("structures", name="")
    one.do("say", label=1, plane="image", t=1, kind="points", points=[(30, 14)], positive=[True])
    one.track()
    names = ["00001.png", "00003.png", "00004-001.png", "00004-002.png"]
    packed = served.http.get(f"/api/sessions/{id}/download/zip").content
    with zipfile.ZipFile(io.BytesIO(packed)) as files:
        assert files.namelist() == names
        found = [np.asarray(Image.open(io.BytesIO(files.read(name)))) for name in names]
    assert found[1].any()
    assert all((mask == other).all() for mask, other in zip(found, served.store.get(id).result().labels, strict=True))
    coco = served.http.get(f"/api/sessions/{id}/download/coco.json").json()
    assert [each["file_name"] for each in coco["images"]] == names


def test_an_image_that_others_have_outlined_anew_is_told() -> None:
    def result(left: int, *, second: bool) -> SessionResult:
        labels = tuple(patch(10, 30, side, 30).astype(np.uint8) for side in (left, 10))
        rows = (
            SliceConfidence(1, "image", 0, 0.9, 400, prompted=True),
            SliceConfidence(1, "image", 1, 0.9, 400, prompted=second),
        )
        return SessionResult(labels, rows)

    click = Gesture(1, 1, "image", 0, "points", ((12.0, 12.0),), (True,))
    box = Gesture(2, 1, "image", 1, "box", ((10.0, 10.0), (29.0, 29.0)))
    state = State((Structure(1, "cell", "#ff0000"),), (click, box), ResultRecord(1, frozenset({1}), frozenset({1})))
    before = result(10, second=False)
    told = "image 1: object 1 was outlined anew, as other images show what is meant"
    assert tell_outlined_anew(state, before, result(20, second=True)).warnings == (told,)
    assert tell_outlined_anew(state, before, result(11, second=True)).warnings == ()
    again = replace(state, gestures=(click, box, replace(click, id=3)))  # who points there sees it
    assert tell_outlined_anew(again, before, result(20, second=True)).warnings == ()
