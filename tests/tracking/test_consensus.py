"""The consensus after tracking: what it may change, what it may not, and that it helps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra

from medical_sam2.errors import WeightsError
from medical_sam2.model.catalogue import MODEL_FILE, NAMED_WEIGHTS
from medical_sam2.prompts import Point
from medical_sam2.segmenter import Segmenter
from medical_sam2.tracking.consensus import (
    FEATURES,
    GATE_FILE,
    SIDE,
    VOXELS,
    Gate,
    Grid,
    TrackedObject,
    apply_consensus,
    compute_features,
    working_grid,
)
from medical_sam2.tracking.fusion import Weighted
from medical_sam2.tracking.witnesses import sweep
from medical_sam2.views import AXIAL
from tests.backbones import Brightness
from tests.phantoms import phantom

SHAPE = (48, 44, 30)
MIDDLE = 15
Mask = NDArray[np.bool_]


def shipped() -> Gate:
    gate = Gate.beside(NAMED_WEIGHTS["nano"].folder / MODEL_FILE)
    assert gate is not None
    return gate


def adds(change: float) -> Gate:
    """A gate that changes all logits alike."""
    gate = Gate()
    for parameter in gate.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.constant_(gate[-1].bias, change)  # type: ignore[arg-type]
    return gate.requires_grad_(False)


def ball() -> Mask:
    i, j, k = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    return np.asarray(((i - 24) / 9) ** 2 + ((j - 21) / 8) ** 2 + ((k - MIDDLE) / 7) ** 2 <= 1)


def tube() -> Mask:
    mask = np.zeros(SHAPE, bool)
    mask[20:27, 18:25] = True
    return mask


def tracked(truth: Mask, found: Mask, prompted: tuple[int, ...] = (MIDDLE,), axis: int = 2) -> tuple[TrackedObject, Weighted]:
    """A bright object in noise, and what tracking made of it; the slices, last in these arrays, along an axis."""
    grey = np.clip(np.where(truth, 0.7, 0.35) + np.random.default_rng(0).normal(0, 0.05, truth.shape), 0, 1).astype(np.float32)
    sure = np.where(found.any(axis=(0, 1)), 0.85, 0.0)
    grey, likely = (np.moveaxis(each, 2, axis) for each in (grey, np.where(found, 0.95, 0.03)))
    fusion = Weighted(likely.shape)
    fusion.add(AXIAL, slice(None), AXIAL.apply(likely))
    return TrackedObject(fusion, lambda i: grey[i], axis, prompted, sure, (1.0, 1.0, 1.0)), fusion


def labels(gate: Gate, what: tuple[TrackedObject, Weighted]) -> Mask:
    return apply_consensus(gate, *what).result() > 0.5


def dice(one: Mask, other: Mask) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def test_what_ran_on_beyond_an_end_is_taken_back() -> None:
    truth = ball()
    found = truth | (truth[:, :, MIDDLE][..., None] & (np.arange(SHAPE[2]) > MIDDLE))
    assert dice(labels(shipped(), tracked(truth, found)), truth) > dice(found, truth) + 0.05


def test_a_long_structure_keeps_its_ends() -> None:
    truth = tube()
    after = labels(shipped(), tracked(truth, truth))
    assert all(dice(after[:, :, k], truth[:, :, k]) > 0.7 for k in range(SHAPE[2]))
    assert dice(after, truth) > 0.9


def test_prompted_slices_and_what_lies_far_away_stay_as_they_were() -> None:
    truth = np.zeros((150, 140, SHAPE[2]), bool)
    truth[72:80, 66:74, 8:22] = True
    far = truth.copy()
    far[0:3, 0:3, 0:2] = True  # tracking found something in a corner
    what = tracked(truth, far, prompted=(MIDDLE, MIDDLE + 3))
    before, after = what[1].result(), apply_consensus(adds(-9.0), *what).result()
    told = np.isin(np.arange(SHAPE[2]), (MIDDLE, MIDDLE + 3))
    assert (after[:, :, told] == before[:, :, told]).all()
    assert (after[0:3, 0:3] == before[0:3, 0:3]).all()
    assert not (after[60:, 60:, ~told] > 0.5).any()


def test_a_gate_that_says_nothing_changes_nothing() -> None:
    what = tracked(ball(), ball())
    assert (apply_consensus(adds(0.0), *what).result() == what[1].result()).all()


def test_an_object_that_was_found_nowhere_stays_so() -> None:
    what = tracked(ball(), np.zeros(SHAPE, bool))
    assert apply_consensus(shipped(), *what) is what[1]


def test_a_slice_on_which_the_object_was_said_not_to_be() -> None:
    """A click outside of it there: it is no outline to compare others with, and keeps its answer."""
    truth = ball()
    found = truth & (np.arange(SHAPE[2]) != 18)
    after = labels(shipped(), tracked(truth, found, prompted=(MIDDLE, 18)))
    assert not after[:, :, 18].any()
    assert dice(after, found) > 0.9


@pytest.mark.parametrize("axis", [0, 1])
def test_the_axis_of_the_slices_does_not_matter(axis: int) -> None:
    found = ball() | (ball()[:, :, MIDDLE][..., None] & (np.arange(SHAPE[2]) > MIDDLE))
    usual, turned = (apply_consensus(shipped(), *tracked(ball(), found, axis=a)).result() for a in (2, axis))
    np.testing.assert_allclose(np.moveaxis(turned, axis, 2), usual, atol=1e-3)


def test_the_grid_is_bounded() -> None:
    """However many slices there are."""
    found = np.zeros((300, 260, 1), bool)
    found[20:280, 20:240] = True
    estimate = np.broadcast_to(found, (300, 260, 2000)).astype(np.float32)
    grid = working_grid(TrackedObject(estimate, lambda i: estimate[i], 2, (5,), np.ones(2000), (1.0, 1.0, 1.0)))
    assert grid is not None
    assert max(grid.shape[:2]) <= SIDE
    assert np.prod(grid.shape) <= VOXELS


def test_means_over_boxes_keep_the_sum() -> None:
    volume = np.random.default_rng(0).random((9, 10, 7)).astype(np.float32)
    grid = Grid((2, 1, 0), (9, 10, 7), (3, 4, 7))
    means = grid.means(lambda i: volume[i])
    assert means.shape == (3, 4, 7)
    assert means.mean() == pytest.approx(volume[2:, 1:].mean(), rel=1e-5)
    np.testing.assert_allclose(Grid((0, 0, 0), (9, 10, 7), (9, 10, 7)).means(lambda i: volume[i]), volume, rtol=1e-5)


def test_scans_find_the_way_around_a_wall() -> None:
    """As Dijkstra's algorithm does between the same neighbours."""
    cost = np.ones((9, 9, 9), np.float32)
    cost[:, 4, :7] = 50
    start = np.full((1, 9, 9, 9), 1e3, np.float32)
    start[0, 4, 1, 1] = 0
    found = sweep(start, cost[None], (1.0, 1.0, 1.0), rounds=3)[0]
    np.testing.assert_allclose(found, shortest(cost, (4, 1, 1)), rtol=1e-5)
    assert found[4, 7, 1] > 10


