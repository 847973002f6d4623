"""One prompt on one slice of real volumes: Dice over all other slices, seconds, and pictures to look at.

    python benchmarks/real_volumes.py FOLDER -o OUT [--weights nano] [--views one] [--all] [--only 003 dicom]

FOLDER holds nnU-Net raw data sets of volumes (`Dataset003_Name/{dataset.json,imagesTr,labelsTr}`) and, where there is one,
the CT series `dicom/ct_series` with `dicom/ct_dicom_label.nii.gz`. Each structure of a case is prompted on its largest slice:
by its outline, by its box, by a click in its middle; all structures of a case at once. OUT gets `rows.csv`, `summary.md` and a
page of pictures for each set; the pages show patients' images and are not for publication. A case that fails is named, and the
exit code is then 1.
"""

import argparse
import base64
import csv
import html
import io as streams
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medical_sam2 import io, preview
from medical_sam2.metrics import dice
from medical_sam2.prompts import Box, Mask, Point, Prompt
from medical_sam2.segmenter import Segmenter
from medical_sam2.tracking.plan import array_axis, primary_view
from medical_sam2.volume import Segmentation, Volume

KINDS = ("mask", "box", "click")
FIRST_CASES = {"Dataset001_Hippocampus": 6}
MOST_STRUCTURES = 8  # of a case, the largest ones


@dataclass(frozen=True)
class Case:
    """An image and its labels on disk."""

    dataset: str
    name: str
    image: Path
    labels: Path
    names: Mapping[int, str]
    modality: str | None


@dataclass(frozen=True, eq=False)
class Loaded:
    """A case in memory; structures outside of `names` are left out of the truth."""

    case: Case
    volume: Volume
    truth: NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class Row:
    """One structure, prompted once."""

    dataset: str
    case: str
    structure: str
    prompt: str
    slices: int
    dice_others: float
    dice_prompted: float
    seconds_case: float


def cases(folder: Path, *, everything: bool) -> Iterator[Case]:
    """All sets of volumes, in order of their names."""
    for path in sorted(folder.glob("Dataset*/dataset.json")):
        facts = json.loads(path.read_text())
        if facts.get("kind", "volume") != "volume":
            continue
        images = sorted((path.parent / "imagesTr").glob(f"*_0000{facts['file_ending']}"))
        names = {value: name for name, value in facts["labels"].items() if value}
        modality = "CT" if facts["channel_names"]["0"] == "CT" else None
        for image in images[: None if everything else FIRST_CASES.get(path.parent.name)]:
            stem = image.name.removesuffix(f"_0000{facts['file_ending']}")
            labels = path.parent / "labelsTr" / f"{stem}{facts['file_ending']}"
            yield Case(path.parent.name, stem, image, labels, names, modality)
    series = folder / "dicom" / "ct_series"
    if series.is_dir():
        yield Case("dicom", "ct_series", series, folder / "dicom" / "ct_dicom_label.nii.gz", {}, None)


def loaded(case: Case) -> Loaded:
    """The labels are brought into the image's voxel order by their place in the patient."""
    volume = io.load(case.image)
    if case.modality and volume.modality is None:
        volume = Volume(volume.array, volume.affine, case.modality, volume.source, volume.warnings)
    truth: NDArray[np.unsignedinteger] = np.asarray(io.load_labels(case.labels, volume).array, np.uint16)
    found, counts = np.unique(truth[truth > 0], return_counts=True)
    kept = sorted(int(label) for _, label in sorted(zip(counts, found, strict=True), reverse=True)[:MOST_STRUCTURES])
    names = {label: case.names.get(label, f"label {label}") for label in kept}
    facts = Case(case.dataset, case.name, case.image, case.labels, names, case.modality)
    return Loaded(facts, volume, np.where(np.isin(truth, kept), truth, 0).astype(np.uint16))


def prompted(what: Loaded, label: int, kind: str) -> Prompt:
    """A prompt on the largest slice of a structure, in the plane of the finest pixels."""
    view = primary_view(what.volume, [Point((0, 0, 0))])
    inside = what.truth == label
    stack = view.apply(inside, what.volume.orientation)
    t = int(stack.sum(axis=(1, 2)).argmax())
    only = np.zeros(inside.shape, bool)
    view.apply(only, what.volume.orientation)[t] = stack[t]
    if kind == "mask":
        return Mask(only, label, array_axis(what.volume, view))
    places = np.argwhere(only)
    if kind == "box" and (places.max(0) > places.min(0)).sum() == 2:
        low, high = (tuple(int(x) for x in corner) for corner in (places.min(0), places.max(0)))
        return Box((low[0], low[1], low[2]), (high[0], high[1], high[2]), label)
    deep = np.zeros(inside.shape, np.float32)
    view.apply(deep, what.volume.orientation)[t] = depth(stack[t])
    i, j, k = (int(x) for x in np.unravel_index(deep.argmax(), deep.shape))
    return Point((i, j, k), label)


