"""Programs of others: what each is handed, in its own coordinates, by a stub; answers come back in place."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medical_sam2.errors import PromptError
from medical_sam2.evaluate.cases import VolumeTask
from medical_sam2.evaluate.methods import Command
from medical_sam2.evaluate.methods.interface import MethodInputs, TrainingCases
from medical_sam2.prompts import FramePrompt
from medical_sam2.volume import Volume

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "other_programs.py"
ASKED = MethodInputs(None, limit_s=120.0, training=TrainingCases(Path(), "left_kidney", ()))  # type: ignore[arg-type]
TELL = """
import json, os, sys
import numpy as np
def tell(*what):
    with open(os.environ["TOLD"], "a") as file:
        file.write(json.dumps(what, default=lambda one: np.asarray(one).tolist()) + "\\n")
"""
NN_INTERACTIVE = """
from tell import tell
class nnInteractiveInferenceSession:
    def __init__(self, device, use_torch_compile, verbose, torch_n_threads, do_autozoom, use_pinned_memory):
        tell("session", str(device), do_autozoom, use_pinned_memory)
    def initialize_from_trained_model_folder(self, folder):
        tell("weights", folder)
    def set_image(self, image):
        tell("image", image.shape, str(image.dtype), float(image.max()))
        self.image = image
    def set_target_buffer(self, buffer):
        self.target_buffer = buffer
    def add_lasso_interaction(self, mask, include_interaction):
        tell("lasso", [mask.any(axis=tuple({0, 1, 2} - {n})).nonzero()[0].tolist() for n in range(3)], include_interaction)
    def add_bbox_interaction(self, box, include_interaction):
        tell("box", box, include_interaction)
    def add_point_interaction(self, place, include_interaction):
        tell("point", place, include_interaction)
        self.target_buffer[self.image[0] > 50] = 1
"""
COMMANDS = """#!{python}
import json, shutil, sys
from pathlib import Path
sys.path.insert(0, {folder!r})
import numpy as np, nibabel
from tell import tell
words = sys.argv[1:]
value = lambda key: words[words.index(key) + 1]
out = Path(value("-o"))
out.mkdir(exist_ok=True)
def bright(file, to, number=1):
    found = nibabel.load(file)
    nibabel.save(nibabel.Nifti1Image(((found.get_fdata() > 50) * number).astype("uint8"), found.affine), to)
if sys.argv[0].endswith("voxtell-predict"):
    tell([word for word in words if not word.startswith("/")])
    bright(value("-i"), out / "image_left_kidney.nii.gz")
else:
    shown = sorted(Path(value("-i")).iterdir())
    tell([word for word in words if not word.startswith("/")], [one.name for one in shown])
    (out / "dataset.json").write_text(json.dumps({{"labels": {{"background": 0, "liver": 1, "left_kidney": [2, 3]}}}}))
    for one in shown:
        if one.name.endswith(".png"):
            from PIL import Image
            grey = Image.open(one).convert("L").point(lambda level: 3 if level > 128 else 1)
            grey.save(out / one.name.replace("_0000", ""))
        else:
            bright(one, out / one.name.replace("_0000", ""), 2)
"""
MEDSAM2 = """
import torch
from tell import tell
class Predictor:
    def init_state(self, pixels, height, width):
        tell("state", pixels.shape, height, width)
        self.shape, self.frames = (height, width), {}
        return "state"
    def add_new_points_or_box(self, state, frame, obj_id, **said):
        tell("said", frame, obj_id, said)
        self.frames[frame] = said
    def add_new_mask(self, state, frame, obj_id, mask):
        tell("mask", frame, obj_id, int(mask.sum()), mask.shape)
        self.frames[frame] = {}
    def propagate_in_video(self, state, reverse):
        tell("propagate", reverse, sorted(self.frames))
        logits = torch.full((1, 1, *self.shape), -1.0)
        logits[0, 0, 2, 3] = 1
        yield (0 if reverse else 5), [1], logits
    def reset_state(self, state):
        self.frames = {}
