"""What a run tells: its progress, what was done and what came out, for people and as JSON; nothing of who the patient is."""

import json as json_format
import re
import sys
import time
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from heapq import heappush, heappushpop
from pathlib import Path
from platform import platform, python_version
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medical_sam2 import preview, statistics
from medical_sam2.cli import installed_version, plain
from medical_sam2.cli.files import as_json
from medical_sam2.cli.prompts import SetPrompts
from medical_sam2.errors import list_first, say_count, spell_options
from medical_sam2.intensity_window import Window, percentile_window
from medical_sam2.io import atomic
from medical_sam2.io.image_folder import ImageFolder
from medical_sam2.io.labels import object_boxes
from medical_sam2.io.prompt_file import NamedPrompts, as_objects
from medical_sam2.io.registry import Picture
from medical_sam2.io.safe_open import megabytes
from medical_sam2.io.voxels import round_ml, volume_ml
from medical_sam2.prompts import FramePrompt
from medical_sam2.views import View
from medical_sam2.volume import Segmentation, Volume

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from medical_sam2.cli.network import RunPlan
    from medical_sam2.tracking.cropping import Crop
    from medical_sam2.tracking.frames import FrameDone
    from medical_sam2.tracking.image_set import ImageMask
    from medical_sam2.tracking.limits import Limits

PACKAGES = ("medical-sam2", "torch", "numpy")
SET = "images"  # kind of a report that `medsam2 suggest` reads
EVERY_S = 10.0
PLACE = (
    *("x_low_px", "y_low_px", "x_high_px", "y_high_px", "centroid_x_px", "centroid_y_px"),
    *("mean", "sd", "minimum", "maximum"),
)
COLUMNS_OF_SET = ("image", "object", "name", "confidence", "area_px", "area_mm2", "share", *PLACE, "intensity_unit")
TILE_PX, COLUMNS, MOST_TILES = 190, 6, 120
FEWEST = 4  # images that nobody prompted
OTHER_SIZE, NEARLY_ALL = 3.0, 0.9  # times as large or small, at the median; share of the images
PROMPTED = -1.0  # templates come before all others