def shortest(cost: NDArray[np.float32], start: tuple[int, int, int]) -> NDArray[np.float64]:
    """Ways between 26 neighbours: straight ones of length 1, all others of √2."""
    places, rows, columns, lengths = np.arange(cost.size).reshape(cost.shape), [], [], []
    for step in np.argwhere(np.ones((3, 3, 3))) - 1:
        if not step.any():
            continue
        here = tuple(slice(max(0, -s), n - max(0, s)) for s, n in zip(step, cost.shape, strict=True))
        there = tuple(slice(max(0, s), n - max(0, -s)) for s, n in zip(step, cost.shape, strict=True))
        rows.append(places[here].ravel())
        columns.append(places[there].ravel())
        lengths.append((cost[here] + cost[there]).ravel() / 2 * (1 if np.abs(step).sum() == 1 else 2**0.5))
    pairs = np.concatenate(rows), np.concatenate(columns)
    graph = coo_array((np.concatenate(lengths).astype(float), pairs), shape=(cost.size, cost.size)).tocsr()
    return dijkstra(graph, indices=int(places[start])).reshape(cost.shape)


def test_weights_without_a_gate(tmp_path: Path) -> None:
    assert Gate.beside(tmp_path / MODEL_FILE) is None


def test_the_gate_lies_beside_the_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    gate = Gate(7)
    save_file(dict(gate.state_dict()), tmp_path / GATE_FILE)
    found = Gate.beside(tmp_path / MODEL_FILE)
    assert found is not None
    features = torch.randn(5, len(FEATURES))
    assert (found(features) == gate(features)).all()


