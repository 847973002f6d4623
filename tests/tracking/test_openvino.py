"""OpenVINO sees what torch sees; what it gets wrong is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import speed_scene as scene
from medical_sam2.errors import ConfigError
from medical_sam2.model.nano import Nano, nano
from medical_sam2.prompts import Point
from medical_sam2.segmenter import Segmenter
from medical_sam2.tracking import encoding
from medical_sam2.tracking.encoding import CompiledEncoder, pack_features
from medical_sam2.volume import Volume
from tests.train.jobs import tiny_network

SIZE = 64


@pytest.fixture(scope="module")
def network() -> Nano:
    torch.manual_seed(0)
    return nano(SIZE).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def frames() -> torch.Tensor:
    return torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("precision", "apart"), [("fp32", 1e-5), ("bf16", 0.05)])
@torch.no_grad()
def test_sees_what_the_network_sees(network: Nano, folder: Path, precision: str, apart: float) -> None:
    wanted, found = (
        pack_features(network.encode(frames())),
        pack_features(CompiledEncoder(network, precision, folder)(frames())),
    )
    assert wanted.keys() == found.keys()
    for name, part in wanted.items():
        assert (part - found[name]).abs().max() <= apart * part.abs().max()


@torch.no_grad()
def test_sees_what_hiera_sees_from_its_first_frame_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 256 pixels windows of 14 leave corners of 2 × 2, which OpenVINO's own attention gets wrong in bf16.

    Four blocks fewer than the tiny encoder has, which repeat others: queries and keys have the same shapes.
    """
    monkeypatch.setitem(scene.SIZES, "few", (96, (1, 2, 3, 2)))
    monkeypatch.setitem(scene.ENCODERS, (1, 2, 3, 2), replace(scene.ENCODERS[1, 2, 7, 2], everywhere=(5,)))
    own, frame = scene.network("few", 256), torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    found, wanted = pack_features(CompiledEncoder(own, "bf16", tmp_path)(frame)), pack_features(own.encode(frame))
    for name, part in wanted.items():
        assert (part - found[name]).abs().max() <= 0.05 * part.abs().max()


@torch.no_grad()
def test_features_take_no_more_room_than_the_networks_own(network: Nano, folder: Path) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        wanted, found = (
            pack_features(network.encode(frames())),
            pack_features(CompiledEncoder(network, "bf16", folder)(frames())),
        )
    assert {name: part.dtype for name, part in found.items()} == {name: part.dtype for name, part in wanted.items()}
    assert torch.bfloat16 in {part.dtype for part in found.values()}


@torch.no_grad()
def test_converts_once_for_each_content_of_the_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, convert = list[int](), encoding.convert_encoder
    monkeypatch.setattr(encoding, "convert_encoder", lambda *told: made.append(1) or convert(*told))
    own = tiny_network().eval()
    encoder = CompiledEncoder(own, "fp32", folder)
    before = encoder(frames()).top_BChw
    encoder(frames())
    assert torch.equal(CompiledEncoder(own, "fp32", folder)(frames()).top_BChw, before)
    assert len(made) == 1
    for weight in own.vision_encoder.parameters():
        weight.mul_(1.1)
    assert not torch.equal(encoder(frames()).top_BChw, before)
    assert len(made) == 2
    assert not [*folder.glob(".draft-*")]


@torch.no_grad()
def test_refuses_what_was_compiled_wrong(network: Nano, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "TOLERANCE", {"fp32": 0.0})
    with pytest.raises(ConfigError, match="does not compute what this network computes; choose the engine torch"):
        CompiledEncoder(network, "fp32", folder)(frames())


def test_says_what_is_missing(network: Nano, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"OpenVINO is not installed; pip install 'medical-sam2\[openvino\]'"):
        Segmenter(network, engine="openvino")


def test_segments_with_either_engine(network: Nano, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "default_folder", lambda: folder)
    volume = Volume(np.random.default_rng(0).normal(size=(20, 24, 6)), np.diag([1.0, 1.0, 4.0, 1.0]))
    results = [
        Segmenter(network, precision="fp32", engine=engine).segment_volume(volume, [Point((10, 12, 3))], probability=True)
        for engine in ("torch", "openvino")
    ]
    one, other = (result.probability[1] for result in results)
    assert np.abs(one - other).max() < 1e-3
    with pytest.raises(ConfigError, match="unknown engine 'tensorrt'"):
        Segmenter(network, engine="tensorrt")
