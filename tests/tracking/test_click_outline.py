"""What a click means: the regions that are asked on, the candidates, their features, and the judge."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy import ndimage

from medical_sam2.errors import WeightsError
from medical_sam2.metrics import dice
from medical_sam2.model.backbone import FramePrediction
from medical_sam2.prompts import FramePrompt, Point
from medical_sam2.segmenter import Segmenter
from medical_sam2.strokes import Scribble, lasso_prompt, scribble_prompt
from medical_sam2.tracking import view_tracker
from medical_sam2.tracking.click_outline import (
    FEATURES,
    JUDGE_FILE,
    RING,
    Candidate,
    OutlineJudge,
    click_regions,
    compute_features,
    list_candidates,
    reduction,
)
from medical_sam2.tracking.frames import Canvas, Region, part_under
from medical_sam2.volume import Volume

SHAPE = (60, 80)


def click(*places: tuple[float, float], inside: bool = True) -> FramePrompt:
    return FramePrompt(np.array(places, np.float32), np.full(len(places), int(inside)))


def said(*masks: np.ndarray, ious: tuple[float, ...] = (0.9, 0.5, 0.1)) -> FramePrediction:
    """An answer that proposes masks of the part that was shown."""
    logits = torch.from_numpy(np.stack([np.where(mask, 8.0, -8.0) for mask in masks]).astype(np.float32))[None]
    iou, one = torch.tensor([ious[: len(masks)]]), torch.ones(1)
    return FramePrediction(logits[:, 0], iou[:, 0], 5 * one, one[:, None], logits, iou)


def discs(*middles: tuple[int, int], radius: int = 6, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    rows, columns = np.indices(shape)
    return np.any([np.hypot(rows - y, columns - x) <= radius for x, y in middles], axis=0)


def judge_by(name: str, sign: float = 1.0) -> OutlineJudge:
    """It believes what has much (or little) of one feature."""
    weight = np.zeros((1, len(FEATURES)), np.float32)
    weight[0, FEATURES.index(name)] = sign
    return OutlineJudge([(weight, np.zeros(1, np.float32))])


def answering(*answers: FramePrediction) -> Callable[[Region | None, FramePrompt], FramePrediction]:
    """One answer after the other; the last one for all that is asked after it."""
    waiting = list(answers)
    return lambda region, prompt: waiting.pop(0) if len(waiting) > 1 else waiting[0]


def test_regions_get_smaller_around_the_click_and_stay_in_the_frame() -> None:
    regions = click_regions(Canvas((200, 300)), (290.0, 10.0))
    assert list(regions.values()) == [1.0, 0.5, 0.31, 0.1]
    sides = [region.height for region in regions if region is not None]
    assert sides == sorted(sides, reverse=True)
    assert all(region.top >= 0 and region.left + region.width <= 300 for region in regions if region is not None)


def test_a_candidate_is_what_hangs_together_with_the_click_and_in_a_set_all_of_it_too() -> None:
    both = discs((20, 30), (60, 30))
    candidates = list_candidates(SHAPE, click((20, 30)), [(None, 1.0, said(both))])
    assert [each.all_parts for each in candidates] == [False]
    assert (candidates[0].mask_hw == discs((20, 30))).mean() > 0.99
    of_set = list_candidates(SHAPE, click((20, 30)), [(None, 1.0, said(both))], all_parts=True)
    assert [each.all_parts for each in of_set] == [False, True]
    assert (of_set[1].mask_hw == both).mean() > 0.99


def test_masks_that_hold_a_click_outside_are_no_candidates() -> None:
    prompt = click((20, 30)) | click((20, 40), inside=False)
    answers = [(None, 1.0, said(discs((20, 30), radius=14), discs((20, 30), radius=6)))]
    assert [each.place for each in list_candidates(SHAPE, prompt, answers)] == [1]


def test_part_under_a_click() -> None:
    both = discs((20, 30), (60, 30))
    assert (part_under(np.array([[60.0, 30.0]]), both) == discs((60, 30))).all()
    assert (part_under(np.array([[40.0, 30.0]]), both) == both).all()


def test_features_are_finite_and_by_name() -> None:
    flat = np.zeros(SHAPE, np.float32)
    picture = np.where(discs((20, 30)), 1.0, flat).astype(np.float32)
    answers = [(None, 1.0, said(discs((20, 30)), discs((20, 30), radius=12), np.ones(SHAPE, bool)))]
    candidates = list_candidates(SHAPE, click((20, 30)), answers)
    for greys in (picture, flat):
        assert np.isfinite(compute_features(greys, (20.0, 30.0), candidates)).all()
    rows = compute_features(picture, (20.0, 30.0), candidates)
    assert rows.shape == (3, len(FEATURES))
    by_name = dict(zip(FEATURES, rows.T, strict=True))
    assert by_name["contrast"][0] > by_name["contrast"][1]
    assert by_name["edge"][0] > by_name["edge"][1]
    assert by_name["frame's border"].tolist() == [0, 0, 1]
    assert by_name["predicted IoU"] == pytest.approx([0.9, 0.5, 0.1])
    assert by_name["in a set"].tolist() == [0, 0, 0]
    assert abs(by_name["distance from middle"][0]) < 0.1


def described_plainly(each: Candidate, picture: np.ndarray, xy: tuple[int, int]) -> dict[str, float]:
    """Some features, by the plainest way to each of them: on the whole frame, by distances of all pixels."""
    mask, (x, y) = each.mask_hw, xy
    radius = np.sqrt(mask.sum() / np.pi)
    depth = np.asarray(ndimage.distance_transform_edt(np.pad(mask, 1)))[1:-1, 1:-1]
    away = np.asarray(ndimage.distance_transform_edt(~mask)) if not mask.all() else np.zeros(mask.shape)
    border, ring = mask & (depth <= 1.5), (away > 0) & (away <= max(2.0, RING * radius))
    inside, around = picture[mask], picture[ring] if ring.any() else picture[mask]
    down, across = np.gradient(np.asarray(ndimage.gaussian_filter(picture, 1.0)))
    edge = np.hypot(down, across)
    spread = picture.std() + 1e-3
    return {
        "steadiness": (each.probability_hw > 0.7).sum() / max(1, (each.probability_hw > 0.3).sum()),
        "sureness": each.probability_hw[mask].mean(),
        "depth of click": depth[y, x] / radius,
        "contrast": abs(inside.mean() - around.mean()) / (np.sqrt((inside.var() + around.var()) / 2) + 0.02),
        "spread of greys": inside.std() / spread,
        "spread around": around.std() / spread,
        "edge": edge[border].mean() / (edge.mean() + 1e-4),
        "parts": np.log(ndimage.label(each.probability_hw > 0.5)[1] + 1),  # type: ignore[index]
        "holes": np.asarray(ndimage.binary_fill_holes(mask)).sum() / mask.sum() - 1,
        "roundness": border.sum() ** 2 / (4 * np.pi * mask.sum()),
    }


@pytest.mark.parametrize("seed", range(4))
def test_features_are_those_of_the_plain_way(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def blobs(shape: tuple[int, int]) -> np.ndarray:
        smooth = np.asarray(ndimage.gaussian_filter(rng.normal(size=shape), rng.uniform(1, 4)))
        return smooth > np.quantile(smooth, rng.uniform(0.2, 0.8))

    picture, region, place = rng.random(SHAPE, np.float32), Region(12, 20, 32, 40), (40.0, 30.0)
    answers = [
        (None, 1.0, said(blobs((30, 40)), blobs((30, 40)), blobs((30, 40)))),
        (region, 0.5, said(blobs((32, 40)), discs((20, 18), radius=2, shape=(32, 40)), np.ones((32, 40), bool))),
    ]
    candidates = list_candidates(SHAPE, click(place), answers, all_parts=True)
    rows = compute_features(picture, place, candidates, in_set=True)
    assert len(candidates) >= 6
    for row, each in zip(rows, candidates, strict=True):
        found, plain = dict(zip(FEATURES, row.tolist(), strict=True)), described_plainly(each, picture, (40, 30))
        assert {name: found[name] for name in plain} == pytest.approx(plain, abs=1e-5)
        others = [max(dice(each.mask_hw, o.mask_hw) for o in candidates if o.region == n) for n in {0, 1} - {each.region}]
        assert found["agreement of regions"] == pytest.approx(np.mean(others), abs=1e-6)


def test_the_judge_chooses_among_regions_and_gives_the_mask_at_full_size() -> None:
    shape = (1100, 900)
    canvas, place = Canvas(shape), (400.0, 500.0)
    step = reduction(shape)
    assert step > 1
    picture = np.zeros(tuple(-(-side // step) for side in shape), np.float32)
    large, small = said(discs((40, 50), radius=30, shape=(110, 90))), said(discs((45, 45), radius=10, shape=(90, 90)))
    for sign, least, most in ((1.0, 250_000, 320_000), (-1.0, 300, 60_000)):
        found = judge_by("area", sign).outline_click(canvas, picture, click(place), answering(large, small))
        assert found is not None
        mask, worth = found
        assert mask.shape == shape
        assert least < mask.sum() < most
        assert 0 < worth < 1


@pytest.mark.parametrize(("slope", "kept", "changed"), [(0.5, "small", True), (0.5, "large", False), (0.1, "small", False)])
def test_another_mask_is_kept_unless_one_is_clearly_better(slope: float, kept: str, changed: bool) -> None:
    """Believed by area: .75 and .1 (of the frame's logarithm, about) where the slope is steep, both near one half where not."""
    masks = {"small": discs((40, 30), radius=3), "large": discs((40, 30), radius=29)}
    judge = judge_by("area", slope)
    judge = OutlineJudge([(judge.layers[0][0], np.full(1, 2 * slope, np.float32))])
    found = judge.outline_click(
        Canvas(SHAPE), np.zeros(SHAPE, np.float32), click((40, 30)), answering(said(*masks.values())), rather_than=masks[kept]
    )
    assert (found is not None) == changed
    if found is not None:
        assert dice(found[0], masks["large"]) > 0.9


def test_nothing_that_fits_the_clicks_is_no_outline() -> None:
    nothing = said(np.zeros(SHAPE, bool))
    assert (
        judge_by("area").outline_click(Canvas(SHAPE), np.zeros(SHAPE, np.float32), click((20, 30)), answering(nothing)) is None
    )


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    assert OutlineJudge.beside(tmp_path / "model.safetensors") is None
    for tensors in (
        {"0.weight": torch.zeros(1, 3), "0.bias": torch.zeros(1)},
        {"0.weight": torch.full((1, len(FEATURES)), torch.nan), "0.bias": torch.zeros(1)},
        {"1.weight": torch.zeros(1, len(FEATURES)), "0.bias": torch.zeros(1)},
    ):
        save_file(tensors, tmp_path / JUDGE_FILE)
        with pytest.raises(WeightsError, match="judge of clicks"):
            OutlineJudge.beside(tmp_path / "model.safetensors")


@pytest.fixture(scope="module")
def nano() -> Segmenter:
    return Segmenter.from_pretrained(device="cpu", precision="fp32", image_size=128)


def test_in_a_volume_scribbles_ask_the_judge_and_sure_clicks_do_not(nano: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    i, j, k = np.indices((64, 60, 7))
    ball = ((i - 30) / 8) ** 2 + ((j - 30) / 8) ** 2 + ((k - 3) / 3.2) ** 2 < 1
    volume = Volume(np.where(ball, 400, 150) + np.random.default_rng(1).normal(0, 10, ball.shape), np.diag([1.5, 1.5, 5, 1]))
    scribble, areas = Scribble(((28, 30, 3), (32, 30, 3)), width=1), dict[tuple[str, float], int]()
    for sign in (1.0, -1.0):
        monkeypatch.setattr(nano, "judge", judge_by("area", sign))
        for name, prompt in (("click", Point((30, 30, 3))), ("scribble", scribble)):
            found = nano.segment_volume(volume, [prompt], views="axial", islands=True)
            areas[name, sign] = int((found.labels[:, :, 3] > 0).sum())
            assert name == "scribble" or dice(found.labels > 0, ball) > 0.9
    assert areas["scribble", -1.0] < areas["scribble", 1.0]
    assert areas["click", -1.0] == areas["click", 1.0]


def test_in_a_volume_unsure_clicks_ask_the_judge(nano: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    i, j, k = np.indices((64, 60, 7))
    ball = ((i - 30) / 8) ** 2 + ((j - 30) / 8) ** 2 + ((k - 3) / 3.2) ** 2 < 1
    volume = Volume(np.where(ball, 400, 150) + np.random.default_rng(1).normal(0, 10, ball.shape), np.diag([1.5, 1.5, 5, 1]))
    areas = {}
    for unsure in (0.0, 1.1):  # none, all
        monkeypatch.setattr(view_tracker, "UNSURE", unsure)
        (weight, _), *_ = judge_by("area", -4.0).layers
        monkeypatch.setattr(
            nano, "judge", OutlineJudge([(weight, np.full(1, -12, np.float32))])
        )  # .5 of the ball, more of less
        found = nano.segment_volume(volume, [Point((30, 30, 3))], views="axial", islands=True)
        areas[unsure] = int((found.labels[:, :, 3] > 0).sum())
    assert areas[1.1] < areas[0.0]


def test_a_click_on_one_of_many_in_a_set_may_mean_all_of_them(nano: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    many = discs((20, 20), (60, 20), (20, 50), (60, 50), radius=7, shape=(72, 80))
    rng = np.random.default_rng(0)
    images = [np.where(many, 200, 60).astype(np.uint8) + rng.integers(0, 9, many.shape, np.uint8) for _ in range(2)]
    shares = {}
    for sign in (1.0, -1.0):
        monkeypatch.setattr(nano, "judge", judge_by("all parts", 10 * sign))
        first = next(iter(nano.segment_images(images, {0: {1: click((20, 20))}})))
        shares[sign] = (first.labels[many] > 0).mean()
    assert shares[1.0] > 1.5 * shares[-1.0]


@pytest.mark.parametrize(("bias", "unsure"), [(2.0, False), (-2.0, True)])
def test_an_image_of_a_set_is_as_sure_as_the_judge_is_of_its_click(
    nano: Segmenter, monkeypatch: pytest.MonkeyPatch, bias: float, unsure: bool
) -> None:
    disc = discs((30, 30), radius=9, shape=(72, 80))
    image = np.where(disc, 200, 60).astype(np.uint8) + np.random.default_rng(0).integers(0, 9, disc.shape, np.uint8)
    monkeypatch.setattr(nano, "judge", OutlineJudge([(np.zeros((1, len(FEATURES)), np.float32), np.full(1, bias, np.float32))]))
    (found,) = nano.segment_images([image], {0: {1: click((30, 30))}})
    expected = 1 / (1 + np.exp(-bias))
    assert found.confidence[1] == pytest.approx(expected / (2 - expected), abs=1e-4)
    assert [line.partition(" (")[0] for line in found.warnings] == unsure * ["object 1: it is unsure what the click means"]


def test_a_box_in_a_set_is_as_sure_as_the_network_is(nano: Segmenter) -> None:
    disc = discs((30, 30), radius=9, shape=(72, 80))
    image = np.where(disc, 200, 60).astype(np.uint8) + np.random.default_rng(0).integers(0, 9, disc.shape, np.uint8)
    (found,) = nano.segment_images([image], {0: {1: FramePrompt.box(21, 21, 39, 39)}})
    assert 0.5 < found.confidence[1] < 1


def test_a_scribble_chooses_among_the_masks_and_is_followed() -> None:
    """The judge believes the small disc; a line that reaches beyond it means the large one, less what is drawn as outside."""
    small, large = discs((40, 30), radius=6), discs((40, 30), radius=20)
    judge, ask = judge_by("predicted IoU", 9), answering(said(small, large))
    line = [(30, 30), (57, 30)]
    alone = judge.outline_click(Canvas(SHAPE), np.zeros(SHAPE, np.float32), click((40, 30)), ask)
    assert alone is not None
    assert dice(alone[0], small) > 0.9
    drawn = scribble_prompt(line, 1, SHAPE) | lasso_prompt([(52, 14), (66, 14), (66, 24)], SHAPE, positive=False)
    drawn = replace(drawn, points_xy=drawn.points_xy[:1], labels=drawn.labels[:1])
    found = judge.outline_click(Canvas(SHAPE), np.zeros(SHAPE, np.float32), drawn, ask)
    assert found is not None
    assert drawn.settled_hw is not None
    assert dice(found[0], large & (drawn.settled_hw >= 0)) > 0.95
    assert found[0][drawn.settled_hw > 0].all()
    assert not found[0][drawn.settled_hw < 0].any()
