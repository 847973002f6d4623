"""`medsam2 segment` does what it is told, and leaves what it promises."""

import csv
import json
import os
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread

from medical_sam2 import io
from medical_sam2.cli import main
from medical_sam2.cli.report import Progress
from medical_sam2.segmenter import Segmenter
from medical_sam2.tracking.volume_tracker import FrameDone
from medical_sam2.volume import Segmentation, SliceConfidence
from tests.cli.conftest import AFFINE, CLICK, SHAPE, Workspace
from tests.io.making import CANARY, Series

EVERYTHING = [
    *("--probability", "p.nii.gz", "--uncertainty", "u.nrrd", "--confidence", "c.csv", "--preview", "v.png"),
    *("--statistics", "s.json", "--report", "r.json"),
]


def test_labels_lie_in_the_grid_of_the_image(workspace: Workspace) -> None:
    code, out, err = workspace.run(*CLICK, "--views", "one")
    assert code == 0, err
    image, labels = nib.load("ct.nii.gz"), nib.load("out.nii.gz")
    assert (labels.affine == image.affine).all()
    assert labels.shape == image.shape
    assert labels.get_data_dtype() == np.uint8
    assert set(np.unique(workspace.labels())) <= {0, 1}
    assert out.startswith(f"object 1: {np.count_nonzero(workspace.labels())} voxels, ")
    assert out.endswith("wrote out.nii.gz\n")


def test_everything_on_request(workspace: Workspace) -> None:
    report = workspace.done(*CLICK, "--views", "three", "--name", "liver", *EVERYTHING)
    assert sorted(workspace.files()) == sorted(
        ["c.csv", "ct.nii.gz", "out.nii.gz", "p.nii.gz", "r.json", "s.json", "u.nrrd", "v.png"]
    )
    probability = workspace.labels("p.nii.gz")
    assert probability.dtype == np.float32
    assert ((probability > 0.5) == (workspace.labels() == 1)).all()
    (row,) = json.loads((workspace.folder / "s.json").read_text())
    assert (row["name"], row["voxels"]) == ("liver", np.count_nonzero(workspace.labels()))
    assert row["volume_mm3"] == pytest.approx(16 * row["voxels"])
    slices = list(csv.DictReader((workspace.folder / "c.csv").read_text().splitlines()))
    assert {row["axis"] for row in slices} == {"i", "j", "k"}
    assert [row["slice"] for row in slices if row["prompted"] == "1" and row["plane"] == "axial"] == ["3"]
    written = json.loads((workspace.folder / "r.json").read_text())
    assert {**report, "seconds": None} == {**written, "seconds": None}
    assert written["prompts"] == [{"label": 1, "name": "liver", "points": [[14, 12, 3]]}]
    assert len(written["weights"]["sha256"]) == 64
    assert written["settings"]["views"] == "three"


def test_the_same_again_is_the_same_bit_for_bit(workspace: Workspace) -> None:
    workspace.done(*CLICK, "--probability", "p.nii.gz")
    workspace.done(*CLICK, "--probability", "q.nii.gz", output="again.nii.gz")
    assert (workspace.labels("p.nii.gz") == workspace.labels("q.nii.gz")).all()


def test_millimetres(workspace: Workspace) -> None:
    x, y, z = (AFFINE @ [14, 12, 3, 1])[:3]
    workspace.done(*CLICK)
    report = workspace.done("--mm", "--point", str(x), str(y), str(z), output="mm.nii.gz")
    assert z < 0  # a negative number is no option
    assert report["prompts"][0]["points"] == [[14, 12, 3]]
    assert (workspace.labels() == workspace.labels("mm.nii.gz")).all()


@pytest.mark.parametrize(
    "words",
    ["--point 14,12,3", "--point 14, 12, 3", "--point 14,12 3", "--point=14,12,3", "--point 1:14,12,3", "--point=1:14 12 3"],
)
def test_commas_between_numbers(workspace: Workspace, words: str) -> None:
    (prompt,) = workspace.done(*words.split(), "--dry-run")["prompts"]
    assert prompt == {"label": 1, "points": [[14, 12, 3]]}


def test_the_image_may_follow_the_numbers(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "segment",
        "--point",
        "14,12,3",
        "ct.nii.gz",
        "--weights",
        str(workspace.weights),
        "-o",
        "out.nii.gz",
        "--dry-run",
        "--json",
    ]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["prompts"] == [{"label": 1, "points": [[14, 12, 3]]}]


