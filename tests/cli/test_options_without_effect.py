"""An option, a number or a prompt that would be passed over is refused or named."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medical_sam2 import io
from medical_sam2.cli import main
from medical_sam2.cli.prompts import PromptOptions, volume_prompts
from medical_sam2.volume import Volume
from tests.io.making import Series

Failed = Callable[..., str]


@pytest.fixture
def ct(tmp_path: Path) -> Path:
    io.save(
        np.arange(6 * 6 * 6, dtype=np.int16).reshape(6, 6, 6), tmp_path / "v.nii.gz", Volume(np.zeros((6, 6, 6)), np.eye(4))
    )
    return tmp_path / "v.nii.gz"


@pytest.fixture
def failed(capsys: pytest.CaptureFixture[str]) -> Failed:
    def run(*words: object) -> str:
        assert main([str(word) for word in words]) == 2, words
        return capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--object", "1.5"], "--object: '1.5' is no whole number"),
        (["--object", "1_0"], "--object: '1_0' is no whole number"),
        (["--adapt", "1_0"], "--adapt: '1_0' is no number"),
        (["--adapt", "9" * 400], "--adapt: '999"),
        (["--window", "1_0,2_0"], "unknown window '1_0,2_0'"),
        (["--point", "1_0", "1", "1"], "--point needs three numbers, not '1_0 1 1'"),
        (["--threads", "999999"], "999999 threads cannot work"),
        (["--series", "1"], "--series changes nothing: this is NIfTI, not DICOM"),
        (["--allow-gap"], "--allow-gap changes nothing"),
        (["--name", "1:a", "--name", "b"], "object 1 has two names"),
        (["--negative", "3", "3", "3"], "a positive and a negative click on one place"),
        (["--priority", "1"], "--priority changes nothing: there is one object only"),
        (["--overlap", "--separate"], "--overlap changes nothing: there is one object only"),
        (["--fusion", "vote"], "--fusion changes nothing: one view is tracked"),
        (["--fusion", "mean", "--views", "coronal"], "--fusion changes nothing: one view is tracked"),
        (["--box", "1", "1", "3", "4", "4", "3", "--box", "1", "1", "3", "5", "5", "3"], "two boxes on"),
    ],
)
def test_they_are_refused(ct: Path, failed: Failed, words: list[str], said: str) -> None:
    assert said in failed("segment", ct, "--point", 3, 3, 3, "-o", ct.with_name("o.nii.gz"), *words)
    assert not ct.with_name("o.nii.gz").exists()


@pytest.mark.parametrize("folder", ["v.nii.gz", "nowhere/features"])
def test_a_folder_for_features_that_cannot_be_is_refused_by_the_dry_run_too(ct: Path, failed: Failed, folder: str) -> None:
    words = ["--point", 3, 3, 3, "-o", ct.with_name("o.nii.gz"), "--features", ct.parent / folder, "--dry-run"]
    assert "the folder for features cannot be made" in failed("segment", ct, *words)


@pytest.mark.parametrize("words", [["--mm"], ["--object", "2"]])
def test_coordinates_of_the_command_line_where_there_are_none(ct: Path, failed: Failed, words: list[str]) -> None:
    ct.with_name("p.json").write_text(json.dumps({"objects": [{"points": [[3, 3, 3]]}]}))
    told = failed("segment", ct, "--prompts", ct.with_name("p.json"), "-o", ct.with_name("o.nii.gz"), *words)
    assert f"{words[0]} changes nothing" in told


@pytest.mark.parametrize("option", ["--point", "--negative", "--box", "--lasso", "--slices"])
@pytest.mark.parametrize("number", [1, 3])
def test_an_object_beside_prompts_that_name_theirs(ct: Path, pictures: Path, failed: Failed, option: str, number: int) -> None:
    """Whether both are the same or not; in a volume and in a set."""
    numbers = {"--box": "1 1 3 4 4 3", "--lasso": "1 1 3 4 1 3 4 4 3", "--slices": "1 4"}.get(option, "3 3 3").split()
    words = ["--point", "1:3", 3, 3, option, f"1:{numbers[0]}", *numbers[1:], "--object", number]
    told = f"--object {number} changes nothing: every prompt names its object itself"
    assert told in failed("segment", ct, *words, "-o", ct.with_name("o.nii.gz"))
    if option != "--slices":
        flat = {"--box": "1 1 4 4", "--lasso": "1 1 4 1 4 4"}.get(option, "9 9").split()
        words = ["--point", "a.png:1:20", 20, option, f"a.png:1:{flat[0]}", *flat[1:], "--object", number]
        assert told in failed("segment-images", pictures, "--template", "a.png", *words, "-o", pictures.with_name("out"))


def test_an_object_of_what_names_none(ct: Path) -> None:
    """It has an effect beside prompts that name another, on a mask, and for a name."""
    volume = io.load(ct)
    io.save(
        ((np.indices((6, 6, 6))[2] == 3) & (np.indices((6, 6, 6))[0] > 1)).astype(np.uint8), ct.with_name("m.nii.gz"), volume
    )
    for said in ({"point": ("2:3 3 3", "1 1 1")}, {"point": ("2:3 3 3",), "mask": (ct.with_name("m.nii.gz"),)}):
        assert volume_prompts(PromptOptions(**said, object=4), volume).labels == (2, 4)  # type: ignore[arg-type]
    assert volume_prompts(PromptOptions(point=("4:3 3 3",), object=4, name=("liver",)), volume).names == {4: "liver"}


def test_no_input_is_replaced(ct: Path, failed: Failed) -> None:
    """Neither a slice of a series nor a mask that a file of prompts names."""
    series = ct.with_name("series")
    series.mkdir()
    Series(np.eye(4), np.arange(4 * 4 * 3, dtype=np.int16).reshape(4, 4, 3)).write(series)
    one = next(series.iterdir())
    before = one.read_bytes()
    told = failed("segment", series, "--point", 1, 1, 1, "-o", one.with_suffix(".dcm"), "--overwrite")
    assert "would lie among the slices" in told
    assert one.read_bytes() == before
    mask = ct.with_name("m.nii.gz")
    io.save(((np.indices((6, 6, 6))[2] == 3) & (np.indices((6, 6, 6))[0] > 1)).astype(np.uint8), mask, io.load(ct))
    ct.with_name("p.json").write_text(json.dumps({"objects": [{"masks": [{"file": "m.nii.gz"}]}]}))
    before = mask.read_bytes()
    assert "would replace an input" in failed("segment", ct, "--prompts", ct.with_name("p.json"), "-o", mask, "--overwrite")
    assert mask.read_bytes() == before


def test_a_link_that_leads_in_a_circle(ct: Path, failed: Failed) -> None:
    loop = ct.with_name("loop.nii.gz")
    loop.symlink_to(loop)
    assert "a link that leads nowhere" in failed("segment", ct, "--point", 3, 3, 3, "-o", loop, "--overwrite")
    ct.with_name("p.json").write_text(json.dumps({"objects": [{"masks": [{"file": "loop.nii.gz"}]}]}))
    assert "loop.nii.gz" in failed("segment", ct, "--prompts", ct.with_name("p.json"), "-o", ct.with_name("o.nii.gz"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for name in ("a.png", "b.png"):
        Image.fromarray(np.arange(32 * 32, dtype=np.uint8).reshape(32, 32)).save(folder / name)
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(folder / "c.gif")
    return folder


def test_what_is_no_image_is_named(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["segment-images", pictures, "--template", "a.png", "--point", 9, 9, "-o", pictures.with_name("out")]
    assert main([str(word) for word in [*words, "--image-size", 64]]) == 0
    assert "no images, left alone: c.gif, more/" in capsys.readouterr().err


def test_what_is_no_image_is_in_the_report_and_told_quietly_too(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["segment-images", pictures, "--template", "a.png", "--point", 9, 9, "-o", pictures.with_name("out")]
    for more in (["--dry-run"], []):
        assert main([str(word) for word in [*words, "--image-size", 64, "--quiet", "--json", *more]]) == 0
        out, err = capsys.readouterr()
        assert json.loads(out)["left_alone"] == ["c.gif", "more/"]
    assert "no images, left alone: c.gif, more/" in err


def test_a_mask_among_the_images(pictures: Path, failed: Failed) -> None:
    words = ["segment-images", pictures, "--template", "a.png", "--mask", pictures / "b.png", "--threshold", 9]
    assert "lies among the images" in failed(*words, "-o", pictures.with_name("out"))


@pytest.mark.parametrize("words", [["--order", "shuffled", "--seed", "-1"], ["--order", "shuffled", "--seed", "1.5"]])
def test_seeds(pictures: Path, failed: Failed, words: list[str]) -> None:
    told = failed("segment-images", pictures, "--template", "a.png", "--point", 9, 9, "-o", pictures.with_name("out"), *words)
    assert "--seed" in told


def test_an_unknown_command_ends_in_words(failed: Failed) -> None:
    assert "and others; see medsam2 --help" in failed("segmnt")


def test_a_closed_output_is_no_defect(ct: Path) -> None:
    code = f"import sys; from medical_sam2.cli import main; sys.exit(main(['info', {str(ct)!r}]))"
    command = f'{sys.executable} -c "{code}" >&-'
    assert subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE).returncode == 0  # noqa: PLW1510
