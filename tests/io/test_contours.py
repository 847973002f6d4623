"""Masks become polygons along the edges of their pixels, and come back pixel for pixel, here and through other libraries."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline
from numpy.typing import NDArray
from shapely.geometry import Polygon as Shape
from skimage.draw import polygon2mask

from medical_sam2.io.annotations import fill_and_trace, fill_polygons, trace_polygons, trace_rings
from tests.strategies import seeds


@st.composite
def masks(draw: st.DrawFn) -> NDArray[np.bool_]:
    """Parts, holes, parts in holes, parts that touch at corners, at the border or not; empty or full at times."""
    rng = np.random.default_rng(draw(seeds))
    return rng.random(draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))) < draw(
        st.sampled_from([0.0, 0.3, 0.6, 0.9, 1.1])
    )


@given(mask=masks())
@settings(max_examples=60)
def test_polygons_are_valid_and_fill_the_mask(mask: NDArray[np.bool_]) -> None:
    polygons = trace_polygons(mask)
    shapes = [Shape(polygon.outer, polygon.holes) for polygon in polygons]
    assert all(shape.is_valid for shape in shapes)
    assert sum(shape.area for shape in shapes) == mask.sum(), "along the edges of pixels: the area is theirs"
    rings = [ring for polygon in polygons for ring in (polygon.outer, *polygon.holes)]
    np.testing.assert_array_equal(fill_polygons(rings, mask.shape), mask)


@given(mask=masks())
@settings(max_examples=60)
def test_rings_are_simple_and_every_program_fills_them_alike(mask: NDArray[np.bool_]) -> None:
    rings = trace_rings(mask, 0.01)
    assert all(Shape(ring).is_valid for ring in rings), "a hole's channel is open, and nothing touches itself"
    np.testing.assert_array_equal(fill_polygons(rings, mask.shape), mask)
    rounded, by_skimage, by_matplotlib = np.zeros(mask.shape, np.uint8), np.zeros(mask.shape, bool), np.zeros(mask.shape, bool)
    centres = np.stack(np.indices(mask.shape)[::-1], axis=-1).reshape(-1, 2)
    for ring in rings:
        cv2.fillPoly(rounded, [np.rint(ring).astype(np.int32)], 1)
        by_skimage ^= polygon2mask(mask.shape, ring[:, ::-1])
        by_matplotlib |= Outline(ring).contains_points(centres).reshape(mask.shape)
    np.testing.assert_array_equal(by_skimage, mask)
    np.testing.assert_array_equal(by_matplotlib, mask)
    np.testing.assert_array_equal(rounded.astype(bool), mask)


@given(mask=masks())
@settings(max_examples=40)
def test_outlines_along_the_centres_of_pixels_hold_these_pixels(mask: NDArray[np.bool_]) -> None:
    """As OpenCV draws them, outlines and holes alike, and a little beside, as decimals are rounded."""
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    noise = np.random.default_rng(0).normal(0, 0.001, 2)
    np.testing.assert_array_equal(fill_polygons([ring[:, 0] + noise for ring in found], mask.shape), mask)


def test_what_lies_beyond_the_image_is_cut_off() -> None:
    ring = np.array([[-5.0, -5.0], [1.4, -5.0], [1.4, 900.0], [-5.0, 900.0]])
    assert np.argwhere(fill_polygons([ring], (3, 4))).tolist() == [[row, column] for row in range(3) for column in (0, 1)]


def test_nobody_can_tell_of_a_centre_on_a_line() -> None:
    inside, on_line = fill_and_trace([np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]])], (4, 4))
    assert np.argwhere(inside & ~on_line).tolist() == [[1, 1]]
    assert on_line.sum() == 8


@pytest.mark.parametrize("rings", [[], [np.array([[1.0, 2.0]])], [np.array([[1.0, 2.0], [1.0, 2.0]])]])
def test_no_ring_and_a_single_point(rings: list[NDArray[np.float64]]) -> None:
    assert np.argwhere(fill_polygons(rings, (4, 4))).tolist() == [[2, 1]] * bool(rings)
