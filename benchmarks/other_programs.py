"""Programs of others for `medsam2 evaluate`: what each is handed, written from its documentation or its source.

    medsam2 evaluate --data DATA -o OUT --method self-sorting \
        --method "nnInteractive=PYTHON benchmarks/other_programs.py nninteractive --weights FOLDER {image} {prompts} {output}"

PYTHON is that of an environment in which the program runs (3.10 or newer), with NumPy, nibabel and Pillow; this file needs
nothing else of the package. `--weights` is a file or folder that you obtained, `--repository` a checkout, where it says so.

| program | read | options | takes |
|---|---|---|---|
| `nninteractive` | MIC-DKFZ/nnInteractive 056cdb5, readme | weights | volumes; clicks, boxes, outlines |
| `voxtell` | MIC-DKFZ/VoxTell 971ba36, predict_from_raw_data.py | weights | volumes; the structure's name |
| `nnunet` | MIC-DKFZ/nnUNet b8560d6, run-inference.md | dataset, configuration, folds | both; the structure's name |
| `medsam2` | bowang-lab/MedSAM2 56a9df6, medsam2_infer_general.py | weights, config | volumes; all |
| `sam-med3d` | uni-medical/SAM-Med3D 04e4fe5, medim_infer.py | weights, repository | volumes; its last click or box |
| `sam-med2d` | OpenGVLab/SAM-Med2D 036ccba, predictor_sammed.py | weights, repository | both; clicks, boxes |
| `fcfi` | veizgyauzgyauz/FCFI ea36fd5, app.py | weights, repository | both; clicks |
| `track-anything` | gaomingqi/Track-Anything 91d7172, base_tracker.py | weights, sam-weights, repository | volumes; clicks |

Licences stand in docs/evaluation.md.
Where a program takes no outline, its box stands for it; where it takes no box, a click in the middle. A program for pictures
sees each slice with the prompt of the nearest prompted one. None of these was run with its own weights by us: tests hold what
a stub in its place is handed.

Shapes: I J K voxels in the order of the file, T slices or pictures, H W pixels.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]
Place = tuple[int, int, int]
CHALLENGE_WEIGHTS = "sam_med3d_turbo_cvpr_all.pth"  # the name that SAM-Med3D's script opens
MEDSAM2_SIDE, FCFI_THRESHOLD = 512, 0.49
FCFI_ZOOM = {"target_size": 720, "expansion_ratio": 3.0}
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class PictureTold:
    """What was said on one slice or picture, in pixels (x, y)."""

    clicks: tuple[tuple[float, float, bool], ...] = ()
    box: tuple[float, float, float, float] | None = None
    outline: Array | None = None

    @property
    def around(self) -> tuple[float, float, float, float] | None:
        """The box, or that of the outline."""
        if self.box is not None or self.outline is None:
            return self.box
        rows, columns = np.flatnonzero(self.outline.any(axis=1)), np.flatnonzero(self.outline.any(axis=0))
        return float(columns[0]), float(rows[0]), float(columns[-1]), float(rows[-1])

    @property
    def points(self) -> tuple[Array, Array]:
        """Clicks (N, 2) and whether they are on the structure (N,); one in the middle of the box, where there is one."""
        middle = (
            []
            if self.around is None
            else [((self.around[0] + self.around[2]) / 2, (self.around[1] + self.around[3]) / 2, True)]
        )
        told = [*middle, *self.clicks]
        return np.array([click[:2] for click in told]), np.array([int(click[2]) for click in told])


@dataclass(frozen=True)
class VolumeTold:
    """A volume, and what was said on it in voxels."""

    file: Path
    array: Array  # (I, J, K)
    affine: Array
    name: str = ""  # of the structure
    clicks: tuple[tuple[Place, bool], ...] = ()
    boxes: tuple[tuple[Place, Place], ...] = ()
    outlines: tuple[Array, ...] = ()  # (I, J, K), one slice of each is not empty
    axis: int = 2  # that the prompted slices run along

    @property
    def boxes_around(self) -> list[tuple[Place, Place]]:
        """Boxes, and those around outlines."""
        return [*self.boxes, *(corners(outline) for outline in self.outlines)]


@dataclass(frozen=True)
class PicturesTold:
    """Slices of a volume, or pictures of a set, with what was said on them."""

    pictures: Sequence[Array]  # (H, W, 3) of bytes
    told: Mapping[int, PictureTold]
    name: str = ""
    files: Path | None = None  # folder of the pictures of a set


@dataclass
class Options:
    """How a program is set up."""

    program: str = ""
    weights: str = ""
    sam_weights: str = ""
    repository: str = ""
    config: str = "configs/sam2.1_hiera_t512.yaml"
    dataset: str = ""
    configuration: str = "3d_fullres"
    folds: list[str] = field(default_factory=list)
    device: str = "cuda"
    window: str = ""


def corners(inside: Array) -> tuple[Place, Place]:
    places = np.argwhere(inside)
    low, high = places.min(axis=0).tolist(), places.max(axis=0).tolist()
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])


def read_volume(image: Path, listing: Path) -> VolumeTold:
    """The image and the only object of a file of prompts of this package."""
    nibabel = import_module("nibabel")
    found = nibabel.load(image)
    entry = json.loads(listing.read_text())["objects"][0]
    clicks = [(as_place(row), key == "points") for key in ("points", "negative") for row in entry.get(key, [])]
    boxes = [(as_place(row[:3]), as_place(row[3:])) for row in entry.get("boxes", [])]
    drawn = [np.asarray(nibabel.load(listing.parent / mask["file"]).dataobj) != 0 for mask in entry.get("masks", [])]
    axes = ["ijk".index(mask["axis"]) for mask in entry.get("masks", []) if "axis" in mask]
    told = VolumeTold(
        image, np.asarray(found.dataobj), found.affine, entry.get("name", ""), tuple(clicks), tuple(boxes), tuple(drawn)
    )
    return replace(told, axis=axes[0] if axes else slice_axis(told))


def as_place(row: Sequence[float]) -> Place:
    i, j, k = (round(number) for number in row)
    return i, j, k


def slice_axis(told: VolumeTold) -> int:
    """The axis that all boxes are flat along; else of the thickest slices, axial ones where all are alike."""
    flat = [axis for axis in range(3) if all(low[axis] == high[axis] for low, high in told.boxes_around)]
    codes = import_module("nibabel").aff2axcodes(told.affine)
    spacing = np.linalg.norm(told.affine[:3, :3], axis=0).round(3)
    return max(flat or [0, 1, 2], key=lambda axis: (spacing[axis], codes[axis] in "SI"))


def as_bytes(array: Array, window: str) -> NDArray[np.uint8]:
    """Grey levels from 0 to 255 within a window LOW,HIGH, or between the .5th and 99.5th percentile of what is not 0."""
    inside = array[array != 0] if (array != 0).any() else array
    low, high = map(float, window.split(",")) if window else np.percentile(inside, [0.5, 99.5])
    return np.round(255 * np.clip((array - low) / max(high - low, 1e-9), 0, 1)).astype(np.uint8)


def slices(told: VolumeTold, window: str) -> PicturesTold:
    """Slices as pictures: the two other axes are columns (x), then rows (y)."""
    across = [axis for axis in range(3) if axis != told.axis]
    frames = np.moveaxis(as_bytes(told.array, window), told.axis, 0).transpose(0, 2, 1)
    said: dict[int, PictureTold] = {}

    def add(t: int, **more: Any) -> None:
        said[t] = replace(said.get(t, PictureTold()), **more)

    for low, high in told.boxes:
        add(low[told.axis], box=tuple(float(corner[axis]) for corner in (low, high) for axis in across))
    for outline in told.outlines:
        t = corners(outline)[0][told.axis]
        add(t, outline=np.moveaxis(outline, told.axis, 0)[t].T)
    for place, positive in told.clicks:
        t = place[told.axis]
        add(t, clicks=(*said.get(t, PictureTold()).clicks, (float(place[across[0]]), float(place[across[1]]), positive)))
    return PicturesTold([np.repeat(frame[..., None], 3, axis=2) for frame in frames], said, told.name)


def from_slices(masks: Sequence[Array], axis: int) -> Array:
    """Undo `slices` for masks (T, H, W)."""
    return np.moveaxis(np.stack(masks).transpose(0, 2, 1), 0, axis)


def read_set(folder: Path, listing: Path) -> PicturesTold:
    files, content = sorted(folder.iterdir()), json.loads(listing.read_text())
    pictures: list[Array] = []
    told: dict[int, PictureTold] = {}
    for t, file in enumerate(files):
        with Image.open(file) as picture:
            pictures.append(np.asarray(picture.convert("RGB")))
        if entry := content["images"].get(file.name):
            told[t] = read_entry(entry, listing.parent)
    return PicturesTold(pictures, told, content.get("structure", ""), folder)


def read_entry(entry: Mapping[str, Any], folder: Path) -> PictureTold:
    if "mask" in entry:
        with Image.open(folder / entry["mask"]) as picture:
            return PictureTold(outline=np.asarray(picture) != 0)
    if "box" in entry:
        return PictureTold(box=tuple(entry["box"]))
    return PictureTold(tuple((x, y, True) for x, y in entry["points"]))


def nearest(told: Mapping[int, PictureTold], count: int) -> list[int]:
    """For each picture, the nearest one on which the structure was shown."""
    shown = [t for t, one in told.items() if one.around is not None or any(click[2] for click in one.clicks)]
    return [min(shown, key=lambda p: (abs(p - t), p)) for t in range(count)]


def moved(one: PictureTold, from_picture: Array, to_picture: Array) -> PictureTold:
    """What was said on a picture at the same place of another, which may have another size."""
    down, right = to_picture.shape[0] / from_picture.shape[0], to_picture.shape[1] / from_picture.shape[1]
    x, y, x2, y2 = one.around or (0, 0, 0, 0)
    box = None if one.around is None else (x * right, y * down, x2 * right, y2 * down)
    return PictureTold(tuple((x * right, y * down, positive) for x, y, positive in one.clicks), box)


def each_picture(asked: PicturesTold, outline: Callable[[Array, PictureTold], Array]) -> list[Array]:
    source, pictures = nearest(asked.told, len(asked.pictures)), asked.pictures
    return [outline(picture, moved(asked.told[p], pictures[p], picture)) for picture, p in zip(pictures, source, strict=True)]


def nn_interactive(told: VolumeTold, options: Options) -> Array:
    """By its session; axes as SimpleITK has them (K, J, I), boxes half open, outlines as lassos, filled."""
    torch = import_module("torch")
    session = import_module("nnInteractive.inference.inference_session").nnInteractiveInferenceSession(
        device=torch.device(options.device),
        use_torch_compile=False,
        verbose=False,
        torch_n_threads=os.cpu_count(),
        do_autozoom=True,
        use_pinned_memory=options.device.startswith("cuda"),
    )
    session.initialize_from_trained_model_folder(options.weights)
    image = told.array.astype(np.float32).transpose(2, 1, 0)
    session.set_image(image[None])
    session.set_target_buffer(torch.zeros(image.shape, dtype=torch.uint8))
    for outline in told.outlines:
        session.add_lasso_interaction(outline.astype(np.uint8).transpose(2, 1, 0), include_interaction=True)
    for low, high in told.boxes:
        session.add_bbox_interaction([[low[n], high[n] + 1] for n in (2, 1, 0)], include_interaction=True)
    for place, positive in told.clicks:
        session.add_point_interaction(place[::-1], include_interaction=positive)
    return np.asarray(session.target_buffer.cpu()).transpose(2, 1, 0) > 0


def vox_tell(told: VolumeTold, options: Options) -> Array:
    """By its command `voxtell-predict`, with the structure's name as the text; the only file that it writes is the answer."""
    with TemporaryDirectory() as name:
        model = ["-m", options.weights] if options.weights else []
        device = options.device.partition(":")[0]
        run(["voxtell-predict", "-i", str(told.file), "-o", name, "-p", spoken(told.name), "--device", device, *model])
        (written,) = Path(name).glob("*.nii.gz")
        return np.asarray(import_module("nibabel").load(written).dataobj) > 0


