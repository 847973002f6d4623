"""The classical methods: each does on plain cases what it is for, and says so where a prompt is none."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from classical import IMAGE_METHODS, VOLUME_METHODS, geodesic, outlined, volumes
from classical.colours import Colours
from classical.geodesic import OutlinedStack, compute_clues, follow_flow, grow_cut, rim
from classical.propagate import outwards, seeded
from classical.working import resized, working
from medical_sam2.errors import PromptError
from medical_sam2.metrics import dice
from medical_sam2.prompts import FramePrompt

Floats = NDArray[np.float32]
Masks = NDArray[np.bool_]


def disc(size: int, row: float, column: float, radius: float) -> Masks:
    return np.asarray(np.hypot(*np.ogrid[-row : size - row, -column : size - column]) <= radius)


def ball() -> tuple[Floats, Masks]:
    """A bright ball that drifts, in noise; it ends within the stack of 12 slices."""
    radii = np.sqrt(np.clip(10.0**2 - (2.2 * (np.arange(12) - 5)) ** 2, 0, None))
    truth = np.stack([disc(48, 22 + 0.5 * t, 24 + 0.3 * t, r) & (r > 2) for t, r in enumerate(radii)])
    noise = np.random.default_rng(0).normal(0, 0.04, truth.shape)
    return (0.3 + 0.4 * truth + noise).astype(np.float32), truth


def pictures() -> tuple[list[Floats], list[Masks]]:
    """A reddish disc on grey ground, at a slightly different place and size in each picture, pictures of two shapes."""
    rng = np.random.default_rng(1)
    truths = [disc(48, 22 + i, 25 - i, 10 + 0.5 * i) for i in range(4)]
    truths[3] = truths[3][:, :44]
    colour = np.array([0.7, 0.3, 0.35])
    return [np.where(m[..., None], colour, 0.5).astype(np.float32) + rng.normal(0, 0.03, (*m.shape, 3)).astype(np.float32)
            for m in truths], truths  # fmt: skip


@pytest.mark.parametrize(("name", "least"), [("copy", 0.5), ("registration", 0.75), ("random walker", 0.8),
                                             ("classifier", 0.85), ("grow cut", 0.85), ("geodesic", 0.95)])  # fmt: skip
def test_a_ball_in_a_volume(name: str, least: float) -> None:
    stack, truth = ball()
    found = VOLUME_METHODS[name](stack, 5, truth[5])
    assert found.shape == truth.shape
    assert found.dtype == bool
    assert dice(truth, found) > least
    assert dice(truth[5], found[5]) > 0.9
    np.testing.assert_array_equal(found, VOLUME_METHODS[name](stack, 5, truth[5]), "not the same twice")


def faint_ball() -> tuple[Floats, Masks]:
    """A ball without sharp borders beside a darker one that touches it, in noise; slices go on beyond its ends."""
    t, y, x = np.ogrid[:41, :56, :56]
    truth = (t - 20) ** 2 + (y - 28) ** 2 + (x - 24) ** 2 <= 9**2
    beside = ((t - 20) ** 2 + (y - 28) ** 2 + (x - 37) ** 2 <= 7**2) & ~truth
    noise = np.random.default_rng(0).normal(0, 0.05, truth.shape)
    return np.clip(0.3 + 0.25 * truth - 0.2 * beside + noise, 0, 1).astype(np.float32), truth


def clue_dice(stack: Floats, truth: Masks, name: str) -> float:
    """Of one clue alone, off the outlined slice."""
    near, seen, outlined_stack = volumes.near_outline(stack, 20, truth[20], (1.0, 1.0, 1.0))
    found = seen.back(compute_clues(outlined_stack)[name] > 0)
    others = np.arange(len(found)) != 20 - near.start
    return dice(truth[near][others], found[others])


def test_geodesic_finds_a_faint_ball_and_its_ends() -> None:
    stack, truth = faint_ball()
    found = VOLUME_METHODS["geodesic"](stack, 20, truth[20], (1.0, 1.0, 1.0))
    assert dice(truth, found) > 0.9
    assert not found[:8].any()
    assert not found[33:].any()


def test_geodesic_needs_how_like_the_greys_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the log-odds of grey, ways through the same greys are as short as ways through others."""
    stack, truth = faint_ball()
    before = clue_dice(stack, truth, "edges and greys")
    monkeypatch.setattr(geodesic, "log_odds", lambda grey, *_: np.zeros_like(grey))
    assert before > clue_dice(stack, truth, "edges and greys") + 0.05


