"""What was encoded is kept within limits, and found again by what it shows."""

import errno
import os
from pathlib import Path

import pytest
import torch

from medical_sam2.errors import FeaturesNotKept, InputError
from medical_sam2.model.backbone import Features
from medical_sam2.tracking.encoding import LATEST, FeatureCache, FeatureStore, content_key

EACH_MB = (3 * 1024 + 4) / 2**20  # of one of the features below
CPU = torch.device("cpu")


def features(value: float) -> Features:
    top = torch.full((1, 1, 16, 16), float(value))
    return Features(top, (top, top), top.mean((2, 3)))


class Asking:
    """A cache with room for some frames, and which of them had to be encoded."""

    def __init__(self, room: float) -> None:
        self.cache, self.encoded = FeatureCache(limit_mb=room * EACH_MB), list[int]()

    def get(self, t: int) -> float:
        def encode() -> Features:
            self.encoded.append(t)
            return features(t)

        return float(self.cache.get(t, encode).summary_BC)

    def hits(self, frames: range) -> int:
        before = len(self.encoded)
        assert [self.get(t) for t in frames] == list(frames)
        return len(frames) - (len(self.encoded) - before)


@pytest.mark.parametrize("back", [False, True], ids=["again", "back"])
def test_of_twice_as_many_frames_as_fit_each_further_pass_finds_nearly_half(back: bool) -> None:
    asking, frames = Asking(100.5), range(200)
    asking.hits(frames)
    for number in range(1, 6):
        order = frames[::-1] if back and number % 2 else frames
        assert 100 - 2 * LATEST <= asking.hits(order) <= 100


def test_the_latest_frames_stay_however_full_it_is() -> None:
    asking = Asking(20.5)
    for t in range(200):
        asking.get(t)
        assert asking.hits(range(max(0, t - LATEST + 1), t + 1)) == min(LATEST, t + 1)


def test_a_frame_that_two_cores_encode_at_once_is_held_once() -> None:
    asking = Asking(10.5)

    def while_another_core_does() -> Features:
        assert asking.get(0) == 0
        return features(0)

    asking.cache.get(0, while_another_core_does)
    asking.hits(range(10))
    assert asking.hits(range(10)) == 10


def test_what_nobody_asks_for_any_more_makes_room() -> None:
    asking = Asking(50.5)
    asking.hits(range(50))
    for _ in range(20):
        asking.hits(range(1000, 1040))
    assert asking.hits(range(1000, 1040)) == 40


def test_a_cache_too_small_for_one_frame_holds_the_last() -> None:
    asking = Asking(0)
    for t in (1, 1, 2, 1):
        asking.get(t)
    assert asking.encoded == [1, 2, 1]


def test_other_weights_or_settings_find_nothing() -> None:
    asking, weight = Asking(9), torch.zeros(3)
    for made, fresh in ((0, 1), (0, 0), (1, 1), (0, 1)):
        asking.cache.of([weight], made)
        assert asking.hits(range(1)) == 1 - fresh
    weight.add_(1)
    asking.cache.of([weight], 0)
    assert asking.hits(range(1)) == 0


def test_grey_is_told_from_colour() -> None:
    plane = torch.rand(1, 8, 8)
    colour = torch.cat([plane, torch.zeros(2, 8, 8)])
    assert content_key(plane.expand(3, -1, -1)) != content_key(colour)
    assert content_key(colour) == content_key(colour.clone())


def test_a_folder_gives_back_what_was_kept_and_no_other(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "kept", "weights")
    store.keep(b"one", features(3))
    again = FeatureStore(tmp_path / "kept", "weights").load(b"one", CPU)
    assert again is not None
    assert torch.equal(again.top_BChw, features(3).top_BChw)
    assert store.load(b"other", CPU) is None
    assert FeatureStore(tmp_path / "kept", "others").load(b"one", CPU) is None


def test_a_full_folder_keeps_what_is_there(tmp_path: Path) -> None:
    for count, room in ((2, 2.5), (2, 2.5), (3, 100)):
        store = FeatureStore(tmp_path, "weights", limit_mb=room * EACH_MB)
        for number in range(3):
            store.keep(bytes([number]), features(number))
        assert sorted(x for x in range(3) if store.load(bytes([x]), CPU)) == list(range(count))


@pytest.mark.skipif(os.name != "posix", reason="the system has no such permissions")
def test_the_folder_is_its_owners_alone(tmp_path: Path) -> None:
    """Features tell much of an image."""
    FeatureStore(tmp_path / "kept", "weights")
    assert oct((tmp_path / "kept").stat().st_mode & 0o077) == "0o0"


def test_damaged_features_are_none_and_are_written_again(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, "weights")
    store.keep(b"one", features(3))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:50])
    assert store.load(b"one", CPU) is None
    store.keep(b"one", features(3))
    assert store.load(b"one", CPU) is not None


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be made"):
        FeatureStore(tmp_path / "no" / "parent", "weights")


@pytest.mark.parametrize(("number", "said"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "read-only")])
def test_a_folder_that_cannot_be_written_is_told_once_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    """It is a cache: nobody's result is lost for it. What was kept before is found all the same."""
    store, tries = FeatureStore(tmp_path, "weights"), list[str]()
    store.keep(b"before", features(1))
    said = f"{tmp_path}: no more features are kept here: .*{said}"

    def refuse(path: str, *_: object) -> int:
        tries.append(path)
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.warns(FeaturesNotKept, match=said):
            store.keep(b"one", features(3))
        store.keep(b"two", features(3))  # a second warning would be an error
    assert len(tries) == 1
    assert store.load(b"before", CPU) is not None
    assert store.load(b"one", CPU) is None
    assert len(list(tmp_path.iterdir())) == 1
