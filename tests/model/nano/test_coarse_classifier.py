"""The classifier at stride 4: off unless weights or a recipe have it, without a say at first, kept by what is written."""

import json
from pathlib import Path

import pytest
import torch

from medical_sam2.errors import WeightsError
from medical_sam2.model.backbone import Backbone, FramePrediction
from medical_sam2.model.memory_bank import PolicyBank, SelfSorting
from medical_sam2.model.nano import Nano, nano, with_coarse_classifier
from medical_sam2.model.tracker import track
from medical_sam2.model.weights import load_backbone, save_backbone
from medical_sam2.prompts import Fixed, FramePrompt

SIDE = 64


@pytest.fixture(scope="module")
def plain() -> Nano:
    torch.manual_seed(0)
    return nano(SIDE).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def wide(plain: Nano) -> Nano:
    torch.manual_seed(1)
    return with_coarse_classifier(plain).requires_grad_(False)


def answers(network: Nano) -> list[FramePrediction]:
    backbone: Backbone = network
    frames = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    seen = [network.encode(frame[None]) for frame in frames]
    prompters = [Fixed({0: FramePrompt.click(20, 30)}), Fixed({0: FramePrompt.box(4, 4, 40, 50)})]
    bank = PolicyBank(SelfSorting, ordered=True)
    return [found for _, found in track(backbone, lambda t: seen[t], range(3), prompters, bank)]


@torch.no_grad()
def test_it_has_no_say_at_first(plain: Nano, wide: Nano) -> None:
    assert with_coarse_classifier(wide) is wide
    for one, other in zip(answers(plain), answers(wide), strict=True):
        assert torch.allclose(one.logits_Bhw, other.logits_Bhw, atol=1e-4)


@torch.no_grad()
def test_what_it_finds_is_heard_once_it_has_learnt(plain: Nano, wide: Nano, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = with_coarse_classifier(plain).requires_grad_(False)
    heard.mend.first.weight[:, -1] = 1.0
    torch.nn.init.ones_(heard.mend.last.weight)
    silent = with_coarse_classifier(plain).requires_grad_(False)
    torch.nn.init.ones_(silent.mend.last.weight)
    first, last = ([each[i].logits_Bhw for each in (answers(heard), answers(silent))] for i in (0, 2))
    assert torch.allclose(*first, atol=1e-4)  # a prompted frame has no memory
    assert not torch.allclose(*last, atol=1e-2)


@pytest.mark.parametrize("written", [True, False])
def test_it_is_kept_whether_or_not_the_configuration_tells(wide: Nano, tmp_path: Path, written: bool) -> None:
    save_backbone(wide, tmp_path)
    config = tmp_path / "config.json"
    content = json.loads(config.read_text())
    assert content["coarse_classifier"] is True
    if not written:  # as weights were that were trained before there was a word for it
        del content["coarse_classifier"]
        config.write_text(json.dumps(content))
    back = load_backbone(tmp_path)
    assert isinstance(back, Nano)
    assert back.coarse_regression is not None
    for name, weight in wide.state_dict().items():
        assert torch.equal(back.state_dict()[name], weight)


def test_without_it_nothing_is_written_of_it(plain: Nano, tmp_path: Path) -> None:
    save_backbone(plain, tmp_path)
    config = tmp_path / "config.json"
    content = json.loads(config.read_text())
    assert "coarse_classifier" not in content
    back = load_backbone(tmp_path)
    assert isinstance(back, Nano)
    assert back.coarse_regression is None
    config.write_text(json.dumps({**content, "coarse_classifier": True}))
    with pytest.raises(WeightsError, match="missing coarse_regression"):
        load_backbone(tmp_path)