class Progress(AbstractContextManager["Progress"]):
    """How far a run is: a bar on a terminal, a line now and then elsewhere; on standard error."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.bar: Bar | None = _bar() if sys.stderr.isatty() and not quiet else None
        self._quiet, self._start, self._last = quiet, time.monotonic(), time.monotonic()
        self._task = None if self.bar is None else self.bar.add_task("tracking", total=None)

    def __enter__(self) -> "Progress":
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, frame: "FrameDone") -> None:
        """One more frame."""
        where = f"{View(frame.view).name} slice {frame.slice}, object {list_first(frame.objects, 5)}"
        self.update(where, frame.done, frame.total, "slices")

    def update(self, where: str, done: int, total: int, what: str, share: float | None = None) -> None:
        """So many of all are done; `share` of the work, where some are more work than others."""
        if self.bar is not None and self._task is not None:
            self.bar.update(self._task, description=where, completed=done, total=total)
        elif not self._quiet and time.monotonic() - self._last >= EVERY_S:
            self._last = time.monotonic()
            part = share or done / total
            left = (self._last - self._start) * (1 - part) / part
            print_note(f"{done} of {total} {what}, {where}, about {say_time(left)} left")


def _bar() -> "Bar":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def say_time(seconds: float) -> str:
    """How long something takes, for people."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def print_note(text: str) -> None:
    """A line for people, at once."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def print_warnings(warnings: Iterable[str], about: str = "") -> None:
    """Each warning once, on standard error."""
    for warning in dict.fromkeys(map(spell_options, warnings)):
        sys.stderr.write(f"warning: {plain(about + warning)}\n")


def print_review(rows: Iterable[Mapping[str, Any]]) -> None:
    """The slices to review next, on standard error."""
    for row in rows:
        sure = f"{row['confidence']:.2f}".removeprefix("0")
        print_note(f"review next: object {row['object']}, slice {row['slice']} of axis {row['axis']} (confidence {sure})")


def print_report(report: Mapping[str, Any], text: str, *, json: bool) -> None:
    """What was done, for a program or for people."""
    sys.stdout.write(json_format.dumps(report, ensure_ascii=False, allow_nan=False) + "\n" if json else text)


def describe_run(file: Path, volume: Volume, named: NamedPrompts, settings: object) -> dict[str, Any]:
    """Image, prompts and settings (a dataclass of options)."""
    return {
        "version": 1,
        **_versions(),
        "image": {
            "file": str(file),
            "shape": list(volume.shape),
            "spacing_mm": list(volume.spacing_mm),
            "orientation": volume.orientation,
            "modality": volume.modality,
        },
        "prompts": as_objects(named.prompts, named.names, lambda mask: {"voxels": int(np.count_nonzero(mask.array_ijk))}),
        "settings": _settings(settings),
    }


def _versions() -> dict[str, Any]:
    """Of this package, of those that it computes with, and of the system."""
    versions = {"python": python_version(), **{name: installed_version(name) for name in PACKAGES}}
    return {"versions": versions, "platform": platform()}


def _settings(options: object) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}


def dry_run_text(report: Mapping[str, Any], plan: "RunPlan") -> str:
    """What would be done, for people."""
    volume = plan.tracked.crop.whole
    lines = [
        f"image    {'×'.join(map(str, volume.shape))} voxels, {volume.orientation}, {volume.modality or 'unknown modality'}"
    ]
    for group in plan.tracked.tracking.groups:
        axis = group.view.order(volume.orientation)[0]
        views = ", ".join(view.name for view in group.views)
        for label, frames in group.prompts.items():
            places = sorted(plan.tracked.slice_index(group.view, t) for t in frames)
            slices = ", ".join(map(str, places))
            lines.append(f"object   {label}, prompted on slice {slices} of axis {'ijk'[axis]}; views: {views}")
            lines += [f"         {text}" for text in _describe_within(group.limits.get(label), plan.tracked.crop)]
    weights = report["weights"]
    there = "loaded and checked" if weights["sha256"] else "not here: they would be fetched"
    lines += [
        f"weights  {weights['name']} at {weights['image_size']} px, {there}",
        f"device   {report['device'] or 'not asked'}",
        f"window   {plan.window}",
        f"memory   about {megabytes(plan.bytes)}",
    ]
    return "\n".join([*lines, *(f"would write {path}" for path in report["files"]), "nothing was computed"]) + "\n"


def _describe_within(limits: "Limits | None", crop: "Crop") -> list[str]:
    """Between which slices of the file an object is looked for, where that is not all of the volume."""
    if limits is None:
        return []
    sides = zip("ijk", limits.within, crop.start, crop.volume.shape, strict=True)
    cut = [
        f"{side.start + start} to {side.stop - 1 + start} of axis {axis}"
        for axis, side, start, size in sides
        if (side.start, side.stop) != (0, size)
    ]
    return [f"looked for on slices {', '.join(cut)} alone"] if cut else []


def describe_result(volume: Volume, found: Segmentation, warnings: Sequence[str]) -> dict[str, Any]:
    """What came out, for the report: objects (also those that were not found), windows, slices to review first."""
    objects = _objects(volume, found)
    return {
        "objects": objects,
        "windows": {str(label): _window(each) for label, each in found.windows.items()},
        "look_here": _slices_to_review(volume, found, {row["label"] for row in objects if not row["voxels"]}),
        "warnings": list(dict.fromkeys(map(spell_options, [*volume.warnings, *warnings, *found.warnings]))),
    }


def _slices_to_review(volume: Volume, found: Segmentation, empty: Container[int]) -> list[dict[str, Any]]:
    """Each slice once, as sure as the least sure view of it: a direction and its reverse may both mark it.

    What was tracked of an object that finishing left empty is not in the result, and is not reviewed.
    """
    places = dict[tuple[int, str, int], float]()
    for row in found.confidence:
        if row.look_here and not (row.area_px and row.object in empty):
            place = row.object, "ijk"[View(row.view).order(volume.orientation)[0]], row.slice
            places[place] = min(row.confidence, places.get(place, row.confidence))
    return [
        {"object": label, "axis": axis, "slice": index, "confidence": round(sure, 4)}
        for (label, axis, index), sure in places.items()
    ]


def _window(seen: Window) -> dict[str, Any]:
    """Intensities that the network saw as black and white, and who chose them."""
    return {"low": seen.low, "high": seen.high, "source": seen.source, "negative": seen.negative}


def _objects(volume: Volume, found: Segmentation) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    counts = {
        label: int(np.count_nonzero(labels[box] == label))
        for labels in found.maps
        for label, box in object_boxes(labels).items()
    }
    for label in sorted({*counts, *found.names, *(row.object for row in found.confidence)}):
        voxels = counts.get(label, 0)
        ml = round_ml(volume_ml(voxels, volume))
        rows.append({"label": label, "name": found.names.get(label, ""), "voxels": voxels, "volume_ml": ml})
    return rows


def result_text(report: Mapping[str, Any]) -> str:
    """What came out, for people."""
    lines: list[str] = []
    for row in report["objects"]:
        name = f" ({row['name']})" if row["name"] else ""
        size = "" if row["volume_ml"] is None else f", {row['volume_ml']:.4g} mL"
        lines.append(f"object {row['label']}{name}: {say_count(row['voxels'], 'voxel')}{size}")
    lines += _window_lines(report["windows"])
    return "\n".join([*lines, *(f"wrote {path}" for path in report["files"])]) + "\n"


def _window_lines(windows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The intensities that the network saw, once for all objects that it saw so; which these are, where it saw several."""
    objects: dict[str, list[int]] = {}
    for label in sorted(map(int, windows)):
        objects.setdefault(str(Window(**windows[str(label)])), []).append(label)
    whose = [f"object{'s' * (len(own) > 1)} {list_first(own)}: " if len(objects) > 1 else "" for own in objects.values()]
    return [f"{who}intensities from {window}" for who, window in zip(whose, objects, strict=True)]


