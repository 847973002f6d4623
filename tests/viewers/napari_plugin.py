"""nnInteractive's plug-in in napari itself, against `medsam2 serve` with the weights that ship: by the mouse, in a real window.

`scripts/viewers` makes what this needs and runs it; no ordinary run of the tests does, so nothing of it is skipped there.
What was seen stays in out/viewers/napari.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from examples.phantom import SHAPE_IJK, make
from medical_sam2.metrics import dice
from soak import Server
from tests.viewers import NAPARI, OUT, middle, organ

FOLDER = OUT / "napari"
LEFT, RIGHT = "left kidney", "right kidney"  # alike, on either side


def shown(array: NDArray[Any]) -> NDArray[Any]:
    """An array of the file (L P S) as napari's reader turns it (S A R)."""
    return array[::-1, ::-1].T


def seen_organ(name: str) -> NDArray[np.bool_]:
    """Where an organ is, in voxels of the layer."""
    return shown(organ(name))


def labels(name: str) -> NDArray[np.bool_]:
    """The label layer after a step."""
    return np.load(FOLDER / f"{name}.npy") > 0


def around(mask: NDArray[np.bool_]) -> list[tuple[int, ...]]:
    """Two corners of a box around it on that slice."""
    k = middle(mask)[0]
    rows, columns = np.nonzero(mask[k])
    return [(k, int(rows.min()), int(columns.min())), (k, int(rows.max()), int(columns.max()))]


def beside(voxel: tuple[int, ...], *steps: tuple[int, int]) -> list[tuple[int, ...]]:
    """Places near a voxel, on its slice."""
    return [(voxel[0], voxel[1] + down, voxel[2] + right) for down, right in steps]


def gestures(picture: Path) -> list[dict[str, Any]]:
    """What is done, in voxels of the layer."""
    left, right, spleen = (seen_organ(name) for name in (LEFT, RIGHT, "spleen"))
    ring = beside(middle(spleen), (-12, -8), (-16, 0), (-12, 8), (0, 11), (12, 8), (16, 0), (12, -8), (0, -11))
    return [
        {"name": "clicked", "kind": "click", "voxels": [middle(left)]},
        {"name": "undone", "kind": "undo"},
        {"name": "boxed", "kind": "box", "voxels": around(left)},
        {"name": "next", "kind": "next"},
        {"name": "scribbled", "kind": "scribble", "voxels": beside(middle(right), (-6, 0), (6, 0))},
        {"name": "outside", "kind": "click", "voxels": beside(middle(right), (0, 5)), "inside": False},
        {"name": "next again", "kind": "next"},
        {"name": "drawn", "kind": "lasso", "voxels": ring},
        {"name": "last", "kind": "next"},
        {"name": "coronal", "kind": "axes", "order": [1, 0, 2]},
        {"name": "clicked in another plane", "kind": "click", "voxels": [middle(right)]},
        {"name": "picture", "kind": "picture", "file": str(picture)},
        {"name": "clicked on a picture", "kind": "click", "voxels": [middle(left)[1:]]},
    ]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What there was to read after each step."""
    folder = tmp_path_factory.mktemp("serve")
    (folder / "images").mkdir()
    nib.save(make()[0], folder / "images" / "ct.nii.gz")
    picture = folder / "slice.png"
    grey = shown(np.asarray(make()[0].dataobj))[middle(seen_organ(LEFT))[0]]
    Image.fromarray(np.clip((grey + 160) * 0.6, 0, 255).astype(np.uint8)).save(picture)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.iterdir():
        old.unlink()
    server = Server(folder, 512)
    try:
        url, script = f"http://127.0.0.1:{server.port}/nninteractive", Path(__file__).with_name("in_napari.py")
        words = [url, server.token, folder / "images" / "ct.nii.gz", FOLDER, json.dumps(gestures(picture))]
        home = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder / "config"), "XDG_CACHE_HOME": str(folder / "cache")}
        done = subprocess.run([NAPARI, script, *words], env=os.environ | home, capture_output=True, text=True, check=False)
    finally:
        server.kill()
    (FOLDER / "log").write_text(done.stdout + done.stderr)
    assert done.returncode == 0, done.stderr[-3000:]
    return {step["name"]: step for step in json.loads((FOLDER / "seen.json").read_text())}


def test_the_image_and_every_tool_are_there(seen: dict[str, dict[str, Any]]) -> None:
    assert (np.load(FOLDER / "image.npy") == shown(np.asarray(make()[0].dataobj))).all()
    assert seen["refused"]["status"] == "Invalid API key."
    assert seen["ready"]["status"].startswith("connected")
    assert set(seen["ready"]["tools"].values()) == {True}
    assert seen["clicked on a picture"]["notes"] == []


@pytest.mark.parametrize(
    ("step", "name"),
    [("clicked", LEFT), ("boxed", LEFT), ("scribbled", RIGHT), ("drawn", "spleen"), ("clicked in another plane", RIGHT)],
)
@pytest.mark.usefixtures("seen")
def test_the_mask_is_on_the_side_that_was_pointed_at(step: str, name: str) -> None:
    found, there = labels(step), seen_organ(name)
    assert dice(there, found) > 0.8
    right = middle(there)[2] > SHAPE_IJK[0] // 2  # the last axis runs to the right
    assert not found[..., : SHAPE_IJK[0] // 2].any() if right else not found[..., SHAPE_IJK[0] // 2 :].any()


@pytest.mark.usefixtures("seen")
def test_a_picture_is_a_volume_of_one_slice() -> None:
    found = np.load(FOLDER / "clicked on a picture.npy") > 0
    assert found.shape == (1, *SHAPE_IJK[1::-1])
    assert dice(seen_organ(LEFT)[middle(seen_organ(LEFT))[0]], found[0]) > 0.8


@pytest.mark.usefixtures("seen")
def test_undo_and_a_click_outside() -> None:
    assert labels("clicked").any()
    assert not labels("undone").any()
    ((k, j, i),) = beside(middle(seen_organ(RIGHT)), (0, 5))
    assert labels("scribbled")[k, j, i]
    assert not labels("outside")[k, j, i]


def test_objects_are_kept_one_by_one(seen: dict[str, dict[str, Any]]) -> None:
    kept = [name for name in seen["last"]["layers"] if name.startswith("object ")]
    assert kept == [f"object {number} - ct.nii" for number in (1, 2, 3)]


@pytest.mark.usefixtures("seen")
def test_the_mask_is_seen() -> None:
    """In the window: the picture after the box has a colour where that before was grey."""
    before, after = (np.asarray(Image.open(FOLDER / f"{name}.png").convert("RGB"), int) for name in ("undone", "boxed"))
    assert ((np.ptp(after, axis=-1) > 40) & (np.ptp(before, axis=-1) < 20)).sum() > 200