def build_sam2_video_predictor_npz(config, weights, device):
    tell("build", config, weights, device)
    return Predictor()
"""
SAM_MED3D = """
import os
import numpy as np
from tell import tell
case = np.load("inputs/case.npz", allow_pickle=True)
imgs = case["imgs"]
tell(os.readlink("ckpt/sam_med3d_turbo_cvpr_all.pth"), sorted(case), imgs.shape, str(imgs.dtype), case["spacing"].round(3))
tell(list(case["boxes"]) if "boxes" in case else None, list(case["clicks"]) if "clicks" in case else None)
os.mkdir("outputs")
np.savez_compressed("outputs/case.npz", segs=(case["imgs"] > 128).astype("uint8"))
"""
SAM_MED2D = """
import numpy as np
from tell import tell
class SammedPredictor:
    def __init__(self, model): pass
    def set_image(self, image):
        self.image = image
        tell("image", image.shape, str(image.dtype))
    def predict(self, point_coords=None, point_labels=None, box=None, multimask_output=True):
        tell("prompt", point_coords, point_labels, box, multimask_output)
        return (self.image[None, :, :, 0] > 128).astype(np.float32), None, None
"""
SEGMENT_ANYTHING = """
from tell import tell
class Model:
    def to(self, device): return self
    def eval(self): return self
def build(args):
    tell("build", vars(args))
    return Model()
sam_model_registry = {"vit_b": build}
"""
CLICKER = """
class Click:
    def __init__(self, is_positive, coords): self.is_positive, self.coords = is_positive, coords
class Clicker:
    def __init__(self): self.clicks = []
    def add_click(self, click): self.clicks.append(click)
    def __len__(self): return len(self.clicks)
"""
PREDICTORS = """
from tell import tell
class Predictor:
    def set_input_image(self, image): self.image = image
    def get_prediction(self, clicker, prev_mask, gate, designated_click_radius=-1, new_click_num=1):
        tell([(one.is_positive, one.coords) for one in clicker.clicks], prev_mask.shape, gate, new_click_num)
        return (self.image[:, :, 0] > 128) * 0.9, 0.0, None, None
def get_predictor(model, brs, device, prob_thresh, predictor_params, zoom_in_params, with_flip):
    tell("predictor", brs, device, prob_thresh, zoom_in_params, with_flip)
    return Predictor()
"""
TRACKER = """
import os
import numpy as np
from tell import tell
class BaseTracker:
    def __init__(self, weights, device):
        tell("tracker", weights, device, os.path.exists("tracker/base_tracker.py"))
    def track(self, frame, template=None):
        tell("track", None if template is None else int(template.sum()))
        found = (frame[:, :, 0] > 128).astype(np.uint8)
        return found, found, frame
    def clear_memory(self): tell("cleared")
"""
INTERACT = """
from tell import tell
class Sam:
    def set_image(self, image): tell("image", image.shape)
class SamControler:
    def __init__(self, weights, kind, device):
        tell("sam", weights, kind, device)
        self.sam_controler = Sam()
    def first_frame_click(self, image, points, labels):
        tell("clicks", points, labels)
        return image[:, :, 0] > 128, None, None
"""
STUBS = {
    "nnInteractive/inference/inference_session.py": NN_INTERACTIVE,
    "sam2/build_sam.py": MEDSAM2,
    "medim_infer.py": SAM_MED3D,
    "segment_anything/__init__.py": SEGMENT_ANYTHING,
    "segment_anything/predictor_sammed.py": SAM_MED2D,
    "isegm/inference/clicker.py": CLICKER,
    "isegm/inference/utils.py": "from tell import tell\ndef load_is_model(*what): tell('load', *what)\n",
    "isegm/inference/predictors/__init__.py": PREDICTORS,
    "tracker/base_tracker.py": TRACKER,
    "tools/interact_tools.py": INTERACT,
}


@pytest.fixture
def stubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with stubs of all programs, where Python and the shell find them."""
    for name, text in {"tell.py": TELL, **STUBS}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for name in ("voxtell-predict", "nnUNetv2_predict"):
        (tmp_path / name).write_text(COMMANDS.format(python=sys.executable, folder=str(tmp_path)))
        (tmp_path / name).chmod(0o755)
    (tmp_path / "weights").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("TOLD", str(tmp_path / "told.jsonl"))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


