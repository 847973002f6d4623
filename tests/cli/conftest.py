"""A workspace for `medsam2 segment`: a small CT, a network whose answer is known, and a way to run the command."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from medical_sam2.cli import main
from medical_sam2.model.backbone import Backbone
from medical_sam2.model.weights import load_backbone, save_backbone
from tests.backbones import Brightness
from tests.model.conftest import tiny
from tests.tracking.test_image_set import pictures

SHAPE, AFFINE = (20, 18, 6), np.array([[-2.0, 0, 0, 40], [0, -2.0, 0, 30], [0, 0, 4.0, -50], [0, 0, 0, 1]])
read_once = cache(load_backbone)
LOADED = "medical_sam2.segmenter.load_backbone"
A_MASK = ("--template", "a.png", "--mask", "a_mask.png")
CLICK = ("--point", "14", "12", "3")


@dataclass(frozen=True)
class Workspace:
    """Where a test works.

    Args:
        folder: the current folder, with ct.nii.gz in it.
        weights: tiny random ones, in whose place a network stands that outlines what is as bright as what was prompted.
        shown: what was printed since the last question: (out, err).
    """

    folder: Path
    weights: Path
    shown: Callable[[], tuple[str, str]]

    def run(self, *words: str, image: str = "ct.nii.gz", output: str = "out.nii.gz") -> tuple[int, str, str]:
        """Exit code, standard output, standard error of `medsam2 segment`."""
        usual = {"--weights": str(self.weights), "--device": "cpu", "--precision": "fp32", "--threads": "1"}
        given = [word for name, value in usual.items() if name not in words for word in (name, value)]
        code = main(["segment", image, "-o", output, *given, *words])
        return code, *self.shown()

    def done(self, *words: str, image: str = "ct.nii.gz", output: str = "out.nii.gz") -> dict[str, Any]:
        """The report of a run that must work."""
        code, out, err = self.run(*words, "--json", image=image, output=output)
        assert code == 0, err
        return json.loads(out)

    def refused(self, *words: str, image: str = "ct.nii.gz", output: str = "out.nii.gz", code: int = 2) -> str:
        """The one line of a run that must be refused, and leave nothing."""
        before = self.files()
        got, out, err = self.run(*words, image=image, output=output)
        assert (got, out, self.files()) == (code, "", before), err
        (line,) = [line for line in err.splitlines() if not line.startswith(("warning: ", "review next: "))]
        return line

    def files(self) -> dict[str, bytes]:
        """Everything in the folder, but what Python keeps of a plug-in."""
        files = (path for path in self.folder.rglob("*") if path.is_file() and path.parent.name != "__pycache__")
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in files}

    def labels(self, name: str = "out.nii.gz") -> NDArray[Any]:
        """What was written."""
        return np.asarray(nib.load(self.folder / name).dataobj)  # type: ignore[attr-defined]

    def put(self, name: str, array: NDArray[Any], affine: NDArray[np.float64] = AFFINE) -> None:
        """Write an image."""
        nib.save(nib.Nifti1Image(array, affine), self.folder / name)

    def mask(self, name: str, boxes: Sequence[tuple[slice, ...]]) -> NDArray[np.uint8]:
        """Write a label file of boxes, labelled from 1."""
        labels = np.zeros(SHAPE, np.uint8)
        for label, box in enumerate(boxes, 1):
            labels[box] = label
        self.put(name, labels)
        return labels


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny weights."""
    folder = tmp_path_factory.mktemp("weights")
    save_backbone(tiny(), folder)
    return folder


def known(name: str, *, image_size: int | None = None) -> Backbone:
    """The known network for weights that can be read in the size that they have; else what is read."""
    found = read_once(name, image_size=image_size)
    return found if image_size else Brightness(found.image_size)


@pytest.fixture
def workspace(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Workspace:
    """The workspace, with an image on it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(LOADED, known)
    array = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)
    array[8:18, 6:16, 1:5] += 400
    workspace = Workspace(tmp_path, weights, lambda: tuple(capsys.readouterr()))  # type: ignore[arg-type, return-value]
    workspace.put("ct.nii.gz", array)
    return workspace


@dataclass(frozen=True)
class SetWorkspace:
    """A folder `set` of images, a.png among them with its outline in a_mask.png beside the folder."""

    weights: Path
    shown: Callable[[], tuple[str, str]]
    truth: NDArray[np.bool_]

    def run(self, *words: str, output: str = "out") -> tuple[int, str, str]:
        usual = {"--weights": str(self.weights), "--device": "cpu", "--precision": "fp32", "--threads": "1"}
        given = [word for name, value in usual.items() if name not in words for word in (name, value)]
        code = main(["segment-images", "set", "-o", output, *given, *words])
        return code, *self.shown()

    def done(self, *words: str, output: str = "out", code: int = 0) -> dict[str, Any]:
        got, out, err = self.run(*words, "--json", output=output)
        assert got == code, err
        return json.loads(out)

    def refused(self, *words: str, output: str = "out", code: int = 2) -> str:
        before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
        got, out, err = self.run(*words, output=output)
        assert (got, out) == (code, ""), err
        assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before
        (line,) = err.splitlines()
        return line


@pytest.fixture
def set_workspace(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> SetWorkspace:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(LOADED, known)
    images, truths = pictures(3)
    Path("set").mkdir()
    for name, image in zip(("a.png", "b.png", "c.jpg"), images, strict=True):
        Image.fromarray(image).save(Path("set") / name)
    Image.fromarray(truths[0].astype(np.uint8) * 255).save("a_mask.png")
    return SetWorkspace(weights, lambda: tuple(capsys.readouterr()), truths[0])  # type: ignore[arg-type, return-value]