def test_several_objects(workspace: Workspace) -> None:
    words = ["--point", "2:14", "12", "3", "--negative", "2:1", "1", "3", "--box", "5:12", "6", "2", "4", "16", "2"]
    report = workspace.done(
        *words, "--point", "4", "4", "3", "--object", "7", "--name", "2:left", "--name", "right", "--probability", "p.nii.gz"
    )
    assert [entry["label"] for entry in report["objects"]] == [2, 5, 7]
    assert [entry["name"] for entry in report["objects"]] == ["left", "", "right"]
    assert {entry["label"]: entry.get("boxes") for entry in report["prompts"]}[5] == [[4, 6, 2, 12, 16, 2]]
    assert {"p-2.nii.gz", "p-5.nii.gz", "p-7.nii.gz"} <= workspace.files().keys()


def test_what_is_said_to_be_written_is_what_is_written(workspace: Workspace) -> None:
    words = (*CLICK, "--point", "2:4", "4", "3", *EVERYTHING, "--label-table", "t.tsv", "--separate")
    files = [
        "out-1.nii.gz",
        "out-2.nii.gz",
        "p-1.nii.gz",
        "p-2.nii.gz",
        "u.nrrd",
        "t.tsv",
        "c.csv",
        "v.png",
        "s.json",
        "r.json",
    ]
    code, out, err = workspace.run(*words, "--dry-run")
    assert code == 0, err
    assert re.findall("would write (.*)", out) == files
    assert workspace.done(*words, "--dry-run")["files"] == files
    code, out, err = workspace.run(*words)
    assert code == 0, err
    assert re.findall("wrote (.*)", out) == files
    assert workspace.files().keys() == {*files, "ct.nii.gz"}
    assert json.loads(Path("r.json").read_text())["files"] == files
    assert workspace.done(*words, "--overwrite")["files"] == files


TWO = ("--point", "14", "12", "3", "--point", "2:14", "12", "3", "--name", "2:tumour")
"""One click for two objects: they claim the same voxels."""


def test_objects_that_overlap_are_written_whole(workspace: Workspace) -> None:
    report = workspace.done(*TWO, "--overlap", "--statistics", "s.json", "--preview", "v.png", output="a.seg.nrrd")
    alone = report["objects"][0]["voxels"]
    assert [(entry["name"], entry["voxels"]) for entry in report["objects"]] == [("", alone), ("tumour", alone)]
    assert report["settings"]["overlap"]
    assert [row["shared_voxels"] for row in json.loads((workspace.folder / "s.json").read_text())] == [alone, alone]
    found = io.load_segmentation("a.seg.nrrd", io.load("ct.nii.gz"))
    assert (found.mask(1) == found.mask(2)).all()
    assert found.mask(1).sum() == alone
    assert found.names == {2: "tumour"}
    code, _, err = workspace.run("--correct", "a.seg.nrrd", "--negative", "14", "12", "3", "--object", "2")
    assert code == 2
    assert f"a.seg.nrrd: its segments overlap in {alone} voxels" in err
    assert "give one of them in a file of its own (`medsam2 segment --separate` writes such)" in err
    code, out, err = workspace.run(*TWO, "--overlap", "--separate", "--label-table", "t.tsv", output="b.nii.gz")
    assert code == 0, err
    assert "does not hold" not in err
    assert out.endswith("wrote b-1.nii.gz\nwrote b-2.nii.gz\nwrote t.tsv\n")
    assert [np.unique(workspace.labels(f"b-{label}.nii.gz")).tolist() for label in (1, 2)] == [[0, 1], [0, 2]]
    assert (workspace.folder / "t.tsv").read_text() == "index\tname\tcolor\n1\tobject 1\t#4cc9f0\n2\ttumour\t#f9844a\n"


def test_an_object_of_its_own_file_has_its_number_there_even_alone(workspace: Workspace) -> None:
    """So that a script finds NAME-1 however many objects a case has."""
    code, out, err = workspace.run(*CLICK, "--separate")
    assert code == 0, err
    assert out.endswith("wrote out-1.nii.gz\n")
    assert workspace.files().keys() == {"ct.nii.gz", "out-1.nii.gz"}


def test_files_of_single_objects_that_an_earlier_run_left_are_told(workspace: Workspace) -> None:
    workspace.done(*TWO, "--overlap", "--separate", output="out.nii.gz")
    workspace.done(*TWO, "--probability", "p.nii.gz", output="other.nii.gz")
    code, _, err = workspace.run(*CLICK, "--separate", "--probability", "p.nii.gz", "--overwrite", output="out.nii.gz")
    left = [line for line in err.splitlines() if line.endswith("is of an earlier run: remove it, or write somewhere else")]
    assert (code, [line.split()[1] for line in left]) == (0, ["out-2.nii.gz", "p-1.nii.gz", "p-2.nii.gz"])
    assert (workspace.folder / "out-2.nii.gz").exists()


