"""Cases made from real images: what was picked and no more, objects that are there, the same whoever makes them."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from medical_sam2.data.cases import PoolReader
from medical_sam2.errors import ConfigError, FormatError
from real import Picked, make_real_case, read_material
from real.looks import as_bytes, relit, shares, stretched, tinted, window
from real.objects import METHODS, bands, merged, objects_in, outlined, plausible
from real.sampling import grid, pick, softened, take
from synthetic import write_pool
from tests.data.nnunet import describe, put, volume_set

SIZE, COUNT = 40, 3


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def scene(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.float32]:
    """Two bright balls and a dim one in a grey ground, 0 to 255."""
    places = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    image = np.full(shape, 80, np.float32)
    for centre, radius, level in ((-0.5, 0.3, 220), (0.4, 0.35, 150), (0.0, 0.15, 20)):
        offset = np.zeros(len(shape))
        offset[-1] = centre
        image[((places - offset.reshape(-1, *(1,) * len(shape))) ** 2).sum(0) < radius**2] = level
    return image + generator(seed).normal(0, 2, shape).astype(np.float32)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = describe(
        tmp_path_factory.mktemp("set"),
        channel_names={"0": "R", "1": "G", "2": "B"},
        labels={"background": 0, "cell": 1},
        file_ending=".png",
    )
    for number in range(4):
        grey = scene((60, 80), number)
        put(
            folder / "imagesTr" / f"case{number}_0000.png",
            np.stack([grey, grey * 0.8, grey * 0.5], -1).clip(0, 255).astype(np.uint8),
        )
        put(folder / "labelsTr" / f"case{number}.png", (grey > 190).astype(np.uint8))
    return folder


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("volume") / "head.nii.gz"
    put(path, np.ascontiguousarray(scene((36, 36, 20)).astype(np.int16)))
    return path


def test_of_a_data_set_every_second_case_is_used_and_a_named_file_always(pictures: Path, volume: Path) -> None:
    whole, half = (read_material(Picked((pictures, volume), half=half)) for half in (False, True))
    assert (len(whole.shots), len(half.shots)) == (4, 2)
    for shot, expected in zip(half.shots, whole.shots[1::2], strict=True):
        np.testing.assert_array_equal(shot.array, expected.array)
    assert len(whole.stacks) == len(half.stacks) == 1
    assert not read_material(Picked((pictures,), masks=False)).shots[0].tasks


def test_a_half_of_one_case_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="second case"):
        read_material(Picked((volume_set(tmp_path, cases=1),), half=True))


def test_a_ct_is_known_by_its_hounsfield_units(tmp_path: Path, volume: Path) -> None:
    stack = read_material(Picked((volume_set(tmp_path, cases=1),))).stacks[0]
    assert stack.hounsfield
    assert stack.spacing_mm[0] == pytest.approx(3.0)
    assert not read_material(Picked((volume,))).stacks[0].hounsfield


@pytest.mark.parametrize("kind", ["volume", "set"])
def test_cases_hold_what_every_case_promises(kind: str, pictures: Path, volume: Path) -> None:
    picked = Picked((pictures, volume))
    for index in range(6):
        case = make_real_case(picked, 3, index, kind, size=SIZE, count=COUNT)
        assert case.kind == kind
        assert case.images.dtype == case.labels.dtype == np.uint8
        assert case.images.shape[:3] == case.labels.shape
        assert case.images.shape[1:3] == (SIZE, SIZE)
        assert (case.images.ndim, len(case.images)) == (4, COUNT) if kind == "set" else case.images.ndim == 3
        assert len(case.tasks) > 0
        for task in case.tasks:
            assert 0 not in task
            assert np.isin(case.labels, task).sum() >= 40
        again = make_real_case(picked, 3, index, kind, size=SIZE, count=COUNT)
        np.testing.assert_array_equal(case.images, again.images)
        np.testing.assert_array_equal(case.labels, again.labels)


def test_sets_without_outlines_need_none_and_volumes_need_volumes(pictures: Path) -> None:
    assert make_real_case(Picked((pictures,), masks=False), 0, 1, "set", size=SIZE, count=2).tasks
    with pytest.raises(ConfigError, match="no volume"):
        make_real_case(Picked((pictures,)), 0, 0, "volume", size=SIZE)


def test_nothing_to_see_is_said(tmp_path: Path) -> None:
    put(tmp_path / "empty.nii.gz", np.full((30, 30, 12), 7, np.int16))
    with pytest.raises(ConfigError, match="visible border"):
        make_real_case(Picked((tmp_path / "empty.nii.gz",)), 0, 0, "volume", size=SIZE)


def test_they_make_a_pool_that_lies_beside_another(pictures: Path, tmp_path: Path) -> None:
    maker = partial(make_real_case, Picked((pictures,)))
    list(write_pool(tmp_path, volumes=1, sets=0, size=SIZE))
    made = list(write_pool(tmp_path, volumes=0, sets=2, size=SIZE, count=COUNT, first=100, maker=maker))
    assert made == [101, 103]
    assert [entry.kind for entry in PoolReader(tmp_path).entries] == ["volume", "set", "set"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(64, 64), (20, 40, 40), (14, 48, 48)])
def test_each_method_tells_a_ball_from_its_ground(method, shape: tuple[int, ...]) -> None:
    image = scene(shape)
    truth = image > 190
    best = 0.0
    for seed in range(6):
        regions = method(generator(seed), image)
        assert regions.shape == shape
        inside = np.bincount(regions[truth])
        one = regions == inside.argmax()
        best = max(best, 2 * (one & truth).sum() / (one.sum() + truth.sum()))
    assert best > 0.7


def test_whole_bands_hold_many_pieces_and_others_one() -> None:
    image = np.zeros((40, 40), np.float32)
    image[5:12, 5:12] = image[25:35, 25:35] = 200
    apart, together = (bands(generator(), image, connected=connected) for connected in (True, False))
    assert apart[8, 8] != apart[30, 30]
    assert together[8, 8] == together[30, 30]


def test_neighbours_that_are_alike_are_joined() -> None:
    regions = np.repeat(np.arange(4), 5)[None].repeat(6, 0)
    grey = np.array([10, 12, 90, 91], np.float32)[regions]
    joined = merged(regions, grey, 5.0)
    assert joined[0, 0] == joined[0, 6] != joined[0, 11] == joined[0, 16]


def test_objects_are_plausible_and_overlapping_ones_come_back_from_one_map() -> None:
    image = scene((16, 64, 64))
    found = objects_in(generator(1), image, 10)
    assert found
    masks = [mask for mask in found if mask.any()]
    labels, tasks = outlined(masks, image.shape)
    for mask, task in zip(masks, tasks, strict=True):
        np.testing.assert_array_equal(np.isin(labels, task), mask)


def test_a_full_map_leaves_out_the_last_objects() -> None:
    masks = [generator(seed).uniform(size=(80, 80)) < 0.5 for seed in range(10)]
    labels, tasks = outlined(masks, (80, 80))
    assert 5 < len(tasks) < 10
    np.testing.assert_array_equal(np.isin(labels, tasks[0]), masks[0])


def test_what_is_no_object() -> None:
    disc = scene((64, 64)) > 190
    assert plausible(disc)
    frame = np.ones((64, 64), bool)
    frame[8:-8, 8:-8] = False
    speck = np.zeros((64, 64), bool)
    speck[3:5, 3:5] = True
    ragged = np.zeros((64, 64), bool)
    ragged[4:60:4, 4:60] = ragged[4:60, 4] = True
    assert not any(map(plausible, (frame, speck, ragged)))


def test_a_grid_without_turn_is_a_box_of_the_source() -> None:
    image = np.arange(48, dtype=np.float32).reshape(6, 8)
    where = grid(generator(), (2, 3), (2.5, 4.0), (1.0, 1.0))
    np.testing.assert_allclose(take(image, where), image[2:4, 3:6])
    np.testing.assert_array_equal(pick(image.astype(np.uint8), where), image[2:4, 3:6])
    outside = grid(generator(), (2, 2), (-20, -20), (1, 1), bend=(0.5, 0.5))
    assert (take(np.stack([image] * 3, -1), outside, outside=0.5) == 0.5).all()


def test_only_what_will_be_sampled_coarsely_is_softened() -> None:
    image = scene((30, 30))
    assert softened(image, (1.0, 1.0)) is image
    assert softened(image, (1.0, 4.0)).std() < image.std()


def test_looks_stay_within_black_and_white() -> None:
    image = scene((8, 40, 40))
    for seed in range(8):
        rng = generator(seed)
        low, high = window(rng, image, hounsfield=bool(seed % 2))
        assert low < high
        share = shares(image, low, high)
        picture = np.stack([share[0], share[0] * 0.7, share[0] * 0.4], -1)
        for one in (share, relit(rng, share), tinted(rng, picture), relit(rng, picture), stretched(rng, picture * 0.2)):
            assert one.dtype == np.float32
            assert one.min() >= 0
            assert one.max() <= 1
    assert as_bytes(np.array([-1, 0.5, 2])).tolist() == [0, 128, 255]
