"""Which intensities become black and white: what changes nothing of an image changes nothing of what is shown."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from medical_sam2.errors import ConfigError
from medical_sam2.intensity_window import (
    CT_WINDOWS,
    Window,
    Windows,
    choose_window,
    content_box,
    in_hounsfield,
    percentile_window,
)
from medical_sam2.volume import Volume
from tests.strategies import seeds

SHAPE = (24, 20, 12)
gains = st.floats(-6, 6).map(lambda power: 10.0**power)
offsets = st.floats(-1e4, 1e4)
widths = st.tuples(*[st.tuples(st.integers(0, 5), st.integers(0, 5))] * 3)
values = st.sampled_from([0.0, -1000.0, -1.0, 0.3, 1.0, 4095.0, -32768.0, 1e30])


def tissue(seed: int) -> NDArray[np.float64]:
    """Air with noise, and two tissues, from 0 to 1."""
    rng = np.random.default_rng(seed)
    image = np.abs(rng.normal(0.05, 0.02, SHAPE))
    image[4:20, 4:16, 2:10] = rng.normal(0.4, 0.02, (16, 12, 8))
    image[8:12, 8:12, 4:8] = rng.normal(0.9, 0.02, (4, 4, 4))
    return image


def head(seed: int, background: float = 0.0) -> NDArray[np.float64]:
    """The same without what is around it, as after the skull was taken off, or in an atlas."""
    image = tissue(seed)
    places = np.moveaxis(np.indices(SHAPE), 0, -1)
    outside = (((places - (11.5, 9.5, 5.5)) / (9, 7, 5)) ** 2).sum(-1) > 1
    return np.where(outside, background, image)


def ct(seed: int = 0, padding: float | None = None) -> NDArray[np.int16]:
    """Air, a body with fat, a lung, an organ and bone, in Hounsfield units."""
    rng = np.random.default_rng(seed)
    image = np.full(SHAPE, -1000.0)
    image[3:21, 3:17] = -90
    image[4:20, 4:16] = 45
    image[6:12, 6:10] = -760
    image[14:18, 8:10] = 650
    image += rng.normal(0, 12, SHAPE)
    if padding is not None:
        image[:2] = image[:, :2] = padding
        image[22:, 18:] = padding
    return image.round().astype(np.int16)


def shown(array: NDArray[np.generic]) -> NDArray[np.float32]:
    return percentile_window(array).apply(array)


@given(st.sampled_from([tissue, head]), seeds, gains, offsets)
def test_gain_and_offset_change_nothing(make, seed: int, gain: float, offset: float) -> None:
    image = make(seed)
    np.testing.assert_allclose(shown(gain * (image + offset)), shown(image), atol=1e-4)


@given(st.sampled_from([tissue, head]), seeds, gains)
def test_an_inverted_image_is_shown_inverted_and_its_network_sees_the_same(make, seed: int, gain: float) -> None:
    image = make(seed)
    inverted = gain * (image.max() + image.min() - image)
    np.testing.assert_allclose(shown(inverted), 1 - shown(image), atol=1e-4)
    one, other = (choose_window(as_volume(array, "MR")) for array in (image, inverted))
    assert {one.negative, other.negative} == {False, True}
    np.testing.assert_allclose(other.for_network(inverted), one.for_network(image), atol=1e-4)


@given(st.sampled_from([tissue, head]), seeds, widths, values)
def test_padding_changes_nothing_whatever_its_value(make, seed: int, width: tuple[tuple[int, int], ...], value: float) -> None:
    image = make(seed)
    padded = np.pad(image, width, constant_values=value)
    inner = padded[content_box(padded)]
    np.testing.assert_array_equal(inner, image[content_box(image)])
    assert percentile_window(padded) == percentile_window(image)


def test_what_two_programs_padded_is_left_out_too() -> None:
    image = tissue(0)
    padded = np.pad(np.pad(image, ((3, 1), (0, 2), (1, 1)), constant_values=-1), 4, constant_values=7)
    np.testing.assert_array_equal(padded[content_box(padded)], image)
    padded = np.pad(image, 3, constant_values=np.nan)
    np.testing.assert_array_equal(padded[content_box(padded)], image)


def test_the_content_of_one_value_is_everything() -> None:
    for array in (np.zeros((3, 4, 5)), np.ones((1, 1, 1)), np.full((2, 2), np.nan)):
        assert content_box(array) == tuple(slice(0, size) for size in array.shape)
        window = percentile_window(array)
        assert window.low < window.high


def with_few(array: NDArray[np.generic], value: float, share: float = 0.013) -> NDArray[np.float64]:
    """The same with a few voxels of another value in its midst."""
    changed = array.astype(np.float64)
    changed[np.random.default_rng(1).random(array.shape) < share] = value
    return changed


@pytest.mark.parametrize("value", [30_000.0, -30_000.0])
def test_a_value_far_from_all_else_is_told(value: float) -> None:
    assert f"of which {value:g} is far from all else" in percentile_window(with_few(tissue(0), value)).source
    assert "far" not in percentile_window(tissue(0)).source
    assert "far" not in percentile_window((tissue(0) > 0.3).astype(np.uint8)).source


@given(seeds, st.sampled_from([-32768.0, -3000.0, 5.0]))
def test_a_background_leaves_contrast_to_what_is_on_it(seed: int, background: float) -> None:
    """Values inside span .04 to .95: they keep two thirds of the range of grey, wherever the background lies."""
    seen, plain = shown(head(seed, background)), head(seed)
    inside = plain > 0
    assert np.ptp(seen[inside]) > 0.62
    assert abs(float(np.median(seen[~inside])) - float(np.median(seen[inside]))) > 0.2


def test_a_frequent_value_amid_others_is_no_background() -> None:
    """Noise of a dark field, in few whole numbers."""
    image = np.random.default_rng(0).normal(4, 1, SHAPE).round().clip(0)
    image[4:8, 4:8] = 30
    assert "background" not in percentile_window(image).source


def test_sparse_light_on_black_is_not_white_on_white() -> None:
    """Most of a dark field is 0, and never a plane at its border."""
    rng = np.random.default_rng(0)
    image = np.zeros((64, 64, 8), np.uint16)
    lit = rng.random(image.shape) < 0.03
    image[lit] = rng.integers(200, 4000, lit.sum())
    seen = shown(image)
    assert (seen[~lit] == 0).all()
    assert np.mean(seen[lit] == 1) < 0.02
    assert float(np.std(seen[lit])) > 0.2


@pytest.mark.parametrize("scale", [1e290, 1e302, 1e305])
@pytest.mark.filterwarnings("error")
def test_values_whose_squares_are_no_numbers_give_the_window_of_smaller_ones(scale: float) -> None:
    image = np.zeros(SHAPE)
    image[6:18, 4:15, 2:10] = np.random.default_rng(0).normal(800, 20, (12, 11, 8))
    assert content_box(image * scale) == content_box(image)
    for values in (image, np.random.default_rng(1).normal(800, 20, SHAPE)):
        seen, expected = (percentile_window(each).apply(each) for each in (values * scale, values))
        np.testing.assert_allclose(seen, expected, atol=1e-3)


@pytest.mark.parametrize("value", [0.0, 2500.0])
@pytest.mark.parametrize("corners", [True, False])
def test_a_thing_of_noise_alone_is_a_thing_on_a_background(value: float, corners: bool) -> None:
    """Whatever fills its box looks like an image with padding around it, but for what is inside."""
    thing = np.zeros(SHAPE, bool)
    thing[6:18, 4:15, 2:10] = True
    if corners:
        thing[6:9, 4:8] = thing[15:18, 11:15] = False
    image = np.where(thing, np.random.default_rng(0).normal(800, 20, SHAPE), value)
    assert content_box(image) == tuple(slice(0, size) for size in SHAPE) or corners
    assert abs(float(shown(image)[thing].mean()) - float(shown(image)[~thing].mean())) > 0.85
    assert float(shown(image)[thing].std()) < 0.05


def test_three_values_stay_three() -> None:
    image = np.zeros((12, 12, 12), np.uint8)
    image[2:10, 2:10, 2:10] = 100
    image[4:6, 4:6, 4:6] = 200
    image[2, 2, 2:10] = 0
    black, grey, white = (float(shown(image)[place]) for place in ((0, 0, 0), (8, 8, 8), (5, 5, 5)))
    assert black < grey - 0.2 < white - 0.4


@pytest.mark.parametrize(
    ("kind", "offset"),
    [
        (np.uint8, 0), (np.int16, -1500), (np.uint16, 60_000), (np.int32, 2_000_000_000), (np.uint32, 4_000_000_000),
        (np.int64, 2**60), (np.int64, -(2**60)), (np.uint64, 2**63 + 5), (np.float32, 0), (np.float64, 1e9),
    ],
)  # fmt: skip
def test_the_offset_goes_before_anything_is_rounded(kind: type, offset: int) -> None:
    plain = (tissue(3) * 200).round().astype(np.int64)
    stored = plain.astype(kind) + kind(offset)
    np.testing.assert_allclose(shown(stored), shown(plain), atol=0.006)


def test_numbers_at_the_ends_of_their_type() -> None:
    for kind in (np.int8, np.int16, np.int32, np.int64, np.uint64):
        ends = np.iinfo(kind)
        seen = Window(ends.min, ends.max).apply(np.array([ends.min, 0, ends.max], kind))
        np.testing.assert_allclose(seen, [0, -ends.min / (ends.max - ends.min), 1], atol=1e-6)
        narrow = Window(10, 20).apply(np.array([ends.min, 15, ends.max], kind))
        np.testing.assert_allclose(narrow, [0, 0.5, 1])


@given(st.lists(st.floats(allow_nan=True, width=32), min_size=1, max_size=20))
def test_a_window_makes_intensities_between_0_and_1_of_anything(numbers: list[float]) -> None:
    array = np.array(numbers, np.float32).reshape(-1, 1, 1)
    window = percentile_window(array)
    assert window.high > window.low
    seen = window.apply(array)
    assert seen.dtype == np.float32
    assert ((seen >= 0) & (seen <= 1)).all()


def test_percentiles_leave_out_what_is_rare() -> None:
    array = np.concatenate([np.full(10, -1e6), np.linspace(0, 1000, 100_001), np.full(10, 1e30)]).reshape(-1, 1, 1)
    window = percentile_window(array)
    assert window.low == pytest.approx(5, abs=0.2)
    assert window.high == pytest.approx(995, abs=0.2)


def as_volume(array: NDArray[np.generic], modality: str | None = "CT") -> Volume:
    return Volume(array, np.eye(4), modality)


def test_windows_by_name() -> None:
    image = as_volume(ct())
    for name, (level, width) in CT_WINDOWS.items():
        assert choose_window(image, name) == Window(level - width / 2, level + width / 2)
    assert choose_window(image, "-10, 20") == Window(-10, 20)
    assert choose_window(image, Window(1, 2)) == Window(1, 2)
    assert choose_window(image) == choose_window(image, "soft")
    assert choose_window(replace(image, modality="MR")) == percentile_window(image.array)
    assert choose_window(image, "percentile") == percentile_window(image.array)
    for name in ("blue", "3", "3,3", "5,1", "1,2,3", "nan,1", "-inf,0"):
        with pytest.raises(ConfigError):
            choose_window(image, name)


@pytest.mark.parametrize("name", ["5000,6000", "-9,-5", "-1,1e30", "brain"])
def test_a_window_that_shows_nothing_is_refused(name: str) -> None:
    """On one grey a network outlines something round at the click, and is sure of it."""
    image = np.arange(100, 700, dtype=np.int16).reshape(6, 10, 10)
    with pytest.raises(ConfigError, match="shows one grey: the image's values go from 100 to 699"):
        choose_window(as_volume(image, "MR"), name)
    one_value = np.full((3, 4, 5), 100, np.int16)
    for array, fine in ((image, "300,301"), (image, "-1,2000"), (one_value, name)):
        choose_window(as_volume(array, "MR"), fine)


def test_the_window_of_a_ct_shows_what_was_prompted_and_says_how_it_is_known() -> None:
    inside = {"lung": [-700, -650], "soft": [60, 90], "bone": [700]}
    for modality, source in (("CT", "the file says CT"), (None, "a CT, guessed from its values")):
        windows = Windows(as_volume(ct(), modality))
        assert windows.of() == choose_window(windows.image, "soft")
        for name, seen in inside.items():
            found = windows.of(np.array(seen))
            assert found == choose_window(windows.image, name)
            assert found.source == f"{name}: {source}"
    told = Windows(as_volume(ct()), "brain")
    assert told.of(np.array([700])) == choose_window(told.image, "brain")
    assert "as given" in str(told.of())


@pytest.mark.parametrize(
    "array", [ct(), ct(padding=-3024), ct(padding=-2000), ct().astype(np.float64), ct()[:, :, 5:6], ct()[:, :, 5]]
)
def test_a_ct_is_known_by_air_and_water(array: NDArray[np.generic]) -> None:
    assert in_hounsfield(array, None)
    assert in_hounsfield(array, "CT")
    assert not in_hounsfield(array, "MR")
    assert not in_hounsfield(array, "PT")


def test_a_ct_on_another_grid_is_known_too_where_air_is_clear() -> None:
    assert in_hounsfield((ct()[1:] * 0.5 + ct()[:-1] * 0.5 + 0.25)[::2], None)


@given(seeds, widths, st.sampled_from([0.0, -1024.0, -3024.0]))
def test_padding_makes_no_ct_and_takes_none_away(seed: int, width: tuple[tuple[int, int], ...], value: float) -> None:
    assert in_hounsfield(np.pad(ct(seed), width, constant_values=value), None)
    assert not in_hounsfield(np.pad(1000 * tissue(seed).round(3), width, constant_values=value), None)


@given(seeds, st.sampled_from([30_000.0, 32_767.0, 4000.0, -32_768.0, -9999.0]), st.sampled_from([None, "CT"]))
def test_metal_and_odd_padding_in_the_midst_change_no_window(seed: int, value: float, modality: str | None) -> None:
    metal = as_volume(with_few(ct(seed), value), modality)
    for inside in (None, np.array([-700]), np.array([700])):
        assert choose_window(metal, inside=inside) == choose_window(as_volume(ct(seed), modality), inside=inside)
    if modality is None:
        assert "guessed" in choose_window(metal).source


def not_in_hounsfield() -> dict[str, NDArray[np.generic]]:
    rng, mr = np.random.default_rng(0), tissue(0)
    score = (mr - mr.mean()) / mr.std()
    return {
        "MR x 1000": (mr * 1000).round(),
        "MR x 1000 with noise of both signs": ((mr + rng.normal(0, 0.3, SHAPE)) * 1000).round(),
        "scores x 1000": (score * 1000).round(),
        "scores": score,
        "phase": rng.integers(-4096, 4095, SHAPE),
        "phase of a head": np.where(mr > 0.2, rng.normal(300, 200, SHAPE).round(), rng.integers(-4096, 4095, SHAPE)),
        "phase, masked": np.where(mr > 0.2, rng.integers(-4096, 4095, SHAPE), -4096),
        "velocity in mm/s": np.where(mr > 0.2, rng.normal(0, 40, SHAPE).round(), rng.integers(-1000, 1001, SHAPE)),
        "noise": rng.normal(0, 300, SHAPE).round(),
        "a CT and a fifth of something else": with_few(ct(), 4000.0, 0.2),
        "bytes": (ct().clip(-160, 240) / 2 + 100).astype(np.uint8),
        "stored, without the intercept": (ct() + 1024).astype(np.uint16),
        "MR less 1000": (mr * 1000 - 1000).round(),
    }


@pytest.mark.parametrize("kind", not_in_hounsfield())
def test_large_numbers_are_no_ct(kind: str) -> None:
    array = not_in_hounsfield()[kind]
    assert not in_hounsfield(array, None)
    assert choose_window(as_volume(array, None)) == percentile_window(array)


def test_a_file_that_says_ct_needs_no_air_but_numbers_that_can_be_hounsfield_units() -> None:
    assert in_hounsfield(ct()[3:19, 10:14], "CT")  # fat and muscle
    assert not in_hounsfield(ct()[3:19, 10:14], None)
    air_at_a_border = ct()[3:20, 10:14].clip(0).copy()
    air_at_a_border[:2] = -1000
    assert in_hounsfield(air_at_a_border, "CT")
    for array in (ct() / 1000, ct() + 1024, (ct().clip(-160, 240) / 2 + 100).astype(np.uint8)):
        assert not in_hounsfield(array, "CT")
