"""What was outlined, in numbers: volume, place and intensity of each object."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from medical_sam2.intensity_window import in_hounsfield
from medical_sam2.io.labels import object_boxes
from medical_sam2.io.voxels import check_grid, volume_ml
from medical_sam2.views import View
from medical_sam2.volume import Segmentation, Volume, require_segmentation, require_volume

HU = "HU"
_INTENSITIES = ("mean", "sd", "minimum", "maximum")
_TRIPLES = {
    "low_ijk": ("low_i", "low_j", "low_k"),
    "high_ijk": ("high_i", "high_j", "high_k"),
    "centroid_mm": ("centroid_x_mm", "centroid_y_mm", "centroid_z_mm"),
}


@dataclass(frozen=True)
class ObjectStatistics:
    """One object of a segmentation; None where the object has no voxel, or no finite intensity.

    Args:
        label: value in the label volume.
        name: name of the structure, "" where none was given.
        voxels: number of voxels.
        volume_mm3: volume in mm³; None where millimetres mean nothing (frames of a film), as are mL and the centroid then.
        volume_ml: the same in mL.
        low_ijk: smallest voxel index along each array axis.
        high_ijk: largest one, included.
        centroid_mm: centre of mass of the voxels, RAS+ mm.
        mean: mean intensity.
        sd: standard deviation of the intensity, over all voxels of the object (divided by their number).
        minimum: smallest intensity.
        maximum: largest intensity.
        shared_voxels: how many of the voxels belong to another object, too, where objects were kept apart.
        intensity_unit: "HU" of a CT in Hounsfield units, "" where numbers have no unit that is known.
    """

    label: int
    name: str
    voxels: int
    volume_mm3: float | None
    volume_ml: float | None
    low_ijk: tuple[int, int, int] | None = None
    high_ijk: tuple[int, int, int] | None = None
    centroid_mm: tuple[float, float, float] | None = None
    mean: float | None = None
    sd: float | None = None
    minimum: float | None = None
    maximum: float | None = None
    shared_voxels: int = 0
    intensity_unit: str = ""


def measure(volume: Volume, segmentation: Segmentation) -> tuple[ObjectStatistics, ...]:
    """One row for each object, by label; named objects without a voxel are listed too.

    Voxels that are not finite count for the volume and are left out of the intensities.

    Raises:
        GeometryError: the segmentation is not in the grid of the volume.
        InputError: one of them is something else.
    """
    require_volume(volume)
    require_segmentation(segmentation)
    check_grid(segmentation, volume)
    found = {label: (n, box) for n, each in enumerate(segmentation.maps) for label, box in object_boxes(each).items()}
    rows: list[ObjectStatistics] = []
    for label in sorted({*found, *segmentation.names} - {0}):
        name = segmentation.names.get(label, "")
        if label not in found:
            size_mm3, size_ml = _sizes(volume, 0)
            rows.append(ObjectStatistics(label, name, voxels=0, volume_mm3=size_mm3, volume_ml=size_ml))
            continue
        n, box = found[label]
        mask = segmentation.maps[n][box] == label
        others = [other[box][mask] != 0 for m, other in enumerate(segmentation.layers) if m != n]
        shared = int(np.count_nonzero(np.logical_or.reduce(others))) if others else 0
        rows.append(_row(volume, mask, label, name, box, shared))
    unit = intensity_unit(volume.array, volume.modality)
    return tuple(replace(row, intensity_unit=unit) for row in rows)


def intensity_unit(array: NDArray[np.generic], modality: str | None) -> str:
    """HU where an image is a CT in Hounsfield units, as its window is chosen; nothing where numbers have no known unit."""
    return HU if in_hounsfield(array, modality) else ""


def to_json(rows: Iterable[ObjectStatistics]) -> str:
    """The rows as a JSON list of objects; what is not known is null."""
    return json.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False, allow_nan=False)


def to_csv(rows: Sequence[ObjectStatistics]) -> str:
    """The rows as CSV, units in the names of the columns (mm, mm3, ml, hu); what is not known stays empty."""
    names = [column for each in fields(ObjectStatistics) for column in _TRIPLES.get(each.name, (each.name,))]
    table = [dict(zip(names, (cell for each in asdict(row).items() for cell in _cells(*each)), strict=True)) for row in rows]
    return rows_to_csv([{"object": row.pop("label"), **row} for row in table], ["object", *names[1:]])


def rows_to_csv(rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> str:
    """Rows as CSV: intensities are called by their unit where all rows have the same (`mean_hu`); else a column tells it.

    Args:
        rows: by column, with an `intensity_unit` each.
        columns: all of them, in their order.
    """
    units = {str(row["intensity_unit"]) for row in rows}
    only = units.pop().lower() if len(units) == 1 else ""
    kept = [column for column in columns if column != "intensity_unit" or units]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([f"{column}_{only}" if only and column in _INTENSITIES else column for column in kept])
    writer.writerows([row[column] for column in kept] for row in rows)
    return text.getvalue()


def slices_to_csv(segmentation: Segmentation, axes: str) -> str:
    """How sure the network was, as CSV: one row for each object, view and slice, in the order of tracking.

    Args:
        segmentation: with its confidence.
        axes: directions of the array axes, as of `Volume.orientation`.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    place = "view", "plane", "axis", "slice"
    writer.writerow(["object", "name", *place, "confidence", "area_px", "prompted", "look_here", "source"])
    for row in segmentation.confidence:
        view = View(row.view)
        place = [row.view, view.name, "ijk"[view.order(axes)[0]], row.slice]
        sure = [f"{row.confidence:.4f}", row.area_px, int(row.prompted), int(row.look_here), row.source]
        writer.writerow([row.object, segmentation.names.get(row.object, ""), *place, *sure])
    return text.getvalue()


