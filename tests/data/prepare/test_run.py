"""Preparing whole data sets: what is left, again and again, in whatever order, and whatever breaks."""

import json
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medical_sam2.data.cases import JoinedReader, PoolReader
from medical_sam2.data.clips import ClipSampler
from medical_sam2.data.data_sets import read_data_set
from medical_sam2.data.prepare import PrepareResult, PrepareSettings, prepare
from medical_sam2.data.prepare.units import DataSource
from medical_sam2.errors import InputError
from tests.data.nnunet import AFFINE, blob, describe, picture_set, put, volume_set


def run(source: Path, output: Path, *, workers: int = 1, modality: str | None = None, **settings: Any) -> PrepareResult:
    return prepare(DataSource(source, modality=modality), output, PrepareSettings(**settings), workers=workers)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def told(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def test_a_second_run_does_nothing_and_a_changed_file_is_done_again(tmp_path: Path) -> None:
    source, output = volume_set(tmp_path / "in", cases=3), tmp_path / "out"
    assert run(source, output).fresh == 3
    before, times = contents(output), {path: path.stat().st_mtime_ns for path in output.glob("*Tr/*")}
    assert run(source, output).fresh == 0
    assert contents(output) == before
    assert {path: path.stat().st_mtime_ns for path in output.glob("*Tr/*")} == times
    put(source / "imagesTr" / "case1_0000.nii.gz", np.arange(24 * 20 * 8, dtype=np.int16).reshape(24, 20, 8))
    assert run(source, output).fresh == 3  # a CT: another foreground is another scale for all
    assert contents(output) != before


def test_a_run_that_was_cut_off_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    source = picture_set(tmp_path / "in", cases=7)
    run(source, tmp_path / "whole", group=3)
    run(source, tmp_path / "cut", group=3)
    (tmp_path / "cut" / ".prepare" / "units" / "000001.json").unlink()
    (tmp_path / "cut" / "arrays" / "000002.labels.npy").unlink()
    (tmp_path / "cut" / "arrays" / ".0123.tmp").write_bytes(b"a draft")
    (tmp_path / "cut" / "manifest.json").unlink()
    assert run(source, tmp_path / "cut", group=3).fresh == 4
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_several_processes_write_the_same(tmp_path: Path) -> None:
    source = describe(volume_set(tmp_path / "in", cases=3), channel_names={"0": "MR"})
    (source / "imagesTr" / "case2_0000.nii.gz").write_bytes(b"\x1f\x8bbroken")
    alone, together = run(source, tmp_path / "one"), run(source, tmp_path / "two", workers=2)
    assert (alone.cases, list(alone.problems)) == (together.cases, list(together.problems)) == (2, ["case2"])
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_a_bad_case_is_named_and_mended_later(tmp_path: Path) -> None:
    source, output = volume_set(tmp_path / "in", cases=3), tmp_path / "out"
    good = (source / "labelsTr" / "case1.nii.gz").read_bytes()
    put(source / "labelsTr" / "case1.nii.gz", np.zeros((3, 3, 3), np.uint8))
    first = run(source, output)
    assert (first.cases, first.arrays) == (2, 2)
    assert "the labels have shape" in first.problems["case1"]
    assert told(output)["failed"] == [{"case": "case1", "problem": first.problems["case1"]}]
    (source / "labelsTr" / "case1.nii.gz").write_bytes(good)
    assert run(source, output).problems == {}
    assert len(PoolReader(output).entries) == 3


def test_ct_has_one_scale_and_keeps_its_place(tmp_path: Path) -> None:
    source, output = volume_set(tmp_path / "in"), tmp_path / "out"
    run(source, output)
    scale = told(output)["scale"]
    labels = [np.asarray(nib.load(path).dataobj) for path in sorted(source.glob("labelsTr/*"))]
    images = [np.asarray(nib.load(path).dataobj) for path in sorted(source.glob("imagesTr/*"))]
    inside = np.concatenate([image[label > 0] for image, label in zip(images, labels, strict=True)]).astype(float)
    low, high = np.percentile(inside, (0.5, 99.5))
    clipped = np.clip(inside, low, high)
    assert [scale["low"], scale["high"]] == pytest.approx([low, high], abs=1.1)
    assert [scale["mean"], scale["std"]] == pytest.approx([clipped.mean(), clipped.std()], abs=0.1)
    for image, path in zip(images, sorted((output / "imagesTr").iterdir()), strict=True):
        stored = nib.load(path)
        np.testing.assert_array_equal(stored.affine, nib.load(source / "imagesTr" / path.name).affine)
        expected = (np.clip(image, scale["low"], scale["high"]) - scale["mean"]) / scale["std"]
        np.testing.assert_allclose(np.asarray(stored.dataobj), expected, atol=1e-4)
    assert read_data_set(output).channels == ("CT_normalised",)  # and never taken for Hounsfield units again


def test_mr_is_cropped_to_what_is_not_zero(tmp_path: Path) -> None:
    source = describe(tmp_path / "in", channel_names={"0": "MR"})
    rng = np.random.default_rng(0)
    image = np.zeros((30, 30, 10))
    image[8:24, 10:20, 2:9] = rng.normal(500, 80, (16, 10, 7))
    image[12, 12, 4], image[20, 15, 5] = 0, 90_000  # a hole, and a value that percentiles take away
    put(source / "imagesTr" / "a_0000.nii.gz", image.astype(np.float32))
    put(source / "labelsTr" / "a.nii.gz", blob((30, 30, 10), {1: (slice(10, 18), slice(12, 18), slice(3, 7))}))
    run(source, tmp_path / "out")
    (case,) = told(tmp_path / "out")["cases"]
    assert (case["crop"], case["inside_mask"]) == ([[8, 23], [10, 19], [2, 8]], True)
    assert case["levels"][0]["high"] < 800
    stored = nib.load(tmp_path / "out" / "imagesTr" / "a_0000.nii.gz")
    np.testing.assert_allclose(stored.affine[:3, 3], (AFFINE @ [8, 10, 2, 1])[:3])
    values = np.asarray(stored.dataobj)
    assert [float(values.mean()), float(values.std())] == pytest.approx([0, 1], abs=0.01)
    label = nib.load(tmp_path / "out" / "labelsTr" / "a.nii.gz")
    assert int(np.asarray(label.dataobj)[2:10, 2:8, 1:5].sum()) == int(np.asarray(label.dataobj).sum()) == 8 * 6 * 4


def test_each_channel_is_a_training_case(tmp_path: Path) -> None:
    run(volume_set(tmp_path / "in", channels=2), tmp_path / "out")
    reader = PoolReader(tmp_path / "out" / "arrays")
    assert [entry.modality for entry in reader.entries] == ["T1", "T2", "T1", "T2"]
    assert {name for entry in reader.entries for name in entry.task_names} == {"in/liver"}
    np.testing.assert_array_equal(reader.load(0).labels, reader.load(1).labels)


def test_slices_lie_in_the_finest_plane_and_shrink_there_alone(tmp_path: Path) -> None:
    source = describe(tmp_path / "in", channel_names={"0": "MR"})
    image = np.random.default_rng(0).uniform(1, 9, (9, 80, 64))
    affine = np.diag([5.0, 0.5, 0.5, 1.0])  # thick from left to right
    put(source / "imagesTr" / "a_0000.nii.gz", image.astype(np.float32), affine)
    put(source / "labelsTr" / "a.nii.gz", blob((9, 80, 64), {1: (slice(2, 7), slice(10, 40), slice(10, 40))}), affine)
    run(source, tmp_path / "out", size=40)
    case = PoolReader(tmp_path / "out" / "arrays").load(0)
    assert case.images.shape == case.labels.shape == (9, 32, 40)
    assert (np.asarray(case.labels).any(axis=(1, 2))).tolist() == [2 <= 8 - n <= 6 for n in range(9)]


def test_intensities_keep_more_than_a_byte_where_that_is_asked_for(tmp_path: Path) -> None:
    source = describe(tmp_path / "in", channel_names={"0": "MR"})
    ramp = np.linspace(1, 9, 40 * 48 * 8).reshape(40, 48, 8).astype(np.float32)
    put(source / "imagesTr" / "a_0000.nii.gz", ramp)
    put(source / "labelsTr" / "a.nii.gz", blob((40, 48, 8), {1: (slice(8, 30), slice(10, 40), slice(2, 7))}))
    seen: dict[int, np.ndarray] = {}
    for bits, size in ((8, 64), (16, 64), (16, 32), (8, 32)):
        output = tmp_path / f"{bits}-{size}"
        run(source, output, bits=bits, size=size)
        case = PoolReader(output / "arrays").load(0)
        assert case.images.dtype == np.dtype(f"uint{bits}")
        seen[100 * bits + size] = np.asarray(case.images, np.float64) / (2**bits - 1)
    assert len(np.unique(seen[864])) <= 256
    assert len(np.unique(seen[1664])) > 10_000
    for size in (32, 64):
        assert np.abs(seen[1600 + size] - seen[800 + size]).max() < 1.5 / 255
    pools = [
        ClipSampler(PoolReader(tmp_path / f"{bits}-64" / "arrays"), 1, regions=0.0, augmentation="paper") for bits in (8, 16)
    ]
    for n in range(4):
        clips = (pool.clip(np.random.default_rng(n), frames=1, objects=1, size=64).frames_T3SS for pool in pools)
        few, many = (np.asarray(clip, np.float64) for clip in clips)
        assert np.ptp(few) > 0.2
        assert np.abs(few - many).mean() < 0.01
    with pytest.raises(InputError, match="12 bits are not written"):
        PrepareSettings(bits=12)  # type: ignore[arg-type]


def test_pictures_become_sets(tmp_path: Path) -> None:
    source = picture_set(tmp_path / "in", cases=5)
    put(source / "labelsTr" / "eye3.png", np.zeros((40, 50), np.uint8))
    run(source, tmp_path / "out", group=10)
    case = PoolReader(tmp_path / "out" / "arrays").load(0)
    assert (case.kind, case.images.shape, case.labels.shape) == ("set", (4, 50, 50, 3), (4, 50, 50))
    assert sorted(len(task) for task in case.tasks) == [1, 2]  # the cup is part of the disc
    left = {one["case"]: one["dropped"] for one in told(tmp_path / "out")["cases"] if one["dropped"]}
    assert list(left) == ["eye3"]
    original, stored = (np.asarray(Image.open(folder / "imagesTr" / "eye0_0000.png")) for folder in (source, tmp_path / "out"))
    np.testing.assert_array_equal(stored, original)


def test_grey_pictures_become_nifti_and_stay_a_set(tmp_path: Path) -> None:
    source = describe(tmp_path / "in", file_ending=".png", channel_names={"0": "grey"})
    for number in range(2):
        image = np.random.default_rng(number).integers(0, 255, (40, 60)).astype(np.uint8)
        image[:, :5] = 0
        put(source / "imagesTr" / f"{number}_0000.png", image)
        put(source / "labelsTr" / f"{number}.png", blob((40, 60), {1: (slice(10, 20), slice(20, 45))}))
    run(source, tmp_path / "deep", modality="US", bits=16)
    assert PoolReader(tmp_path / "deep" / "arrays").load(0).images.dtype == np.uint16
    run(source, tmp_path / "out", modality="US")
    prepared = read_data_set(tmp_path / "out")
    loaded = prepared.load(prepared.cases[0])
    assert (prepared.kind, prepared.modality, loaded.images[0].array.shape) == ("set", "US", (40, 55))
    assert loaded.labels is not None
    np.testing.assert_array_equal(np.argwhere(loaded.labels)[[0, -1]], [[10, 15], [19, 39]])
    assert run(tmp_path / "out", tmp_path / "again").problems == {}


def test_test_cases_are_stored_and_never_trained_on(tmp_path: Path) -> None:
    source = volume_set(tmp_path / "in")
    for folder, name in (("images", "case0_0000"), ("labels", "case0"), ("images", "lone_0000")):
        array = (source / f"{folder}Tr" / ("case0_0000.nii.gz" if folder == "images" else "case0.nii.gz")).read_bytes()
        (source / f"{folder}Ts").mkdir(exist_ok=True)
        (source / f"{folder}Ts" / f"{name}.nii.gz").write_bytes(array)
    outcome = run(source, tmp_path / "out")
    assert (outcome.cases, outcome.arrays, len(PoolReader(tmp_path / "out" / "arrays").entries)) == (4, 2, 2)
    assert [case.identifier for case in read_data_set(tmp_path / "out").split("test")] == ["case0", "lone"]


def test_arrays_alone(tmp_path: Path) -> None:
    outcome = run(volume_set(tmp_path / "in"), tmp_path / "out", images=False)
    assert (outcome.arrays, list((tmp_path / "out" / "imagesTr").iterdir())) == (2, [])


def test_a_smaller_source_leaves_nothing_behind(tmp_path: Path) -> None:
    source = picture_set(tmp_path / "in", cases=6)
    run(source, tmp_path / "out", group=2)
    for name in ("imagesTr/eye5_0000.png", "labelsTr/eye5.png"):
        os.remove(source / name)
    run(source, tmp_path / "out", group=3)
    run(source, tmp_path / "fresh", group=3)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_folders_that_are_not_written_to(tmp_path: Path) -> None:
    source = volume_set(tmp_path / "in")
    with pytest.raises(InputError, match="source itself"):
        run(source, source)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        run(source, tmp_path / "full")
    run(source, tmp_path / "out")
    with pytest.raises(InputError, match="holds in, prepared before"):
        run(volume_set(tmp_path / "other"), tmp_path / "out")


def test_prepared_data_and_others_are_sampled_together(tmp_path: Path) -> None:
    run(volume_set(tmp_path / "livers"), tmp_path / "a")
    run(picture_set(tmp_path / "eyes"), tmp_path / "b")
    joined = JoinedReader(PoolReader(tmp_path / "a"), PoolReader(tmp_path / "b"))
    assert [entry.name for entry in joined.entries] == ["livers", "livers", "eyes"]
    for position, entry in enumerate(joined.entries):
        case = joined.load(position)
        assert (case.kind, case.tasks) == (entry.kind, entry.tasks)
    with pytest.raises(IndexError):
        joined.load(3)
    clip = ClipSampler(joined, seed=1, sampling="tasks").clip(np.random.default_rng(0), frames=2, objects=2, size=64)
    assert bool(clip.truth_OTSS[:, 0].any())
