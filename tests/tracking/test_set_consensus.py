"""The consensus in sets of images: what it is told, what it may change, and what stays as tracking found it."""

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from medical_sam2.errors import WeightsError
from medical_sam2.metrics import dice
from medical_sam2.prompts import FramePrompt
from medical_sam2.segmenter import Segmenter
from medical_sam2.tracking.set_consensus import (
    ANSWER,
    FEATURES,
    NETWORK_FILE,
    SIDE,
    ConsensusNetwork,
    PixelRegression,
    PromptedImage,
    SeenImage,
    SetConsensus,
    compute_features,
    describe_answer,
    describe_pixels,
    in_colour,
)

RED = (0.7, 0.3, 0.3)


def disc(x: int, y: int, radius: int = 40) -> np.ndarray:
    rows, columns = np.indices((SIDE, SIDE))
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2


def scene(mask: np.ndarray, seed: int, colour: tuple[float, float, float] = RED) -> np.ndarray:
    picture = np.where(mask, np.array(colour)[:, None, None], 0.4)
    noise = np.random.default_rng(seed).normal(0, 0.03, picture.shape)
    return np.clip(picture + noise, 0, 1).astype(np.float32)


def seen(mask: np.ndarray, seed: int, colour: tuple[float, float, float] = RED) -> SeenImage:
    """A scene, and an encoder whose maps are its colours."""
    return encoded(scene(mask, seed, colour))


def encoded(picture: np.ndarray) -> SeenImage:
    return SeenImage(picture, picture[:, ::2, ::2].copy())


def adds(change: float, sure: float = 0.5) -> SetConsensus:
    """The same to every logit, and as sure of every answer."""
    network = ConsensusNetwork(len(FEATURES), len(ANSWER)).requires_grad_(False)
    for tensor in network.state_dict().values():
        tensor.zero_()
    network.change.bias.fill_(change)
    network.judge.bias.fill_(float(np.log(sure / (1 - sure))))
    return SetConsensus(network)


@pytest.mark.parametrize("colour", [RED, (0.6, 0.6, 0.6)])
def test_pixels_of_another_image_are_told_by_their_looks(colour: tuple[float, float, float]) -> None:
    here, there = disc(80, 90), disc(170, 150, 25)
    learnt = PixelRegression(describe_pixels(scene(here, 0, colour)), here)
    assert dice(learnt(describe_pixels(scene(there, 1, colour))) > 0, there) > 0.9