def depth(mask_hw: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How far each pixel lies from the outside, the frame's edge among it."""
    return np.asarray(ndimage.distance_transform_edt(np.pad(mask_hw, 1)))[1:-1, 1:-1]


def scored(what: Loaded, found: Segmentation, kind: str, seconds: float) -> Iterator[Row]:
    """A row for each structure; the prompted slice is reported apart."""
    view = primary_view(what.volume, [Point((0, 0, 0))])
    axes = what.volume.orientation
    for label, name in what.case.names.items():
        truth, guess = (view.apply(array == label, axes) for array in (what.truth, found.labels))
        areas = truth.sum(axis=(1, 2))
        t = int(areas.argmax())
        others = np.arange(len(truth)) != t
        rest = dice(truth[others], guess[others]) if areas[others].any() else float("nan")
        slices = int((areas > 0).sum())
        yield Row(what.case.dataset, what.case.name, name, kind, slices, rest, dice(truth[t], guess[t]), seconds)


def tried(case: Case, segmenter: Segmenter, views: str) -> tuple[list[Row], list[tuple[str, bytes]]]:
    """Rows and pictures of a case."""
    what = loaded(case)
    rows: list[Row] = []
    pictures = [("reference", picture(what, Segmentation(what.truth, what.volume.affine, what.case.names), []))]
    for kind in KINDS:
        prompts = [prompted(what, label, kind) for label in what.case.names]
        started = time.perf_counter()
        found = segmenter.segment_volume(what.volume, prompts, views=views, names=what.case.names)
        mine = list(scored(what, found, kind, time.perf_counter() - started))
        rows += mine
        scores = ", ".join(f"{row.structure} {row.dice_others:.3f}" for row in mine)
        pictures.append((f"{kind}: {scores}", picture(what, found, prompts)))
        print(f"{case.dataset} {case.name} {kind}: {scores} ({mine[0].seconds_case:.1f} s)", flush=True)
    return rows, pictures


def picture(what: Loaded, found: Segmentation, prompts: Sequence[Prompt]) -> bytes:
    stream = streams.BytesIO()
    preview.montage(what.volume, found, prompts, width_px=900).save(stream, "JPEG", quality=80)
    return stream.getvalue()


def page(title: str, pictures: Sequence[tuple[str, bytes]]) -> str:
    """All pictures of a set on one page that needs no other file."""
    cells = [
        f"<h3>{html.escape(caption)}</h3><img src='data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}'>"
        for caption, jpeg in pictures
    ]
    style = "body{background:#111;color:#ddd;font:14px sans-serif}img{max-width:100%}"
    return f"<!doctype html><meta charset='utf-8'><title>{title}</title><style>{style}</style><h1>{title}</h1>{''.join(cells)}"


def summary(rows: Sequence[Row], failed: Sequence[str], head: str) -> str:
    """A table for each set: mean Dice over structures and cases of all slices but the prompted one."""
    text = [f"# One prompt on real volumes\n\n{head}\n\nMean Dice over all slices but the prompted one (in brackets: on it).\n"]
    for dataset in dict.fromkeys(row.dataset for row in rows):
        text.append(f"\n## {dataset}\n\n| structure | cases | " + " | ".join(KINDS) + " | s a case |\n|---" * 1)
        text.append("|---" * (len(KINDS) + 2) + "|\n")
        mine = [row for row in rows if row.dataset == dataset]
        for structure in [*dict.fromkeys(row.structure for row in mine), "all"]:
            own = [row for row in mine if structure in {row.structure, "all"}]
            count, seconds = len({row.case for row in own}), np.mean([row.seconds_case for row in own])
            text.append(f"| {structure} | {count} | {' | '.join(_mean(own, kind) for kind in KINDS)} | {seconds:.1f} |\n")
    whole = " | ".join(_mean(rows, kind) for kind in KINDS)
    text.append(f"\n## All\n\n| | {' | '.join(KINDS)} |\n|---|---|---|---|\n| mean over structures and cases | {whole} |\n")
    text.append("\n" + "\n".join(f"- failed: {each}" for each in failed) if failed else "\nNo case failed.\n")
    return "".join(text)


def _mean(rows: Sequence[Row], kind: str) -> str:
    own = [row for row in rows if row.prompt == kind]
    others = [row.dice_others for row in own if np.isfinite(row.dice_others)]
    return f"{np.mean(others):.3f} ({np.mean([row.dice_prompted for row in own]):.3f})" if others else "–"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--weights", default="nano")
    parser.add_argument("--views", default="one")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of sets")
    parser.add_argument("--all", action="store_true", help="every case of every set")
    told = parser.parse_args()
    segmenter = Segmenter.from_pretrained(told.weights, device=told.device)
    told.output.mkdir(parents=True, exist_ok=True)
    chosen = [c for c in cases(told.folder, everything=told.all) if not told.only or any(x in c.dataset for x in told.only)]
    head = f"Weights `{told.weights}`, views `{told.views}`, {segmenter.device}, {segmenter.precision}."
    rows: list[Row] = []
    failed: list[str] = []
    for dataset in dict.fromkeys(case.dataset for case in chosen):
        pictures: list[tuple[str, bytes]] = []
        for case in (case for case in chosen if case.dataset == dataset):
            try:
                mine, shown = tried(case, segmenter, told.views)
            except Exception as error:  # one bad case does not end the rest
                failed.append(f"{case.dataset} {case.name}: {type(error).__name__}: {error}")
                print(f"FAILED {failed[-1]}", file=sys.stderr, flush=True)
            else:
                rows += mine
                pictures += [(f"{case.name} {caption}", jpeg) for caption, jpeg in shown]
        (told.output / f"{dataset}.html").write_text(page(dataset, pictures), encoding="utf-8")
        write(told.output, rows, failed, head)  # after each set: a run that is stopped leaves what it has
    return 1 if failed or not rows else 0


def write(folder: Path, rows: Sequence[Row], failed: Sequence[str], head: str) -> None:
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, list(Row.__dataclass_fields__))
        table.writeheader()
        for row in rows:
            table.writerow({name: f"{x:.4f}" if isinstance(x, float) else x for name, x in vars(row).items()})
    (folder / "summary.md").write_text(summary(rows, failed, head), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
