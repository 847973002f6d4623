"""What was said in a session, as a command and as a file of prompts: the command finds what the session found."""

import io
import json
import shlex
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from medical_sam2.cli import main
from medical_sam2.io.prompt_file import load_prompts
from medical_sam2.server import NotFound
from medical_sam2.server.gestures import command_line, prompt_file
from medical_sam2.server.inference_queue import InferenceQueue
from medical_sam2.server.segmentation import SessionVolume
from medical_sam2.server.session import Session
from medical_sam2.server.state import Gesture
from medical_sam2.tracking.plan import PLANES
from medical_sam2.volume import Volume
from tests.cli.conftest import LOADED, known, weights
from tests.io.making import Series
from tests.phantoms import Phantom, phantom
from tests.server.conftest import Served, saved, session
from tests.server.test_gestures import CLICK, OUT, drawn, said, tracked

__all__ = ["weights"]
LASSO = ((3.0, 3.0), (3.0, 7.0), (8.0, 7.0), (8.0, 3.0))
SAID: dict[str, list[Gesture]] = {
    "clicks": [CLICK, drawn("points", (2.0, 5.0), positive=OUT)],
    "limits": [drawn("box", (4.0, 3.0), (9.0, 7.0)), drawn("slices", frames=(6, 9))],
    "drawn": [drawn("scribble", (6.0, 4.0), (6.0, 6.0), width=1.0), drawn("lasso", *LASSO, t=5, positive=OUT)],
    "diameters": [drawn("diameter", (6.0, 3.0), (6.0, 7.0), (5.0, 5.0), (8.0, 5.0))],
    "joined": [drawn("lasso", *LASSO), drawn("lasso", *LASSO, t=11), drawn("interpolate")],
    "boxes": [drawn("box", (3.0, 3.0), (9.0, 8.0), frames=(6, 9)), drawn("box", (3.0, 3.0), (5.0, 5.0), positive=OUT)],
    "partly taken back": [
        CLICK,
        drawn("scribble", (0.0, 0.0), (0.0, 8.0), width=1.0),
        drawn("box", (0.0, 2.0), (1.0, 4.0), positive=OUT),
    ],
    "painted": [drawn("mask", runs=(80, 5, 91, 5))],
    "other axis": [CLICK, Gesture(0, 1, "coronal", 6, "slices", frames=(5, 7))],
}
BY_FILE = {"painted", "other axis"}


@pytest.mark.parametrize("code", ["LPS", "RAS"])
@pytest.mark.parametrize("what", SAID)
def test_the_command_finds_what_the_session_found(
    tmp_path: Path, queue: InferenceQueue, weights: Path, monkeypatch: pytest.MonkeyPatch, what: str, code: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(LOADED, known)
    place, case = session(tmp_path / "s", queue, code)
    saved(case, tmp_path / "image.nii.gz")
    place.add_structure(0, "my 'liver'")
    said(place, *SAID[what])
    found = tracked(place)
    assert found.any()
    text = command_line(volume_of(place), place.history.state, "one", "auto")
    assert ("--prompts prompts.json" in text) == (what in BY_FILE)
    unpack(place, tmp_path)
    usual = ("--weights", str(weights), "--device", "cpu", "--precision", "fp32", "--threads", "1")
    for words in (shlex.split(text), ["medsam2", "segment", "IMAGE", "--prompts", "prompts.json", "-o", "labels.nii.gz"]):
        assert main([{"IMAGE": "image.nii.gz"}.get(word, word) for word in words[1:]] + [*usual, "--overwrite"]) == 0
        assert (labels(tmp_path / "labels.nii.gz") == found).all()
    assert load_prompts(tmp_path / "prompts.json", case.volume).names == {1: "my 'liver'"}


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize(("how", "option"), [({"frame": 2}, "--frame 2"), ({"series": 2}, "--series 2")])
def test_the_command_reads_the_image_that_the_session_is_of(
    serve: Callable[..., Served],
    tmp_path: Path,
    weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: dict[str, int],
    option: str,
) -> None:
    monkeypatch.setattr(LOADED, known)
    place, case = several(tmp_path / "library", option)
    served = serve(library=tmp_path / "library")
    id = served.post("sessions", library=0)["id"]
    info = served.post(f"sessions/{id}/open", **how)
    assert info["picked"] == how
    served.post(f"sessions/{id}/structures", version=0)
    _, y, x = PLANES["axial"].project(case.voxel(1), case.volume.shape, case.code)
    click = {"plane": "axial", "t": 8, "kind": "points", "points": [[y, x]], "positive": [True]}
    served.post(f"sessions/{id}/say", version=1, label=1, **click)
    text = served.http.get(f"/api/sessions/{id}/options").json()["text"]
    assert text.startswith(f"medsam2 segment IMAGE {option} --point")
    served.post(f"sessions/{id}/track", version=2)
    job = served.store.get(id).job
    assert job is not None
    job.wait(30)
    (tmp_path / "found.nii.gz").write_bytes(served.http.get(f"/api/sessions/{id}/download/nii.gz").content)
    monkeypatch.chdir(tmp_path)
    words = [str(place) if word == "IMAGE" else word for word in shlex.split(text)[1:]]
    assert main([*words, "--weights", str(weights), "--device", "cpu", "--precision", "fp32", "--threads", "1"]) == 0
    found = labels(tmp_path / "found.nii.gz")
    assert found.any()
    assert (labels(tmp_path / "labels.nii.gz") == found).all()


def several(library: Path, option: str) -> tuple[Path, Phantom]:
    """Three time points in a file, or two series in a folder, of which the last has the phantom; it, and the phantom."""
    library.mkdir()
    case = phantom("RAS" if "series" in option else "LPS")
    array = np.rint(200 * np.asarray(case.volume.array, float)).astype(np.int16)
    if "series" in option:
        for number, one in enumerate((array[::-1], array), 1):
            Series(case.volume.affine, one).write(library / "two", names=f"{number}-{{:04d}}.dcm", SeriesNumber=number)
        return library / "two", case
    nibabel.save(nibabel.Nifti1Image(np.stack([array[::-1], array[::-1], array], -1), case.volume.affine), library / "a.nii.gz")
    return library / "a.nii.gz", case


def volume_of(place: Session) -> Volume:
    assert isinstance(place.image, SessionVolume)
    return place.image.volume


def unpack(place: Session, folder: Path) -> None:
    """The file of prompts, as a person would lay it beside the image."""
    data, name = prompt_file(volume_of(place), place.history.state, place.folder)
    if name.endswith(".zip"):
        zipfile.ZipFile(io.BytesIO(data)).extractall(folder)
    else:
        (folder / name).write_bytes(data)
    json.loads((folder / "prompts.json").read_text())


def labels(path: Path) -> np.ndarray[Any, Any]:
    from medical_sam2 import io as images

    return np.asarray(images.load(path).array)


def test_nothing_was_said_yet(tmp_path: Path, queue: InferenceQueue) -> None:
    place, _ = session(tmp_path / "s", queue)
    place.add_structure(0)
    with pytest.raises(NotFound, match="nothing was said"):
        prompt_file(volume_of(place), place.history.state, place.folder)
