"""Other programs: what they get, what they hand back, and what is refused."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from medical_sam2.errors import ConfigError, FormatError, PromptError
from medical_sam2.evaluate.cases import VolumeTask
from medical_sam2.evaluate.methods import Command, find_method, method_label
from medical_sam2.evaluate.methods.interface import MethodInputs
from medical_sam2.prompts import FramePrompt
from medical_sam2.volume import Volume

ASKED = MethodInputs(None, limit_s=60.0)  # type: ignore[arg-type]
PROGRAM = """
import json, sys
from pathlib import Path
image, prompts, output = map(Path, sys.argv[1:])
told = json.loads(prompts.read_text())
if image.is_dir():
    from PIL import Image
    output.mkdir()
    for path in sorted(image.iterdir()):
        with Image.open(path) as picture:
            grey = picture.convert("L")
        x, y, x2, y2 = next(iter(told["images"].values()))["box"]
        grey.point(lambda value: int(value > 128)).save(output / path.name)
else:
    import nibabel
    found = nibabel.load(image)
    assert told["objects"][0]["boxes"] == [[3, 4, 5, 8, 9, 5]], told
    nibabel.save(nibabel.Nifti1Image((found.get_fdata() > 50).astype("uint8"), found.affine), output)
"""


@pytest.fixture
def program(tmp_path: Path) -> str:
    """One that outlines what is bright."""
    (tmp_path / "program.py").write_text(PROGRAM)
    return f"{sys.executable} {tmp_path / 'program.py'} {{image}} {{prompts}} {{output}}"


@pytest.fixture
def task() -> VolumeTask:
    truth = np.zeros((12, 14, 9), bool)
    truth[3:9, 4:10, 2:8] = True
    return VolumeTask(Volume(np.where(truth, 100, 0).astype(np.int16), np.diag([1.0, 1.0, 3.0, 1.0])), truth)


def test_a_volume(program: str, task: VolumeTask) -> None:
    flipped = task.view.flipped(task.volume.orientation)[0]
    t = 8 - 5 if flipped else 5
    x_low, y_low, x_high, y_high = _box(task.truth_thw[t])
    found = Command.parsed(program).on_volume(ASKED, task, {t: FramePrompt.box(x_low, y_low, x_high, y_high)})
    np.testing.assert_array_equal(np.stack(found.masks), task.truth_thw)


def test_a_set(program: str) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (20, 30), np.uint8), rng.integers(0, 255, (25, 18), np.uint8)]
    found = Command.parsed(program).on_images(ASKED, images, {1: FramePrompt.box(2, 3, 9, 9)})
    for image, mask in zip(images, found.masks, strict=True):
        np.testing.assert_array_equal(mask, image > 128)


def test_a_volume_s_clicks_reach_it_beside_its_box(tmp_path: Path, task: VolumeTask) -> None:
    kept = tmp_path / "kept.json"
    program = (
        f'{sys.executable} -c "import shutil,sys; shutil.copy(sys.argv[2], {str(kept)!r})" {{image}} {{prompts}} {{output}}'
    )
    click = FramePrompt.click(6, 5, positive=False) | FramePrompt.click(5, 5)
    with pytest.raises(FormatError, match="wrote no answer"):
        Command.parsed(program).on_volume(ASKED, task, {2: FramePrompt.box(4, 3, 9, 8) | click, 6: FramePrompt.click(7, 4)})
    (told,) = json.loads(kept.read_text())["objects"]
    assert len(told["boxes"]) == 1
    assert (len(told["points"]), len(told["negative"])) == (2, 1)


def test_every_kind_of_prompt_reaches_it(tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    program = f'{sys.executable} -c "import shutil,sys; shutil.copy(sys.argv[2], {str(kept)!r}); print({{0}})" x'
    line = f"{program} {{prompts}} {{image}} {{output}}"
    drawn = np.pad(np.ones((4, 5), bool), 3)
    said = {0: FramePrompt.click(4, 5), 1: FramePrompt.box(1, 2, 6, 7), 2: FramePrompt.mask(drawn)}
    with pytest.raises(FormatError, match="wrote no answer"):
        Command.parsed(line).on_images(ASKED, [np.zeros((10, 11), np.uint8)] * 3, said)
    told = json.loads(kept.read_text())["images"]
    assert told == {
        "0000.png": {"points": [[4, 5]]},
        "0001.png": {"box": [1, 2, 6, 7]},
        "0002.png": {"mask": "prompt-0002.png"},
    }


def test_what_goes_wrong_is_told(task: VolumeTask) -> None:
    places = "{image} {prompts} {output}"
    said = {4: FramePrompt.click(6, 6)}
    for code, words in (
        ("import sys; sys.exit('no weights')", "ended with code 1: no weights"),
        ("import time; time.sleep(60)", "took more than"),
    ):
        command = Command.parsed(f'{sys.executable} -c "{code}" {places}')
        asked = MethodInputs(None, limit_s=0.5 if "sleep" in code else 60)  # type: ignore[arg-type]
        with pytest.raises(PromptError, match=words):
            command.on_volume(asked, task, said)
    with pytest.raises(ConfigError, match="cannot be started"):
        Command.parsed(f"/no/such/program {places}").on_volume(ASKED, task, said)
    with pytest.raises(ConfigError, match=r"has no \{output\}"):
        Command.parsed("program {image} {prompts}")
    with pytest.raises(ConfigError, match="quotes"):
        Command.parsed(f"program 'open {places}")


def test_a_command_is_a_method_by_name() -> None:
    name = "other=python other.py {image} {prompts} {output}"
    assert find_method(name) == Command(("python", "other.py", "{image}", "{prompts}", "{output}"))
    assert (method_label(name), method_label("fifo"), method_label("x {image}")) == ("other", "fifo", "x {image}")


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])