def test_priority_decides_whose_a_voxel_is(workspace: Workspace) -> None:
    alone = workspace.done(*TWO, "--overlap", output="q.seg.nrrd")["objects"][1]["voxels"]
    code, out, err = workspace.run(*TWO, "--priority", "tumour", output="p.nii.gz")
    assert code == 0, err
    assert f"object 1: 0 voxels, 0 mL\nobject 2 (tumour): {alone} voxels" in out
    assert "warning: p.nii.gz does not hold names\n" in err


def test_meshes_of_several_objects_are_files_of_their_own(workspace: Workspace) -> None:
    workspace.done(*TWO, "--overlap", output="m.stl")
    assert {"m-1.stl", "m-2.stl"} <= workspace.files().keys()


@pytest.mark.parametrize(
    ("words", "output", "says"),
    [
        (
            ["--overlap"],
            "x.nii.gz",
            "x.nii.gz: --overlap: NIfTI holds one object at each voxel; save to .dcm, .rtstruct.dcm, .seg.nrrd",
        ),
        (["--overlap", "--priority", "2"], "x.seg.nrrd", "--priority changes nothing: --overlap gives"),
        (["--priority", "tumor"], "x.nii.gz", "priority: no objects are called tumor; name one of 1, tumour"),
        (["--label-table", "t.csv"], "x.nii.gz", "t.csv: nothing is written as .csv"),
        (["--label-table", "x.txt"], "x.txt", "x.txt: nothing is written as .txt"),
    ],
)
def test_what_has_no_meaning_for_overlaps_is_refused(workspace: Workspace, words: list[str], output: str, says: str) -> None:
    assert workspace.refused(*TWO, *words, output=output).startswith(says)


def test_masks(workspace: Workspace) -> None:
    drawn = workspace.mask("m.nii.gz", [(slice(8, 18), slice(6, 16), slice(3, 4)), (slice(2, 8), slice(2, 8), slice(2, 3))])
    assert [entry["label"] for entry in workspace.done("--mask", "m.nii.gz")["objects"]] == [1, 2]
    assert (workspace.labels()[:, :, 3][drawn[:, :, 3] == 1] == 1).all()
    (prompt,) = workspace.done("--mask", "m.nii.gz", "--object", "4", output="4.nii.gz")["prompts"]
    assert prompt == {"label": 4, "masks": [{"voxels": 10 * 10 + 36, "axis": "k"}]}


def test_file_of_prompts_and_command_line_together(workspace: Workspace) -> None:
    content = {"version": 1, "objects": [{"label": 3, "name": "spleen", "points": [[14, 12, 3]]}]}
    (workspace.folder / "said.json").write_text(json.dumps(content))
    report = workspace.done("--prompts", "said.json", *CLICK)
    assert [(entry["label"], entry["name"]) for entry in report["objects"]] == [(1, ""), (3, "spleen")]


def test_correction_changes_only_its_object(workspace: Workspace) -> None:
    earlier = workspace.mask("old.nii.gz", [(slice(8, 18), slice(6, 16), slice(1, 5)), (slice(2, 6), slice(2, 6), slice(0, 6))])
    workspace.done("--correct", "old.nii.gz", "--negative", "9", "7", "3", "--object", "1")
    assert (workspace.labels()[earlier == 2] == 2).all()
    assert (workspace.labels() != earlier).any()


def test_a_correction_keeps_names_and_colours(workspace: Workspace) -> None:
    """Those that a segmentation tells; a name of the command line comes before."""
    workspace.mask("old.nii.gz", [(slice(8, 18), slice(6, 16), slice(1, 5)), (slice(2, 6), slice(2, 6), slice(0, 6))])
    image = io.load(workspace.folder / "ct.nii.gz")
    earlier = np.asarray(io.load(workspace.folder / "old.nii.gz").array).astype(np.uint8)
    named = Segmentation(
        earlier, image.affine, {1: "liver", 2: "spleen"}, colours={1: (10, 20, 30), 2: (40, 50, 60)}, image=image
    )
    io.save(named, workspace.folder / "old.seg.nrrd", like=image)
    words = ("--correct", "old.seg.nrrd", "--negative", "9", "7", "3", "--object", "1")
    workspace.done(*words, output="new.seg.nrrd")
    found = io.load_segmentation(workspace.folder / "new.seg.nrrd", image)
    assert (found.names, found.colours) == (named.names, named.colours)
    report = workspace.done(*words, "--name", "Leber", output="newer.seg.nrrd")
    assert [entry["name"] for entry in report["objects"]] == ["Leber", "spleen"]