def describe_set_run(images: ImageFolder, prompts: SetPrompts, settings: object) -> dict[str, Any]:
    """Folder, prompts and settings (a dataclass of options)."""
    return {
        "version": 1,
        "kind": SET,
        **_versions(),
        "folder": str(images.folder),
        "count": len(images),
        "left_alone": list(images.others),
        "prompts": [
            {"image": images.entries[i].name, "object": label, "name": prompts.names.get(label, ""), **_frame_prompt(prompt)}
            for i, own in sorted(prompts.prompts.items())
            for label, prompt in sorted(own.items())
        ],
        "settings": _settings(settings),
    }


def _frame_prompt(prompt: FramePrompt) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if len(prompt.points_xy):
        pairs = zip(prompt.points_xy.tolist(), prompt.labels.tolist(), strict=True)
        facts["points"] = [{"xy": place, "positive": bool(label)} for place, label in pairs]
    if prompt.box_xyxy is not None:
        facts["box"] = prompt.box_xyxy.tolist()
    if prompt.mask_hw is not None:
        facts["mask"] = {"pixels": int(prompt.mask_hw.sum())}
    if prompt.settled_hw is not None:
        facts["settled"] = {"inside": int((prompt.settled_hw > 0).sum()), "outside": int((prompt.settled_hw < 0).sum())}
    return facts


