"""A library is a folder: no link in it leads out."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medical_sam2.server.session_store import library_entries
from tests.io.making import Series
from tests.phantoms import phantom
from tests.server.conftest import Served, saved

pytestmark = pytest.mark.usefixtures("inline")


def test_links_that_lead_out_of_the_library(tmp_path: Path) -> None:
    home, secret = tmp_path / "home", tmp_path / "secret"
    home.mkdir()
    secret.mkdir()
    saved(phantom(), secret / "secret.nii.gz")
    (home / "file.nii.gz").symlink_to(secret / "secret.nii.gz")
    (home / "folder").symlink_to(secret)
    (home / ".hidden.nii.gz").write_bytes(b"x")
    assert library_entries(home) == []


def test_links_that_lead_in_a_circle_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to(tmp_path / "other")
    (tmp_path / "other").symlink_to(tmp_path / "one")
    saved(phantom(), tmp_path / "ct.nii.gz")
    assert [entry.name for entry in library_entries(tmp_path)] == ["ct.nii.gz"]


def linked(home: Path, secret: Path) -> dict[str, Path]:
    """Folders of a library, in each of which one file lies elsewhere."""
    for folder in ("series", "pair", "deep/er", "around"):
        (home / folder).mkdir(parents=True)
    (home / "deep" / "er" / "IM0.dcm").write_bytes((secret / "IM0.dcm").read_bytes())
    for name in ("a.txt", "b.txt"):
        (home / "deep" / name).write_text("notes")
    (home / "deep" / "er" / "IM1.dcm").symlink_to(secret / "IM1.dcm")
    (home / "series" / "IM0.dcm").write_bytes((secret / "IM0.dcm").read_bytes())
    (home / "series" / "IM1.dcm").symlink_to(secret / "IM1.dcm")
    (home / "pair" / "a.mhd").write_text(
        "ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\nElementType = MET_UCHAR\nElementDataFile = a.raw\n"
    )
    (home / "pair" / "a.raw").symlink_to(secret / "a.raw")
    (home / "around" / "other").symlink_to(secret)
    return {entry.name: entry.path for entry in library_entries(home)}


def test_links_inside_a_folder_of_the_library(serve: Callable[..., Served], tmp_path: Path) -> None:
    """Whatever a reader opens lies in the library: slices of a series, halves of a pair, folders in folders."""
    home, secret = tmp_path / "home", tmp_path / "secret"
    secret.mkdir()
    Series(np.eye(4), np.arange(32, dtype=np.int16).reshape(4, 4, 2)).write(secret)
    for k in range(2):
        (secret / f"IM000{k}.dcm").rename(secret / f"IM{k}.dcm")
    (secret / "a.raw").write_bytes(bytes(64))
    entries = linked(home, secret)
    served = serve(library=home)
    for number, name in enumerate(entries):
        id = served.post("sessions", library=number)["id"]
        answer = served.http.post(f"/api/sessions/{id}/open", json={})
        assert answer.status_code == 422, name
        assert re.search("a link in it leads out|lies outside its folder", answer.json()["error"]), name
        assert not (served.settings.state / id / "decoded").exists()
    assert set(entries) == {"series", "pair", "deep"}


def test_links_that_stay_in_the_library(serve: Callable[..., Served], tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / ".objects").mkdir(parents=True)
    (home / "case").mkdir()
    saved(phantom(), home / ".objects" / "1.nii.gz")
    (home / "case" / "image.nii.gz").symlink_to("../.objects/1.nii.gz")
    served = serve(library=home)
    assert [entry.name for entry in library_entries(home)] == ["case"]
    id = served.post("sessions", library=0)["id"]
    assert served.post(f"sessions/{id}/open")["kind"] == "volume"
