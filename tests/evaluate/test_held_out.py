"""Cases that were held out: each structure from one prompt, scored where nobody prompted."""

from pathlib import Path

import numpy as np
import pytest

from medical_sam2.data.data_sets import read_data_set
from medical_sam2.evaluate.run import score_held_out
from medical_sam2.segmenter import Segmenter
from tests.backbones import Brightness
from tests.data.nnunet import blob, describe, picture_set, put


@pytest.fixture
def segmenter() -> Segmenter:
    return Segmenter(Brightness(32), device="cpu", precision="fp32")  # type: ignore[arg-type]


def test_each_structure_of_a_volume_is_prompted_by_itself(tmp_path: Path, segmenter: Segmenter) -> None:
    boxes = {100: (slice(4, 10), slice(4, 14), slice(2, 6)), 200: (slice(14, 20), slice(4, 14), slice(1, 7))}
    image = blob((24, 20, 8), boxes, kind="int16")
    folder = describe(tmp_path, channel_names={"0": "MR"}, labels={"background": 0, "one": 1, "two": 2, "flat": 3})
    label = (image // 100).astype(np.uint8)
    label[22:24, 2:5, 3] = 3
    put(folder / "imagesTr" / "a_0000.nii.gz", image)
    put(folder / "labelsTr" / "a.nii.gz", label)
    dataset, told = read_data_set(folder), list[tuple[int, int]]()
    found = score_held_out(segmenter, dataset, dataset.cases, ("mask", "click"), on_answer=lambda *done: told.append(done))
    assert [(one.case, one.structure, one.prompt) for one in found] == [
        ("a", "one", "mask"),
        ("a", "two", "mask"),
        ("a", "one", "click"),
        ("a", "two", "click"),
    ], "what lies on one slice only is left out"
    assert min(one.dice for one in found if one.prompt == "mask") > 0.7
    assert told == [(1, 2), (2, 2)]


def test_a_set_is_prompted_on_the_first_image_that_shows_the_structure(tmp_path: Path, segmenter: Segmenter) -> None:
    folder = picture_set(tmp_path)
    put(folder / "labelsTr" / "eye0.png", np.zeros((40, 50), np.uint8))
    dataset = read_data_set(folder)
    found = score_held_out(segmenter, dataset, dataset.cases, ("mask",))
    assert [(one.case, one.structure) for one in found] == [("eye1", "disc"), ("eye1", "cup")]
    assert all(0 <= one.dice <= 1 for one in found)
