"""What the encoder saw of a volume is kept from call to call, and not mistaken for anything else."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from medical_sam2.prompts import Point
from medical_sam2.segmenter import Segmenter, digest
from medical_sam2.volume import Volume
from tests.backbones import Brightness
from tests.phantoms import Phantom, phantom

WHOLE: dict[str, Any] = {"window": "0,1", "zoom": False}


def watched() -> tuple[Segmenter, list[bytes]]:
    network = Brightness()
    network.weight = torch.nn.Parameter(torch.zeros(1))
    return Segmenter(network, device="cpu", precision="fp32"), network.counts.encoded  # type: ignore[arg-type]


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
    assert fresh() == slices
    with torch.no_grad():
        next(one.network.parameters()).add_(1)
    assert fresh() == slices


def test_the_digest_is_of_the_content() -> None:
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    volume = Volume(array, np.eye(4))
    assert digest(volume) == digest(Volume(array.copy(), np.eye(4), "CT"))
    others = [
        Volume(array[::-1], np.eye(4)),
        replace(volume, affine=np.diag([1.0, 1, 2, 1])),
        Volume(array.reshape(3, 2, 4), np.eye(4)),
    ]
    others += [Volume(array.astype(np.uint16), np.eye(4)), Volume(array.transpose(0, 2, 1), np.eye(4))]
    assert len({digest(each) for each in [volume, *others]}) == 6