@pytest.fixture
def task() -> VolumeTask:
    """A bright block of a volume whose axes have different sizes; slices run along the last one."""
    truth = np.zeros((12, 14, 9), bool)
    truth[3:9, 4:10, 2:8] = True
    return VolumeTask(Volume(np.where(truth, 100, 1).astype(np.int16), np.diag([1.0, 1.5, 3.0, 1.0])), truth)


@pytest.fixture
def ask(stubs: Path, task: VolumeTask) -> Callable[..., list[Any]]:
    """Ask a program about the volume, prompted on slices K of the file; what its stub was told."""

    def ask_it(program: str, said: dict[int, FramePrompt], check: bool = True) -> list[Any]:
        flipped = task.view.flipped(task.volume.orientation)
        shown = {8 - k if flipped[0] else k: in_view(prompt, flipped) for k, prompt in said.items()}
        found = command(program, stubs).on_volume(ASKED, task, shown)
        if check:
            np.testing.assert_array_equal(np.stack(found.masks), task.truth_thw)
        return told(stubs)

    return ask_it


def in_view(prompt: FramePrompt, flipped: tuple[bool, ...]) -> FramePrompt:
    """A prompt in columns I and rows J of the file, in those of the view."""
    turn = [11 if flipped[2] else 0, 13 if flipped[1] else 0]
    sign = [-1 if each else 1 for each in turn]
    if prompt.mask_hw is not None:
        return FramePrompt.mask(prompt.mask_hw[:: sign[1], :: sign[0]].copy())
    box = prompt.box_xyxy
    around = None if box is None else np.sort(box.reshape(2, 2) * sign + turn, axis=0).ravel()
    clicks = FramePrompt(prompt.points_xy * sign + turn, prompt.labels) if len(prompt.points_xy) else None
    if around is None:
        return clicks if clicks is not None else prompt
    return FramePrompt.box(*around.tolist()) | clicks if clicks is not None else FramePrompt.box(*around.tolist())


def command(program: str, stubs: Path) -> Command:
    return Command.parsed(
        f"{sys.executable} {SCRIPT} {program.replace('HERE', str(stubs))} --device cpu {{image}} {{prompts}} {{output}}"
    )


def told(stubs: Path) -> list[Any]:
    path = stubs / "told.jsonl"
    found = [json.loads(line) for line in path.read_text().replace(str(stubs), "HERE").splitlines()]
    path.unlink()
    return found


BOX = FramePrompt.box(3, 4, 8, 9)
CLICK = FramePrompt.click(6, 5)


def test_nn_interactive(ask: Callable[..., list[Any]]) -> None:
    drawn = np.zeros((14, 12), bool)
    drawn[4:10, 3:9] = True
    told = ask(
        "nninteractive --weights HERE/weights",
        {2: FramePrompt.mask(drawn), 4: BOX, 5: CLICK | FramePrompt.click(1, 2, positive=False)},
    )
    assert told == [
        ["session", "cpu", True, False],
        ["weights", "HERE/weights"],
        ["image", [1, 9, 14, 12], "float32", 100.0],
        ["lasso", [[2], [4, 5, 6, 7, 8, 9], [3, 4, 5, 6, 7, 8]], True],
        ["box", [[4, 5], [4, 10], [3, 9]], True],
        ["point", [5, 5, 6], True],
        ["point", [5, 2, 1], False],
    ]