def image_row(name: str, found: "ImageMask", file: Path, *, in_colour: bool | None) -> dict[str, Any]:
    """One image of the report; a blank one is neither in colour nor grey."""
    counts = np.bincount(found.labels.ravel()) if found.labels.size else np.zeros(1, int)
    return {
        "image": name,
        "mask": str(file),
        "prompted": found.prompted,
        "blank": found.window is None,
        "in_colour": in_colour,
        "confidence": {str(label): round(sure, 4) for label, sure in found.confidence.items()},
        "likeness": round(found.likeness, 6),
        "window": None if found.window is None else _window(found.window),
        "shape": list(found.labels.shape),
        "area_px": {str(label): int(counts[label]) if label < len(counts) else 0 for label in found.confidence},
        "warnings": list(map(spell_options, found.warnings)),
    }


def describe_sizes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each object that is far smaller, or larger, on nearly all images than where it was prompted.

    Pixels and shares of the image must both say so: images may be of several sizes.

    Args:
        rows: of `image_row`.
    """
    told: list[str] = []
    for label in sorted({label for row in rows for label in row["area_px"]}, key=int):
        there = [row for row in rows if row["area_px"].get(label)]
        shown, found = ([_sizes(row, label) for row in there if row["prompted"] == by_hand] for by_hand in (True, False))
        if not shown or len(found) < FEWEST:
            continue
        ratios = np.array(found) / np.median(shown, axis=0)
        far = next((word for word, times in (("smaller", 1 / ratios), ("larger", ratios)) if _is_far(times)), None)
        if far is not None:
            usual, prompted = (float(np.median(sizes, axis=0)[0]) for sizes in (found, shown))
            areas = f"{usual:.0f} pixels at the median, {prompted:.0f} where it was prompted"
            instead = "a part of it, as nuclei of cells," if far == "smaller" else "more than it, as cells for nuclei,"
            remedy = f"{instead} may have been outlined; prompt one more image, too"
            told.append(f"object {label} is far {far} on {say_count(len(found), 'image')} ({areas}): {remedy}")
    return told


def _sizes(row: Mapping[str, Any], label: str) -> tuple[float, float]:
    """Pixels of an object, and its share of the image."""
    return row["area_px"][label], row["area_px"][label] / np.prod(row["shape"])


def _is_far(times: NDArray[np.float64]) -> bool:
    """Whether the median of either way to measure (images, 2) is beyond all doubt, and nearly all images are of that kind."""
    low = np.quantile(times, 1 - NEARLY_ALL, axis=0)
    return bool((np.median(times, axis=0) > OTHER_SIZE).all() and (low > OTHER_SIZE * 2 / 3).all())


def measure_image(name: str, picture: Picture, found: "ImageMask", names: Mapping[int, str]) -> list[dict[str, Any]]:
    """One row of the statistics for each object of an image."""
    boxes, rows = object_boxes(found.labels), list[dict[str, Any]]()
    pixel_mm2 = None if picture.spacing_mm is None else picture.spacing_mm[0] * picture.spacing_mm[1]
    for label, sure in found.confidence.items():
        place: dict[str, Any] = dict.fromkeys(PLACE)
        area = 0
        if label in boxes:
            down, across = boxes[label]
            inside = found.labels[down, across] == label
            area = int(inside.sum())
            y, x = (float(along.mean()) for along in np.nonzero(inside))
            values = picture.array[down, across][inside].astype(np.float64)
            corners = (across.start, down.start, across.stop - 1, down.stop - 1)
            centre = x + across.start, y + down.start
            spread = values.mean(), values.std(), values.min(), values.max()
            numbers = (*corners, *(round(float(number), 4) for number in (*centre, *spread)))
            place = dict(zip(place, numbers, strict=True))
        size = {"area_px": area, "area_mm2": None if pixel_mm2 is None else round(area * pixel_mm2, 4)}
        share = round(area / found.labels.size, 6)
        rows.append(
            {"image": name, "object": label, "name": names.get(label, "")}
            | {"confidence": round(sure, 4), **size, "share": share, **place}
            | {"intensity_unit": statistics.intensity_unit(picture.array, picture.modality)}
        )
    return rows


def set_statistics(rows: Sequence[Mapping[str, Any]], path: Path) -> bytes:
    """The statistics as the ending of their file says."""
    if path.suffix.lower() == ".json":
        return atomic.encode(as_json(rows))
    return atomic.encode(statistics.rows_to_csv(rows, COLUMNS_OF_SET))


# Whichever run saw an image, it counts once, a blank one as blank; those of an earlier run may be the least sure of all.
def set_result_text(report: Mapping[str, Any], written: Iterable[Path]) -> str:
    """What came out of a set of images, for people."""
    rows = [each for each in report["images"] if not each["blank"]]
    earlier, blank = ([each["image"] for each in report[kind] if each["blank"]] for kind in ("earlier", "images"))
    seen = [*rows, *(each for each in report["earlier"] if not each["blank"])]
    windows = {re.split(", background|, of which", each["window"]["source"])[0] for each in seen}
    sure = sorted((min(each["confidence"].values()), each["image"]) for each in seen if not each["prompted"])
    lines = [f"{len(rows)} of {say_count(report['count'], 'image')} outlined"]
    lines += [f"intensities: {', '.join(sorted(windows))}"] if windows else []
    if there := report["skipped"] - len(earlier):
        lines[0] += f", {there} were there already"
    if blank := sorted([*earlier, *blank]):
        lines[0] += f", {len(blank)} blank and without an outline ({plain(list_first(blank))})"
    if sure:
        lines.append(f"confidence {np.median([each for each, _ in sure]):.2f} (median); least sure:")
        lines += [f"  {each:.2f}  {name}" for each, name in sure[:3]]
    return "\n".join([*lines, *(f"wrote {path}" for path in written)]) + "\n"


class Sheet:
    """A picture of all images with their outlines, the least sure first; in memory that does not grow with the set."""

    def __init__(self) -> None:
        self._tiles: list[tuple[float, int, NDArray[np.generic], NDArray[np.generic], str]] = []

    def add(self, image: NDArray[np.generic], found: "ImageMask", name: str) -> None:
        """An image and what was found on it."""
        sure = PROMPTED if found.prompted else found.lowest
        caption = f"{preview.shorten(name, 20)}  {'template' if found.prompted else f'{sure:.2f}'}"
        tile = (-sure, -found.index, *_small(image, found.labels, found.window), caption)
        if len(self._tiles) < MOST_TILES:
            heappush(self._tiles, tile)
        else:
            heappushpop(self._tiles, tile)

    def save(self, path: Path, names: Mapping[int, str] | None = None) -> None:
        """Write the sheet, with a legend where names are given, whole or not at all."""
        tiles = sorted(self._tiles, reverse=True)
        images, masks, captions = ([tile[place] for tile in tiles] for place in (2, 3, 4))
        sheet = preview.contact_sheet(images, masks, captions, columns=COLUMNS, tile_px=TILE_PX, names=names)  # type: ignore[arg-type]
        with atomic.writing(path) as stream:
            sheet.save(stream, "PNG" if path.suffix.lower() == ".png" else "JPEG")


def _small(
    image: NDArray[np.generic], labels: NDArray[np.generic], window: Window | None
) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Image, as the network saw it, and labels with no more pixels than a sharp tile needs."""
    step = max(1, max(labels.shape) // (2 * TILE_PX))
    part = np.ascontiguousarray(image[::step, ::step])
    part = (window or _whole_range(image)).as_bytes(part)
    height, width = part.shape[:2]
    small_labels = Image.fromarray(labels.astype(np.int32)).resize((width, height), Image.Resampling.NEAREST)
    return part[..., 0] if part.shape[2:] == (1,) else part, np.asarray(small_labels)


def _whole_range(image: NDArray[np.generic]) -> Window:
    """The window of a blank image, which the network saw through none: white paper is white, an empty frame black."""
    if image.dtype.kind == "u":
        return Window(0, 2.0 ** (8 * image.dtype.itemsize) - 1, "as it is stored")
    return percentile_window(image)
