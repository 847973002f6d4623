"""`medsam2 synthesize`: from nothing, from real images, and both in one folder."""

from pathlib import Path

import numpy as np
import pytest

from medical_sam2.cli import main
from medical_sam2.data.synthetic import PoolReader
from tests.data.nnunet import describe, put


def test_both_kinds_in_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = describe(tmp_path / "data", channel_names={"0": "grey"}, file_ending=".png")
    for number in range(2):
        image = np.full((60, 60), 60, np.uint8)
        image[15:40, 20:45] = 180 + 40 * number
        put(data / "imagesTr" / f"case{number}_0000.png", image)
        put(data / "labelsTr" / f"case{number}.png", (image > 100).astype(np.uint8))
    pool = str(tmp_path / "pool")
    assert main(["synthesize", "-o", pool, "--volumes", "1", "--sets", "0", "--size", "32"]) == 0
    more = ["--volumes", "0", "--sets", "1", "--size", "40", "--first", "10", "--half", "--from", str(data)]
    assert main(["synthesize", "-o", pool, *more]) == 0
    assert [(entry.index, entry.kind) for entry in PoolReader(Path(pool)).entries] == [(0, "volume"), (11, "set")]
    assert "1 new cases" in capsys.readouterr().err


def test_an_odd_first_number_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["synthesize", "-o", str(tmp_path), "--first", "3"]) != 0
    assert capsys.readouterr().err.strip() == "first: the first case cannot be number 3; give an even number"
