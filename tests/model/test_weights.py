"""Weights in and out: names, files, folders, the hub; every weight must fit, and nothing in a file is run."""

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Sam2VideoModel

from medical_sam2.errors import AmbiguousError, WeightsError
from medical_sam2.model.catalogue import trained_size
from medical_sam2.model.checkpoint_format import from_official, network_configuration
from medical_sam2.model.memory_bank import Fifo, PolicyBank
from medical_sam2.model.modules import Hiera, HieraSizes
from medical_sam2.model.nano import nano
from medical_sam2.model.sam2 import Pixels, Sam2
from medical_sam2.model.tracker import track
from medical_sam2.model.weights import load_backbone, read_weights, save_backbone
from medical_sam2.prompts import Fixed, FramePrompt
from speed_peers import transformers_configuration
from tests.golden import official
from tests.model.conftest import same, tiny

HIERA = Hiera(heads=1, windows=(8, 4, 2, 2), everywhere=(4,))


def small_hiera(image_size: int = 64) -> Sam2:
    """A Hiera that no table knows."""
    config = replace(tiny().config, image_size=image_size, hiera=HieraSizes((1, 1, 3, 1), (8, 16, 32, 64), HIERA))
    torch.manual_seed(0)
    return Sam2(config, pixels=Pixels()).eval()


def untrained() -> Sam2:
    return nano(64).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound folder of the tiny network."""
    folder = tmp_path_factory.mktemp("weights")
    save_backbone(tiny(), folder)
    return folder


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """The same, to be spoilt."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.mark.parametrize("build", [tiny, small_hiera, untrained], ids=["pyramid", "hiera", "nano"])
def test_round_trip(build: Callable[[], Sam2], tmp_path: Path) -> None:
    network = build()
    save_backbone(network, tmp_path)
    back = load_backbone(tmp_path)
    assert same(back, network)
    assert type(back) is type(network)
    assert (back.pixels, back.image_size, back.training) == (network.pixels, 64, False)
    frame = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(back.encode(frame).top_BChw, network.encode(frame).top_BChw)
    assert sorted(os.listdir(tmp_path)) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(("dtype", "close"), [(torch.float16, 1e-3), (torch.bfloat16, 1e-2)])
def test_half_precision_is_kept_on_disk_and_widened_in_memory(dtype: torch.dtype, close: float, tmp_path: Path) -> None:
    network = tiny()
    save_backbone(network, tmp_path, dtype=dtype)
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {dtype}
    for name, tensor in load_backbone(tmp_path).state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.allclose(tensor, network.state_dict()[name], rtol=close, atol=close)


