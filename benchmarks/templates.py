"""One annotated volume for others, beside registration of that volume, and beside an outline drawn in every volume.

    python benchmarks/templates.py FOLDER [-o benchmarks/results] [--templates 2] [--targets 3] [--only 001 007]

FOLDER holds nnU-Net raw data sets of volumes. Of each set TEMPLATES annotated volumes are drawn by the seed, and TARGETS
others, of other people as far as names tell. In every target its structures are found

- "template": by `Segmenter.segment_by_template`; a structure that is left out counts as 0, and is counted apart;
- "registration": by the template's labels, carried over by an affine, then a B-spline registration (SimpleITK, Mattes' mutual
  information, three resolutions each; of two initial places the one with the better information);
- "outline": from the true outline on the largest slice of every target, which somebody would have to draw.

Dice is that of all voxels of a structure, the outlined slice among them. OUT gets `templates.jsonl` (a row for each answer,
as it comes: what is there already is not computed again) and `templates.md`. A method that fails scores 0 and is named.
"""

import argparse
import json
import re
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from medical_sam2.data.data_sets import DataSet, read_data_set
from medical_sam2.evaluate.cases import VolumeTask
from medical_sam2.intensity_window import choose_window
from medical_sam2.io.atomic import write_bytes
from medical_sam2.metrics import dice
from medical_sam2.prompts import Mask
from medical_sam2.segmenter import Segmenter
from medical_sam2.tracking.template import FOUND, Template
from medical_sam2.volume import Segmentation, Volume

METHODS = ("template", "registration", "outline")
VOXELS = 400_000  # of the grid that registration works on, at most
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Row:
    """One structure of one target, by one method."""

    dataset: str
    template: str
    target: str
    structure: str
    method: str
    dice: float
    found: bool = True
    confidence: float | None = None  # of the slice that tracking began on, or of the best place where it was left out
    seconds: float = 0.0
    problem: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        return self.dataset, self.template, self.target, self.structure, self.method


@dataclass(frozen=True, eq=False)
class Annotated:
    """A case in memory: label → structure."""

    volume: Volume
    labels: NDArray[np.unsignedinteger]