def test_vox_tell_gets_the_name_alone(ask: Callable[..., list[Any]]) -> None:
    assert ask("voxtell --weights WEIGHTS", {4: BOX}) == [
        [["-i", "-o", "-p", "left kidney", "--device", "cpu", "-m", "WEIGHTS"]]
    ]


def test_nn_u_net_answers_the_structure_s_values(ask: Callable[..., list[Any]]) -> None:
    words = ["-i", "-o", "-f", "all", "-device", "cpu", "-d", "7", "-c", "3d_fullres"]
    assert ask("nnunet --folds all --dataset 7", {4: BOX}) == [[words, ["case_0000.nii.gz"]]]


def test_medsam2_is_told_all_both_ways(ask: Callable[..., list[Any]], task: VolumeTask) -> None:
    drawn = np.zeros((14, 12), bool)
    drawn[4:10, 3:9] = True
    said = {3: BOX | FramePrompt.click(1, 2, positive=False), 4: FramePrompt.mask(drawn)}
    told = ask("medsam2 --weights HERE/weights", said, check=False)
    prompts = [["said", 3, 1, {"points": [[1, 2]], "labels": [0], "box": [3, 4, 8, 9]}], ["mask", 4, 1, 36, [14, 12]]]
    assert told == [
        ["build", "configs/sam2.1_hiera_t512.yaml", "HERE/weights", "cpu"],
        ["state", [9, 3, 512, 512], 14, 12],
        *prompts,
        ["propagate", False, [3, 4]],
        *prompts,
        ["propagate", True, [3, 4]],
    ]


def test_medsam2_s_answer_lies_where_it_was_found(stubs: Path, task: VolumeTask) -> None:
    found = command("medsam2 --weights HERE/weights", stubs).on_volume(ASKED, task, {3: FramePrompt.box(3, 4, 8, 9)})
    expected = np.zeros((12, 14, 9), bool)
    expected[3, 2, [0, 5]] = True
    np.testing.assert_array_equal(np.stack(found.masks), task.view.apply(expected, task.volume.orientation))


def test_sam_med3d_reads_the_challenge_s_file(ask: Callable[..., list[Any]]) -> None:
    program = "sam-med3d --weights HERE/weights --repository HERE"
    case, prompts = ask(program, {4: BOX | FramePrompt.click(1, 2, positive=False)})
    assert case == ["HERE/weights", ["boxes", "imgs", "spacing"], [9, 14, 12], "uint8", [1.0, 1.5, 3.0]]
    box = {"z_min": 4, "z_max": 4, "z_mid": 4, "z_mid_x_min": 3, "z_mid_x_max": 8, "z_mid_y_min": 4, "z_mid_y_max": 9}
    assert prompts == [[box], None]
    assert ask(program, {5: CLICK})[1] == [None, [{"fg": [[5, 5, 6]], "bg": []}]]


def test_sam_med2d_repeats_the_nearest_prompt(ask: Callable[..., list[Any]]) -> None:
    told = ask("sam-med2d --weights HERE/weights --repository HERE", {2: BOX, 7: CLICK})
    assert told[0] == ["build", {"image_size": 256, "encoder_adapter": True, "sam_checkpoint": "HERE/weights"}]
    assert [row for row in told if row[0] == "image"] == [["image", [14, 12, 3], "uint8"]] * 9
    box, click = ["prompt", None, None, [3, 4, 8, 9], True], ["prompt", [[6, 5]], [1], None, True]
    assert [row for row in told if row[0] == "prompt"] == [box] * 5 + [click] * 4


