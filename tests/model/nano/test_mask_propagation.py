"""Propagated masks equal the formula, written out pixel by pixel."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from medical_sam2.model import nano_modules
from medical_sam2.model.backbone import Memory, Recalled
from medical_sam2.model.nano_modules import LEAST_PROBABILITY, MaskPropagation, _attend, _attend_at_once

SIDE, DEPTH = 6, 8


@pytest.fixture(scope="module")
def parts() -> MaskPropagation:
    torch.manual_seed(0)
    return MaskPropagation(width=16, depth=DEPTH).requires_grad_(False)


def key(seed: int) -> Tensor:
    common, own = (torch.randn(DEPTH, SIDE, SIDE, generator=torch.Generator().manual_seed(s)) for s in (0, seed))
    return F.normalize(common + 0.5 * own, dim=0)


def memories(count: int) -> list[Recalled]:
    blank = torch.zeros(1)
    masks = torch.rand(count, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(9))
    kept = [Memory(t, False, blank, blank, blank, 0.9, {"key": key(t + 1), "mask": masks[t]}) for t in range(count)]
    return [Recalled(memory, log_weight=math.log(1 + memory.t)) for memory in kept]


def naive(parts: MaskPropagation, query_Dhw: Tensor, recalled: list[Recalled]) -> Tensor:
    """p_i = Σ a_ij y_j of the module's docstring, in loops."""
    places = [(row / SIDE, column / SIDE) for row in range(SIDE) for column in range(SIDE)]
    query_nD = query_Dhw.flatten(1).T
    inside = torch.zeros(4, SIDE * SIDE)
    slope, middle = parts.alike
    for i, (row, column) in enumerate(places):
        scores, values = [], []
        for r in recalled:
            key_nD = r.memory.own["key"].flatten(1).T
            gate = torch.sigmoid(slope * ((query_nD * key_nD).sum(1).mean() - middle))
            for j, (other_row, other_column) in enumerate(places):
                away = (row - other_row) ** 2 + (column - other_column) ** 2
                likeness = query_nD[i] @ key_nD[j] * parts.sharpness.exp()
                scores.append(likeness - gate * away * parts.nearness.exp() + r.log_weight)
                values.append(r.memory.own["mask"].flatten(1)[:, j])
        inside[:, i] = torch.stack(scores).softmax(0) @ torch.stack(values)
    fine = F.pixel_shuffle(inside.view(1, 4, SIDE, SIDE), 2)
    return F.pixel_unshuffle(fine.clamp(LEAST_PROBABILITY, 1 - LEAST_PROBABILITY).logit(), 4)


@pytest.mark.parametrize("chunk", [1, 64])
def test_the_formula(parts: MaskPropagation, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nano_modules, "QUERIES_AT_ONCE", chunk)
    recalled = memories(3)
    ours = parts(key(50)[None], [recalled])
    assert (ours - naive(parts, key(50), recalled)).abs().max() < 1e-4


def test_objects_do_not_see_each_other(parts: MaskPropagation) -> None:
    together = parts(key(50)[None], [memories(3), memories(1), []])
    for b, recalled in enumerate((memories(3), memories(1))):
        assert torch.equal(together[b], parts(key(50)[None], [recalled])[0])
    assert not together[2].any()


def test_half_precision_around_it_does_not_blur_places(parts: MaskPropagation) -> None:
    plain = parts(key(50)[None], [memories(3)])
    with torch.autocast("cpu", torch.bfloat16):
        half = parts(key(50)[None], [memories(3)])
    assert (half - plain).abs().max() < 0.05


def test_sums_of_powers_are_a_softmax() -> None:
    """In pieces that do not divide the pixels, with scores as far below 0 as the sharpest network's."""
    torch.manual_seed(0)
    query, keys, values = torch.randn(6, 600), torch.randn(3, 6, 600), torch.rand(3, 4, 600)
    keys[:, 5] = -20.0
    query[5] = 1.0
    with torch.no_grad():
        found, wanted = _attend_at_once(query, keys, values), _attend(query, keys, values)
    assert found.shape == (4, 600)
    assert torch.allclose(found, wanted, atol=1e-6)
    assert wanted.std() > 0.01