def main() -> int:
    told = parsed()
    told.output.mkdir(parents=True, exist_ok=True)
    path, segmenter = told.output / "templates.jsonl", Segmenter.from_pretrained(told.weights, device=told.device)
    rows = {row.key: row for row in stored(path)}
    wanted = list[tuple[str, ...]]()
    with path.open("a") as stream:
        for folder in sorted(each.parent for each in told.folder.glob("*/dataset.json")):
            if told.only and not any(part in folder.name for part in told.only):
                continue
            data = read_data_set(folder)
            if data.kind != "volume":
                continue
            for template, target in pairs(data, told):
                keys = [(folder.name, template, target, s, m) for s in data.structures for m in told.method]
                wanted += keys
                todo = [method for method in told.method if any(key not in rows for key in keys if key[-1] == method)]
                for row in answered(data, folder.name, template, target, todo, segmenter):
                    rows[row.key] = row
                    stream.write(json.dumps(asdict(row)) + "\n")
                    stream.flush()
                    print(f"{row.dataset} {row.template} {row.target} {row.structure} {row.method} {row.dice:.3f}", flush=True)
                write_bytes(told.output / "templates.md", report([rows[key] for key in wanted if key in rows], told).encode())
    return 0 if wanted else 2


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="nnU-Net raw data sets")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--templates", type=int, default=2, help="annotated volumes of each set")
    parser.add_argument("--targets", type=int, default=3, help="others, for each of them")
    parser.add_argument("--seed", type=int, default=0, help="which ones")
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of sets")
    parser.add_argument("--method", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--weights", default="nano")
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


def stored(path: Path) -> Iterator[Row]:
    """What has been answered; a last line that was cut off counts as not there."""
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            yield Row(**json.loads(line))
        except (json.JSONDecodeError, TypeError):
            continue


def pairs(data: DataSet, told: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Templates and targets, by the seed and the set alone."""
    names = [case.identifier for case in data.cases if case.label is not None]
    rng = np.random.default_rng([told.seed, zlib.crc32(data.folder.name.encode())])
    drawn = [names[i] for i in rng.permutation(len(names))]
    for template in drawn[: told.templates]:
        others = [each for each in drawn if person(data, each) != person(data, template)]
        yield from ((template, target) for target in others[: told.targets])


def person(data: DataSet, name: str) -> str:
    """Who it is: both phases of a heart, and both hippocampi of a head (numbers 2k − 1 and 2k), are of one person."""
    if "Hippocampus" in data.folder.name:
        return str((int(re.sub(r"\D", "", name)) + 1) // 2)
    return re.sub(r"(^|_)(ED|ES)(?=_|$)", "", name)


def answered(data: DataSet, dataset: str, template: str, target: str, todo: list[str], segmenter: Segmenter) -> Iterator[Row]:
    if not todo:
        return
    ours, theirs = (loaded(data, name) for name in (template, target))
    for method in todo:
        began, confidence, problem, found = time.perf_counter(), dict[int, float](), "", np.zeros(0)
        try:
            if method == "template":
                said = segmenter.segment_by_template(
                    theirs.volume, Template(ours.volume, Segmentation(ours.labels, ours.volume.affine))
                )
                found, confidence = said.labels, {row.object: row.confidence for row in said.confidence if sought(row, said)}
            else:
                found = registered(ours, theirs) if method == "registration" else outlined(theirs, segmenter)
        except Exception as error:  # one that fails is named, the others go on
            found, problem = np.zeros(theirs.labels.shape, np.uint8), f"{type(error).__name__}: {error}"
        seconds = round(time.perf_counter() - began, 1)
        for label, structure in enumerate(data.structures, start=1):
            truth, there = theirs.labels == label, bool((found == label).any())
            if truth.any() and (ours.labels == label).any():
                score = round(float(dice(truth, found == label)), 4)
                sure = confidence.get(label)
                yield Row(dataset, template, target, structure, method, score, there, sure and round(sure, 3), seconds, problem)


def sought(row, said: Segmentation) -> bool:
    """Whether a row tells of the slice on which an object was looked for."""
    return row.look_here and (not row.area_px or row.confidence >= FOUND) and not row.prompted


def loaded(data: DataSet, name: str) -> Annotated:
    """The first channel; structures numbered from 1 in their order."""
    what = data.load(next(case for case in data.cases if case.identifier == name))
    labels = np.zeros(what.labels.shape, np.uint8)
    for label, structure in enumerate(data.structures, start=1):
        labels[data.mask(what.labels, structure)] = label
    return Annotated(what.images[0], labels)


def outlined(case: Annotated, segmenter: Segmenter) -> NDArray[np.unsignedinteger]:
    """From the true outline of every structure on its largest slice."""
    prompts = []
    for label in np.unique(case.labels[case.labels > 0]).tolist():
        said = VolumeTask(case.volume, case.labels == label).prompt("mask", np.random.default_rng(0))
        prompts.append(Mask(said.array_ijk, label, said.axis))
    return segmenter.segment_volume(case.volume, prompts).labels


def registered(ours: Annotated, theirs: Annotated) -> NDArray[np.unsignedinteger]:
    """The template's labels where registration carries them."""
    moving, fixed = (
        coarse(as_image(each.volume, choose_window(each.volume).apply(each.volume.array))) for each in (ours, theirs)
    )
    transform = deformable(fixed, moving, affine(fixed, moving))
    whole, best = as_image(theirs.volume, theirs.labels), np.full(theirs.labels.shape, 0.5, np.float32)
    found = np.zeros(theirs.labels.shape, np.uint8)
    for label in np.unique(ours.labels[ours.labels > 0]).tolist():
        mask = as_image(ours.volume, (ours.labels == label).astype(np.float32))
        carried = sitk.GetArrayFromImage(sitk.Resample(mask, whole, transform, sitk.sitkLinear, 0.0)).transpose(2, 1, 0)
        found[carried > best] = label
        best = np.maximum(best, carried)
    return found


def as_image(volume: Volume, array: NDArray[np.generic]) -> sitk.Image:
    image, affine_lps = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0))), LPS @ volume.affine
    image.SetSpacing(volume.spacing_mm)
    image.SetDirection((affine_lps[:3, :3] / volume.spacing_mm).ravel().tolist())
    image.SetOrigin(affine_lps[:3, 3].tolist())
    return image


def coarse(image: sitk.Image) -> sitk.Image:
    """At a resolution that registration can afford: the finest axes are halved first."""
    factors = [1, 1, 1]
    while np.prod([size / f for size, f in zip(image.GetSize(), factors, strict=True)]) > VOXELS:
        spacing = [mm * f for mm, f in zip(image.GetSpacing(), factors, strict=True)]
        factors[int(np.argmin(spacing))] += 1
    return sitk.Cast(sitk.BinShrink(image, factors), sitk.sitkFloat32)