def test_what_lies_between_two_greys_is_told_from_both() -> None:
    """No straight rule does: squares do."""
    rows, columns = np.indices((SIDE, SIDE))
    ground = np.where((rows // 64 + columns // 64) % 2, 0.2, 0.8)

    def between(mask: np.ndarray, seed: int) -> np.ndarray:
        noisy = np.where(mask, 0.5, ground) + np.random.default_rng(seed).normal(0, 0.02, mask.shape)
        return np.repeat(np.clip(noisy, 0, 1).astype(np.float32)[None], 3, 0)

    here, there = disc(80, 90), disc(170, 150, 30)
    learnt = PixelRegression(describe_pixels(between(here, 0)), here)
    assert dice(learnt(describe_pixels(between(there, 1))) > 0, there) > 0.8


def test_colour_is_left_out_where_only_one_image_has_it() -> None:
    here, grey = disc(80, 90), (0.6, 0.6, 0.6)
    plain = np.repeat(scene(here, 1, grey).mean(0)[None], 3, 0)
    assert in_colour(scene(here, 0))
    assert not in_colour(plain)
    logits = np.where(here, 3, -3).astype(np.float32)
    for one, other in ((scene(here, 0), plain), (plain, scene(here, 0)), (scene(here, 0), scene(here, 2))):
        found = compute_features(PromptedImage.of(encoded(one), here), encoded(other), logits, 0.9, 0.8)
        assert found.shape == (len(FEATURES), SIDE // 2, SIDE // 2)
        assert np.isfinite(found).all()
        assert found[FEATURES.index("colour"), 0, 0] == (in_colour(one) and in_colour(other))


def test_maps_of_the_encoder_are_not_kept() -> None:
    here = disc(80, 90)
    image = seen(here, 0)
    maps = weakref.ref(image.encoded_Chw)
    kept = PromptedImage.of(image, here)
    del image
    gc.collect()
    assert maps() is None
    assert kept.inside_SS is here


def test_features_say_where_tracking_and_looks_disagree() -> None:
    here, there = disc(80, 90), disc(170, 150)
    logits = np.where(there | here, 3, -3).astype(np.float32)  # tracking found the old place, too
    found = compute_features(PromptedImage.of(seen(here, 0), here), seen(there, 1), logits, 0.9, 0.8)
    named = dict(zip(FEATURES, found, strict=True))
    right, wrong = np.s_[75, 85], np.s_[45, 40]
    assert named["tracked"][right] == named["tracked"][wrong] > 0
    assert named["regression"][right] > 0.5 > -0.5 > named["regression"][wrong]
    assert named["encoder regression"][right] > 0.5 > -0.5 > named["encoder regression"][wrong]
    assert named["place"][wrong] < 0 < named["place"][right]
    assert named["parts"][0, 0] > 0


def test_nothing_but_the_change_of_the_network_is_added_and_what_is_absent_stays_absent() -> None:
    here, logits = disc(80, 90), torch.where(torch.from_numpy(disc(80, 90)[::2, ::2]), 3.0, -3.0)
    prompted, image = [PromptedImage.of(seen(here, 0), here)], seen(here, 1)
    for change in (0.0, 5.0, -5.0):
        found, sure = adds(change, 0.7).refine(prompted, image, logits, 0.9, 0.8)
        assert torch.allclose(found, logits + change, atol=1e-5)
        assert sure == (0 if change < 0 else pytest.approx(0.7))  # of nothing there is no IoU
    absent = torch.full((SIDE // 2, SIDE // 2), -1024.0)
    found, sure = adds(5.0).refine(prompted, image, absent, 0.0, 0.8)
    assert torch.equal(found, absent)
    assert sure == 0


def test_an_answer_is_described_by_what_witnesses_say_of_it() -> None:
    here, there = disc(80, 90), disc(170, 150)
    logits = np.where(there | here, 3, -3).astype(np.float32)
    features = compute_features(PromptedImage.of(seen(here, 0), here), seen(there, 1), logits, 0.9, 0.8)
    doubtful = np.where(here[::2, ::2], -2.5, 0).astype(np.float32)
    found = {
        name: dict(zip(ANSWER, describe_answer(features, change), strict=True))
        for name, change in (("kept", 0 * doubtful), ("mended", 2 * doubtful), ("doubted", doubtful))
    }
    assert found["mended"]["unchanged"] < found["kept"]["unchanged"] == 1
    assert found["mended"]["regression around"] > found["kept"]["regression around"] + 0.1
    assert found["doubted"]["expected"] < found["kept"]["expected"] - 0.1  # nearly even odds count as half wrong
    assert found["kept"]["confidence"] == pytest.approx(0.9)


@pytest.fixture(scope="module")
def nano() -> Segmenter:
    return Segmenter.from_pretrained(device="cpu", precision="fp32")


def test_images_that_nobody_prompted_change_and_prompted_ones_do_not(nano: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    masks = [disc(80, 90), disc(170, 150), disc(120, 100)]
    images = [(255 * scene(mask, seed).transpose(1, 2, 0)).astype(np.uint8) for seed, mask in enumerate(masks)]
    prompts, found, sure = {0: {1: FramePrompt.mask(masks[0])}, 2: {1: FramePrompt.box(80, 60, 160, 140)}}, {}, {}
    for name, consensus in (("none", None), ("nothing", adds(0.0)), ("more", adds(12.0, 0.25))):
        monkeypatch.setattr(nano, "set_consensus", consensus)
        answers = list(nano.segment_images(images, prompts))
        found[name], sure[name] = ({each.index: part for each, part in zip(answers, parts, strict=True)} for parts in (
            [each.labels for each in answers], [each.confidence[1] for each in answers],
        ))  # fmt: skip
    assert sure["more"] == {**sure["none"], 1: pytest.approx(0.25)}
    found["off"] = {each.index: each.labels for each in nano.segment_images(images, prompts, consensus=False)}
    for i in range(len(masks)):
        assert (found["none"][i] == found["nothing"][i]).all()
        assert (found["none"][i] == found["off"][i]).all()
        if i in prompts:
            assert (found["more"][i] == found["none"][i]).all()  # of a box, too, whose outline nobody drew
    assert ((found["more"][0] > 0) == masks[0]).all()
    assert (found["more"][1] > 0).sum() > 1.2 * (found["none"][1] > 0).sum()


def test_the_embedded_weights_bring_one_and_a_broken_one_is_refused(nano: Segmenter, tmp_path: Path) -> None:
    assert nano.set_consensus is not None
    assert SetConsensus.beside(tmp_path / "model.safetensors") is None
    save_file({"mix.bias": torch.zeros(3)}, tmp_path / NETWORK_FILE)
    with pytest.raises(WeightsError, match="fit the consensus of sets again"):
        SetConsensus.beside(tmp_path / "model.safetensors")


def test_a_network_that_has_not_learnt_changes_nothing_and_takes_grids_of_any_size() -> None:
    network = ConsensusNetwork(len(FEATURES), len(ANSWER))
    assert (network(torch.randn(2, len(FEATURES), 13, 22)) == 0).all()
    torch.nn.init.ones_(network.change.weight)
    found = network(torch.randn(2, len(FEATURES), 13, 22))
    assert found.shape == (2, 13, 22)
    assert found.std() > 0
