"""Parts of nano that are silenced: each changes what it should, for as long as it is asked to, and no longer."""

from typing import Any

import pytest
import torch

from benchmarks.ablations import PARTS, WHOLE, page
from medical_sam2.model.memory_bank import PolicyBank, SelfSorting
from medical_sam2.model.nano import nano
from medical_sam2.model.tracker import track
from medical_sam2.prompts import Fixed, FramePrompt
from medical_sam2.segmenter import Segmenter

OF_THE_NETWORK = tuple(part for part in PARTS if part not in {"consensus", "judge of clicks"})


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    network = nano(64)
    for name, parameter in network.named_parameters():
        if name.startswith(("mend.last", "sharpen.last", "carry.trust")):
            torch.nn.init.normal_(parameter, std=0.5)  # parts that have no say before they learn
    return Segmenter(network, device="cpu", precision="fp32")


@torch.no_grad()
def answers(segmenter: Segmenter) -> list[torch.Tensor]:
    """Logits of a prompted frame, and of the two after it."""
    network: Any = segmenter.network
    frames = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    seen = [network.encode(frame[None]) for frame in frames]
    prompts, bank = [Fixed({0: FramePrompt.box(10, 10, 40, 50)})], PolicyBank(SelfSorting, ordered=True)
    return [found.logits_Bhw for _, found in track(network, lambda t: seen[t], range(3), prompts, bank)]


@pytest.mark.parametrize("part", OF_THE_NETWORK)
def test_a_silent_part_changes_the_answer_until_it_is_back(segmenter: Segmenter, part: str) -> None:
    whole = answers(segmenter)
    with PARTS[part](segmenter):
        without = answers(segmenter)
    again = answers(segmenter)
    assert not torch.allclose(whole[-1], without[-1])
    assert all(torch.equal(one, other) for one, other in zip(whole, again, strict=True))


def test_losses_are_means_over_structures() -> None:
    rows = [
        {"dataset": "a", "structure": name, "case": case, "prompt": "mask", "part": part, "volume": True, "dice": dice}
        for name, case, whole, less in (("x", "1", 0.8, 0.1), ("x", "2", 0.6, 0.3), ("y", "1", 0.5, 0.0))
        for part, dice in ((WHOLE, whole), ("consensus", whole - less))
    ]
    (line,) = [line for line in page(rows, ["mask"]).splitlines() if line.startswith("| mask")]
    assert line.split(" | ")[1:4] == ["volumes", "2", "0.600"]
    assert "-0.100" in line
