"""`medsam2 info` tells what is there, and what is odd about it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medical_sam2 import io
from medical_sam2.cli import main
from medical_sam2.volume import Volume
from tests.io.making import Series, phantom
from tests.io.test_dicom import AXIAL
from tests.io.test_nifti import AFFINE, ARRAY, raw


def told(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    code = main(["info", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_volume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.nii").write_bytes(raw())
    code, out, err = told(capsys, tmp_path / "a.nii", "--json")
    said = json.loads(out)
    assert (code, err) == (0, "")
    assert said["affine"] == AFFINE.tolist()
    assert (said["shape"], said["spacing_mm"], said["orientation"]) == ([4, 5, 6], [2.0, 2.5, 3.0], "LAS")
    assert (said["range"], said["dtype"], said["warnings"]) == ([int(ARRAY.min()), int(ARRAY.max())], "int16", [])


def test_a_person_reads_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.nii").write_bytes(raw(scl_slope=-1))
    code, out, err = told(capsys, tmp_path / "a.nii")
    assert code == 0
    assert "shape        4 5 6" in out
    assert "orientation  LAS" in out
    assert err == f"warning: {tmp_path / 'a.nii'}: scl_slope is negative (-1): stored values are turned upside down\n"


def test_a_dicom_series_without_its_patient(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Series(AXIAL, phantom()).write(tmp_path)
    code, out, err = told(capsys, tmp_path, "--json")
    assert code == 0
    assert json.loads(out)["modality"] == "CT"
    assert "CANARY" not in out + err


def test_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).save(tmp_path / "a.png")
    said = json.loads(told(capsys, tmp_path / "a.png", "--json")[1])
    assert (said["kind"], said["count"], said["shape"], said["range"]) == ("pictures", 1, [3, 4], [0, 11])


def test_labels_of_an_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = Volume(ARRAY, AFFINE)
    io.save(ARRAY % 3, tmp_path / "image.nii", image)
    io.save(ARRAY % 3, tmp_path / "labels.nii", image)
    io.save(ARRAY[1:] % 3, tmp_path / "others.nii", Volume(ARRAY[1:], AFFINE))
    assert told(capsys, tmp_path / "labels.nii", "--labels-of", tmp_path / "image.nii")[0] == 0
    code, out, err = told(capsys, tmp_path / "others.nii", "--labels-of", tmp_path / "image.nii")
    assert (code, out) == (2, "")
    assert "shape" in err


def test_choices_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.nii").write_bytes(raw(np.stack([ARRAY, ARRAY], axis=3)))
    code, out, err = told(capsys, tmp_path / "a.nii")
    assert (code, out) == (4, "")
    assert "--frame 0" in err
    assert told(capsys, tmp_path / "a.nii", "--frame", "1")[0] == 0


def test_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    objects = [{"label": 2, "name": "liver", "points": [[1, 2, 3]], "negative": [[0, 0, 0], [0, 0, 1]]}]
    (tmp_path / "a.json").write_text(json.dumps({"version": 1, "objects": objects}))
    said = json.loads(told(capsys, tmp_path / "a.json", "--json")[1])
    assert (said["kind"], said["coordinates"]) == ("prompts", "voxel")
    assert said["objects"] == ["2 liver: 1 points, 2 negative"]
    (tmp_path / "report.json").write_text('{"version": 1, "kind": "image set"}')
    assert json.loads(told(capsys, tmp_path / "report.json", "--json")[1])["keys"] == ["kind", "version"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"version": 9999}, "newer program"),
        ({"objects": []}, "objects is empty"),
        ({"object": [{"points": [[1, 2, 3]]}]}, "the unknown key 'object'; did you mean 'objects'"),
        ({"objects": [{"points": [[1, 2]]}]}, "an entry of points is not 3 numbers"),
        ({"objects": [{"label": 3}]}, "object 3 has no prompt"),
        ({"objects": [{"masks": [{"file": "none.nii.gz"}]}]}, "its mask none.nii.gz is not there"),
        ({"objects": [{"masks": [{"file": "../a.nii"}]}]}, "lies outside the folder of the prompts"),
    ],
)
def test_broken_prompts_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: dict[str, object], said: str
) -> None:
    (tmp_path / "a.json").write_text(json.dumps(content))
    code, out, err = told(capsys, tmp_path / "a.json")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert said in err
    assert "a.json: " in err
