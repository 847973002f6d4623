"""Formats are known in one place, and a further one is one file."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from medical_sam2 import io
from medical_sam2.errors import ConfigError, FormatError, InputError
from medical_sam2.io import registry
from medical_sam2.io.registry import BUILT_IN, Format, Options
from medical_sam2.volume import Segmentation, Volume
from tests.io.making import EXPORTER, Series, oriented, phantom

SAGITTAL = oriented("PIR") @ np.diag([1.5, 2.0, 3.25, 1.0])

DOCUMENT = Path(__file__).parents[2] / "docs" / "formats.md"
LIKE = Volume(np.zeros((4, 5, 6), np.int16), np.eye(4))


@pytest.fixture
def exporter(tmp_path: Path) -> str:
    """One file, as it is named on a command line."""
    file = tmp_path / "exporter.py"
    file.write_text(EXPORTER)
    return f"{file}:COUNTS"


def labels() -> Segmentation:
    array = np.zeros(LIKE.shape, np.uint8)
    array[1:3, 2, 2] = 3
    return Segmentation(array, LIKE.affine, {3: "liver"})


def test_an_exporter_is_one_file(tmp_path: Path, exporter: str) -> None:
    io.save(labels(), tmp_path / "out.counts", LIKE, formats=(exporter,))
    assert json.loads((tmp_path / "out.counts").read_text()) == {"shape": [4, 5, 6], "voxels": 2, "counts": {"liver": 2}}
    assert ".counts" in registry.written(plugins=(exporter,))
    assert ".counts" not in registry.written("probability", (exporter,))


def test_an_exporter_is_given_all_that_was_outlined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Segmentation] = []

    def export(found: Segmentation, path: Path, like: Volume) -> list[str]:
        given.append(found)
        return ["a slice is left out"]

    whole = Format("Whole", (".a.b",), written=(".a.b",), exporter=export, carries=frozenset({"colours", "overlaps"}))
    flat = Format("Flat", (".b",), written=(".b",), writer=lambda array, path, like: None)
    monkeypatch.setattr(registry, "installed", lambda: (flat, whole))
    inner, outer = np.zeros(LIKE.shape, np.int64), np.ones(LIKE.shape, np.int64)
    inner[1:3, 2, 2] = 2
    found = Segmentation(
        np.where(inner, inner, outer), LIKE.affine, {1: "kidney"}, layers=(outer, inner), colours={2: (9, 8, 7)}
    )
    notes = io.save(found, tmp_path / "x.a.b", LIKE)
    assert notes == ["x.a.b does not hold names", "a slice is left out"]
    assert [isinstance(note, registry.TableNote) for note in notes] == [True, False]
    assert [layer.dtype for layer in given[0].layers] == [np.uint8, np.uint8]
    assert np.array_equal(given[0].mask(1), outer > 0)
    assert np.array_equal(given[0].mask(2), inner > 0)
    with pytest.raises(FormatError, match=r"Flat holds one object at each voxel.*save to .*\.a\.b"):
        io.save(found, tmp_path / "x.b", LIKE)
    with pytest.raises(FormatError, match="objects, not a map of numbers"):
        io.save(np.zeros(LIKE.shape), tmp_path / "x.a.b", LIKE)


def test_without_it_nobody_knows_the_suffix(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not written as '.counts'.*use .nii.gz, .nii, .nrrd, .mha, .dcm"):
        io.save(labels(), tmp_path / "out.counts", LIKE)
    assert list(tmp_path.iterdir()) == []


def test_an_installed_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "counting.py").write_text(EXPORTER)
    about = tmp_path / "counting-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: counting\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[medical_sam2.formats]\ncounts = counting:COUNTS\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry.installed.cache_clear()
    try:
        io.save(labels(), tmp_path / "out.counts", LIKE)
        assert registry.written()[-1] == ".counts"
        assert registry.writable().endswith(" or .counts")
    finally:
        sys.modules.pop("counting", None)
        registry.installed.cache_clear()
    assert json.loads((tmp_path / "out.counts").read_text())["voxels"] == 2


def test_a_reader_is_one_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Format("mine", (".mine",), matches=lambda head: head.startswith(b"MINE"), reader=lambda path, options: LIKE)
    monkeypatch.setattr(registry, "installed", lambda: (mine,))
    (tmp_path / "image.mine").write_bytes(b"MINE, and more")
    assert io.load(tmp_path / "image.mine").shape == LIKE.shape
    assert registry.is_uploadable(".mine")


@pytest.mark.parametrize("name", ["absent.py:FORMAT", "json:dumps", "nrrrd", "medical_sam2.absent:FORMAT"])
def test_what_is_no_format(name: str) -> None:
    with pytest.raises(ConfigError):
        registry.written(plugins=(name,))


def test_suffixes_are_of_one_writer() -> None:
    every = [suffix for format in BUILT_IN if format.written_here for suffix in format.written]
    assert len(set(every)) == len(every)
    for suffix in every:
        assert suffix in registry.writer_of(Path(f"a{suffix.upper()}")).written


def test_the_documentation_says_what_each_carries() -> None:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in DOCUMENT.read_text().splitlines() if "|" in line]
    told = {row[0]: row[1:] for row in rows}
    for format in BUILT_IN:
        if format.carries:
            dimensions = " and ".join(f"{count}D" for count in format.dimensions)
            assert told[format.name] == [dimensions, ", ".join(sorted(format.carries))]


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha", "series"])
def test_a_header_tells_the_grid_that_reading_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Shape and affine to the last bit, the slices of a series in its order; and no voxel is decoded for it."""
    path = tmp_path / name
    if name == "series":
        Series(SAGITTAL, phantom()).write(path)
    else:
        io.save(phantom(), path, Volume(phantom(), SAGITTAL))
    whole = io.load(path)
    for reader in ("medical_sam2.io.dicom.decode", "medical_sam2.io.voxels.read_frame"):
        monkeypatch.delattr(reader)
    grid = registry.read_grid(path, Options())
    assert grid is not None
    assert (grid.shape, grid.affine.tobytes(), grid.array.any()) == (whole.shape, whole.affine.tobytes(), False)
    assert getattr(grid, "origin", None) is None or grid.origin.slices == whole.origin.slices  # type: ignore[attr-defined]