@pytest.mark.parametrize("size", [64, 96, 256])
def test_any_input_size_tracks_as_a_network_built_for_it(folder: Path, size: int) -> None:
    network = load_backbone(folder, image_size=size, memory_dtype=torch.bfloat16).requires_grad_(False)
    built = tiny(image_size=size).requires_grad_(False)
    built.memory_dtype = torch.bfloat16
    answers = []
    for each in (network, built):
        features = [each.encode(torch.ones(1, 3, size, size) * t) for t in range(2)]
        bank = PolicyBank(Fifo)
        prompter = Fixed({0: FramePrompt.box(5, 5, 30, 30)})
        answers.append([p for _, p in track(each, features.__getitem__, range(2), [prompter], bank)])
    assert answers[0][1].logits_Bhw.shape == (1, size // 4, size // 4)
    assert torch.equal(answers[0][1].logits_Bhw, answers[1][1].logits_Bhw)


def test_a_network_can_be_trained_after_loading(folder: Path) -> None:
    network = load_backbone(folder)
    network.encode(torch.ones(1, 3, 64, 64)).top_BChw.sum().backward()
    assert network.vision_encoder.stem[0].weight.grad is not None


def test_saving_again_replaces(copy: Path) -> None:
    other = tiny(seed=5)
    save_backbone(other, copy)
    assert same(load_backbone(copy), other)


@pytest.mark.parametrize("room", [0, 1])
def test_a_full_disk_leaves_the_old_weights_or_nothing(copy: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """Room for the settings, but not for the weights."""
    written: list[int] = []

    def full(descriptor: int) -> None:
        if len(written) == room:
            raise OSError(errno.ENOSPC, "no space left")
        written.append(descriptor)

    before = {file.name: file.read_bytes() for file in copy.iterdir()}
    network = tiny(seed=5)
    network.resize(96)
    monkeypatch.setattr(os, "fsync", full)
    for folder in (copy, copy.parent / "new"):
        written.clear()
        with pytest.raises(OSError, match="no space"):
            save_backbone(network, folder)
    assert {file.name: file.read_bytes() for file in copy.iterdir()} == before
    assert not (copy.parent / "new").exists()


def test_transformers_folder(tmp_path: Path) -> None:
    """Its own network under its own names, with sizes that no table knows."""
    theirs = Sam2VideoModel(transformers_configuration(small_hiera().config))
    theirs.shared_image_embedding.positional_embedding.copy_(theirs.prompt_encoder.shared_embedding.positional_embedding)
    theirs.save_pretrained(tmp_path)
    ours = load_backbone(tmp_path)
    assert torch.equal(ours.vision_encoder.neck.convs[0].weight, theirs.vision_encoder.neck.convs[0].weight)
    assert ours.config.hiera == HieraSizes((1, 1, 3, 1), (8, 16, 32, 64), HIERA)
    assert ours.image_size == 64


@pytest.mark.parametrize("wrap", ["", "model", "state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_official_layout(wrap: str, prefix: str, tmp_path: Path) -> None:
    """As training code leaves it: under `model`, beside an optimiser, of a network spread over GPUs."""
    weights = {prefix + name: torch.zeros(1) for name in official.keys("sam2.0_tiny")}
    content = {wrap: weights, "optimizer": {"state": {0: torch.ones(2)}}, "epoch": 3} if wrap else weights
    torch.save(content, tmp_path / "a.pt")
    names = set(read_weights(tmp_path / "a.pt").weights)
    assert names == set(from_official(official.shapes_only("sam2.0_tiny")))


PUBLISHED = {
    **dict.fromkeys((f"MedSAM2_{name}.pt" for name in ("2411", "US_Heart", "MRI_LiverLesion", "CTLesion", "latest")), 512),
    **dict.fromkeys(("sam2_hiera_tiny.pt", "sam2.1_hiera_base_plus.pt", "MedSAM2_pretrain.pth"), 1024),
}


@pytest.mark.parametrize(("name", "size"), PUBLISHED.items())
def test_published_files_are_known_by_name(name: str, size: int, tmp_path: Path) -> None:
    torch.save({"image_encoder.w": torch.ones(1)}, tmp_path / name)
    assert read_weights(tmp_path / name).settings.image_size == size
    assert trained_size(f"somebody/something/{name}") == size


@pytest.mark.parametrize("name", ["latest.pt", "medsam2_mine.pt", "sam2.1_hiera_tiny_finetuned.pt"])
def test_the_size_is_asked_for_where_nothing_tells_it(name: str, tmp_path: Path) -> None:
    torch.save({"image_encoder.w": torch.ones(1)}, tmp_path / name)
    found = replace(read_weights(tmp_path / name), weights=from_official(official.shapes_only("sam2.1_tiny")))
    with pytest.raises(AmbiguousError, match="does not tell what size of input") as caught:
        found.configuration()
    assert str(caught.value).startswith(str(tmp_path / name))
    assert found.configuration(512).image_size == 512


def test_it_is_asked_for_where_a_configuration_is_missing(copy: Path) -> None:
    (copy / "config.json").unlink()
    with pytest.raises(AmbiguousError, match="does not tell what size of input"):
        load_backbone(copy)


def test_older_checkpoint_format(tmp_path: Path) -> None:
    torch.save({"image_encoder.w": torch.ones(2)}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(read_weights(tmp_path / "a.pth").weights["image_encoder.w"], torch.ones(2))


def spoilt(copy: Path, change: Callable[[dict[str, Tensor]], object]) -> str:
    """What is said of the folder after its tensors were changed."""
    path = copy / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(WeightsError) as caught:
        load_backbone(copy)
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_every_missing_and_unexpected_weight_is_named(copy: Path) -> None:
    gone = ["mask_downsample.bias", "memory_encoder.projection.bias", "memory_attention.layer_norm.weight"]

    def change(tensors: dict[str, Tensor]) -> None:
        for name in gone:
            del tensors[name]
        tensors |= {"surplus.one": torch.ones(1), "surplus.two": torch.ones(1)}

    message = spoilt(copy, change)
    assert f"missing {', '.join(sorted(gone))}" in message
    assert "unexpected surplus.one, surplus.two" in message


def test_a_wrong_shape_is_named(copy: Path) -> None:
    message = spoilt(copy, lambda tensors: tensors.update({"mask_downsample.weight": torch.ones(1, 1, 3, 3)}))
    assert "mask_downsample.weight has shape (1, 1, 3, 3) where the network has (1, 1, 4, 4)" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(copy: Path, value: float) -> None:
    message = spoilt(copy, lambda tensors: tensors["mask_downsample.weight"].fill_(value))
    assert "mask_downsample.weight holds NaN or infinite numbers" in message


def test_a_network_without_its_centre(copy: Path) -> None:
    assert "weight no_memory_embedding is missing among the keys" in spoilt(
        copy, lambda tensors: tensors.pop("no_memory_embedding")
    )


def test_an_unknown_encoder_is_described() -> None:
    weights = from_official(official.shapes_only("sam2.1_tiny"))
    weights["vision_encoder.backbone.blocks.12.layer_norm2.weight"] = torch.empty(768, device="meta")
    with pytest.raises(WeightsError, match="1-2-7-3 blocks, which is none of the official ones"):
        network_configuration(weights, 1024)
    assert network_configuration(weights, 1024, encoder=HIERA).hiera == HieraSizes(blocks=(1, 2, 7, 3), attention=HIERA)


def test_whole_numbers_are_no_weights(copy: Path) -> None:
    message = spoilt(copy, lambda tensors: tensors.update({"mask_downsample.bias": torch.ones(1, dtype=torch.int64)}))
    assert "mask_downsample.bias is no array of floating point numbers" in message


@pytest.mark.parametrize("size", [0, 32, 100, 8192])
def test_sizes_that_no_network_takes(folder: Path, size: int) -> None:
    with pytest.raises(WeightsError, match=f"{size} pixels; give a multiple of 32"):
        load_backbone(folder, image_size=size)


CONFIGS: dict[str, bytes] = {
    "no JSON": b"{",
    "deep JSON": b"[" * 100_000 + b"]" * 100_000,
    "a list": b"[]",
    "too large": b" " * (1 << 20) + b"{}",
    "foreign": b'{"model_type": "bert"}',
    "hydra": b'{"_target_": "os.system", "command": "touch NASTY"}',
    "ours with a target": b'{"format": "medical-sam2", "version": 1, "encoder": "pyramid", "_target_": "os.system"}',
}
WRONG: dict[str, dict[str, object]] = {
    "a later version": {"version": 2},
    "an unknown encoder": {"encoder": "os.system"},
    "a huge image": {"image_size": 10**9},
    "a size that is no number": {"image_size": "256"},
    "no heads": {"mask_heads": 0},
    "too many heads": {"mask_heads": 3},
    "a wrong normalisation": {"pixels": {"mean": [0.5], "std": [1]}},
    "a normalisation by zero": {"pixels": {"mean": [0, 0, 0], "std": [1, 0, 1]}},
    "a strange Hiera": {"hiera": {"heads": 0, "windows": [8, 4, 2, 2], "everywhere": []}},
    "a missing field": {"pixels": None},
}


@pytest.mark.parametrize("content", [*CONFIGS.values()], ids=[*CONFIGS])
def test_a_broken_configuration(copy: Path, content: bytes) -> None:
    (copy / "config.json").write_bytes(content)
    with pytest.raises(WeightsError, match=r"config\.json: .*configuration"):
        load_backbone(copy)


@pytest.mark.parametrize("wrong", [*WRONG.values()], ids=[*WRONG])
def test_a_configuration_with_wrong_values(copy: Path, wrong: dict[str, object]) -> None:
    path = copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | wrong))
    with pytest.raises(WeightsError):
        load_backbone(copy)