def spoken(name: str) -> str:
    if not name:
        sys.exit("the structure has no name in the prompts; this program asks for one")
    return name.replace("_", " ")


def nn_unet_volume(told: VolumeTold, options: Options) -> Array:
    """By `nnUNetv2_predict`, with a network that you trained on other cases."""
    with TemporaryDirectory() as name:
        shown, found = Path(name, "in"), Path(name, "out")
        shown.mkdir()
        shutil.copy(told.file, shown / "case_0000.nii.gz")
        values = nn_unet(shown, found, told.name, options)
        return np.isin(np.asarray(import_module("nibabel").load(found / "case.nii.gz").dataobj), values)


def nn_unet_pictures(asked: PicturesTold, options: Options) -> list[Array]:
    with TemporaryDirectory() as name:
        shown, found = Path(name, "in"), Path(name, "out")
        shown.mkdir()
        stems = [f"{t:04d}" for t in range(len(asked.pictures))]
        for stem in stems:
            shutil.copy(Path(asked.files or "") / f"{stem}.png", shown / f"{stem}_0000.png")
        values = nn_unet(shown, found, asked.name, options)
        return [np.isin(np.asarray(Image.open(found / f"{stem}.png")), values) for stem in stems]


def nn_unet(shown: Path, found: Path, name: str, options: Options) -> list[int]:
    """Predict a folder; the values of the structure, from the dataset.json that is written beside the answer."""
    folds = ["-f", *options.folds] if options.folds else []
    paths = ["-i", str(shown), "-o", str(found), *folds, "-device", options.device.partition(":")[0]]
    run(["nnUNetv2_predict", *paths, "-d", options.dataset, "-c", options.configuration])
    labels = json.loads((found / "dataset.json").read_text())["labels"]
    if name not in labels:
        sys.exit(f"the network was not trained for {name!r}: it knows {', '.join(labels)}")
    return labels[name] if isinstance(labels[name], list) else [labels[name]]