def test_correction_of_the_only_object_needs_no_label(workspace: Workspace) -> None:
    earlier = 4 * workspace.mask("old.nii.gz", [(slice(8, 18), slice(6, 16), slice(1, 5))])
    workspace.put("old.nii.gz", earlier)
    report = workspace.done("--correct", "old.nii.gz", "--negative", "9", "7", "3", "--overwrite", output="old.nii.gz")
    assert report["prompts"] == [{"label": 4, "negative": [[9, 7, 3]]}]


@pytest.mark.parametrize("views", ["one", "six", "auto", "sagittal"])
def test_views(workspace: Workspace, views: str) -> None:
    report = workspace.done(*CLICK, "--views", views)
    assert len(report["views"]["1"]) == (6 if views == "six" else 1)
    assert views != "sagittal" or report["views"]["1"] == [views]


@pytest.mark.parametrize(
    "words",
    [
        ("--bank", "fifo"),
        ("--bank", "greedy"),
        ("--fusion", "vote", "--views", "three"),
        ("--window", "-100,300"),
        ("--image-size", "96"),
    ],
)
def test_settings(workspace: Workspace, words: tuple[str, ...]) -> None:
    name, value = words[:2]
    settings = workspace.done(*CLICK, *words)["settings"]
    assert str(settings[name[2:].replace("-", "_")]) == value


def test_a_vote_of_the_one_view_that_auto_leaves_is_told(workspace: Workspace) -> None:
    code, _, err = workspace.run(*CLICK, "--views", "auto", "--fusion", "vote", "--dry-run")
    assert code == 0
    assert "warning: --fusion changes nothing: one view is tracked" in err


def test_a_second_run_finds_what_the_first_one_saw(workspace: Workspace) -> None:
    first = workspace.done(*CLICK, "--features", "kept", "--report", "run.json")
    labels, files = workspace.labels(), {file.name: file.stat().st_mtime_ns for file in (workspace.folder / "kept").iterdir()}
    assert first["settings"]["features"] == "kept"
    assert files
    workspace.done(*CLICK, "--features", "kept", "--overwrite")
    assert (workspace.labels() == labels).all()
    assert {file.name: file.stat().st_mtime_ns for file in (workspace.folder / "kept").iterdir()} == files


def test_bank_of_ones_own(workspace: Workspace) -> None:
    (workspace.folder / "mine.py").write_text("from medical_sam2.model.memory_bank import Fifo as Mine\n")
    assert workspace.done(*CLICK, "--bank", "mine.py:Mine")["settings"]["bank"] == "mine.py:Mine"


def test_one_slice_is_a_volume_too(workspace: Workspace) -> None:
    workspace.put("flat.nii.gz", np.random.default_rng(1).normal(size=(40, 30, 1)).astype(np.float32))
    assert workspace.done("--point", "20", "15", "0", "--views", "one", image="flat.nii.gz")["image"]["shape"] == [40, 30, 1]
    assert workspace.labels().shape == (40, 30, 1)


def test_colour_becomes_grey_with_a_warning(workspace: Workspace) -> None:
    kind = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    voxels = np.random.default_rng(0).integers(0, 255, (*SHAPE, 3), np.uint8)
    workspace.put("rgb.nii.gz", voxels.view(kind)[..., 0])
    assert "a colour image; it was turned to grey" in workspace.done(*CLICK, image="rgb.nii.gz")["warnings"]


def test_what_is_told_of_views_and_slices_is_what_is_tracked_without_the_padding(workspace: Workspace) -> None:
    """Without its padding the volume has coronal and sagittal slices too narrow to be looked at."""
    image = np.zeros((40, 40, 34), np.int16)
    image[3:39, 4:38, 9:25] = 100 + 20 * np.indices((36, 34, 16)).sum(axis=0)
    workspace.put("padded.nii.gz", image, np.eye(4))
    words = ("--point", "20", "21", "17", "--views", "auto", "--slices", "10", "30")
    code, out, err = workspace.run(*words, "--dry-run", image="padded.nii.gz")
    assert code == 0, err
    assert "object   1, prompted on slice 17 of axis k; views: axial\n" in out
    assert "coronal and sagittal slices are left out" in err
    report = workspace.done(*words, "--grow", "30", image="padded.nii.gz")
    assert report["views"] == {"1": ["axial"]}
    there = workspace.labels().any(axis=(0, 1)).nonzero()[0]
    assert (there.min(), there.max()) == (10, 30), "slices that may hold the object count where it grows into the padding, too"


