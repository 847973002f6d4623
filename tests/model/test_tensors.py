"""Files that want to do harm, or that broke: one clear line, nothing run, nothing huge in memory."""

import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from medical_sam2.errors import WeightsError
from medical_sam2.model.weights import load_backbone


class Evil:
    """Makes a file when it is unpickled by a careless reader."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def evil(path: Path, trap: Path) -> None:
    torch.save({"model": Evil(trap)}, path)


def evil_legacy(path: Path, trap: Path) -> None:
    path.write_bytes(pickle.dumps({"model": Evil(trap)}))


def cut(path: Path, _: Path) -> None:
    torch.save({"image_encoder.w": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])


def compressed(path: Path, _: Path) -> None:
    """An archive of a gigabyte in a megabyte."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10_000_000)


def boundless(path: Path, _: Path) -> None:
    """One number that claims to be 10¹²."""
    torch.save({"image_encoder.w": torch.ones(1).expand(10**12)}, path)


def sparse(path: Path, _: Path) -> None:
    torch.save({"image_encoder.w": torch.sparse_coo_tensor(size=(10**6, 10**6), check_invariants=False)}, path)


def no_tensors(path: Path, _: Path) -> None:
    torch.save({"model": {"a": 1, "b": "two"}}, path)


def no_names(path: Path, _: Path) -> None:
    torch.save([torch.ones(1)], path)


def empty(path: Path, _: Path) -> None:
    path.touch()


def noise(path: Path, _: Path) -> None:
    path.write_bytes(bytes(range(256)) * 10)


def huge_header(path: Path, _: Path) -> None:
    path.write_bytes(struct.pack("<Q", 1 << 62) + b"{}")


def outside(path: Path, _: Path) -> None:
    header = b'{"w":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 8)


def escapes(path: Path, _: Path) -> None:
    """A name that would clear the screen, and one that would fill it."""
    save_file({"image_encoder.\x1b[2J": torch.ones(1), "image_encoder." + "a" * 9999: torch.ones(1)}, path)


PICKLES = (evil, evil_legacy, cut, compressed, boundless, sparse, no_tensors, no_names, empty, noise)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        *(("a.pt", make) for make in PICKLES),
        *(("a.safetensors", make) for make in (cut, empty, noise, huge_header, outside, escapes)),
        *((name, noise) for name in ("a.npz", "a.yaml", "a.json", "a")),
    ],
)
def test_a_hostile_file(name: str, make: Callable[[Path, Path], None], tmp_path: Path) -> None:
    path, trap = tmp_path / name, tmp_path / "trap"
    make(path, trap)
    with pytest.raises(WeightsError) as caught:
        load_backbone(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert ";" in message
    assert message.isprintable()
    assert len(message) < 700
    assert not trap.exists()


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.pt")
    with pytest.raises(WeightsError, match="is no file"):
        load_backbone(tmp_path / "a.pt")