def med_sam_2(told: VolumeTold, options: Options) -> Array:
    """By its video predictor: all prompts, then onwards from the first, and all again, then backwards."""
    torch = import_module("torch")
    asked = slices(told, options.window)
    build = import_module("sam2.build_sam").build_sam2_video_predictor_npz
    predictor = build(options.config, options.weights, device=options.device)
    height, width = asked.pictures[0].shape[:2]
    small = [
        np.asarray(Image.fromarray(one).resize((MEDSAM2_SIDE, MEDSAM2_SIDE), Image.Resampling.BILINEAR))
        for one in asked.pictures
    ]
    pixels = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float().to(options.device) / 255
    mean, deviation = (torch.tensor(each, device=options.device)[:, None, None] for each in (MEAN, DEVIATION))
    found = np.zeros((len(small), height, width), bool)
    with torch.inference_mode(), torch.autocast(options.device.partition(":")[0], dtype=torch.bfloat16):
        state = predictor.init_state((pixels - mean) / deviation, height, width)
        for backwards in (False, True):
            for t, one in sorted(asked.told.items()):
                tell_med_sam_2(predictor, state, t, one)
            for t, _, logits in predictor.propagate_in_video(state, reverse=backwards):
                found[t] |= (logits[0] > 0).cpu().numpy()[0]
            predictor.reset_state(state)
    return from_slices(list(found), told.axis)