def test_geodesic_needs_seeds_at_the_ends() -> None:
    """In a column that goes on, ends alone say where the object stops; at an end of the volume nothing is said."""
    stack = np.full((30, 40, 40), 0.2, np.float32)
    stack[:, 12:28, 12:28] = 0.8
    mask = stack[15] > 0.5
    ends = {on: OutlinedStack(stack, 15, mask, (0.3, 0.1, 0.1), (on, on)) for on in (True, False)}
    assert all(seen.seeds()[1][[0, -1]].all() == on for on, seen in ends.items())
    clues = {on: compute_clues(seen)["edges and greys"][:, 20, 20] for on, seen in ends.items()}
    assert (clues[True][[0, -1]] < 0).all()
    assert (clues[False] > 0).all()
    assert (clues[True][10:20] > 0).all()


def test_geodesic_measures_in_millimetres() -> None:
    """Slices five times as thick: the depth of a slice is five times as many radii."""
    stack, truth = faint_ball()
    steps = [volumes.near_outline(stack, 20, truth[20], (mm, 1.0, 1.0))[2].steps for mm in (1.0, 5.0)]
    assert steps[1][0] == pytest.approx(5 * steps[0][0])
    assert steps[1][1:] == steps[0][1:]
    assert 1 / steps[0][0] == pytest.approx(9, abs=0.3)


def test_flow_follows_what_drifts() -> None:
    """A textured picture that moves by one pixel a slice."""
    texture = np.asarray(ndimage.gaussian_filter(np.random.default_rng(0).random((70, 70)), 2.0), np.float32)
    texture = (texture - texture.min()) / np.ptp(texture)
    stack = np.stack([texture[10 + t : 58 + t, 10:58] for t in range(5)])
    way = follow_flow(stack, 0)[4, 10:38, 10:38]
    place = np.stack(np.meshgrid(np.arange(10, 38), np.arange(10, 38)), axis=-1)
    assert np.abs(way - place - (0, 4)).mean() < 0.5


def test_every_method_is_tried() -> None:
    assert set(IMAGE_METHODS) == {"copy", "registration", "random walker", "classifier", "grow cut"}
    assert set(VOLUME_METHODS) == {*IMAGE_METHODS, "geodesic"}


@pytest.mark.parametrize(("name", "least"), [("copy", 0.7), ("registration", 0.9), ("random walker", 0.95),
                                             ("classifier", 0.93), ("grow cut", 0.95)])  # fmt: skip
def test_a_disc_in_a_set(name: str, least: float) -> None:
    images, truths = pictures()
    outline = IMAGE_METHODS[name](images[0], truths[0])
    for image, truth in zip(images[1:], truths[1:], strict=True):
        found = outline(image)
        assert found.shape == truth.shape
        assert dice(truth, found) > least


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("methods", [VOLUME_METHODS, IMAGE_METHODS])
def test_tiny_and_flat_ones_are_answered(size: int, methods: dict) -> None:
    """A mask of a few pixels at a corner, in a picture without any contrast."""
    mask = np.zeros((40, 30), bool)
    mask[:size, :size] = True
    flat = np.full((3, 40, 30), 0.5, np.float32)
    for method in methods.values():
        answer = method(flat, 1, mask) if methods is VOLUME_METHODS else method(flat[0], mask)(flat[1])
        assert answer.shape[-2:] == (40, 30)


def test_a_mask_is_taken_as_it_is() -> None:
    images, truths = pictures()
    np.testing.assert_array_equal(outlined(images[0], FramePrompt.mask(truths[0])), truths[0])