def _row(
    volume: Volume, mask: NDArray[np.bool_], label: int, name: str, box: tuple[slice, ...], shared: int
) -> ObjectStatistics:
    """An object whose voxels are `mask` of the part `box` of the volume."""
    voxels = int(np.count_nonzero(mask))
    low = np.array([side.start for side in box])
    centre = volume.affine @ [*(low + _centre(mask)), 1.0]
    mean, sd, minimum, maximum = _intensity(volume.array[box][mask])
    size_mm3, size_ml = _sizes(volume, voxels)
    return ObjectStatistics(
        label,
        name,
        voxels=voxels,
        volume_mm3=size_mm3,
        volume_ml=size_ml,
        low_ijk=_triple(low),
        high_ijk=_triple([side.stop - 1 for side in box]),
        centroid_mm=None if size_ml is None else (float(centre[0]), float(centre[1]), float(centre[2])),
        mean=mean,
        sd=sd,
        minimum=minimum,
        maximum=maximum,
        shared_voxels=shared,
    )


def _sizes(volume: Volume, voxels: int) -> tuple[float, float] | tuple[None, None]:
    """Of so many voxels, in mm³ and in mL."""
    size_ml = volume_ml(voxels, volume)
    return (None, None) if size_ml is None else (voxels * volume.voxel_mm3, size_ml)


def _centre(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean voxel index, from the mask's profiles: a list of all voxels would be many times its size."""
    profiles = (mask.sum(axis=tuple({0, 1, 2} - {axis})) for axis in range(3))
    return np.array([np.average(np.arange(len(profile)), weights=profile) for profile in profiles])


def _intensity(values: NDArray[np.generic]) -> tuple[float, float, float, float] | tuple[None, None, None, None]:
    numbers = values.astype(np.float64)
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers):
        return None, None, None, None
    return float(numbers.mean()), float(numbers.std()), float(numbers.min()), float(numbers.max())


def _triple(numbers: Sequence[int] | NDArray[np.integer]) -> tuple[int, int, int]:
    i, j, k = (int(number) for number in numbers)
    return i, j, k


def _cells(name: str, value: object) -> Sequence[object]:
    if isinstance(value, tuple):
        return value
    return ["" if value is None else value] * len(_TRIPLES.get(name, (name,)))