def tell_med_sam_2(predictor: Any, state: Any, t: int, one: PictureTold) -> None:
    if one.outline is not None:
        predictor.add_new_mask(state, t, 1, one.outline)
        return
    clicks = np.array([click[:2] for click in one.clicks], np.float32), np.array([int(click[2]) for click in one.clicks])
    said: dict[str, Any] = {"points": clicks[0], "labels": clicks[1]} if one.clicks else {}
    if one.box is not None:
        said["box"] = np.array(one.box)
    predictor.add_new_points_or_box(state, t, 1, **said)


def sam_med_3d(told: VolumeTold, options: Options) -> Array:
    """By its script, which reads inputs/*.npz of CVPR's challenge and writes outputs/ in the folder it is started in.

    It answers the last click alone, and nothing where that is on the background: such clicks are left out.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "inputs").mkdir()
        (folder / "ckpt").mkdir()
        (folder / "ckpt" / CHALLENGE_WEIGHTS).symlink_to(Path(options.weights).resolve())
        np.savez_compressed(folder / "inputs" / "case.npz", **challenge_case(told, options.window))
        run([sys.executable, str(Path(options.repository, "medim_infer.py").resolve())], cwd=folder)
        return np.load(folder / "outputs" / "case.npz")["segs"].transpose(2, 1, 0) > 0


def challenge_case(told: VolumeTold, window: str) -> dict[str, Any]:
    """What CVPR's challenge of interactive 3D segmentation hands over: axes (K, J, I), spacing in the order of the file."""
    case: dict[str, Any] = {
        "imgs": as_bytes(told.array, window).transpose(2, 1, 0),
        "spacing": np.linalg.norm(told.affine[:3, :3], axis=0),
    }
    names = {"x": 0, "y": 1, "z": 2}
    for low, high in told.boxes_around[:1]:
        edges = {
            f"{'' if n == 'z' else 'z_mid_'}{n}_{end}": at[names[n]] for n in names for end, at in (("min", low), ("max", high))
        }
        case["boxes"] = [{**edges, "z_mid": (low[2] + high[2]) // 2}]
    if positive := [list(place[::-1]) for place, on_it in told.clicks if on_it]:
        case["clicks"] = [{"fg": positive, "bg": []}]
    return case


def sam_med_2d(asked: PicturesTold, options: Options) -> list[Array]:
    """By its predictor, as its notebook does."""
    sys.path.insert(0, options.repository)
    how = argparse.Namespace(image_size=256, encoder_adapter=True, sam_checkpoint=options.weights)
    model = import_module("segment_anything").sam_model_registry["vit_b"](how).to(options.device).eval()
    predictor = import_module("segment_anything.predictor_sammed").SammedPredictor(model)

    def outline(picture: Array, one: PictureTold) -> Array:
        predictor.set_image(picture)
        places = np.array([click[:2] for click in one.clicks]), np.array([int(click[2]) for click in one.clicks])
        box = None if one.around is None else np.array(one.around)
        said = dict(zip(("point_coords", "point_labels"), places, strict=True)) if one.clicks else {}
        return predictor.predict(**said, box=box, multimask_output=True)[0][0] > 0

    return each_picture(asked, outline)


def fcfi(asked: PicturesTold, options: Options) -> list[Array]:
    """By its predictor, as its demonstration does: clicks (row, column), no earlier mask."""
    sys.path.insert(0, options.repository)
    clicker = import_module("isegm.inference.clicker")
    model = import_module("isegm.inference.utils").load_is_model(options.weights, options.device)
    predictor = import_module("isegm.inference.predictors").get_predictor(
        model,
        "NoBRS",
        options.device,
        prob_thresh=FCFI_THRESHOLD,
        predictor_params={},
        zoom_in_params=FCFI_ZOOM,
        with_flip=True,
    )

    def outline(picture: Array, one: PictureTold) -> Array:
        clicks = clicker.Clicker()
        for (x, y), positive in zip(*one.points, strict=True):
            clicks.add_click(clicker.Click(bool(positive), (y, x)))
        predictor.set_input_image(picture)
        nothing = np.zeros(picture.shape[:2])
        return predictor.get_prediction(clicks, nothing, 0.0, -1, new_click_num=len(clicks))[0] > FCFI_THRESHOLD

    return each_picture(asked, outline)


def track_anything(asked: PicturesTold, options: Options) -> list[Array]:
    """SAM outlines each prompted slice from its clicks, XMem follows it both ways, to the middle between two of them."""
    sys.path[:0] = [str(Path(options.repository, part)) for part in ("", "tracker", "tracker/model")]
    os.chdir(options.repository)  # it opens its own settings by a relative path
    tracker = import_module("tracker.base_tracker").BaseTracker(options.weights, options.device)
    source = nearest(asked.told, len(asked.pictures))
    masks: list[Array] = [np.zeros(picture.shape[:2], bool) for picture in asked.pictures]
    for p in sorted(set(source)):
        template = first_outline(asked, p, options)
        for towards in (1, -1):
            reached = [t for t in range(len(source)) if source[t] == p and (t - p) * towards >= 0][::towards]
            for t in reached:
                masks[t] = tracker.track(asked.pictures[t], template if t == p else None)[0] > 0
            tracker.clear_memory()
    return masks


def first_outline(asked: PicturesTold, p: int, options: Options) -> Array:
    one, picture = asked.told[p], asked.pictures[p]
    if one.outline is not None:
        return one.outline.astype(np.uint8)
    sam = import_module("tools.interact_tools").SamControler(options.sam_weights, "vit_h", options.device)
    sam.sam_controler.set_image(picture)
    return np.asarray(sam.first_frame_click(picture, *one.points)[0]).astype(np.uint8)


def run(words: list[str], cwd: Path | None = None) -> None:
    """Run a program of the environment that this file runs in; end with its last line where it fails."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    done = subprocess.run(words, cwd=cwd, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit((done.stderr.strip().splitlines() or [f"{words[0]} ended with code {done.returncode}"])[-1])


ON_VOLUMES: Mapping[str, Callable[[VolumeTold, Options], Array]] = {
    "nninteractive": nn_interactive,
    "voxtell": vox_tell,
    "nnunet": nn_unet_volume,
    "medsam2": med_sam_2,
    "sam-med3d": sam_med_3d,
}
ON_PICTURES: Mapping[str, Callable[[PicturesTold, Options], list[Array]]] = {
    "nnunet": nn_unet_pictures,
    "sam-med2d": sam_med_2d,
    "fcfi": fcfi,
    "track-anything": track_anything,
}


def answer_volume(image: Path, listing: Path, output: Path, options: Options) -> None:
    told = read_volume(image, listing)
    if options.program in ON_VOLUMES:
        found = ON_VOLUMES[options.program](told, options)
    else:
        found = from_slices(ON_PICTURES[options.program](slices(told, options.window), options), told.axis)
    nibabel = import_module("nibabel")
    nibabel.save(nibabel.Nifti1Image(found.astype(np.uint8), told.affine), output)


def answer_set(folder: Path, listing: Path, output: Path, options: Options) -> None:
    if options.program not in ON_PICTURES or options.program == "track-anything":
        sys.exit(f"{options.program} takes volumes alone")
    output.mkdir()
    masks = ON_PICTURES[options.program](read_set(folder, listing), options)
    for t, mask in enumerate(masks):
        Image.fromarray(mask.astype(np.uint8)).save(output / f"{t:04d}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("program", choices=sorted({*ON_VOLUMES, *ON_PICTURES}))
    for name, default in vars(Options()).items():
        if name not in {"program", "folds"}:
            parser.add_argument(f"--{name.replace('_', '-')}", default=default)
    parser.add_argument("--folds", nargs="*", default=[])
    for name in ("image", "prompts", "output"):
        parser.add_argument(name, type=Path)
    found = vars(parser.parse_args())
    image, listing, output = (found.pop(name) for name in ("image", "prompts", "output"))
    (answer_set if image.is_dir() else answer_volume)(image, listing, output, Options(**found))


if __name__ == "__main__":
    main()
