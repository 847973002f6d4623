"""Where a disk is full: what can be kept is kept, and each file that cannot be is named."""

import csv
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medical_sam2.cli import main
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