def test_fcfi_gets_rows_and_columns(ask: Callable[..., list[Any]]) -> None:
    told = ask("fcfi --weights HERE/weights --repository HERE", {4: CLICK | FramePrompt.click(1, 2, positive=False)})
    assert told[:2] == [
        ["load", "HERE/weights", "cpu"],
        ["predictor", "NoBRS", "cpu", 0.49, {"target_size": 720, "expansion_ratio": 3.0}, True],
    ]
    assert told[2:] == [[[[True, [5, 6]], [False, [2, 1]]], [14, 12], 0.0, 2]] * 9
    assert ask("fcfi --weights HERE/weights --repository HERE", {4: BOX})[2] == [[[True, [6.5, 5.5]]], [14, 12], 0.0, 1]


def test_track_anything_follows_the_outline_both_ways(ask: Callable[..., list[Any]]) -> None:
    drawn = np.zeros((14, 12), bool)
    drawn[4:10, 3:9] = True
    program = "track-anything --weights HERE/weights --sam-weights SAM --repository HERE"
    told = ask(program, {6: FramePrompt.mask(drawn), 2: CLICK})
    onwards, back = [["track", None]] * 2, [["track", None]] * 2
    assert told == [
        ["tracker", "HERE/weights", "cpu", True],
        *[["sam", "SAM", "vit_h", "cpu"], ["image", [14, 12, 3]], ["clicks", [[6, 5]], [1]]],
        *[["track", 36], *onwards, ["cleared"], ["track", 36], *back, ["cleared"]],
        *[["track", 36], *onwards, ["cleared"], ["track", 36], ["track", None], ["cleared"]],
    ]


def on_set(program: str, stubs: Path) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (20, 30), np.uint8), rng.integers(0, 255, (40, 15), np.uint8)]
    found = command(program, stubs).on_images(ASKED, images, {1: FramePrompt.box(2, 4, 8, 20)})
    for image, mask in zip(images, found.masks, strict=True):
        np.testing.assert_array_equal(mask, image > 128)


def test_a_set(stubs: Path) -> None:
    on_set("sam-med2d --weights HERE/weights --repository HERE", stubs)
    assert [row[3] for row in told(stubs) if row[0] == "prompt"] == [[4, 2, 16, 10], [2, 4, 8, 20]]
    on_set("nnunet --dataset 7 --configuration 2d", stubs)
    assert told(stubs)[0][1] == ["0000_0000.png", "0001_0000.png"]


def test_what_a_program_cannot_do_is_told(stubs: Path, task: VolumeTask) -> None:
    with pytest.raises(PromptError, match="takes volumes alone"):
        command("nninteractive", stubs).on_images(ASKED, [np.zeros((9, 9), np.uint8)], {0: BOX})
    other = MethodInputs(None, limit_s=120.0, training=TrainingCases(Path(), "spleen", ()))  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="not trained for 'spleen': it knows background, liver, left_kidney"):
        command("nnunet --dataset 7", stubs).on_volume(other, task, {4: BOX})
    nameless = MethodInputs(None, limit_s=120.0)  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="has no name"):
        command("voxtell", stubs).on_volume(nameless, task, {4: BOX})


def test_sagittal_prompts_are_sagittal_slices(stubs: Path) -> None:
    image = np.ones((5, 8, 6), np.int16)
    image[1:3, 2:5, 1:3] = 100
    truth = image == 100
    task = VolumeTask(Volume(image, np.diag([5.0, 1.0, 1.0, 1.0])), truth)
    t = int(np.flatnonzero(task.truth_thw.any(axis=(1, 2)))[0])
    rows, columns = np.flatnonzero(task.truth_thw[t].any(axis=1)), np.flatnonzero(task.truth_thw[t].any(axis=0))
    box = FramePrompt.box(columns[0], rows[0], columns[-1], rows[-1])
    found = command("sam-med2d --weights HERE/weights --repository HERE", stubs).on_volume(ASKED, task, {t: box})
    np.testing.assert_array_equal(np.stack(found.masks), task.truth_thw)
    assert [row[1:] for row in told(stubs) if row[0] == "prompt"] == [[None, None, [2, 1, 4, 2], True]] * 5