def test_a_broken_gate_is_refused_by_name(tmp_path: Path) -> None:
    state = dict(Gate().state_dict())
    bad: list[dict[str, torch.Tensor]] = [
        {"weight": torch.zeros(3)},
        state | {"0.weight": torch.zeros(16, 3)},
        state | {"4.bias": torch.tensor([float("nan")])},
    ]
    for tensors in bad:
        save_file(tensors, tmp_path / GATE_FILE)
        with pytest.raises(WeightsError, match=GATE_FILE):
            Gate.beside(tmp_path / MODEL_FILE)
    (tmp_path / GATE_FILE).write_bytes(b"nothing")
    with pytest.raises(WeightsError, match=GATE_FILE):
        Gate.beside(tmp_path / MODEL_FILE)


def segment(change: float, prompts: list[Any], **options: Any) -> Any:
    case = phantom("LPS")
    segmenter = Segmenter(Brightness(), device="cpu", precision="fp32", gate=adds(change))
    return segmenter.segment_volume(case.volume, prompts, window="0,1", **options)


def test_it_follows_tracking_unless_told_otherwise() -> None:
    case = phantom("LPS")
    prompt = case.prompt("mask", 1, 2)
    without = segment(-99.0, [prompt], consensus=False)
    assert (without.labels == np.where(case.truth == 1, 1, 0)).all()
    after = segment(-99.0, [prompt], probability=True)
    places = int(case.voxel(1)[2])
    others = np.arange(case.truth.shape[2]) != places
    assert not after.labels[:, :, others].any()
    assert ((after.probability[1] > 0.5) == (after.labels > 0)).all()
    assert (after.labels[:, :, places] == without.labels[:, :, places]).all()


def test_objects_together_are_objects_alone() -> None:
    case = phantom("LPS")
    prompts = [case.prompt("mask", 1, 2), case.prompt("box", 2, 2)]
    together = segment(-1.5, prompts, views="three", probability=True, uncertainty=True)
    for prompt in prompts:
        alone = segment(-1.5, [prompt], views="three", probability=True)
        assert (together.probability[prompt.object] == alone.probability[prompt.object]).all()


def test_a_correction_does_without() -> None:
    case = phantom("LPS")
    prompts, earlier = [Point(case.voxel(1))], np.where(case.truth == 1, 1, 0).astype(np.uint8)
    earlier[0, 0, 0] = 1
    results = [segment(change, prompts, earlier=earlier).labels for change in (-99.0, 0.0)]
    assert (results[0] == results[1]).all()


def test_embedded_weights_bring_their_gate() -> None:
    assert Segmenter.from_pretrained("nano", device="cpu").gate is not None


def test_the_outline_is_looked_for_where_flow_takes_it() -> None:
    """A structure that leans to one side leaves its prompted outline; where flow takes that, it stays within."""
    i, j = np.mgrid[:48, :44]
    texture = np.asarray(ndimage.gaussian_filter(np.random.default_rng(0).random((48, 90)), 2), np.float32)
    leaning = np.stack([(i - 24) ** 2 + (j - 10 - t) ** 2 <= 36 for t in range(24)], axis=2)
    grey = np.stack([texture[:, 30 - t : 74 - t] for t in range(24)], axis=2)
    grey = (grey - grey.min()) / np.ptp(grey)
    start = TrackedObject(leaning.astype(np.float32), lambda at: grey[at], 2, [12], np.ones(24), (1.0, 1.0, 1.0))
    grid = working_grid(start)
    assert grid is not None
    seen = np.stack([*compute_features(start, grid)])
    inside = np.moveaxis(grid.means(lambda at: leaning[at].astype(np.float32)), 2, 0) > 0.5
    far = np.flatnonzero(inside.any(axis=(1, 2)))[[0, -1]]
    outline, moved = (seen[far][..., FEATURES.index(name)][inside[far]] for name in ("outline", "moved outline"))
    assert (outline > 0).mean() > 0.9
    assert (moved < 0.1).mean() > 0.9
