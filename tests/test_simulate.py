"""The simulated person: clicks on what is wrong, draws around what is there, and is as careless as it is told to be."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from medical_sam2.errors import GeometryError
from medical_sam2.prompts import Point
from medical_sam2.simulate import (
    NOISE_LEVELS,
    Click,
    Noise,
    draw_diameters,
    draw_lasso,
    draw_scribble,
    jitter_box,
    jitter_click,
    jitter_mask,
    next_click,
)
from medical_sam2.strokes import lasso_prompt
from tests.strategies import masks, seeds

Array = NDArray[np.bool_]
grids = st.lists(st.integers(1, 8), min_size=2, max_size=3).map(tuple)
spreads = st.sampled_from([0.0, 0.5, 3.0, math.inf])


def rng_of(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def disc(shape: tuple[int, int], centre: tuple[int, int], radius: float) -> Array:
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


DISC = disc((80, 100), (40, 50), 20)


@given(st.data(), grids, spreads, seeds)
def test_a_click_lies_in_the_largest_wrong_region(
    data: st.DataObject, shape: tuple[int, ...], spread: float, seed: int
) -> None:
    truth, predicted = data.draw(masks(shape)), data.draw(masks(shape))
    click = next_click(truth, predicted, rng_of(seed), spread=spread)
    if click is None:
        np.testing.assert_array_equal(truth, predicted)
        return
    assert truth[click.index] == click.positive
    assert predicted[click.index] != click.positive
    sizes = []
    for wrong in (truth & ~predicted, predicted & ~truth):
        parts = np.asarray(ndimage.label(wrong)[0])
        sizes += [np.count_nonzero(parts == part) for part in range(1, parts.max() + 1)]
        if wrong[click.index]:
            clicked = np.count_nonzero(parts == parts[click.index])
    assert clicked == max(sizes)


@given(st.data(), grids, st.lists(st.floats(0.2, 5), min_size=3, max_size=3), seeds)
def test_a_click_is_innermost(data: st.DataObject, shape: tuple[int, ...], lengths: list[float], seed: int) -> None:
    truth, spacing = data.draw(masks(shape, some=True)), lengths[: len(shape)]
    click = next_click(truth, np.zeros_like(truth), rng_of(seed), spacing=spacing)
    assert click is not None
    parts = np.asarray(ndimage.label(truth)[0])
    inside = np.argwhere(parts == parts[click.index])
    outside = np.argwhere(np.pad(parts != parts[click.index], 1, constant_values=True)) - 1
    depths = [np.sqrt((((outside - place) * spacing) ** 2).sum(axis=1)).min() for place in inside]
    chosen = inside.tolist().index(list(click.index))
    assert depths[chosen] == pytest.approx(max(depths))


@given(seeds, spreads)
def test_the_same_generator_clicks_the_same(seed: int, spread: float) -> None:
    empty = np.zeros_like(DISC)
    one, other = (next_click(DISC, empty, rng_of(seed), spread=spread) for _ in range(2))
    assert one == other


def test_the_middle_of_a_disc_and_of_a_hole() -> None:
    empty = np.zeros_like(DISC)
    assert next_click(DISC, empty, rng_of()) == Click((40, 50), positive=True)
    assert next_click(empty, DISC, rng_of()) == Click((40, 50), positive=False)
    assert next_click(DISC, DISC & ~disc(DISC.shape, (45, 50), 5), rng_of()) == Click((45, 50), positive=True)


def test_spread_scatters_as_it_says() -> None:
    square = np.ones((101, 101), bool)
    scattered = {
        spread: np.array(
            [getattr(next_click(square, ~square, rng_of(seed), spread=spread), "index", ()) for seed in range(300)]
        )
        for spread in (0.0, 5.0, math.inf)
    }
    assert (scattered[0.0] == 50).all()
    np.testing.assert_allclose(scattered[5.0].std(axis=0), 5, rtol=0.15)
    np.testing.assert_allclose(scattered[5.0].mean(axis=0), 50, atol=1)
    np.testing.assert_allclose(scattered[math.inf].std(axis=0), 101 / math.sqrt(12), rtol=0.15)


def test_a_click_becomes_a_prompt() -> None:
    on_frame = Click((3, 7), positive=False).on_frame()
    assert (on_frame.points_xy.tolist(), on_frame.labels.tolist()) == ([[7, 3]], [0])
    assert Click((1, 2, 3), positive=True).in_volume(object=5) == Point((1, 2, 3), object=5, positive=True)


def test_shapes_must_agree() -> None:
    with pytest.raises(GeometryError, match="shape"):
        next_click(DISC, DISC[1:], rng_of())


@given(st.data(), seeds, st.sampled_from(sorted(NOISE_LEVELS)), st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_a_careless_hand_stays_on_the_image(data: st.DataObject, seed: int, level: str, shape: tuple[int, int]) -> None:
    truth, noise, rng = data.draw(masks(shape, some=True)), NOISE_LEVELS[level], rng_of(seed)
    x_low, y_low, x_high, y_high = jitter_box(truth, noise, rng)
    assert 0 <= x_low <= x_high <= shape[1] - 1
    assert 0 <= y_low <= y_high <= shape[0] - 1
    row, column = jitter_click(Click((shape[0] - 1, 0), positive=True), truth, noise, rng).index
    assert 0 <= row < shape[0]
    assert 0 <= column < shape[1]
    drawn = jitter_mask(truth, noise, rng)
    assert drawn.any()
    assert drawn.shape == shape


def test_a_perfect_hand() -> None:
    perfect = NOISE_LEVELS["none"]
    assert jitter_click(Click((3, 4), positive=True), DISC, perfect, rng_of()) == Click((3, 4), positive=True)
    assert jitter_box(DISC, perfect, rng_of()) == (30, 20, 70, 60)
    np.testing.assert_array_equal(jitter_mask(DISC, perfect, rng_of()), DISC)


def test_errors_have_the_stated_size() -> None:
    """A disc of radius 20, its box of side 41."""
    noise, rng = Noise(box=0.05, click=0.3, mask=0.1), rng_of()
    boxes = np.array([jitter_box(DISC, noise, rng) for _ in range(500)]) - (30, 20, 70, 60)
    np.testing.assert_allclose(boxes.std(axis=0), 0.05 * 41, rtol=0.15)
    clicks = np.array([jitter_click(Click((40, 50), positive=True), DISC, noise, rng).index for _ in range(500)])
    np.testing.assert_allclose(clicks.std(axis=0), 0.3 * 20, rtol=0.15)
    half = np.broadcast_to(np.arange(100) < 50, (80, 100))
    edges = np.array([jitter_mask(half, noise, rng).sum(axis=1) for _ in range(300)])
    deviation = 0.1 * math.sqrt(80 * 50 / math.pi)
    assert edges.std() == pytest.approx(deviation, rel=0.15)
    assert edges.mean() == pytest.approx(50, abs=0.2 * deviation)


def test_an_object_that_fills_the_image_is_outlined_whole() -> None:
    full = np.ones((6, 6), bool)
    np.testing.assert_array_equal(jitter_mask(full, NOISE_LEVELS["lay"], rng_of()), full)


def test_levels_grow() -> None:
    sizes = [vars(NOISE_LEVELS[level]).values() for level in ("none", "expert", "trained", "lay")]
    for smaller, larger in pairwise(sizes):
        assert all(a < b for a, b in zip(smaller, larger, strict=True))


@pytest.mark.parametrize("seed", range(6))
def test_what_is_drawn_fits_the_object(seed: int) -> None:
    """On blobs of any shape: scribbles lie inside, a lasso encloses the same pixels, diameters end on the rim."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(48, 60)), 5)
    truth = largest_part(noise > 0.02)
    shape = truth.shape
    line = np.array(draw_scribble(truth))
    assert truth[tuple(np.round(line[:, ::-1]).astype(int).T)].all()
    lasso = lasso_prompt(draw_lasso(truth), (shape[0], shape[1]))
    assert (lasso.mask_hw == ndimage.binary_fill_holes(truth)).all()
    ends = np.array(draw_diameters(truth))
    assert truth[tuple(np.round(ends[:, ::-1]).astype(int).T)].all()
    places = np.argwhere(truth)[:, ::-1]
    farthest = max(np.hypot(*(places - place).T).max() for place in places)
    assert np.hypot(*(ends[1] - ends[0])) == pytest.approx(farthest)
    assert abs(np.dot(ends[1] - ends[0], ends[3] - ends[2])) < 1.5 * farthest  # across, to a pixel


def largest_part(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    parts, _ = ndimage.label(mask)
    return parts == np.bincount(parts.ravel())[1:].argmax() + 1


def test_diameters_of_an_ellipse() -> None:
    y, x = np.mgrid[:60, :80]
    ellipse = ((x - 40) / 30) ** 2 + ((y - 28) / 15) ** 2 <= 1
    one, other, low, high = np.array(draw_diameters(ellipse))
    assert np.hypot(*(other - one)) == pytest.approx(60, abs=1)
    assert np.hypot(*(high - low)) == pytest.approx(30, abs=1)