def method_of(levels: tuple[list[int], list[float]]) -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(0.2, 1)
    method.SetNumberOfThreads(1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetShrinkFactorsPerLevel(levels[0])
    method.SetSmoothingSigmasPerLevel(levels[1])
    return method


def affine(fixed: sitk.Image, moving: sitk.Image) -> sitk.Transform:
    """From the middle of the images and from that of their greys; the better one."""
    kinds = sitk.CenteredTransformInitializerFilter
    found = list[tuple[float, sitk.Transform]]()
    for kind in (kinds.GEOMETRY, kinds.MOMENTS):
        method = method_of(([4, 2, 1], [2.0, 1.0, 0.0]) if min(fixed.GetSize()) >= 32 else ([2, 1, 1], [1.0, 0.5, 0.0]))
        method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 100)
        method.SetOptimizerScalesFromPhysicalShift()
        first = sitk.CenteredTransformInitializer(fixed, moving, sitk.AffineTransform(3), kind)
        method.SetInitialTransform(first, inPlace=False)
        try:
            transform = method.Execute(fixed, moving)
        except RuntimeError:  # too far apart to compare
            continue
        found.append((method.GetMetricValue(), transform))
    return min(found, key=lambda each: each[0])[1]


def deformable(fixed: sitk.Image, moving: sitk.Image, first: sitk.Transform) -> sitk.Transform:
    """Cubic B-splines of 2, 4 and 8 meshes along an axis, fewer where there are few slices, each on top of those before."""
    found = sitk.CompositeTransform([first])
    for scale, shrink, sigma in ((1, 4, 2.0), (2, 2, 1.0), (4, 1, 0.0)):
        meshes = [min(2 * scale, max(1, size // 6)) for size in fixed.GetSize()]
        method = method_of(([shrink if min(fixed.GetSize()) >= 32 else (shrink + 1) // 2], [sigma]))
        method.SetOptimizerAsLBFGSB(gradientConvergenceTolerance=1e-5, numberOfIterations=40, maximumNumberOfCorrections=5)
        method.SetInitialTransform(sitk.BSplineTransformInitializer(fixed, meshes, order=3), inPlace=False)
        carried = sitk.Resample(moving, fixed, found, sitk.sitkLinear, 0.0)
        found = sitk.CompositeTransform([found, method.Execute(fixed, carried)])
    return found


def report(rows: list[Row], told: argparse.Namespace) -> str:
    """Means over structures, targets and templates of each set."""
    lines = [
        "# One annotated volume for others",
        "",
        f"`python benchmarks/templates.py FOLDER`: seed {told.seed}, {told.templates} templates, {told.targets} targets",
        f"each, where a set has as many; weights `{told.weights}`. Dice of all voxels; what is left out counts as 0.",
        "",
        "| set | pairs × structures | template | found | Dice of those found | registration | outline in each |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in [*dict.fromkeys(row.dataset for row in rows), "all sets"]:
        own = {m: [row for row in rows if row.method == m and name in (row.dataset, "all sets")] for m in METHODS}
        there = [row for row in own["template"] if row.found]
        count = f"{len(there)} of {len(own['template'])}"
        cells = [name, str(len(own["template"])), mean(own["template"]), count, mean(there)]
        lines.append(f"| {' | '.join([*cells, mean(own['registration']), mean(own['outline'])])} |")
    lines += [
        "",
        "| set | template | target | structure | template (sure) | registration | outline |",
        "|---|---|---|---|---|---|---|",
    ]
    each: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        each.setdefault(row.key[:-1], {})[row.method] = row
    for key, own in each.items():
        lines.append(f"| {' | '.join([*key, *(told_of(own, method) for method in METHODS)])} |")
    lines += ["", *(f"- failed: {' '.join(row.key)}: {row.problem}" for row in rows if row.problem)]
    return "\n".join(lines) + "\n"


def mean(rows: list[Row]) -> str:
    return f"{np.mean([row.dice for row in rows]):.3f}" if rows else "–"


def told_of(rows: Mapping[str, Row], method: str) -> str:
    row = rows.get(method)
    if row is None:
        return "–"
    sure = "" if row.confidence is None else f" ({row.confidence:.2f})"
    return f"{row.dice:.3f}{sure}" if row.found else f"left out{sure}"


if __name__ == "__main__":
    sys.exit(main())
