"""What a user adds is one file, named as `file.py:attribute`: a memory, a fusion, a backbone, a data set, a format."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medical_sam2.cli import main
from medical_sam2.data.cases import PoolReader
from medical_sam2.model.weights import load_backbone
from tests.cli.conftest import CLICK, LOADED, SHAPE, Workspace, read_once
from tests.data.nnunet import blob, put
from tests.io.making import EXPORTER

BANK = """
from pathlib import Path
from medical_sam2.model.backbone import Recalled

class Latest:
    '''Remembers one frame, the latest.'''

    def keep(self, bank, new):
        return [new]

    def weigh(self, bank, t, query_C):
        with Path("recalled.txt").open("a") as stream:
            stream.write(f"{t} {[memory.t for memory in bank]}\\n")
        return [Recalled(memory) for memory in bank]
"""
FUSION = """
import numpy as np

class Largest:
    '''The largest probability that any view gives.'''

    def __init__(self, shape_ijk, axes="RAS", *, uncertainty=False, dtype=np.float32):
        self.shape, self.axes = tuple(shape_ijk), axes
        self.best, self.least = np.zeros(self.shape, np.float32), np.ones(self.shape, np.float32)
        self.total, self.count = np.zeros(self.shape, np.float32), np.zeros(self.shape, np.float32)

    def __getitem__(self, index):
        return self.best[index]

    def add(self, view, t, probability, weight=1.0):
        for volume, pick in ((self.best, np.maximum), (self.least, np.minimum)):
            frames = view.apply(volume, self.axes)
            frames[t] = pick(frames[t], probability)
        for volume, more in ((self.total, probability), (self.count, 1)):
            view.apply(volume, self.axes)[t] += more
        np.save("mean.npy", self.total / self.count.clip(1))

    def result(self):
        return self.best

    def uncertainty(self):
        return np.clip(self.best - self.least, 0, 1)
"""
BACKBONE = """
import torch
from medical_sam2.model.backbone import Features, FramePrediction, Memory

class Bright(torch.nn.Module):
    '''Outlines what is brighter than grey, wherever it is prompted, and remembers nothing of use.'''

    def __init__(self, image_size=None):
        super().__init__()
        self.image_size = image_size or 64

    def normalised(self, frames_N3SS):
        return frames_N3SS

    def encode(self, frames_N3SS):
        grey = frames_N3SS[:, :1]
        return Features(grey, (grey, grey), grey.mean((2, 3)))

    def fuse(self, frame, recall):
        return frame.top_BChw.expand(len(recall), -1, -1, -1)

    def decode(self, frame, fused_BChw, instructions):
        logits = 20 * (fused_BChw[:, 0].expand(len(instructions), -1, -1) - 0.5)
        there = torch.ones(len(logits))
        return FramePrediction(logits, there, there, there[:, None], logits[:, None], there[:, None])

    def memorise(self, frame, prediction, t, prompted):
        return [Memory(t, spoken, frame.top_BChw[0], prediction.pointer_BC[b], frame.summary_BC[0], 1.0)
                for b, spoken in enumerate(prompted)]
"""
DATA_SET = """
from dataclasses import replace
from medical_sam2.data.catalog import Layout, find_entry

