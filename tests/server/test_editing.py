"""What is done to structures besides pointing: by the rules of the command line, undone like anything else."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medical_sam2 import io
from medical_sam2.prompts import Point
from medical_sam2.server import InvalidRequest
from medical_sam2.server.editing import free_labels, split_structure
from medical_sam2.server.segmentation import SessionResult, SessionVolume
from medical_sam2.server.state import Journal, State, Structure
from medical_sam2.statistics import measure
from medical_sam2.tracking.finishing import FinishingSteps, finish
from medical_sam2.tracking.plan import PLANES
from medical_sam2.volume import Segmentation, Volume
from tests.io.making import Series
from tests.phantoms import directions, phantom, rotation
from tests.server.conftest import Served, saved

pytestmark = pytest.mark.usefixtures("inline")


class Edited:
    """A session, by its routes."""

    def __init__(self, served: Served, id: str) -> None:
        self.served, self.id = served, id

    @property
    def state(self) -> Any:
        return self.served.http.get(f"/api/sessions/{self.id}").json()["state"]

    def do(self, path: str, status: int = 200, **form: Any) -> Any:
        """The answer to a change."""
        version = self.state["version"]
        answer = self.served.http.post(f"/api/sessions/{self.id}/{path}", json={"version": version, **form})
        assert answer.status_code == status, answer.text
        assert status == 200 or "\n" not in answer.json()["error"]
        return answer.json()

    def track(self) -> None:
        self.do("track")
        session = self.served.store.get(self.id)
        assert session.job
        session.job.wait(60)
        assert session.job.events[-1].kind == "done", session.job.events[-1].message


class Editor(Edited):
    """A session with both objects of the phantom tracked."""

    def __init__(self, served: Served, folder: Path, code: str = "LPS") -> None:
        self.case = phantom(code, spacing_mm=(1, 1, 1.5))
        super().__init__(served, served.upload(saved(self.case, folder / "image.nii.gz")))

    def click(self, label: int, object: int, offset: tuple[int, int] = (0, 0), *, new: bool = True) -> None:
        """A structure, and a click for it on an object."""
        if new:
            self.do("structures")
        t, y, x = PLANES["axial"].project(self.case.voxel(object), self.case.volume.shape, self.case.code)
        place = [[y + offset[0], x + offset[1]]]
        self.do("say", label=label, plane="axial", t=int(t), kind="points", points=place, positive=[True])

    @property
    def labels(self) -> NDArray[np.uint8]:
        return self.served.store.get(self.id).result().labels[0].copy()

    def upload(self, path: Path, suffix: str = ".nii.gz") -> str:
        """A file as a session of its own that was not opened."""
        id = self.served.post("sessions")["id"]
        answer = self.served.http.put(f"/api/sessions/{id}/files?suffix={suffix}", content=path.read_bytes())
        assert answer.status_code == 200
        return str(id)


@pytest.fixture
def editor(served: Served, tmp_path: Path) -> Editor:
    one = Editor(served, tmp_path)
    one.click(1, 1)
    one.click(2, 2)
    one.track()
    assert set(np.unique(one.labels)) == {0, 1, 2}
    return one


def test_two_are_merged_and_come_apart_again_by_undo(editor: Editor) -> None:
    before = editor.labels
    editor.do("structures/2", name="liver", colour="#112233")
    (merged,) = editor.do("structures/1/merge", into=2)["structures"]
    assert (merged["name"], merged["colour"], merged["value"]) == ("liver", "#112233", 2)
    assert ((editor.labels == merged["label"]) == (before > 0)).all()
    assert editor.state["said"] == []
    editor.do("undo")
    assert (editor.labels == before).all()
    assert [each["name"] for each in editor.state["structures"]] == ["structure 1", "liver"]
    assert "merged with another" in editor.do("structures/1/merge", 422, into=1)["error"]


def test_one_of_two_parts_is_split_into_both(editor: Editor) -> None:
    before = editor.labels
    merged = editor.do("structures/2/merge", into=1)["structures"][0]["label"]
    first, second = editor.do(f"structures/{merged}/split")["structures"]
    assert (first["name"], first["value"]) == ("structure 1", 1)
    assert second["name"] == "structure 1 2"
    assert ((editor.labels == first["label"]) == (before == 1)).all()  # the larger one
    assert ((editor.labels == second["label"]) == (before == 2)).all()
    assert "one part" in editor.do(f"structures/{first['label']}/split", 422)["error"]


def test_parts_come_by_size_and_touch_by_corners() -> None:
    labels = np.zeros((7, 6, 6), np.uint8)
    labels[0, 0, 0] = labels[3:5, 3:5, 3:5] = labels[5, 5, 5] = labels[6, 0, 0] = 1  # the first one met is not the largest
    edit = split_structure(State((Structure(1, "lung", "#000000"),)), SessionResult((labels,)), 1)
    assert edit.result is not None
    (apart,) = edit.result.labels
    there = [{tuple(map(int, voxel)) for voxel in np.argwhere(apart == each.label)} for each in edit.structures]
    assert [len(each) for each in there] == [9, 1, 1]
    assert (5, 5, 5) in there[0]
    assert [each.name for each in edit.structures] == ["lung", "lung 2", "lung 3"]


def test_no_structure_has_the_number_of_white() -> None:
    """A correction of it alone would ask what object 1 is, which the page cannot answer."""

    def state(label: int) -> State:
        return State((Structure(label, "lung", "#000000"),))

    assert free_labels(state(253), 1) == [254]
    for label, count in ((254, 1), (253, 2)):
        with pytest.raises(InvalidRequest, match="the labels are used up"):
            free_labels(state(label), count)


@pytest.mark.parametrize("steps", [{"smooth_mm": 2.0}, {"grow_mm": 2.0}, {"grow_mm": -1.5, "largest": True}])
def test_finishing_is_that_of_the_command_line(editor: Editor, steps: dict[str, Any]) -> None:
    before, affine = editor.labels, editor.case.volume.affine
    prompts = [Point(editor.case.voxel(1))]
    expected, _ = finish(Segmentation(before, affine), {1: FinishingSteps(**steps)}, prompts)
    assert (expected.labels != before).any()
    answer = editor.do("structures/1/finish", **steps)
    assert (editor.labels == expected.labels).all()
    assert answer["notes"] == list(expected.warnings)
    editor.do("undo")
    assert (editor.labels == before).all()


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ({}, "nothing was chosen"),
        ({"smooth_mm": 0.1}, "changes nothing"),
        ({"grow_mm": -50.0}, "nothing would be left"),
        ({"min_volume_ml": 900.0}, "nothing would be left"),
    ],
)
def test_steps_that_make_no_sense_are_refused(editor: Editor, steps: dict[str, Any], said: str) -> None:
    before = editor.state
    assert said in editor.do("structures/1/finish", 422, **steps)["error"]
    assert editor.state == before


def test_what_is_not_yet_applied_is_applied_first(editor: Editor) -> None:
    editor.click(1, 1, (0, -1), new=False)
    for path, form in (("finish", {"largest": True}), ("split", {}), ("merge", {"into": 2})):
        assert "apply them first" in editor.do(f"structures/1/{path}", 422, **form)["error"]
    assert "apply the changes first" in editor.do("structures/2", 422, locked=True)["error"]
    editor.do("structures")
    assert "not tracked yet" in editor.do("structures/3/finish", 422, largest=True)["error"]


def test_a_locked_structure_stays_as_it_is(editor: Editor) -> None:
    before = editor.labels
    assert editor.do("structures/1", locked=True)["structures"][0]["locked"]
    for path, form in (("remove", {}), ("finish", {"largest": True}), ("split", {}), ("merge", {"into": 2})):
        assert "locked" in editor.do(f"structures/1/{path}", 422, **form)["error"]
    assert "locked" in editor.do("structures/2/merge", 422, into=1)["error"]
    place = {"label": 1, "plane": "axial", "t": 0, "kind": "points", "points": [[1, 1]], "positive": [True]}
    assert "locked" in editor.do("say", 422, **place)["error"]
    editor.click(3, 1, (0, -1))  # a click of another structure in the midst of it
    assert editor.served.store.get(editor.id).notes == ("structure 1 is locked there",)
    t = int(PLANES["axial"].project(editor.case.voxel(1), editor.case.volume.shape, "LPS")[0])
    shown = editor.served.store.get(editor.id).frame_labels("axial", t)
    assert ((shown == 1) == (PLANES["axial"].apply(before, "LPS")[t] == 1)).all()
    editor.do("structures/3/move", by=-2)
    editor.track()
    assert ((editor.labels == 1) == (before == 1)).all()
    assert not editor.do("structures/1", locked=False)["structures"][1]["locked"]


def test_without_the_lock_the_same_click_takes_it(editor: Editor) -> None:
    editor.do("structures")
    editor.do("structures/3/move", by=-2)
    editor.click(3, 1, (0, -1), new=False)
    t = int(PLANES["axial"].project(editor.case.voxel(1), editor.case.volume.shape, "LPS")[0])
    shown = editor.served.store.get(editor.id).frame_labels("axial", t)
    assert ((shown == 1) != (PLANES["axial"].apply(editor.labels, "LPS")[t] == 1)).any()


def test_the_upper_one_takes_what_both_would_have(served: Served, tmp_path: Path) -> None:
    found = []
    for up in (False, True):
        (folder := tmp_path / str(up)).mkdir()
        one = Editor(served, folder)
        one.click(1, 1)
        one.click(2, 1, (0, -1))
        if up:
            assert [each["label"] for each in one.do("structures/2/move", by=-1)["structures"]] == [2, 1]
        one.track()
        found.append([int((one.labels == label).sum()) for label in (1, 2)])
    assert found[0][0] > found[0][1]
    assert found[1][1] > found[1][0]


def test_a_later_one_takes_from_those_below_it(editor: Editor) -> None:
    editor.do("structures")
    assert [each["label"] for each in editor.do("structures/3/move", by=-2)["structures"]] == [3, 1, 2]
    editor.click(3, 1, (0, -1), new=False)
    before = editor.labels
    editor.track()
    assert (editor.labels[before == 1] == 3).any()
    assert not (editor.labels[before == 2] == 3).any()


def test_numbers_in_files(editor: Editor, tmp_path: Path) -> None:
    before, id = editor.labels, editor.id
    editor.do("structures/1", value=40, name="spleen")
    assert "another structure has the number 40" in editor.do("structures/2", 422, value=40)["error"]
    path = tmp_path / "labels.nii.gz"
    path.write_bytes(editor.served.http.get(f"/api/sessions/{id}/download/nii.gz").content)
    assert (io.load_labels(path, editor.case.volume).array == np.where(before == 1, 40, before)).all()
    rows = editor.served.http.get(f"/api/sessions/{id}/download/csv").text.splitlines()
    assert [row.split(",")[:2] for row in rows[1:]] == [["2", "structure 2"], ["40", "spleen"]]
    assert "--point 40:" in editor.served.http.get(f"/api/sessions/{id}/options").json()["text"]
    assert [each["value"] for each in editor.do("structures/2", value=3)["structures"]] == [40, 3]
    assert editor.do("structures")["structures"][-1]["value"] == 41  # 3, its label, is taken


def options(editor: Editor, views: str = "one") -> list[str]:
    """The lines that *Copy as options* gives; the last is the command."""
    text = editor.served.http.get(f"/api/sessions/{editor.id}/options?views={views}").json()["text"]
    lines = text.split("\n")
    assert lines[-1].startswith("medsam2 segment IMAGE --point")
    assert all(line.startswith("# ") for line in lines[:-1])
    return lines[:-1]


def test_what_the_options_do_not_say_is_told_with_them(editor: Editor) -> None:
    assert options(editor) == []
    assert options(editor, "six") == ["# --views six is for all; here tracked through one view: structure 1, structure 2"]
    editor.click(3, 1, (1, 0))
    editor.track()
    editor.do("structures/2", name="liver")
    editor.do("structures/1/merge", into=2)
    told = options(editor)
    assert told == [
        "# not in it, as nothing is said of them: liver",
        "# not in it: what was merged, split, finished or loaded from a file",
    ]
    editor.do("undo")
    assert options(editor) == []
    editor.do("structures/1/finish", fill_holes=True, grow_mm=1)
    assert options(editor) == ["# not in it: what was merged, split, finished or loaded from a file"]
    editor.do("undo")
    editor.do("say", label=1, plane="axial", t=0, kind="erase", frames=[0, 3])
    assert options(editor) == ["# not in it: slices that were erased of: structure 1"]
    editor.do("structures/2/move", by=-1)
    assert "# not in it: the order of structures (--priority)" in options(editor)


def test_views_that_some_structures_were_tracked_through_are_told(editor: Editor) -> None:
    editor.click(3, 1, (1, 0))
    editor.do("track", views="three")
    job = editor.served.store.get(editor.id).job
    assert job
    job.wait(60)
    assert options(editor) == ["# --views one is for all; here tracked through several views: structure 3"]
    assert options(editor, "three") == ["# --views three is for all; here tracked through one view: structure 1, structure 2"]


def test_what_was_loaded_is_not_said(editor: Editor, tmp_path: Path) -> None:
    other = Editor(editor.served, tmp_path)
    path = tmp_path / "earlier.nii.gz"
    path.write_bytes(editor.served.http.get(f"/api/sessions/{editor.id}/download/nii.gz").content)
    other.do("outlines", upload=other.upload(path))
    other.click(1, 1, (1, 0), new=False)
    assert options(other) == [
        "# not in it, as nothing is said of them: structure 2",
        "# not in it: what was merged, split, finished or loaded from a file",
    ]


def test_statistics_are_those_of_the_command_line(editor: Editor) -> None:
    editor.do("structures/2", name="liver", value=40)
    rows = editor.served.http.get(f"/api/sessions/{editor.id}/statistics").json()
    numbers = np.where(editor.labels == 2, np.uint8(40), editor.labels)
    expected = measure(editor.case.volume, Segmentation(numbers, editor.case.volume.affine, {1: "structure 1", 40: "liver"}))
    assert [(row["label"], row["name"], row["volume_ml"], row["mean"]) for row in rows] == [
        (row.label, row.name, row.volume_ml, row.mean) for row in expected
    ]


@pytest.mark.parametrize("form", ["nii.gz", "nrrd", "seg.nrrd", "mha"])
def test_an_earlier_segmentation_is_loaded(served: Served, tmp_path: Path, form: str) -> None:
    one = Editor(served, tmp_path)
    volume = io.load(tmp_path / "image.nii.gz")
    truth = np.where(one.case.truth == 2, 7, one.case.truth)
    given = Segmentation(truth, volume.affine, {1: "spleen", 7: "cyst"}, colours={7: (1, 2, 3)})
    io.save(given, path := tmp_path / f"labels.{form}", volume)
    state = one.do("outlines", upload=one.upload(path, f".{form.rpartition('seg.')[2]}"))
    assert [each["value"] for each in state["structures"]] == [1, 7]
    if form == "seg.nrrd":
        assert [each["name"] for each in state["structures"]] == ["spleen", "cyst"]
        assert state["structures"][1]["colour"] == "#010203"
    assert ((one.labels > 0) == (truth > 0)).all()
    assert len(served.http.get("/api/sessions").json()) == 1  # the file's own session is gone
    one.click(1, 1, new=False)  # and it is corrected as any other
    one.track()
    assert ((one.labels == 1) == (truth == 1)).all()
    path.write_bytes(served.http.get(f"/api/sessions/{one.id}/download/nii.gz").content)


def test_a_dicom_seg_and_an_rtstruct_of_a_series_are_loaded(served: Served, tmp_path: Path) -> None:
    case = phantom("RAS", spacing_mm=(1.5, 1.25, 3.0))
    hounsfield = np.rint(200 * np.asarray(case.volume.array, float)).astype(np.int16)
    Series(case.volume.affine, hounsfield).write(folder := tmp_path / "series")
    source = io.load(folder)
    truth = io.label_grid.reorient(Volume(case.truth, case.volume.affine), source).array
    for form in ("dcm", "rtstruct.dcm"):
        id = served.post("sessions")["id"]
        for file in sorted(folder.iterdir()):
            assert served.http.put(f"/api/sessions/{id}/files?suffix=.dcm", content=file.read_bytes()).status_code == 200
        served.post(f"sessions/{id}/open")
        io.save(
            Segmentation(np.asarray(truth, np.uint8), source.affine, {1: "liver", 2: "cyst"}),
            path := tmp_path / f"out.{form}",
            source,
        )
        upload = served.post("sessions")["id"]
        served.http.put(f"/api/sessions/{upload}/files?suffix=.dcm", content=path.read_bytes())
        state = served.post(f"sessions/{id}/outlines", version=0, upload=upload)
        assert [each["name"] for each in state["structures"]] == ["liver", "cyst"]
        assert (served.store.get(id).result().labels[0] == truth).all()


def shifted(volume: Volume) -> Volume:
    moved = volume.affine.copy()
    moved[0, 3] += 40
    return replace(volume, affine=moved)


def smaller(volume: Volume) -> Volume:
    return replace(volume, array=volume.array[:-1])


@pytest.mark.parametrize(
    ("change", "said"),
    [(shifted, "mm away from the image's voxels"), (smaller, "the labels have shape (10, 13, 16), the image (11, 13, 16)")],
)
def test_labels_on_another_grid_are_refused(
    editor: Editor, tmp_path: Path, change: Callable[[Volume], Volume], said: str
) -> None:
    before, other = editor.state, change(Volume(editor.case.truth, editor.case.volume.affine))
    io.save(other.array, path := tmp_path / "other.nii.gz", other)
    error = editor.do("outlines", 422, upload=editor.upload(path))["error"]
    assert said in error
    assert "resample the labels to the image's grid" in error
    assert "\n" not in error
    assert editor.state == before
    assert len(editor.served.http.get("/api/sessions").json()) == 1


def test_soft_edges_and_images_are_no_labels(editor: Editor, tmp_path: Path) -> None:
    io.save(editor.case.volume.array, path := tmp_path / "soft.nii.gz", editor.case.volume)
    assert "no integers" in editor.do("outlines", 422, upload=editor.upload(path))["error"]
    assert "closed" in editor.do("outlines", 404, upload="0" * 32)["error"]


def test_loaded_ones_take_only_what_is_free(editor: Editor, tmp_path: Path) -> None:
    before = editor.labels
    io.save(np.ones_like(editor.case.truth), path := tmp_path / "all.nii.gz", editor.case.volume)
    error = editor.do("outlines", 422, upload=editor.upload(path))["error"]
    assert "covers all" in error
    wide = np.zeros_like(editor.case.truth)
    wide[:, 1:, 2:] = 1
    io.save(wide, path, editor.case.volume)
    state = editor.do("outlines", upload=editor.upload(path))
    new = state["structures"][-1]
    assert new["value"] == 3  # 1 is taken
    assert ((editor.labels == new["label"]) == ((wide > 0) & (before == 0))).all()
    assert state["notes"] == [
        f"{int(((wide > 0) & (before > 0)).sum())} voxels were left to structures that are there",
        "numbers in files that others have already were changed: 1 is now 3",
    ]
    assert "nothing in it is new" in editor.do("outlines", 422, upload=editor.upload(path))["error"]
    assert editor.state["structures"] == state["structures"]


def test_loaded_and_later_ones_have_names_of_their_own(editor: Editor, tmp_path: Path) -> None:
    wide = np.zeros_like(editor.case.truth)
    wide[:, 1:, 2:5], wide[:, 1:, 5:8], wide[:, 1:, 8:] = 1, 4, 6
    named = Segmentation(wide, editor.case.volume.affine, {1: "structure 1", 6: "cyst"})
    io.save(named, path := tmp_path / "wide.seg.nrrd", editor.case.volume)
    state = editor.do("outlines", upload=editor.upload(path, ".nrrd"))
    assert [each["name"] for each in state["structures"]] == [
        "structure 1",
        "structure 2",
        "structure 3",
        "structure 4",
        "cyst",
    ]
    assert [each["value"] for each in state["structures"][2:]] == [3, 4, 6]
    editor.do("structures/4", name="structure 6")
    assert editor.do("structures")["structures"][-1]["name"] == "structure 7"
    assert editor.do("structures/6", name="liver")["structures"][-1]["name"] == "liver"
    assert editor.do("undo")["structures"][-1]["name"] == "cyst"  # its name was given with it: one step


def test_a_second_image_lies_where_its_affine_says(served: Served, tmp_path: Path) -> None:
    """Numbers that run evenly through space are the same between voxels, however oblique and coarse a grid holds them."""
    one = Editor(served, tmp_path)
    affine, size = np.eye(4), (9, 10, 12)
    affine[:3, :3] = rotation(0.4) @ directions("PIR") * (1.3, 0.9, 1.1)
    centre = one.case.volume.affine @ [*(np.array(one.case.volume.shape) / 2), 1]
    affine[:3, 3] = centre[:3] - affine[:3, :3] @ (np.array(size) / 2)
    slope = np.array([3.0, -2.0, 0.7])
    places = np.moveaxis(np.indices(size), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    io.save((places @ slope).astype(np.float32), path := tmp_path / "pet.nii.gz", Volume(np.zeros(size), affine))
    upload = one.upload(path)
    served.post(f"sessions/{upload}/open")
    info = served.post(f"sessions/{one.id}/overlay", upload=upload)["overlay"]
    assert served.http.get(f"/api/sessions/{one.id}").json()["overlay"] == info
    image = served.store.get(one.id).image
    assert isinstance(image, SessionVolume)
    for plane in ("axial", "coronal", "sagittal"):
        t = image.planes[plane] // 2
        answer = served.http.get(f"/api/sessions/{one.id}/overlay/{plane}/{t}")
        low, high = (float(answer.headers[f"x-{end}"]) for end in ("low", "high"))
        codes = np.frombuffer(answer.content, "<u2").reshape(image.frame_shape(plane, t))
        values = low + (codes.astype(float) - 1) * (high - low) / 65_534
        voxels = [view_of(image.volume, axis, plane)[t] for axis in range(3)]
        mm = np.stack(voxels, -1) @ image.volume.affine[:3, :3].T + image.volume.affine[:3, 3]
        there = (mm - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
        known = ((there >= 0) & (there <= np.array(size) - 1)).all(axis=-1)
        assert 10 < known.sum() < known.size
        assert values[known] == pytest.approx((mm @ slope)[known], abs=0.01)
        assert ((codes > 0) == ((there >= -0.5) & (there <= np.array(size) - 0.5)).all(axis=-1)).all()
    assert served.post(f"sessions/{one.id}/overlay")["overlay"] is None
    assert served.http.get(f"/api/sessions/{one.id}/overlay/axial/1").status_code == 404
    assert len(served.http.get("/api/sessions").json()) == 1


def test_no_session_with_work_in_it_ends_as_a_file(editor: Editor, tmp_path: Path) -> None:
    """Files come as sessions that end with them; whoever names another one must not end that."""
    (tmp_path / "other").mkdir()
    other = Editor(editor.served, tmp_path / "other")
    other.click(1, 1)
    for id in (editor.id, other.id):
        assert "no such upload" in editor.do("outlines", 404, upload=id)["error"]
        answer = editor.served.http.post(f"/api/sessions/{editor.id}/overlay", json={"upload": id})
        assert (answer.status_code, "something was done" in answer.text) == (422, True)
    assert len(editor.served.http.get("/api/sessions").json()) == 2


def test_edits_come_back_after_a_restart(editor: Editor, tmp_path: Path) -> None:
    editor.do("structures/2/merge", into=1)
    editor.do("structures/3", value=9, locked=True)
    editor.do("undo")
    session = editor.served.store.get(editor.id)
    shutil.copy(session.folder / "journal.jsonl", path := tmp_path / "journal.jsonl")
    again = Journal(path)
    assert again.history == session.history
    assert [(each.value, each.locked) for each in again.history.states[-1].structures] == [(9, True)]
    again.close()


def view_of(volume: Volume, axis: int, plane: str) -> NDArray[np.float64]:
    """The index of each voxel along an array axis, as frames of a plane."""
    return np.asarray(PLANES[plane].apply(np.indices(volume.shape)[axis], volume.orientation), float)
