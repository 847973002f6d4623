"""SAM and its like on each frame: what they are handed, and that networks of both kinds answer."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    Sam2Config,
    Sam2HieraDetConfig,
    Sam2MaskDecoderConfig,
    Sam2Model,
    Sam2PromptEncoderConfig,
    Sam2VisionConfig,
    SamConfig,
    SamMaskDecoderConfig,
    SamModel,
    SamPromptEncoderConfig,
    SamVisionConfig,
)

from benchmarks import sam_per_frame
from benchmarks.sam_per_frame import SamPerFrame
from medical_sam2.evaluate.cases import VolumeTask
from medical_sam2.prompts import FramePrompt
from medical_sam2.volume import Volume

INPUTS: object = None


def task() -> VolumeTask:
    truth = np.zeros((20, 24, 6), bool)
    truth[5:15, 6:18, 1:5] = True
    image = np.random.default_rng(0).normal(size=truth.shape) + 3 * truth
    return VolumeTask(Volume(image, np.diag([-1.0, -1.0, 3.0, 1.0])), truth)


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, list[float]]]:
    """How bright the picture was, and the box."""
    found: list[tuple[float, list[float]]] = []

    def probability(weights: str, picture: np.ndarray, prompt: FramePrompt, box: np.ndarray | None) -> np.ndarray:
        found.append((float(picture.sum()), [] if box is None else box.tolist()))
        return np.full(picture.shape[:2], 0.8 if len(found) % 2 else 0.4, np.float32)

    monkeypatch.setattr(sam_per_frame, "probability", probability)
    return found


def test_each_slice_gets_the_nearest_prompt(handed: list[tuple[float, list[float]]]) -> None:
    mask = np.zeros((24, 20), bool)
    mask[3:9, 2:7] = True
    prompts = {1: FramePrompt.box(1, 2, 5, 6), 4: FramePrompt.mask(mask), 5: FramePrompt.click(1, 1, positive=False)}
    answer = SamPerFrame("w").on_volume(INPUTS, task(), prompts)  # type: ignore[arg-type]
    assert [box for _, box in handed] == [[1, 2, 5, 6]] * 3 + [[2, 3, 6, 8]] * 2
    np.testing.assert_array_equal(answer.masks[4], mask, "what was drawn stays")
    assert len({bright for bright, _ in handed}) == 5, "each slice by itself"


def test_an_image_gets_the_first_template_s_box_at_its_place(handed: list[tuple[float, list[float]]]) -> None:
    images = [np.random.default_rng(i).integers(0, 255, shape).astype(np.uint8) for i, shape in enumerate(((20, 30), (40, 60)))]
    SamPerFrame("w").on_images(INPUTS, images, {0: FramePrompt.box(3, 2, 12, 8)})  # type: ignore[arg-type]
    assert [box for _, box in handed] == [[3, 2, 12, 8], [6, 4, 24, 16]]


def test_jittered_boxes_are_averaged(handed: list[tuple[float, list[float]]]) -> None:
    found = SamPerFrame("w", jitters=4).outline(np.zeros((9, 9), np.float32), FramePrompt.box(2, 2, 6, 6))
    boxes = np.array([box for _, box in handed])
    assert len(boxes) == 4
    assert boxes.std() / 4 > 0.02
    assert np.abs(boxes - [2, 2, 6, 6]).max() < 2
    assert found.all(), "the mean of .8 and .4 is more than a half"
    handed.clear()
    SamPerFrame("w", jitters=4).outline(np.zeros((9, 9), np.float32), FramePrompt.click(4, 4))
    assert len(handed) == 1, "a click has no edges"


def describe(folder: Path) -> None:
    told = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.2, 0.2]}
    (folder / "preprocessor_config.json").write_text(json.dumps(told))


def small_sam(folder: Path) -> None:
    vision = SamVisionConfig(
        hidden_size=32,
        output_channels=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=64,
        patch_size=16,
        mlp_dim=32,
        num_pos_feats=16,
        global_attn_indexes=[0],
        window_size=2,
    )
    prompt = SamPromptEncoderConfig(hidden_size=32, image_size=64, patch_size=16, mask_input_channels=4)
    decoder = SamMaskDecoderConfig(hidden_size=32, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=16, iou_head_depth=2)
    SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)).save_pretrained(folder)
    describe(folder)


def small_sam_2(folder: Path) -> None:
    trunk = Sam2HieraDetConfig(
        hidden_size=16,
        num_attention_heads=1,
        image_size=[64, 64],
        blocks_per_stage=[1, 1, 1, 1],
        embed_dim_per_stage=[16, 32, 64, 128],
        num_attention_heads_per_stage=[1, 1, 1, 1],
        window_size_per_stage=[4, 4, 4, 4],
        global_attention_blocks=[],
    )
    vision = Sam2VisionConfig(
        backbone_config=trunk,
        backbone_channel_list=[128, 64, 32, 16],
        fpn_hidden_size=32,
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
    )
    prompt = Sam2PromptEncoderConfig(hidden_size=32, image_size=64, patch_size=16, mask_input_channels=4)
    decoder = Sam2MaskDecoderConfig(hidden_size=32, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=16, iou_head_depth=2)
    Sam2Model(Sam2Config(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)).save_pretrained(
        folder
    )
    describe(folder)


@pytest.mark.parametrize("make", [small_sam, small_sam_2])
def test_networks_of_transformers_answer_from_a_folder(tmp_path: Path, make: object) -> None:
    torch.manual_seed(0)
    make(tmp_path)  # type: ignore[operator]
    picture = np.random.default_rng(0).random((40, 50), np.float32)
    seen = [
        sam_per_frame.probability(str(tmp_path), picture, prompt, sam_per_frame.box_of_prompt(prompt))
        for prompt in (FramePrompt.box(5, 5, 20, 30), FramePrompt.box(30, 5, 45, 30), FramePrompt.click(9, 9))
    ]
    assert all(each.shape == (40, 50) and np.isfinite(each).all() for each in seen)
    assert all(each.min() > 0 and each.max() < 1 for each in seen)
    assert not np.array_equal(seen[0], seen[1]), "the box counts"
    answer = SamPerFrame(str(tmp_path)).on_volume(INPUTS, task(), {2: FramePrompt.box(5, 5, 15, 15)})  # type: ignore[arg-type]
    assert np.stack(answer.masks).shape == (6, 24, 20)
