"""The script that makes pools: from nothing, from real images, and both in one folder."""

from pathlib import Path

import numpy as np
import pytest

from medical_sam2.cli import main as medsam2
from medical_sam2.data.cases import PoolReader
from synthesize import main
from tests.data.nnunet import describe, put


def test_both_kinds_in_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = describe(tmp_path / "data", channel_names={"0": "grey"}, file_ending=".png")
    for number in range(2):
        image = np.full((60, 60), 60, np.uint8)
        image[15:40, 20:45] = 180 + 40 * number
        put(data / "imagesTr" / f"case{number}_0000.png", image)
        put(data / "labelsTr" / f"case{number}.png", (image > 100).astype(np.uint8))
    pool = str(tmp_path / "pool")
    assert main(["-o", pool, "--volumes", "1", "--sets", "0", "--size", "32"]) == 0
    more = ["--volumes", "0", "--sets", "1", "--size", "40", "--first", "10", "--half", "--from", str(data)]
    assert main(["-o", pool, *more]) == 0
    assert [(entry.index, entry.kind) for entry in PoolReader(Path(pool)).entries] == [(0, "volume"), (11, "set")]
    assert "1 new cases" in capsys.readouterr().err


def test_an_odd_first_number_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["-o", str(tmp_path), "--first", "3"])
    assert ended.value.code == 2
    assert "the first case cannot be number 3; give an even number" in capsys.readouterr().err


def test_what_stops_it_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-o", str(tmp_path / "pool"), "--from", str(tmp_path / "absent")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_command_of_earlier_versions_says_where_it_went(capsys: pytest.CaptureFixture[str]) -> None:
    assert medsam2(["synthesize", "-o", "pool", "--volumes", "3"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "python recipes/nano/synthesize.py" in err
