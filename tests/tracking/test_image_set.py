"""One prompt for a set: the order matters only through the bank, corrections, bad images, huge images."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from medical_sam2.errors import FormatError, MedicalSam2Error, PromptError
from medical_sam2.model.backbone import Features, FramePrediction, Fused, Instruction
from medical_sam2.prompts import FramePrompt
from medical_sam2.segmenter import Segmenter
from medical_sam2.tracking.frames import to_frame
from medical_sam2.tracking.image_set import STRIP_PIXELS, ImageMask, Shuffled, choose_order, label_map
from medical_sam2.tracking.image_viewer import _reduce_huge  # pyright: ignore[reportPrivateUsage]
from tests.backbones import Brightness
from tests.model.conftest import tiny
from tests.phantoms import segmenter

SIZES = ((40, 50), (64, 64), (33, 90), (70, 41), (52, 52))


def pictures(count: int = 5, seed: int = 0) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.bool_]]]:
    """A bright disc on each of some noisy pictures, and where it is."""
    rng, images, truths = np.random.default_rng(seed), list[NDArray[np.uint8]](), list[NDArray[np.bool_]]()
    for i in range(count):
        height, width = SIZES[i % len(SIZES)]
        rows, columns = np.indices((height, width))
        y, x = rng.uniform(15, height - 15), rng.uniform(15, width - 15)
        truths.append(np.hypot(rows - y, columns - x) < 10)
        images.append(np.where(truths[-1], 200, 60 + rng.integers(-20, 20, (height, width))).astype(np.uint8))
    return images, truths


@pytest.fixture(scope="module")
def network() -> Segmenter:
    return Segmenter(tiny(), device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def shipped() -> Segmenter:
    return Segmenter.from_pretrained(device="cpu", precision="fp32")


def by_index(found: list[ImageMask]) -> dict[int, bytes]:
    return {one.index: one.labels.tobytes() for one in found}


def test_with_the_template_alone_any_order_gives_the_same(network: Segmenter) -> None:
    images, truths = pictures()
    said = {2: {1: FramePrompt.mask(truths[2])}}
    runs = [
        list(network.segment_images(images, said, bank="prompted", order=order))
        for order in ("given", "similar", Shuffled(2), [4, 3, 1, 0])
    ]
    assert [one.index for one in runs[2]] != [one.index for one in runs[0]]
    assert all(by_index(run) == by_index(runs[0]) for run in runs)
    assert all(one.confidence == other.confidence for one, other in zip(runs[0], sorted_like(runs[3], runs[0]), strict=True))


def sorted_like(found: list[ImageMask], other: list[ImageMask]) -> list[ImageMask]:
    places = {one.index: one for one in found}
    return [places[one.index] for one in other]


@pytest.mark.parametrize("bank", ["self-sorting", "fifo"])
def test_two_runs_are_equal_bit_for_bit(network: Segmenter, bank: str) -> None:
    images, truths = pictures()
    said = {0: {1: FramePrompt.mask(truths[0]), 2: FramePrompt.click(5, 5)}}
    first, second = (list(network.segment_images(images, said, bank=bank, order=Shuffled(3))) for _ in range(2))
    assert [one.index for one in first] == [one.index for one in second]
    assert by_index(first) == by_index(second)
    assert [one.confidence for one in first] == [one.confidence for one in second]
    assert [one.likeness for one in first] == [one.likeness for one in second]


def test_orders() -> None:
    worth = {0: 0.1, 1: 0.9, 2: 0.5}
    policy, images = choose_order("similar", 3)
    assert list(policy(images, lambda left: np.array([worth[i] for i in left]))) == [1, 2, 0]
    assert list(choose_order("given", 3)[0]([2, 0], lambda left: np.zeros(len(left)))) == [2, 0]
    shuffles = {tuple(Shuffled(seed)(range(6), lambda left: np.zeros(len(left)))) for seed in (0, 0, 1, 2)}
    assert len(shuffles) == 3
    assert all(sorted(shuffle) == list(range(6)) for shuffle in shuffles)
    with pytest.raises(MedicalSam2Error, match="did you mean 'similar'"):
        choose_order("simlar", 3)


def test_most_similar_is_visited_first() -> None:
    """The likeness is asked anew after each image, of a bank that has grown."""
    images = [np.full((20, 20), value, np.uint8) for value in (100, 200, 110, 190)]
    for image in images:
        image[5:9, 5:9] = 250
        image[0, 0] = 0
    asked: list[list[float]] = []

    def watching(waiting, likeness):
        left = list(waiting)
        while left:
            asked.append(likeness(left).tolist())
            yield left.pop()

    list(segmenter().segment_images(images, {0: {1: FramePrompt.click(6, 6)}}, order=watching))
    assert [len(each) for each in asked] == [3, 2, 1]
    assert all(-1 <= value <= 1 + 1e-6 for each in asked for value in each)


def test_objects_prompted_on_different_images() -> None:
    """None is looked for before its own prompt; each image comes once, with all of them."""
    images, truths = pictures()
    for image in images:
        image[:6, :6] = 130
    corner = np.zeros(images[3].shape, bool)
    corner[:6, :6] = True
    said = {1: {7: FramePrompt.mask(truths[1])}, 3: {300: FramePrompt.mask(corner)}}
    found = {one.index: one for one in segmenter().segment_images(images, said)}
    assert sorted(found) == [0, 1, 2, 3, 4]
    for i, one in found.items():
        assert one.labels.dtype == np.uint16
        assert set(one.confidence) == {7, 300}
        assert ((one.labels == 7) == truths[i]).mean() > 0.97
        assert one.labels[2, 2] == 300
        assert one.prompted == (i in said)


class SurerOfMemories(Brightness):
    """More certain of what it remembers than of what it is shown."""

    def decode(self, frame: Features, fused: Fused, instructions: Sequence[Instruction | None]) -> FramePrediction:
        found = super().decode(frame, fused, instructions)
        sure = torch.tensor([2.0 if one is None else 1.0 for one in instructions])
        return replace(found, logits_Bhw=found.logits_Bhw * sure[:, None, None])


@pytest.mark.parametrize("labels", [(1, 2), (2, 1)])
def test_two_objects_that_claim_the_same_keep_what_was_clicked_on(labels: tuple[int, int]) -> None:
    """On its own image each has it, whoever is surer."""
    images, truths = pictures()
    y, x = np.argwhere(truths[3])[truths[3].sum() // 2]
    said = {0: {labels[0]: FramePrompt.mask(truths[0])}, 3: {labels[1]: FramePrompt.click(float(x), float(y))}}
    network = Segmenter(SurerOfMemories(), device="cpu", precision="fp32")
    found = {one.index: one.labels for one in network.segment_images(images, said)}
    assert ((found[0] == labels[0]) == truths[0]).all()
    assert ((found[3] == labels[1]) == truths[3]).mean() > 0.97
    assert found[3][y, x] == labels[1]


def test_who_was_shown_on_an_image_comes_before_a_surer_one() -> None:
    """Where it is at all; its border is not moved by that."""
    sure, shown = torch.full((8, 8), 6.0), torch.full((8, 8), -2.0)
    shown[2:6, 2:6] = 1.0
    both = torch.stack([sure, shown])
    assert (label_map([1, 2], both, (64, 64)) == 1).all()
    alone = label_map([2], shown[None], (64, 64))
    assert (label_map([1, 2], both, (64, 64), [2]) == np.where(alone == 2, 2, 1)).all()
    assert (label_map([1, 2], both, (64, 64), [1, 2]) == 1).all()


def test_a_negative_click_that_the_network_does_not_follow_takes_out_a_disc() -> None:
    """The network of these tests knows no negative clicks."""
    images, truths = pictures()
    y, x = np.argwhere(truths[3])[truths[3].sum() // 2]
    outline, click = {0: {1: FramePrompt.mask(truths[0])}}, FramePrompt.click(float(x), float(y), positive=False)
    before, after = (
        {one.index: one for one in segmenter().segment_images(images, said)} for said in (outline, outline | {3: {1: click}})
    )
    assert before[3].labels[y, x] == 1
    assert after[3].labels[y, x] == 0
    assert not after[3].warnings
    gone = (before[3].labels != after[3].labels).sum()
    assert 1 <= gone < 0.25 * truths[3].sum()


def pairs_of_discs(seed: int, small: int) -> tuple[list[NDArray[np.uint8]], list[tuple[int, int]], NDArray[np.bool_]]:
    """Four pictures of a large disc and a small one as bright as told; (x, y) of the small ones; the first large one."""
    rng, images, places, outlines = np.random.default_rng(seed), [], [], []
    rows, columns = np.indices((128, 128))
    for _ in range(4):
        y, x = rng.uniform(40, 88, 2)
        outlines.append(np.hypot(rows - y, columns - x) < 18)
        image = 60 + rng.normal(0, 8, (128, 128))
        image[outlines[-1]] = 180
        image[np.hypot(rows - (128 - y), columns - (128 - x)) < 10] = small
        images.append(image.clip(0, 255).astype(np.uint8))
        places.append((int(128 - x), int(128 - y)))
    return images, places, outlines[0]


@pytest.mark.parametrize(
    ("seed", "small", "image", "positive"), [(2, 150, 1, True), (6, 150, 1, False)], ids=["missed", "too much"]
)
def test_a_click_on_a_further_image_is_followed_there_and_on_the_images_after_it(
    shipped: Segmenter, seed: int, small: int, image: int, positive: bool
) -> None:
    images, places, outline = pairs_of_discs(seed, small)
    said = {0: {1: FramePrompt.mask(outline)}}
    order = [i for i in (1, 2, 3) if i != image]
    before, after = (
        {one.index: one for one in shipped.segment_images(images, given, order=[image, *order])}
        for given in (said, said | {image: {1: FramePrompt.click(*places[image], positive=positive)}})
    )
    assert list(before) == list(after) == [0, image, *order]
    there = [[bool(run[i].labels[places[i][::-1]]) for i in (image, order[0])] for run in (before, after)]
    assert there == [[not positive] * 2, [positive] * 2]
    assert (before[0].labels == after[0].labels).all()


def test_a_corrected_image_is_seen_with_memory_first(network: Segmenter) -> None:
    """It differs from one that is prompted by that click alone, and from one that nobody corrects, in the same order."""
    images, truths = pictures()
    outline, click = {0: {1: FramePrompt.mask(truths[0])}}, FramePrompt.click(3, 3)
    alone, plain, corrected = (
        {one.index: one for one in network.segment_images(images, said, order=[2, 1])}
        for said in ({2: {1: click}}, outline, outline | {2: {1: click}})
    )
    assert list(corrected)[:2] == list(plain)[:2] == [0, 2]
    assert corrected[2].prompted
    assert len({run[2].confidence[1] for run in (alone, plain, corrected)}) == 3


def test_negative_clicks_need_something_to_correct(network: Segmenter) -> None:
    images, truths = pictures()
    inside, outside = FramePrompt.click(20, 20), FramePrompt.click(3, 3, positive=False)
    with pytest.raises(PromptError, match="negative clicks"):
        list(network.segment_images(images, {2: {1: outside}}))
    said = {1: {1: outside, 2: FramePrompt.mask(truths[1])}, 3: {1: inside, 2: outside}}
    assert [one.index for one in network.segment_images(images, said) if one.prompted] in ([3, 1], [1, 3])


def test_a_bad_image_stops_nothing_and_a_blank_one_is_empty() -> None:
    images, truths = pictures()

    class Reading(list[NDArray[np.uint8]]):
        def __getitem__(self, index):  # type: ignore[override]
            if index == 3:
                raise FormatError("broken", "mend it")
            return super().__getitem__(index)

    images[1][:] = 0
    for order in ("given", "similar"):
        told = dict[int, MedicalSam2Error]()
        found = list(
            segmenter().segment_images(
                Reading(images), {0: {1: FramePrompt.mask(truths[0])}}, order=order, on_error=told.__setitem__
            )
        )
        assert list(told) == [3]
        assert sorted(one.index for one in found) == [0, 1, 2, 4]
        (blank,) = (one for one in found if one.index == 1)
        assert not blank.labels.any()
        assert blank.confidence == {1: 0.0}
        assert "same value" in blank.warnings[0]
    with pytest.raises(FormatError, match="broken"):
        list(segmenter().segment_images(Reading(images), {0: {1: FramePrompt.mask(truths[0])}}))
    with pytest.raises(MedicalSam2Error, match="one grey value"):
        list(segmenter().segment_images(images, {1: {1: FramePrompt.mask(truths[1])}}))


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (FramePrompt.click(50, 3), "lies outside the image of 50 × 40 pixels"),
        (FramePrompt.box(5, 5, 5, 9), "the box 5 5 5 9 has no area"),
        (FramePrompt.box(5, 5, 9, 4), "the box 5 5 9 4 is turned inside out"),
        (FramePrompt.mask(np.zeros((40, 50), bool)), "empty"),
        (FramePrompt.mask(np.ones((50, 40), bool)), "give a mask of the image's size"),
    ],
)
def test_prompts_that_cannot_work(prompt: FramePrompt, said: str) -> None:
    with pytest.raises(PromptError, match=said):
        list(segmenter().segment_images(pictures()[0], {0: {1: prompt}}))


def test_features_on_disk_are_found_by_content(tmp_path: Path) -> None:
    images, truths = pictures()
    said, folder = {0: {1: FramePrompt.mask(truths[0])}}, tmp_path / "kept"
    first = segmenter()
    fresh = by_index(list(first.segment_images(images, said, features=folder)))
    assert len(first.network.counts.encoded) == len(images)  # type: ignore[union-attr]
    again = segmenter()
    turned = [2, 4, 1, 3, 0]
    kept = list(again.segment_images([images[i] for i in turned], {4: said[0]}, features=folder))
    assert again.network.counts.encoded == []  # type: ignore[union-attr]
    assert {turned[one.index]: one.labels.tobytes() for one in kept} == fresh
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes()[:50])
    again = segmenter()
    assert by_index(list(again.segment_images(images, said, features=folder))) == fresh
    assert len(again.network.counts.encoded) == len(images)  # type: ignore[union-attr]


def test_features_of_other_weights_are_not_taken(network: Segmenter, tmp_path: Path) -> None:
    images, truths = pictures(2)
    said = {0: {1: FramePrompt.mask(truths[0])}}
    direct = by_index(list(network.segment_images(images, said)))
    assert by_index(list(network.segment_images(images, said, features=tmp_path))) == direct
    assert by_index(list(network.segment_images(images, said, features=tmp_path))) == direct
    files = len(list(tmp_path.iterdir()))
    other = tiny()
    with torch.no_grad():
        next(other.parameters()).add_(0.1)
    list(Segmenter(other, device="cpu", precision="fp32").segment_images(images, said, features=tmp_path))
    assert len(list(tmp_path.iterdir())) == 2 * files


def test_labels_are_made_in_strips_as_frames_are() -> None:
    logits = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0))
    for shape in ((37, 91), (5, STRIP_PIXELS // 4)):
        expected = to_frame(logits, shape)
        labels = np.where(expected.max(0) > 0.5, np.array([3, 9])[expected.argmax(0)], 0)
        assert (label_map([3, 9], logits, shape) != labels).mean() < 1e-5


def test_a_huge_image_is_averaged_first() -> None:
    image = np.zeros((40, 3000, 3), np.uint8)
    image[:, 1500:] = 100
    small = _reduce_huge(image, 64)
    assert small.shape == (40, 256, 3)
    assert (small[:, :128] == 0).all()
    assert (small[:, 128:] == 100).all()
    assert _reduce_huge(image[:, :512], 64).base is image
