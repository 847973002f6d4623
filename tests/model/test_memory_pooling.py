import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from medical_sam2 import io
from medical_sam2.cli import main
from medical_sam2.errors import ConfigError
from medical_sam2.model.backbone import Features, Instruction, Memory, Recalled
from medical_sam2.model.memory_attention import INSIDE, PooledTokens, share_inside
from medical_sam2.model.nano import nano
from medical_sam2.model.sam2 import Sam2
from medical_sam2.prompts import FramePrompt
from medical_sam2.segmenter import Segmenter
from tests.model.conftest import tiny
from tests.phantoms import phantom

SIDE = 8


def memory(inside_hw: Tensor, map_Chw: Tensor) -> Memory:
    return Memory(0, True, map_Chw, torch.zeros(4), torch.zeros(4), 1.0, {INSIDE: inside_hw[None]})


def half(columns: int) -> Tensor:
    """All columns before one are inside."""
    inside = torch.zeros(SIDE, SIDE)
    inside[:, :columns] = 1
    return inside


def test_tokens_near_the_border_stay_and_others_become_means_of_four() -> None:
    tokens_KC = torch.arange(float(SIDE * SIDE))[None, :, None]
    pooled = PooledTokens([[Recalled(memory(half(3), torch.zeros(1, SIDE, SIDE)))]], (SIDE, SIDE), 0)
    found = pooled.means(torch.cat([tokens_KC, torch.tensor([[[-7.0]]])], 1))[0, :, 0].tolist()
    near = [k for k in range(SIDE * SIDE) if k % SIDE in {2, 3}]  # beside which shares change
    means = [y * SIDE + x + (0 + 1 + SIDE + SIDE + 1) / 4 for y in range(0, SIDE, 2) for x in (0, 4, 6)]
    assert found == [*near, *means, -7.0]
    weights = pooled.log_weights(torch.zeros(1, SIDE * SIDE + 1))[0].tolist()
    assert weights == pytest.approx([0.0] * len(near) + [math.log(4)] * len(means) + [0.0])


def test_means_of_tokens_that_are_alike_are_attended_to_as_these_are() -> None:
    blocks = torch.randn(3, SIDE // 2, SIDE // 2, generator=torch.Generator().manual_seed(0))
    map_Chw = blocks.repeat_interleave(2, 1).repeat_interleave(2, 2)
    own = [Recalled(memory(half(2 * i), map_Chw * (i + 1)), log_weight=0.3 * i) for i in range(3)]
    recall, tokens = [own, own[:1]], SIDE * SIDE
    maps = torch.zeros(2, 3 * tokens, 3)
    bias = torch.full((2, 3 * tokens), -torch.inf)
    for b, memories in enumerate(recall):
        for i, r in enumerate(memories):
            maps[b, i * tokens : (i + 1) * tokens] = r.memory.map_Chw.flatten(1).T
            bias[b, i * tokens : (i + 1) * tokens] = r.log_weight
    query = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1))
    pooled = PooledTokens(recall, (SIDE, SIDE), 0)
    fewer = pooled.means(maps)
    exact = (query @ maps.transpose(1, 2) + bias[:, None]).softmax(-1) @ maps
    found = (query @ fewer.transpose(1, 2) + pooled.log_weights(bias)[:, None]).softmax(-1) @ fewer
    torch.testing.assert_close(found, exact)
    assert fewer.shape[1] == maps.shape[1] / 2


def remembered(network: Sam2, frames: list[Features], size: int) -> list[Recalled]:
    y, x = np.mgrid[:size, :size]
    disc = (y - size / 2) ** 2 + (x - size / 2) ** 2 < (size / 4) ** 2
    drawn = Instruction(FramePrompt(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), mask_hw=disc))
    found = []
    for t, frame in enumerate(frames):
        answer = network.decode(frame, network.fuse(frame, [[]]), [drawn])
        found += network.memorise(frame, answer, t, [True])
    return [Recalled(each, place=0) for each in found]


@torch.no_grad()
def test_the_farther_from_the_border_tokens_stay_the_nearer_to_the_exact_answer() -> None:
    size, network = 256, tiny(image_size=256)
    frames = [network.encode(torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(t))) for t in range(3)]
    exact, errors = network.fuse(frames[2], [remembered(network, frames[:2], size)]).map_BChw, list[float]()
    for network.pool_margin in (0, 2, 64):
        found = network.fuse(frames[2], [remembered(network, frames[:2], size)]).map_BChw
        errors.append(float((found - exact).abs().mean() / exact.abs().mean()))
    assert errors[0] > 3 * errors[1] > 0
    assert errors[1] < 0.05
    assert errors[2] < 1e-5


def test_shares_of_tokens_inside() -> None:
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., :24] = 1
    assert share_inside(mask, 4, 4)[0, 0, 0].tolist() == [1, 0.5, 0, 0]


@pytest.mark.parametrize(
    ("network", "margin", "words"),
    [(nano(64), -1, "-1 is no distance"), (nano(48), 1, "48 pixels"), (torch.nn.Identity(), 1, "Identity has no memory")],
)
def test_what_cannot_be_pooled_is_refused(network: Sam2, margin: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Segmenter(network, device="cpu", pool_memory=margin)


def test_the_command_takes_it_and_the_report_says_so(tmp_path: Path) -> None:
    case, image = phantom("LPS"), tmp_path / "image.nii.gz"
    io.save(case.volume.array, image, case.volume)
    point = [str(each) for each in case.voxel(1)]
    given = ["segment", str(image), "--point", *point, "--no-consensus", "--precision", "fp32", "--threads", "1"]
    for name, more in (("exact", []), ("pooled", ["--pool-memory", "0"])):
        out = ["-o", str(tmp_path / f"{name}.nii.gz"), "--probability", str(tmp_path / f"{name}_p.nii.gz")]
        assert main([*given, *more, *out, "--report", str(tmp_path / f"{name}.json")]) == 0
    exact, pooled = (np.asarray(io.load(tmp_path / f"{name}_p.nii.gz").array) for name in ("exact", "pooled"))
    assert np.abs(exact - pooled).max() > 0
    assert np.abs(exact - pooled).mean() < 0.05
    assert '"pool_memory": 0' in (tmp_path / "pooled.json").read_text()
