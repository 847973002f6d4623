"""`medsam2 prepare` and `medsam2 data`, as a user types them."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medical_sam2.cli import main
from medical_sam2.data.cases import PoolReader
from medical_sam2.data.catalog import ENTRIES
from tests.data.nnunet import blob, put, volume_set
from tests.io.making import Series, oriented


def run(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([str(word) for word in words])
    return code, *capsys.readouterr()


def test_a_data_set_is_prepared_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = volume_set(tmp_path / "in"), tmp_path / "out"
    code, out, err = run(capsys, "prepare", source, "-o", output, "--window", "lung", "--json")
    assert (code, json.loads(out)) == (0, {"output": str(output), "cases": 2, "arrays": 2, "fresh": 2, "failed": {}})
    assert "2 of 2: case1" in err
    assert json.loads((output / "manifest.json").read_text())["settings"]["window_hu"] == [-1250, 250]
    code, _, err = run(capsys, "prepare", source, "-o", output, "--window", "-1250,250")
    assert (code, err) == (0, f"{output}: 2 cases (0 of them new), 2 training arrays\n")


def test_a_bad_case_is_named_with_the_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = volume_set(tmp_path / "in")
    (source / "imagesTr" / "case0_0000.nii.gz").write_bytes(b"")
    code, _, err = run(capsys, "prepare", source, "-o", tmp_path / "out")
    assert code == 2
    assert "case0: " in err
    assert "case0_0000.nii.gz: the file is empty" in err
    assert err.endswith("1 case (1 of them new), 1 training array, 1 failed\n") or "1 failed" in err


def test_a_folder_with_images_and_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label = blob((24, 20, 8), {3: (slice(6, 16), slice(5, 14), slice(2, 6)), 5: (slice(0, 4), slice(0, 4), slice(0, 4))})
    put(tmp_path / "in" / "images" / "a.nrrd", (label * 50 + np.arange(8)).astype(np.int16))
    put(tmp_path / "in" / "labels" / "a.mha", label)
    words = ("prepare", tmp_path / "in", "-o", tmp_path / "out", "--modality", "MR")
    code, _, err = run(capsys, *words)
    assert (code, "name them, as --label liver=1" in err) == (2, True)
    assert run(capsys, *words, "--label", "liver=3", "--whole")[0] == 0
    reader = PoolReader(tmp_path / "out")
    (entry,) = reader.entries
    assert int(np.asarray(reader.load(0).labels).sum()) == 10 * 9 * 4  # what was not named is background
    assert (entry.task_names, entry.modality) == (("in/liver",), "MR")
    code, _, err = run(capsys, *words, "--label", "liver")
    assert (code, "give NAME=VALUE" in err) == (2, True)


def test_a_dicom_series_becomes_nifti(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    affine = oriented("LPS") * np.array([2.0, 2.0, 3.0, 1.0])
    array = np.random.default_rng(0).integers(-1000, 1000, (12, 10, 6)).astype(np.int16)
    (tmp_path / "series").mkdir()
    Series(affine, array).write(tmp_path / "series")
    code, _, err = run(capsys, "prepare", tmp_path / "series", "-o", tmp_path / "out")
    assert code == 0, err
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["scale"]["low"] > -160
    stored = nib.load(tmp_path / "out" / "imagesTs" / "series_0000.nii.gz")
    np.testing.assert_allclose(stored.affine, affine)
    assert stored.shape == (12, 10, 6)
    assert list((tmp_path / "out" / "arrays").iterdir()) == []


def test_the_catalogue_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "data", "list")
    assert (code, out.count("\n"), "kits23" in out) == (0, 39, True)
    code, out, _ = run(capsys, "data", "show", "btcv")
    assert (code, "aorta" in out, "unconfirmed" in out) == (0, True, True)
    assert json.loads(run(capsys, "data", "show", "wbc", "--json")[1])["licence"] == "GPL-3.0"
    assert {entry["name"] for entry in json.loads(run(capsys, "data", "list", "--json")[1])} >= {"star", "refuge"}
    code, _, err = run(capsys, "prepare", str(tmp_path), "-o", str(tmp_path / "out"), "--as", "btcv")
    assert (code, err.count("btcv: unconfirmed: ")) == (2, len(ENTRIES["btcv"].unconfirmed))
    code, _, err = run(capsys, "data", "show", "kits")
    assert (code, "did you mean 'kits23'" in err) == (2, True)


def test_a_file_of_medsegbench_is_unpacked_and_prepared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, rng = dict[str, np.ndarray](), np.random.default_rng(0)
    for part in ("train", "val", "test"):
        made[f"{part}_images"] = rng.integers(0, 255, (2, 24, 20)).astype(np.uint8)
        made[f"{part}_label"] = np.zeros((2, 24, 20), np.uint8)
        made[f"{part}_label"][:, 4:12, 4:12], made[f"{part}_label"][:, 14:20, 6:16] = 1, 2
    file, output = tmp_path / "busi_512.npz", tmp_path / "busi"
    np.savez_compressed(file, **made)  # pyright: ignore[reportArgumentType]
    words = ("data", "unpack", file, "-o", output)
    code, _, err = run(capsys, *words)
    assert (code, err.count("\n"), output.exists()) == (2, 1, False)
    assert "labels up to 2, and 1 structure was named; name each label, in their order: --structures FIRST" in err
    assert run(capsys, *words, "--structures", "benign", "malignant", "--modality", "US") == (0, "", f"{output}: 6 pictures\n")
    code, _, err = run(capsys, *words, "--structures", "benign", "malignant")
    assert (code, err) == (2, f"{output}: the folder is not empty; choose another one\n")
    code, _, err = run(capsys, "data", "unpack", tmp_path / "none.npz", "-o", tmp_path / "other")
    assert (code, err) == (2, f"{tmp_path / 'none.npz'}: there is no such file; check the path\n")
    code, _, err = run(capsys, "prepare", output, "-o", tmp_path / "out")
    assert code == 0, err
    names = {name for entry in PoolReader(tmp_path / "out").entries for name in entry.task_names}
    assert names == {"busi/benign", "busi/malignant"}