def test_dry_run_computes_nothing(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Segmenter, "segment_volume")
    before = workspace.files()
    code, out, _ = workspace.run(*CLICK, *EVERYTHING, "--dry-run")
    assert (code, workspace.files()) == (0, before)
    assert "object   1, prompted on slice 3 of axis k; views: axial" in out
    assert "would write p.nii.gz" in out
    assert workspace.done(*CLICK, "--dry-run")["dry_run"] is True


@pytest.mark.parametrize("dry", [True, False])
def test_adapting_to_a_click_is_said_to_do_nothing(workspace: Workspace, dry: bool) -> None:
    line = "--adapt does nothing: it tunes to outlines, and none was given"
    assert line in workspace.done(*CLICK, "--adapt", "1", *["--dry-run"] * dry)["warnings"]
    workspace.mask("m.nii.gz", [(slice(8, 18), slice(6, 16), slice(3, 4))])
    assert line not in workspace.done("--mask", "m.nii.gz", "--adapt", "1", "--dry-run", output="b.nii.gz")["warnings"]


def test_dry_run_fetches_nothing(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medical_sam2.model.weights.fetch", None)
    monkeypatch.setenv("HF_HUB_CACHE", str(workspace.folder / "cache"))
    code, out, err = workspace.run(*CLICK, "--weights", "somebody/something-not-here", "--dry-run")
    assert code == 0, err
    assert "not here: they would be fetched" in out


def test_dicom_segmentation_with_names_and_no_patient(workspace: Workspace) -> None:
    array = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)
    Series(AFFINE, array).write(workspace.folder / "series", SeriesDescription=CANARY)
    workspace.mask("m.nii.gz", [(slice(8, 18), slice(6, 16), slice(3, 4))])
    report = workspace.done("--mask", "m.nii.gz", "--name", "liver", "--report", "r.json", image="series", output="out.dcm")
    segmentation = dcmread("out.dcm")
    assert [item.SegmentLabel for item in segmentation.SegmentSequence] == ["liver"]
    assert segmentation.PatientName == CANARY
    assert report["image"]["modality"] == "CT"
    assert "CANARY" not in (workspace.folder / "r.json").read_text()


def test_a_name_that_dicom_has_no_room_for_is_told(workspace: Workspace) -> None:
    Series(AFFINE, np.random.default_rng(0).integers(0, 9, SHAPE).astype(np.int16)).write(workspace.folder / "series")
    told = f'DICOM-SEG calls object 1 "{"x" * 64}", since its name does not fit; the whole name is in its description'
    assert told in workspace.done(*CLICK, "--name", "x" * 70, "--dry-run", image="series", output="out.dcm")["warnings"]
    assert workspace.done(*CLICK, "--name", "x" * 64, "--dry-run", image="series", output="out.dcm")["warnings"] == []