@pytest.mark.parametrize("grey", [True, False])
def test_a_box_and_a_click_find_the_object(grey: bool) -> None:
    images, truths = pictures()
    picture = images[0][..., 0] if grey else images[0]
    rows, columns = np.argwhere(truths[0]).T
    box = FramePrompt.box(columns.min(), rows.min(), columns.max(), rows.max())
    assert dice(truths[0], outlined(picture, box)) > 0.95
    assert dice(truths[0], outlined(picture, FramePrompt.click(25, 22))) > 0.85


def test_a_box_around_nothing_becomes_its_ellipse() -> None:
    found = outlined(np.full((60, 60), 0.5, np.float32), FramePrompt.box(20, 10, 39, 49))
    assert found.sum() == pytest.approx(np.pi * 10 * 20, rel=0.03)


def test_what_cannot_start_is_refused() -> None:
    picture = np.zeros((20, 20), np.float32)
    for prompt in (FramePrompt.click(3, 3, positive=False), FramePrompt.mask(np.zeros((20, 20), bool))):
        with pytest.raises(PromptError, match="positive click"):
            outlined(picture, prompt)


def test_grow_cut_takes_the_way_around_an_edge() -> None:
    """Seeds in two halves with a step between: each half is its own, though seed 1 lies nearer to most of the other half."""
    picture = np.zeros((9, 20), np.float32)
    picture[:, 14:] = 1
    seeds = np.zeros(picture.shape, np.int32)
    seeds[4, 12], seeds[4, 19] = 1, 2
    np.testing.assert_array_equal(grow_cut(picture, seeds, (1.0, 1.0)), np.where(picture > 0, 2, 1))


def test_grow_cut_without_edges_is_the_nearest_seed() -> None:
    seeds = np.zeros((7, 8, 9), np.int32)
    seeds[0, 0, 0], seeds[6, 7, 8] = 1, 2
    found = grow_cut(np.zeros(seeds.shape, np.float32), seeds, (3.0, 1.0, 1.0))
    i, j, k = np.indices(seeds.shape)
    nearer = (3 * i + j + k) - (3 * (6 - i) + (7 - j) + (8 - k))
    assert (found[nearer < 0] == 1).all()
    assert (found[nearer > 0] == 2).all()


def test_the_rim_leaves_seeds_alone() -> None:
    seeds = np.zeros((2, 4, 5), np.int32)
    seeds[0, 0, 0] = 1
    rim(seeds, 2)
    assert seeds[0, 0, 0] == 1
    assert (seeds == 2).sum() == 2 * 14 - 1
    assert not seeds[:, 1:-1, 1:-1].any()


def test_seeds_lie_on_either_side_of_a_band() -> None:
    seeds = seeded(disc(40, 20, 20, 12), 0.25)
    distance = np.hypot(*np.ogrid[-20:20, -20:20])
    assert (seeds[distance < 9] == 1).all()
    assert (seeds[distance > 16] == 2).all()
    assert (seeds[(distance > 11) & (distance < 13)] == 0).all()
    assert (seeded(np.eye(9, dtype=bool), 0.25) == 1).any(), "a thin object has seeds too"


def test_propagation_ends_where_nothing_is_left() -> None:
    visited = []

    def step(before: Floats, outline: Floats, following: Floats) -> Floats:
        visited.append(int(following[0, 0]))
        return outline * (following[0, 0] != 6)

    stack = np.repeat(np.arange(9, dtype=np.float32)[:, None, None], 4, axis=1).repeat(4, axis=2)
    found = outwards(step, stack, 4, np.ones((4, 4), bool))
    assert visited == [5, 6, 3, 2, 1, 0]
    assert found.any(axis=(1, 2)).tolist() == [True] * 6 + [False] * 3


def test_a_region_goes_there_and_back() -> None:
    mask = disc(200, 60, 90, 20)
    seen = working(np.repeat(mask[None].astype(np.float32), 3, axis=0), mask, margin=2.0, side=48)
    assert seen.stack_thw.shape == (3, 48, 48)
    assert dice(mask, seen.back(seen.stack_thw)[1]) > 0.98
    assert resized(mask, (100, 100)).shape == (100, 100)


def test_a_classifier_of_one_class_answers_it() -> None:
    picture = np.random.default_rng(0).random((20, 20)).astype(np.float32)
    assert (Colours.learnt(picture, np.ones((20, 20), bool)).likeness(picture) == 1).all()
