"""A mask that fills its box reaches all its rows and columns and nothing outside."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from medical_sam2.model import nano as module
from medical_sam2.model.backbone import Instruction
from medical_sam2.model.nano import best_filling, box_filling, nano
from medical_sam2.prompts import FramePrompt

BOX = np.array([8, 4, 23, 19], np.float32)  # in pixels of stride 2: columns 4 to 11, rows 2 to 9


def logits(*, rows: slice, columns: slice) -> torch.Tensor:
    mask = torch.full((1, 1, 16, 16), -1.0)
    mask[..., rows, columns] = 1
    return mask


@pytest.mark.parametrize(
    ("rows", "columns", "expected"),
    [
        (slice(2, 10), slice(4, 12), 1.0),
        (slice(2, 6), slice(4, 12), 0.5),
        (slice(2, 6), slice(4, 6), 0.125),
        (slice(0, 16), slice(4, 12), 0.5),
        (slice(0, 0), slice(0, 0), 0.0),
    ],
)
def test_share_of_rows_of_columns_and_within(rows: slice, columns: slice, expected: float) -> None:
    assert float(box_filling(logits(rows=rows, columns=columns), [BOX], 2)) == pytest.approx(expected)


def test_holes_do_not_count() -> None:
    ring = logits(rows=slice(2, 10), columns=slice(4, 12))
    ring[..., 4:8, 6:10] = -1
    assert float(box_filling(ring, [BOX], 2)) == 1


def test_of_those_that_fill_alike_the_surest_is_taken() -> None:
    assert best_filling(torch.tensor([[1.0, 0.95, 0.5]]), torch.tensor([[0.2, 0.3, 0.9]])).tolist() == [1]


@torch.no_grad()
def test_each_object_keeps_what_fills_its_box(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = nano(64).eval()
    frame = net.encode(torch.rand(1, 3, 64, 64))
    fused = net.fuse(frame, [[], [], []])
    told = [Instruction(FramePrompt.box(*box)) for box in ((4, 4, 40, 50), (10, 8, 30, 20), (0, 0, 63, 63))]
    monkeypatch.setattr(module, "FILLED", 0.0)
    plain = net.decode(frame, fused, told)
    monkeypatch.setattr(module, "FILLED", 2.0)
    filled = net.decode(frame, fused, told)
    boxes = module.bare_boxes(told)
    assert boxes is not None
    before, after = (box_filling(each.logits_Bhw[:, None], boxes, 2)[:, 0] for each in (plain, filled))
    assert (after >= before).all()
    for b, one in enumerate(told):
        alone = net.decode(frame, fused.select([b]), [one])
        assert torch.allclose(alone.logits_Bhw[0], filled.logits_Bhw[b], atol=1e-4)
    clicked = [replace(told[0], prompt=told[0].prompt | FramePrompt.click(20, 20))]
    assert module.bare_boxes(clicked) is None
