"""What the encoder saw of a volume is kept from call to call, and not mistaken for anything else."""

from pathlib import Path
from typing import Any

import torch

from medical_sam2.prompts import Point
from medical_sam2.segmenter import Segmenter
from tests.backbones import Brightness
from tests.phantoms import Phantom, phantom

WHOLE: dict[str, Any] = {"window": "0,1", "zoom": False}


def watched() -> tuple[Segmenter, list[bytes]]:
    network = Brightness()
    network.weight = torch.nn.Parameter(torch.zeros(1))
    return Segmenter(network, device="cpu", precision="fp32"), network.counts.encoded


def click(case: Phantom, label: int) -> list[Point]:
    return [Point(case.voxel(label), label)]


def test_a_later_object_a_further_view_and_a_correction_encode_no_slice_again() -> None:
    case, (one, encoded) = phantom(), watched()
    first = one.segment_volume(case.volume, click(case, 1), **WHOLE)
    seen = len(encoded)
    again = one.segment_volume(case.volume, click(case, 1), **WHOLE)
    one.segment_volume(case.volume, click(case, 1), earlier=first.labels, **WHOLE)
    assert len(encoded) == seen > 0
    assert (again.labels == first.labels).all()
    one.segment_volume(case.volume, click(case, 2), **WHOLE)
    one.segment_volume(case.volume, click(case, 2), views="six", **WHOLE)
    assert len(encoded) == len(set(encoded))


def test_a_changed_image_window_or_weight_is_seen_anew() -> None:
    case, (one, encoded) = phantom(), watched()

    def fresh(**options: Any) -> int:
        before = len(encoded)
        one.segment_volume(case.volume, click(case, 1), **WHOLE | options)
        return len(encoded) - before

    slices = fresh()
    assert fresh() == 0 < slices
    assert fresh(window="0,1.01") > 0
    case.volume.array[0, 0, 0] += 0.001
    assert fresh() == 1
    with torch.no_grad():
        next(one.network.parameters()).add_(1)
    assert fresh() == slices


def test_a_folder_keeps_them_for_the_next_run_and_for_the_same_pixels_elsewhere(tmp_path: Path) -> None:
    case, (first, seen), (second, nothing) = phantom(), watched(), watched()
    found = first.segment_volume(case.volume, click(case, 1), features=tmp_path / "kept", **WHOLE)
    assert len(list((tmp_path / "kept").iterdir())) == len(seen) > 0
    again = second.segment_volume(case.volume, click(case, 1), features=tmp_path / "kept", **WHOLE)
    assert (again.labels == found.labels).all()
    assert not nothing


def test_what_is_in_memory_already_is_kept_in_the_folder_too(tmp_path: Path) -> None:
    case, (one, seen) = phantom(), watched()
    one.segment_volume(case.volume, click(case, 1), **WHOLE)
    one.segment_volume(case.volume, click(case, 1), features=tmp_path, **WHOLE)
    assert len(list(tmp_path.iterdir())) == len(seen)


def test_a_picture_is_encoded_once() -> None:
    one, encoded = watched()
    grey = torch.rand(1, 64, 64)
    first = one.encode(grey.expand(3, -1, -1))
    assert one.encode(grey.clone().expand(3, -1, -1)) is first
    assert len(encoded) == 1
    assert one.encode(torch.rand(3, 64, 64)) is not first
    assert len(encoded) == 2


def test_weights_that_take_the_place_of_others_never_give_what_those_saw() -> None:
    one, encoded = watched()
    picture = torch.rand(3, 64, 64)
    for number in range(1, 9):
        one.network.weight = torch.nn.Parameter(torch.zeros(1))  # the first may lie where the last but one lay
        one.network.weight = torch.nn.Parameter(torch.zeros(1))
        one.encode(picture)
        assert len(encoded) == number
