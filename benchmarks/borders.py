"""Whether a border refined at full resolution, by a library, is nearer to the truth than the network's own.

    python benchmarks/borders.py [FOLDER] -o OUT [--volumes 10] [--sets 10] [--weights nano]

One outline on the largest slice of an object, or on one image of a set; the answers on the others are refined slice by slice.
Volumes of 128 px and sets of 256 px are synthetic, of a seed that no training uses; FOLDER may hold nnU-Net raw data sets, of
which sets of images are taken, five images of each. OUT keeps the network's answers (an .npz for each case: patients' images,
not to be published) and gets borders.md: Dice without and by how many points each method changes it.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import SimpleITK
from scipy import ndimage
from skimage.filters import gaussian, sobel
from skimage.segmentation import inverse_gaussian_gradient, morphological_geodesic_active_contour, random_walker, watershed

from medical_sam2.data.data_sets import read_data_set
from medical_sam2.errors import PromptError
from medical_sam2.metrics import dice
from medical_sam2.prompts import FramePrompt, Mask
from medical_sam2.segmenter import Segmenter
from medical_sam2.volume import Volume
from nano_recipe import make_case

SEED = 777_900_001
AROUND, LOGITS = 10, 64  # slices on each side of the prompted one; the network's mask has so many pixels along a side
IMAGES, LEAST_PX, SHAPES = 5, 100, ("volumes", "sets", "real")
Frame = np.ndarray
Refine = Callable[[Frame, Frame, float], Frame]


def band(mask: Frame, radius: float) -> Frame:
    """1 well inside, 2 well outside, 0 where the border may lie."""
    steps = max(1, round(radius))
    marks = np.where(ndimage.binary_dilation(mask, iterations=steps), 0, 2)
    return np.where(ndimage.binary_erosion(mask, iterations=steps), 1, marks)


def thin(mask: Frame, radius: float) -> Frame:
    """What has no inside at this radius, and would be lost."""
    return mask & ~ndimage.binary_opening(mask, iterations=max(1, round(radius)))


def by_watershed(grey: Frame, mask: Frame, pixel: float, share: float) -> Frame:
    marks = band(mask, share * pixel)
    if not (marks == 1).any():
        return mask
    return (watershed(sobel(gaussian(grey, max(0.5, 0.17 * pixel))), marks) == 1) | thin(mask, share * pixel)


def by_walker(grey: Frame, mask: Frame, pixel: float, share: float) -> Frame:
    marks = band(mask, share * pixel)
    if len(np.unique(marks)) < 3:
        return mask
    return (random_walker(grey, marks, beta=1000, mode="cg_j") == 1) | thin(mask, share * pixel)


def by_guided_filter(grey: Frame, mask: Frame, pixel: float, share: float) -> Frame:
    mean = partial(ndimage.uniform_filter, size=2 * max(1, round(share * pixel)) + 1)
    soft = ndimage.gaussian_filter(mask.astype(np.float32), max(0.5, 0.25 * pixel))
    slope = (mean(grey * soft) - mean(grey) * mean(soft)) / (mean(grey**2) - mean(grey) ** 2 + 1e-3)
    return mean(slope) * grey + mean(mean(soft) - slope * mean(grey)) > 0.5


def by_morphological_snake(grey: Frame, mask: Frame, _: float, steps: int) -> Frame:
    edges = inverse_gaussian_gradient(grey, alpha=100, sigma=1.0)
    return morphological_geodesic_active_contour(edges, steps, init_level_set=mask, smoothing=1) > 0


def by_level_set(grey: Frame, mask: Frame, _: float, steps: int) -> Frame:
    distance = ndimage.distance_transform_edt(~mask) - ndimage.distance_transform_edt(mask)
    slope = SimpleITK.GradientMagnitudeRecursiveGaussian(SimpleITK.GetImageFromArray(grey * 255), 1.0)
    edges = SimpleITK.Cast(SimpleITK.Sigmoid(slope, -4.0, 12.0, 1.0, 0.0), SimpleITK.sitkFloat32)
    start = SimpleITK.GetImageFromArray(distance.astype(np.float32))
    told = {"propagationScaling": 0.0, "curvatureScaling": 0.5, "advectionScaling": 1.0, "numberOfIterations": steps}
    found = SimpleITK.GeodesicActiveContourLevelSet(start, edges, maximumRMSError=0.01, **told)
    return SimpleITK.GetArrayFromImage(found) < 0


METHODS: dict[str, Refine] = {
    "smoothed": lambda _, mask, pixel: ndimage.gaussian_filter(mask.astype(np.float32), 0.25 * pixel) > 0.5,
    **{f"watershed, {share} px": partial(by_watershed, share=share) for share in (0.25, 0.5, 0.75)},
    "random walker, 0.5 px": partial(by_walker, share=0.5),
    "guided filter, 1 px": partial(by_guided_filter, share=1.0),
    **{f"morphological contour, {steps}": partial(by_morphological_snake, steps=steps) for steps in (5, 15)},
    **{f"level set, {steps}": partial(by_level_set, steps=steps) for steps in (20, 60)},
}


@dataclass(frozen=True)
class Answered:
    """The network's answers on frames that nobody prompted.

    Args:
        kind: "volumes", "sets" or "real".
        name: of the case.
        frames: image, truth and answer of each.
    """

    kind: str
    name: str
    frames: list[tuple[Frame, Frame, Frame]]

    def score(self, refine: Refine | None) -> float:
        """Dice over all slices of a volume; the mean over images of a set that show the object."""
        found = [mask if refine is None or not mask.any() else refined(refine, image, mask) for image, _, mask in self.frames]
        truths = [truth for _, truth, _ in self.frames]
        if self.kind == "volumes":
            return dice(np.stack(truths), np.stack(found))
        return float(np.mean([dice(truth, mask) for truth, mask in zip(truths, found, strict=True) if truth.any()]))


def refined(refine: Refine, image: Frame, mask: Frame) -> Frame:
    """A mask refined within the part of the image that it lies in."""
    grey = image.mean(-1) if image.ndim == 3 else image.astype(np.float32)
    low, high = np.percentile(grey, [0.5, 99.5])
    margin = 16 + max(mask.shape) // 32
    near = tuple(
        slice(max(0, places.min() - margin), places.max() + margin + 1)
        for places in (np.flatnonzero(mask.any(a)) for a in (1, 0))
    )
    grey = np.clip((grey[near] - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)
    result = np.zeros_like(mask)
    result[near] = refine(grey, np.ascontiguousarray(mask[near]), max(mask.shape) / LOGITS)
    return result


@cache
def network(weights: str) -> Segmenter:
    return Segmenter.from_pretrained(weights)


def volume(index: int, weights: str) -> Answered | None:
    case, rng = make_case(SEED, 2 * index, "volume"), np.random.default_rng([SEED, index])
    for task in (case.tasks[i] for i in rng.permutation(len(case.tasks))):
        truth = np.isin(case.labels, task)
        areas = truth.sum(axis=(1, 2))
        if (areas > 20).sum() >= 6:
            break
    else:
        return None
    part = slice(max(0, int(areas.argmax()) - AROUND), int(areas.argmax()) + AROUND + 1)
    image, truth = np.ascontiguousarray(case.images[part]), truth[part]
    start = int(truth.sum((1, 2)).argmax())
    drawn = np.zeros_like(truth)
    drawn[start] = truth[start]
    found = network(weights).segment_volume(Volume(image, np.eye(4)), [Mask(drawn, axis=0)]).labels > 0
    return Answered("volumes", case.name, [(image[t], truth[t], found[t]) for t in range(len(truth)) if t != start])


def synthetic_set(index: int, weights: str) -> Answered:
    case = make_case(SEED, 2 * index + 1, "set", size=256, count=IMAGES)
    truths = [np.isin(labels, case.tasks[0]) for labels in case.labels]
    return on_set("sets", case.name, list(case.images), truths, weights)


def on_set(kind: str, name: str, images: list[Frame], truths: list[Frame], weights: str) -> Answered:
    start = int(np.argmax([truth.mean() for truth in truths])) if kind == "sets" else 0
    answers = network(weights).segment_images(images, {start: {1: FramePrompt.mask(truths[start])}})
    found = {each.index: each.labels > 0 for each in answers}
    return Answered(kind, name, [(images[i], truths[i], found[i]) for i in range(len(images)) if i != start])


def real_set(folder: Path, structure: str, weights: str) -> Answered:
    data, rng = read_data_set(folder), np.random.default_rng(3)
    shown = []
    for i in rng.permutation(len(data.cases)):
        case = data.load(data.cases[i])
        truth = data.mask(case.labels, structure)
        if truth.sum() > LEAST_PX and len(shown) < IMAGES:
            shown.append((case.images[0].array, truth))
    if len(shown) < 3:
        raise PromptError(f"{folder.name} shows {structure} on fewer than three images", "leave it out")
    return on_set("real", f"{folder.name} {structure}", *map(list, zip(*shown, strict=True)), weights)


def planned(told: argparse.Namespace) -> Iterator[tuple[str, Callable[[], Answered | None]]]:
    """A name for the file of each case, and what makes it."""
    yield from ((f"v{i}", partial(volume, i, told.weights)) for i in range(told.volumes))
    yield from ((f"s{i}", partial(synthetic_set, i, told.weights)) for i in range(told.sets))
    for path in sorted(each.parent for each in told.folder.glob("*/dataset.json")) if told.folder else ():
        data = read_data_set(path)
        if data.kind == "set":
            yield from (
                (f"r_{path.name}_{name}", partial(real_set, path, name, told.weights)) for name in list(data.structures)[:2]
            )


def kept(path: Path, make: Callable[[], Answered | None]) -> Answered | None:
    """The answers in a file, made where it is missing."""
    if not path.exists():
        made = make()
        if made is None:
            return None
        parts = {
            f"{part}{t}": frame[p] for t, frame in enumerate(made.frames) for p, part in enumerate(("image", "truth", "mask"))
        }
        np.savez_compressed(path, kind=made.kind, name=made.name, count=len(made.frames), **parts)
    with np.load(path) as file:
        frames = [(file[f"image{t}"], file[f"truth{t}"], file[f"mask{t}"]) for t in range(int(file["count"]))]
        return Answered(str(file["kind"]), str(file["name"]), frames)


def table(cases: list[Answered]) -> str:
    lines = []
    for kind in (kind for kind in SHAPES if any(case.kind == kind for case in cases)):
        own = [case for case in cases if case.kind == kind]
        before = np.array([case.score(None) for case in own])
        frames = sum(mask.any() for case in own for *_, mask in case.frames)
        lines += [f"{kind}: {len(own)} cases, Dice {before.mean():.3f} without", ""]
        lines += [
            "| method | points ± standard error | better | worse | least, most | ms a slice |",
            "|---|---|---|---|---|---|",
        ]
        for name, refine in METHODS.items():
            began = time.process_time()
            gain = 100 * (np.array([case.score(refine) for case in own]) - before)
            spent = 1000 * (time.process_time() - began) / max(1, frames)
            spread = f"{gain.mean():+.2f} ± {gain.std() / len(gain) ** 0.5:.2f}"
            counts = f"{(gain > 0.1).sum()} | {(gain < -0.1).sum()} | {gain.min():+.1f}, {gain.max():+.1f}"
            lines.append(f"| {name} | {spread} | {counts} | {spent:.0f} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", help="nnU-Net raw data sets, for real images too")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--volumes", type=int, default=10)
    parser.add_argument("--sets", type=int, default=10)
    parser.add_argument("--weights", default="nano")
    told = parser.parse_args()
    told.output.mkdir(parents=True, exist_ok=True)
    cases = []
    for name, make in planned(told):
        try:
            case = kept(told.output / f"{name}.npz", make)
        except PromptError as error:
            print(error)
            continue
        cases += [] if case is None else [case]
    text = table(cases)
    (told.output / "borders.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
