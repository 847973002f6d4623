"""Where a disk is full: what can be kept is kept, and each file that cannot be is named."""

import csv
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medical_sam2 import preview
from medical_sam2.cli import main
from medical_sam2.segmenter import Segmenter
from tests.cli.conftest import A_MASK, CLICK, SetWorkspace, Workspace

NO_FEATURES = "kept: no more features are kept here: the disk is full; the result is the same, a next run takes longer"


def fill_disk(monkeypatch: pytest.MonkeyPatch, full: Callable[[Path], bool]) -> None:
    """From now on nothing can be created in certain folders, whoever writes it."""
    create = os.open

    def refuse(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_CREAT and full(Path(path).parent):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return create(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", refuse)


def test_features_cost_a_volume_nothing_but_time(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command says so in one line, and in its report."""
    workspace.done(*CLICK)
    fill_disk(monkeypatch, lambda folder: folder.name == "kept")
    code, out, err = workspace.run(*CLICK, "--features", "kept", "--json", output="full.nii.gz")
    assert (code, err.splitlines().count(f"warning: {NO_FEATURES}")) == (0, 1), err
    assert NO_FEATURES in json.loads(out)["warnings"]
    assert (workspace.labels("full.nii.gz") == workspace.labels()).all()
    weights = ["--features", "kept", "--weights", str(workspace.weights), "--device", "cpu", "--precision", "fp32"]
    assert main(["suggest", "ct.nii.gz", *CLICK, *weights]) == 0
    assert workspace.shown()[1].splitlines().count(f"warning: {NO_FEATURES}") == 1


def test_features_cost_no_image(set_workspace: SetWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_disk(monkeypatch, lambda folder: folder.name == "kept")
    code, out, err = set_workspace.run(*A_MASK, "--features", "kept", "--json")
    assert (code, err.splitlines().count(f"warning: {NO_FEATURES}")) == (0, 1), err
    assert json.loads(out)["warnings"].count(NO_FEATURES) == 1
    assert len(list(Path("out").iterdir())) == 3


def test_features_cost_no_case(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("t.csv").write_text("case,image,kind,i,j,k\nanna,ct.nii.gz,point,14,12,3\n")
    fill_disk(monkeypatch, lambda folder: folder.name == "kept")
    weights = ["--weights", str(workspace.weights), "--device", "cpu", "--precision", "fp32", "--threads", "1"]
    assert main(["segment-volumes", "t.csv", "-o", "out", *weights, "--features", "kept"]) == 0
    assert workspace.shown()[1].splitlines().count(f"warning: anna: {NO_FEATURES}") == 1
    with Path("out/results.csv").open() as stream:
        assert [row["warnings"] for row in csv.DictReader(stream)] == [NO_FEATURES]


SIDE_FILES = ("--preview", "b/a.png", "--probability", "b/p.nii.gz", "--statistics", "b/s.csv", "--report", "r.json")


def test_files_that_do_not_fit_cost_no_labels(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is named, on standard error and in the report; what can be written is."""
    Path("b").mkdir()
    fill_disk(monkeypatch, lambda folder: folder.name == "b")
    code, out, err = workspace.run(*CLICK, *SIDE_FILES, "--json")
    missing = ["b/a.png", "b/p.nii.gz", "b/s.csv"]
    said = [f"{file}: the disk is full; nothing was written; free some space" for file in missing]
    assert (code, sorted(err.splitlines())) == (3, said), err
    assert sorted(workspace.files()) == ["ct.nii.gz", "out.nii.gz", "r.json"]
    written = json.loads(Path("r.json").read_text())
    assert (written["files"], sorted(written["warnings"])) == (["out.nii.gz", "r.json"], said)
    assert {**json.loads(out), "seconds": None} == {**written, "seconds": None}


def test_labels_that_do_not_fit_beside_the_rest_come_first(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is room for two files: the labels, and one of the others."""
    fill_disk(monkeypatch, lambda folder: len(list(folder.glob("*.*"))) > 2)
    code, out, err = workspace.run(*CLICK, "--preview", "a.png", "--statistics", "s.csv", "--report", "r.json")
    assert (code, sorted(workspace.files())) == (3, ["a.png", "ct.nii.gz", "out.nii.gz"]), err
    assert [line.partition(":")[0] for line in err.splitlines()] == ["s.csv", "r.json"]
    assert out.splitlines()[-2:] == ["wrote out.nii.gz", "wrote a.png"]


def test_where_no_labels_fit_the_rest_is_written(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("b").mkdir()
    fill_disk(monkeypatch, lambda folder: folder.name == "b")
    code, _, err = workspace.run(*CLICK, "--statistics", "s.csv", output="b/out.nii.gz")
    assert (code, err.splitlines()) == (3, ["b/out.nii.gz: the disk is full; nothing was written; free some space"])
    assert sorted(workspace.files()) == ["ct.nii.gz", "s.csv"]


def test_a_defect_of_the_preview_costs_no_labels(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(preview, "save", fail)
    code, _, err = workspace.run(*CLICK, "--preview", "a.png", "--statistics", "s.csv")
    assert code == 70
    assert err.startswith("a.png: this is a defect of medsam2 (ZeroDivisionError in test_full_disk.py:")
    assert sorted(workspace.files()) == ["ct.nii.gz", "out.nii.gz", "s.csv"]


def test_files_of_a_set_that_do_not_fit_cost_no_other(set_workspace: SetWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("b").mkdir()
    out = Path("out")
    fill_disk(monkeypatch, lambda folder: folder.name == "b" or (folder == out and len(list(out.glob("*"))) > 3))
    tables = ("--preview", "b/a.png", "--statistics", "s.csv", "--report", "r.json", "--annotations", "coco", "--annotations")
    code, told, err = set_workspace.run(*A_MASK, *tables, "label-studio", "--no-consensus", "--json")
    missing = ["b/a.png", "out/annotations.labelstudio.json"]
    said = [f"{file}: the disk is full; nothing was written; free some space" for file in missing]
    assert (code, sorted(err.splitlines())) == (3, said), err
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "annotations.coco.json", "b.png", "c.png"]
    assert len(Path("s.csv").read_text().splitlines()) == 4
    assert sorted(json.loads(Path("r.json").read_text())["warnings"]) == sorted(json.loads(told)["warnings"]) == said


def refuse_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a disk that is mounted for reading alone."""
    monkeypatch.setattr(os, "access", lambda _, mode: mode != os.W_OK)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", fail)


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_computed(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    Path("t.csv").write_text("case,image,kind,i,j,k\nanna,ct.nii.gz,point,14,12,3\n")
    if there:
        Path("out").mkdir()
    refuse_writing(monkeypatch)
    monkeypatch.delattr(Segmenter, "from_pretrained")
    assert main(["segment-volumes", "t.csv", "-o", "out", "--weights", str(workspace.weights)]) == 2
    said = "out: is not writable" if there else "out: its folder is not writable"
    assert workspace.shown() == ("", f"{said}; choose another folder\n")


def test_no_folder_of_a_set_that_cannot_be_written(set_workspace: SetWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Segmenter, "from_pretrained")
    refuse_writing(monkeypatch)
    assert set_workspace.refused(*A_MASK) == "out: its folder is not writable; choose another folder"


def test_tables_that_were_not_written_are_not_spoken_of(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("t.csv").write_text("case,image,kind,i,j,k\nanna,ct.nii.gz,point,14,12,3\n")
    fill_disk(monkeypatch, lambda folder: folder.name == "out")
    assert main(["segment-volumes", "t.csv", "-o", "out", "--weights", str(workspace.weights), "--device", "cpu"]) == 3
    assert workspace.shown() == ("", "out/results.csv: the disk is full; nothing was written; free some space\n")