ENTRY = replace(find_entry("atlas23"), title="Mine", layouts=(Layout(("{case}_image.nii.gz",), "{case}_mask.nii.gz"),))
"""


def test_a_memory(workspace: Workspace) -> None:
    (workspace.folder / "latest.py").write_text(BANK)
    workspace.done(*CLICK, "--views", "one", "--bank", "latest.py:Latest", "--islands")
    lines = (workspace.folder / "recalled.txt").read_text().splitlines()
    assert lines
    assert all(len(line.split("[")[1].split(",")) == 1 for line in lines), "one memory at a time"


def test_a_fusion(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LOADED, read_once)  # a network that is less sure
    (workspace.folder / "largest.py").write_text(FUSION)
    words = (*CLICK, "--views", "three", "--islands", "--no-consensus", "--probability")
    workspace.done(*words, "p.nii.gz", "--fusion", "mean")
    workspace.done(*words, "largest.nii.gz", "--fusion", "largest.py:Largest", output="again.nii.gz")
    largest, mean = workspace.labels("largest.nii.gz"), np.load(workspace.folder / "mean.npy")  # a third view starts otherwise
    assert (largest >= mean - 1e-6).all()
    assert (largest > mean + 0.01).any()
    assert (np.abs(largest - workspace.labels("p.nii.gz")) > 0.01).any()


def test_a_backbone(workspace: Workspace) -> None:
    (workspace.folder / "bright.py").write_text(BACKBONE)
    image = np.full(SHAPE, 40, np.int16)
    image[8:16, 6:14, 1:5] = 200
    nib.save(nib.Nifti1Image(image, np.eye(4)), "bright.nii.gz")  # type: ignore[attr-defined]
    words = ("--point", "12", "10", "3", "--weights", "bright.py:Bright", "--window", "0,250", "--whole-slices")
    report = workspace.done(*words, "--image-size", "96", "--report", "report.json", image="bright.nii.gz")
    np.testing.assert_array_equal(workspace.labels() > 0, image > 100)
    weights = json.loads((workspace.folder / "report.json").read_text())["weights"]
    assert (weights["name"], weights["image_size"]) == ("bright.py:Bright", 96)
    assert len(weights["sha256"]) == 64
    assert report["objects"][0]["voxels"] == 8 * 8 * 4


def test_a_data_set(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(DATA_SET)
    label = blob((24, 20, 8), {1: (slice(4, 16), slice(4, 16), slice(2, 6)), 2: (slice(6, 9), slice(6, 9), slice(3, 5))})
    put(tmp_path / "in" / "a_image.nii.gz", (40 * label + np.arange(8)).astype(np.int16))
    put(tmp_path / "in" / "a_mask.nii.gz", label)
    words = ["prepare", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--as", f"{tmp_path}/mine.py:ENTRY", "--json"]
    assert main(words) == 0
    (entry,) = PoolReader(tmp_path / "out").entries
    assert set(entry.task_names) == {"Mine/liver", "Mine/tumour"}


def test_a_format(workspace: Workspace) -> None:
    (workspace.folder / "exporter.py").write_text(EXPORTER)
    assert "nothing is written as .counts" in workspace.refused(*CLICK, output="out.counts")
    report = workspace.done(*CLICK, "--name", "liver", "--format", "exporter.py:COUNTS", output="out.counts")
    written = json.loads((workspace.folder / "out.counts").read_text())
    assert written["shape"] == list(SHAPE)
    assert written["counts"] == {"liver": written["voxels"]}
    assert written["voxels"] == report["objects"][0]["voxels"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            "--bank os:system",
            "os:system is no bank; give a class with keep and weigh (see medical_sam2.model.memory_bank.Policy)",
        ),
        ("--views three --fusion os:system", "os:system is no fusion; give a class with add and result and uncertainty"),
        ("--bank os:PathLike", "os:PathLike is no bank"),
    ],
)
def test_another_part_of_a_module(workspace: Workspace, words: str, says: str) -> None:
    assert workspace.refused(*CLICK, *words.split()).startswith(says)


@pytest.mark.parametrize("attribute", ["torch", "nothing"])
def test_what_makes_no_network(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, attribute: str) -> None:
    monkeypatch.setattr(LOADED, load_backbone)
    (workspace.folder / "bright.py").write_text(f"{BACKBONE}\ndef nothing(image_size): ...\n")
    line = workspace.refused(*CLICK, "--weights", f"bright.py:{attribute}")
    assert line.startswith(f"bright.py:{attribute}: it makes no network; give a class or a function of the image size")


def test_what_is_not_there_is_named(workspace: Workspace) -> None:
    (workspace.folder / "bright.py").write_text(BACKBONE)
    for option in ("--bank", "--fusion", "--weights"):
        assert "'Bright'" in workspace.refused(*CLICK, option, "bright.py:Brigt")
        assert "there is no file nowhere.py" in workspace.refused(*CLICK, option, "nowhere.py:Bright")