def test_what_to_review_next(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    row = SliceConfidence(1, "SPL", 37, 0.311, 0, look_here=True)
    found = Segmentation(
        np.zeros(SHAPE, np.uint8), AFFINE, confidence=(row,), warnings=("object 1 was not found on any slice",)
    )
    monkeypatch.setattr(Segmenter, "segment_volume", lambda *_, **__: found)
    _, _, err = workspace.run(*CLICK, "--views", "one")
    assert err.splitlines() == [
        "warning: object 1 was not found on any slice",
        "review next: object 1, slice 37 of axis k (confidence .31)",
    ]


def test_a_slice_that_a_direction_and_its_reverse_mark_is_named_once(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tuple(SliceConfidence(1, view, 3, sure, 50, look_here=True) for view, sure in (("SPL", 0.4), ("IPL", 0.31)))
    other = SliceConfidence(1, "LPS", 3, 0.2, 50, look_here=True)
    found = Segmentation(np.ones(SHAPE, np.uint8), AFFINE, confidence=(*rows, other))
    monkeypatch.setattr(Segmenter, "segment_volume", lambda *_, **__: found)
    _, _, err = workspace.run(*CLICK, "--views", "six")
    assert [line for line in err.splitlines() if line.startswith("review")] == [
        "review next: object 1, slice 3 of axis k (confidence .31)",
        "review next: object 1, slice 3 of axis i (confidence .20)",
    ]


def test_empty_slice_is_a_warning(workspace: Workspace) -> None:
    array = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    array[:, :, 3] = 0
    workspace.put("ct.nii.gz", array)
    assert any("slice 3 of axis k holds one grey value only" in line for line in workspace.done(*CLICK)["warnings"])


FRAME = FrameDone(3, 12, "SPL", 7, (1, 2), np.zeros((2, 4, 4), bool))


def test_progress_on_a_pipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("medical_sam2.cli.report.EVERY_S", 0.0)
    with Progress() as progress:
        progress(FRAME)
    assert capsys.readouterr().err.startswith("3 of 12 slices, axial slice 7, object 1, 2, about ")


def test_progress_can_be_quiet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("medical_sam2.cli.report.EVERY_S", 0.0)
    with Progress(quiet=True) as progress:
        progress(FRAME)
    assert capsys.readouterr().err == ""


def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Progress() as progress:
        progress(FRAME)
        assert progress.bar is not None
        (task,) = progress.bar.tasks
        assert (task.completed, task.total, task.description) == (3, 12, "axial slice 7, object 1, 2")


def test_small_parts_that_a_box_lost_are_told(workspace: Workspace) -> None:
    array = np.zeros(SHAPE, np.int16)
    array[8:14, 6:12, 3] = array[17, 15, 3] = 900
    array[0, 0, 0] = 1
    workspace.put("two.nii.gz", array)
    box = ("--box", "6", "4", "3", "18", "16", "3")
    warnings = workspace.done(*box, image="two.nii.gz")["warnings"]
    told = "object 1 lost 1 small part in its box (1 voxel); --islands keeps it"
    assert told in warnings
    assert f"warning: {told}\n" in workspace.run(*box, image="two.nii.gz", output="again.nii.gz")[2]
    assert not any(
        "small parts" in line for line in workspace.done(*box, "--islands", image="two.nii.gz", output="b.nii.gz")["warnings"]
    )
    assert workspace.labels("b.nii.gz").sum() == workspace.labels().sum() + 1


def test_fractions_of_voxels_are_told_once(workspace: Workspace) -> None:
    found = workspace.done("--point", "14.5", "12", "3", "--point", "14.5", "12", "3")
    (told,) = [line for line in found["warnings"] if "fractions" in line]
    assert told.startswith("point at voxel (14.5, 12, 3): fractions count within a slice alone")
    assert not any("fractions" in line for line in workspace.done(*CLICK, output="whole.nii.gz")["warnings"])


def test_a_name_of_two_objects_is_told(workspace: Workspace) -> None:
    entries = [{"label": label, "name": "x", "points": [[14, 12, label]]} for label in (2, 3)]
    (workspace.folder / "said.json").write_text(json.dumps({"version": 1, "objects": entries}))
    for words in (("--dry-run",), ()):
        code, _, err = workspace.run("--prompts", "said.json", *words)
        assert (code, err.count("warning: objects 2 and 3 are both called 'x': name them apart")) == (0, 1), err
    twice = ("--point", "2:14", "12", "2", "--point", "3:14", "12", "3", "--name", "2:x", "--name", "3:x")
    _, _, err = workspace.run(*twice, "--dry-run", "--overwrite")
    assert err.count("warning: objects 2 and 3 are both called 'x': name them apart") == 1, err
    said = "priority: 2 objects are called x; name one of them by its number: 2, 3"
    assert workspace.refused("--prompts", "said.json", "--priority", "x", "--overwrite") == said


def test_the_consensus_can_be_left_out(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The option reaches the segmenter, which follows it."""
    told: list[object] = []
    track = Segmenter.segment_volume

    def listened(self: Segmenter, *arguments: object, **options: object) -> Segmentation:
        told.append(options["consensus"])
        return track(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Segmenter, "segment_volume", listened)
    workspace.done(*CLICK)
    workspace.done(*CLICK, "--no-consensus", output="without.nii.gz")
    assert told == [True, False]


def test_labels_are_written_last(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a run was killed, labels tell that all else is there, too."""
    order: list[str] = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: (order.append(os.path.basename(new)), replace(old, new))[1])
    workspace.done(*CLICK, "--report", "r.json", "--statistics", "s.csv", "--confidence", "c.csv")
    assert (sorted(order), order[-1]) == (["c.csv", "out.nii.gz", "r.json", "s.csv"], "out.nii.gz")
