"""What does not belong to an image, or is another way of storing it, changes nothing of what `nano` finds in it."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from medical_sam2.prompts import Box, FramePrompt, Mask, Point, Prompt
from medical_sam2.segmenter import Segmenter
from medical_sam2.strokes import SliceRange
from medical_sam2.volume import Segmentation, Volume

SHAPE, SLICE = (64, 72, 9), 4
ALIKE = 0.99
WIDTH = ((70, 90), (60, 100), (6, 9))  # what is left is 3 % of the voxels
Array = NDArray[np.generic]


@cache
def network(side: int = 128) -> Segmenter:
    """Shown twice as fine as the phantom is, or as fine as the weights expect it."""
    return Segmenter.from_pretrained(device="cpu", precision="fp32", image_size=side)


@cache
def phantom() -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """An MR of a body with three organs, from 0 to 1000, and one of them."""
    rng = np.random.default_rng(0)
    places = (np.moveaxis(np.indices(SHAPE), 0, -1) + 0.5) / np.array(SHAPE) * 2 - 1

    def inside(centre: tuple[float, ...], radii: tuple[float, ...]) -> NDArray[np.bool_]:
        return (((places - np.array(centre)) / np.array(radii)) ** 2).sum(-1) <= 1

    image, organ = np.full(SHAPE, 0.06), inside((0.3, -0.25, 0), (0.3, 0.27, 0.75))
    for part, bright in ((inside((0, 0, 0), (0.85, 0.85, 1.6)), 0.45), (inside((-0.35, -0.25, 0), (0.2, 0.3, 0.9)), 0.2),
                         (inside((0.3, 0.45, 0.1), (0.22, 0.14, 0.7)), 0.65), (organ, 0.9)):  # fmt: skip
        image[part] = bright
    blurred = ndimage.gaussian_filter(image, (0.7, 0.7, 0.2))
    return (1000 * np.abs(blurred + rng.normal(0, 0.02, SHAPE))).astype(np.float32), organ


def prompt(kind: str, organ: NDArray[np.bool_], k: int) -> Prompt:
    mask = np.zeros_like(organ)
    mask[:, :, k] = organ[:, :, k]
    places = np.argwhere(mask)
    if kind == "click":
        i, j, _ = places.mean(0).round()
        return Point((float(i), float(j), float(k)))
    if kind == "box":
        low, high = (tuple(int(x) for x in corner) for corner in (places.min(0), places.max(0)))
        return Box(low, high)  # type: ignore[arg-type]
    return Mask(mask, 1, 2)


def found(image: Array, organ: NDArray[np.bool_], kind: str = "click", k: int = SLICE, **options: object) -> Segmentation:
    volume = Volume(image, np.diag([2.0, 2.0, 4.0, 1.0]))
    return network().segment_volume(volume, [prompt(kind, organ, k)], **options)  # type: ignore[arg-type]


@cache
def base(kind: str) -> NDArray[np.bool_]:
    return found(*phantom(), kind).labels > 0


def dice(one: Array, other: Array) -> float:
    return 2 * np.count_nonzero((one != 0) & (other != 0)) / (np.count_nonzero(one) + np.count_nonzero(other))


def test_the_phantom_is_one_that_nano_can_outline() -> None:
    image, organ = phantom()
    volume = Volume(image, np.diag([2.0, 2.0, 4.0, 1.0]))
    assert dice(network(256).segment_volume(volume, [prompt("click", organ, SLICE)]).labels, organ) > 0.96
    assert dice(base("click"), organ) > 0.95


def test_a_click_on_the_first_or_the_last_slice_of_an_object_is_as_good() -> None:
    image, organ = phantom()
    first, *_, last = np.flatnonzero(organ.any((0, 1))).tolist()
    scores = [dice(found(image, organ, "click", k).labels, organ) for k in (first, last)]
    assert min(scores) > dice(base("click"), organ) - 0.05, scores


@pytest.mark.parametrize(("kind", "value"), [("click", 0), ("click", -1000), ("click", 5000), ("box", 0), ("mask", 0)])
def test_padding(kind: str, value: float) -> None:
    image, organ = phantom()
    padded = found(np.pad(image, WIDTH, constant_values=value), np.pad(organ, WIDTH), kind, SLICE + WIDTH[2][0])
    inner = padded.labels[tuple(slice(low, low + size) for (low, _), size in zip(WIDTH, SHAPE, strict=True))]
    assert dice(inner, base(kind)) > ALIKE
    assert np.count_nonzero(inner) == np.count_nonzero(padded.labels)


def test_cropping() -> None:
    image, organ = phantom()
    inner = (slice(5, -4), slice(3, -6), slice(None))
    assert dice(found(image[inner], organ[inner]).labels, base("click")[inner]) > ALIKE


STORED: dict[str, Callable[[NDArray[np.float32]], Array]] = {
    "gain 1e-6": lambda image: image * np.float32(1e-6),
    "gain 1e6": lambda image: image * np.float32(1e6),
    "x 1000, as integers": lambda image: (image * 1000).astype(np.int32),
    "scores x 1000": lambda image: ((image - image.mean()) / image.std() * 1000).round().astype(np.int16),
    "phase": lambda image: (image / image.max() * 8190 - 4096).round().astype(np.int16),
    "offset -1000": lambda image: image - 1000,
    "offset of 32 bits": lambda image: image.round().astype(np.int32) + np.int32(2_000_000_000),
    "offset of 64 bits": lambda image: image.round().astype(np.int64) + 2**60,
    "offset of 16 bits": lambda image: (image.round() + 60_000).astype(np.uint16),
    "inverted": lambda image: image.max() - image,
    "inverted, as integers": lambda image: (2000 - image.round()).astype(np.int16),
}


@pytest.mark.parametrize("how", STORED)
def test_gain_offset_inversion_and_kinds_of_numbers(how: str) -> None:
    image, organ = phantom()
    assert dice(found(STORED[how](image), organ).labels, base("click")) > ALIKE


def test_a_background_that_was_taken_off() -> None:
    """As in an atlas: what is around the body is one value, and reaches no border as a plane does."""
    image, organ = phantom()
    body = image > 250
    outlines = [found(np.where(body, image, value), organ).labels for value in (0, -30_000)]
    for outline in outlines:
        assert dice(outline, organ) > 0.93


def test_a_set_of_images() -> None:
    """One image is prompted, another one is outlined: padded, in other numbers, each by itself."""
    image, organ = phantom()
    prompts = {0: {1: FramePrompt.mask(organ[:, :, 4])}}
    plain = [image[:, :, 4], image[:, :, 6]]
    _, expected = network(256).segment_images(plain, prompts)
    assert dice(expected.labels, organ[:, :, 6]) > 0.9
    padded = [np.pad(plain[1], ((90, 60), (150, 120)), constant_values=value) for value in (0, 5000)]
    stored = [plain[1] * np.float32(1e-6), plain[1].round().astype(np.int32) + np.int32(2_000_000_000)]
    _, *others = network(256).segment_images([plain[0], *padded, *stored], prompts)
    for other, shape in zip(others, [(214, 342), (214, 342), (64, 72), (64, 72)], strict=True):
        assert other.labels.shape == shape
        inner = other.labels[90:154, 150:222] if shape[0] > 64 else other.labels
        assert dice(inner, expected.labels) > ALIKE
        assert np.count_nonzero(inner) == np.count_nonzero(other.labels)


def test_a_padded_template_tells_the_same() -> None:
    image, organ = phantom()
    width = ((90, 60), (150, 120))
    for said, there in (("mask", FramePrompt.mask(np.pad(organ[:, :, 4], width))), ("click", FramePrompt.click(168, 132))):
        here = FramePrompt.mask(organ[:, :, 4]) if said == "mask" else FramePrompt.click(18, 42)
        _, plain = network().segment_images([image[:, :, 4], image[:, :, 6]], {0: {1: here}})
        _, other = network().segment_images([np.pad(image[:, :, 4], width), image[:, :, 6]], {0: {1: there}})
        assert dice(other.labels, plain.labels) > ALIKE


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_a_click_finds_a_thing_on_an_empty_background(noise: float) -> None:
    places = np.indices((64, 64, 24)) - np.array([30, 32, 12])[:, None, None, None]
    ball = (places**2 * np.array([1, 1, 4])[:, None, None, None]).sum(0) < 144
    image = np.where(ball, 150, 60) + np.random.default_rng(0).normal(0, noise, ball.shape)
    found = network(256).segment_volume(Volume(image.astype(np.float32), np.diag([1.0, 1, 2, 1]), "MR"), [Point((30, 32, 12))])
    assert dice(found.labels > 0, ball) > 0.95
    assert not found.warnings


def test_where_the_network_is_unsure_of_a_box_it_is_told() -> None:
    """Of a ball that fills the image, not of a small one."""
    places = np.indices((128, 128, 10)) - np.array([64, 64, 5])[:, None, None, None]
    noise = np.random.default_rng(0).normal(0, 8, (128, 128, 10))
    for radius, unsure in ((60, True), (14, False)):
        ball = np.linalg.norm(places, axis=0) <= radius
        box = Box((64 - radius, 64 - radius, 5), (64 + radius, 64 + radius, 5))
        found = network(256).segment_volume(Volume((40 + 80 * ball + noise).astype(np.float32), np.eye(4), "MR"), [box])
        told = [line.partition(" (")[0] for line in found.warnings if "unsure" in line]
        assert told == ["object 1: it is unsure what is meant in the box on slice 5 of axis k"] * unsure


def test_where_the_network_is_unsure_of_a_click_it_is_told() -> None:
    """A ring, of which the network takes a part: an outline says what is meant."""
    down, across = np.indices((96, 96)) - np.array([44, 50])[:, None, None]
    ring = np.repeat(((down**2 + across**2 < 26**2) & (down**2 + across**2 >= 18**2))[..., None], 8, axis=2)
    volume = Volume(np.where(ring, 150, 0).astype(np.float32), np.diag([1.0, 1, 2, 1]), "MR")
    for limits in ([], [SliceRange(2, 6)]):
        found = network(256).segment_volume(volume, [Point((44, 28, 4)), *limits])
        told = [line.partition(" (")[0] for line in found.warnings if "unsure" in line]
        assert told == ["object 1: it is unsure what the click means on slice 4 of axis k"]
    drawn = ring & (np.arange(8) == 4)
    outlined = network(256).segment_volume(volume, [Mask(drawn, axis=2)])
    assert dice(outlined.labels, ring) > 0.95
    assert not [line for line in outlined.warnings if "unsure" in line]
