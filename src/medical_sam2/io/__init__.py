"""Reading and writing of images: by what a file holds, with its geometry checked, and never half a file.

One file for each format, `registry` with the table of them, and what they share: `safe_open`, `atomic`, `voxels`, `labels`.
Import what is named here, and these modules, `registry`, `image_folder`, `prompt_file`; readers are found by content.

```python
volume = load("brain.nii.gz")                         # Volume: array in the file's order, affine index → RAS mm
save(labels, "brain_seg.nii.gz", like=volume)         # the same grid, bit for bit
```
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import FormatError, GeometryError, InputError, MedicalSam2Error, PromptError
from medical_sam2.io import label_grid, label_table, labels, nrrd, registry, voxels
from medical_sam2.io.images import page_count
from medical_sam2.io.labels import AS_DRAWN, MaskRule, Outline, outlines, select_outlines
from medical_sam2.io.registry import DICOM, NRRD, Form, Options, Picture, read_file, recognise
from medical_sam2.io.safe_open import as_path, as_stored, guarded, load_json, parse_json
from medical_sam2.volume import Segmentation, Volume, add_to_layers, require_volume

__all__ = [
    "Form",
    "MaskRule",
    "Outline",
    "Picture",
    "load",
    "load_json",
    "load_labels",
    "load_outlines",
    "load_pictures",
    "load_segmentation",
    "parse_json",
    "read",
    "save",
]

NO_NAMES: Mapping[int, str] = MappingProxyType({})


def load(
    path: str | os.PathLike[str],
    *,
    geometry_from: Form | None = None,
    frame: int | None = None,
    series: int | str | None = None,
    allow_gap: bool = False,
    max_bytes: int | None = None,
) -> Volume:
    """Read a volume: a file, a folder with a DICOM series, or a zip with one of them.

    Args:
        path: what to read; its content decides the format, not its name.
        geometry_from: "sform" or "qform", where a NIfTI file's two contradict each other; it counts for its labels, too.
        frame: time point of a 4D image, from 0.
        series: DICOM series of a folder, from 1, or its SeriesInstanceUID.
        allow_gap: interpolate missing DICOM slices instead of refusing.
        max_bytes: most bytes of voxels that may be unpacked.

    Returns:
        The volume in the file's own voxel order (for DICOM: column, row, slice along the normal), voxels in the file's type
        where nothing had to be scaled, NaN replaced; what was odd is in its `warnings`.

    Raises:
        FormatError: broken, truncated, hostile or of an unknown format.
        GeometryError: no grid that can be trusted.
        AmbiguousError: several readings; the choices name the option that picks one.
        ResourceError: too large for this machine or for `max_bytes`.
    """
    options, path = Options(geometry_from, frame, series, allow_gap, max_bytes), as_stored(as_path(path))
    if _is_picture(path):
        raise _no_volume(path)
    found = _read(path, options)
    return found if isinstance(found, Volume) else _stacked(found, path)


def read(
    path: str | os.PathLike[str],
    *,
    geometry_from: Form | None = None,
    frame: int | None = None,
    series: int | str | None = None,
    allow_gap: bool = False,
    all_frames: bool = False,
    max_bytes: int | None = None,
) -> Volume | tuple[Picture, ...]:
    """Read whatever it is: a volume, or pictures (one, the frames of a cine, with `all_frames` the pages of a TIFF).

    See `load` for the other arguments and the errors.
    """
    return _read(as_path(path), Options(geometry_from, frame, series, allow_gap, max_bytes, all_frames))


def _read(path: Path, options: Options) -> Volume | tuple[Picture, ...]:
    found = read_file(path, options)
    return replace(found, warnings=(*found.warnings, *voxels.oddities(found))) if isinstance(found, Volume) else found


def load_pictures(path: str | os.PathLike[str], *, max_bytes: int | None = None) -> tuple[Picture, ...]:
    """Read 2D images: a file with all its pages or frames, or the pictures of a folder, sorted by name.

    Raises:
        FormatError: a file that is no picture, or a folder without one.
    """
    path = as_path(path)
    endings = registry.suffixes("picture")
    if path.is_dir() and (files := sorted(file for file in path.iterdir() if file.suffix.lower() in endings)):
        return tuple(picture for file in files for picture in load_pictures(file, max_bytes=max_bytes))
    found = read_file(path, Options(max_bytes=max_bytes, all_frames=True))
    if isinstance(found, Volume):
        raise FormatError("this is a volume, not a picture", "give PNG, JPEG or TIFF images", subject=path)
    return found


def load_labels(path: str | os.PathLike[str], like: Volume) -> Volume:
    """Read a label map or mask that belongs to an image, in that image's voxel order, as unsigned integers.

    Raises:
        FormatError: values that are no labels, or segments that overlap.
        GeometryError: it lies on another grid (up to 0.001 mm is rounding).
    """
    path = as_path(path)
    with guarded(path):
        return _load_labels(path, like)[0]


def load_outlines(
    path: str | os.PathLike[str], like: Volume, rule: MaskRule = AS_DRAWN, *, frame: int | None = None
) -> list[Outline]:
    """Read what was drawn in a mask that belongs to an image: its objects, by number, in that image's voxel order.

    Args:
        path: a label map (names and colours of a table beside it count; see `label_table`), or a DICOM-SEG, an RTSTRUCT or a
            segmentation of 3D Slicer, whose segments may overlap and have names and colours.
        like: the image.
        rule: how the numbers of a volume are meant.
        frame: time point of a 4D mask, from 0.

    Raises:
        FormatError, GeometryError: as `load_labels`.
        AmbiguousError: the numbers look like soft edges, not like labels; or several time points.
        PromptError: nothing is drawn, or a number that no object can have.
    """
    path = as_path(path)
    require_volume(like)
    try:
        with guarded(path):
            own = _segmentation(path)
            if own is not None and frame is not None:
                raise InputError(*labels.NEEDS_NOTHING)
            if own is not None:
                return select_outlines(own.load_segments(path, like, rule.threshold), rule)
            found = outlines(label_grid.reorient(_label_volume(path, frame, like), like).array, rule)
            return found if rule.object is not None else label_table.describe(found, path)
    except MedicalSam2Error as error:
        raise error.about(path) from None


def load_segmentation(path: str | os.PathLike[str], like: Volume, rule: MaskRule = AS_DRAWN) -> Segmentation:
    """Read a mask that belongs to an image with all that it tells of its objects: names, colours, overlaps.

    Where objects overlap, `layers` hold each of them whole, and in `labels` the last one counts.

    Raises:
        FormatError, GeometryError, AmbiguousError, PromptError: as `load_outlines`.
    """
    found = load_outlines(path, like, rule)
    flat = np.zeros(like.shape, np.min_scalar_type(max(outline.label for outline in found)))
    layers: list[NDArray[np.unsignedinteger]] = []
    for outline in found:
        flat[outline.inside] = outline.label
        add_to_layers(layers, outline.label, outline.inside)
    names = {outline.label: outline.name for outline in found if outline.name}
    colours = {outline.label: outline.colour for outline in found if outline.colour}
    overlapping = tuple(layers) if len(layers) > 1 else ()
    return Segmentation(flat, like.affine, names, layers=overlapping, colours=colours, image=like)


def load_named_labels(path: str | os.PathLike[str], like: Volume, *, frame: int | None = None) -> tuple[Volume, list[Outline]]:
    """Read labels as `load_labels` does, and what they, or a table beside them, call their objects, and in which colours.

    The outlines hold no voxels: the labels tell where objects are.

    Args:
        path, like: see `load_labels`.
        frame: time point of labels in 4D, from 0.

    Raises:
        FormatError, GeometryError: as `load_labels`.
        AmbiguousError: several time points.
        InputError: a time point of a file of segments, or one that is not there.
        PromptError: segments of which none holds anything.
    """
    path = as_path(path)
    with guarded(path):
        found, described = _load_labels(path, like, frame)
        if described is None:
            bare = [Outline(label, labels.NOWHERE) for label in sorted(labels.labels_in(found.array))]
            return found, label_table.describe(bare, path)
        if not described:
            raise PromptError(*labels.EMPTY, subject=path)
        return found, described


def _load_labels(path: Path, like: Volume, frame: int | None = None) -> tuple[Volume, list[Outline] | None]:
    """Labels in the order of an image, and what segments call their objects, where the file holds such."""
    require_volume(like)
    own = _segmentation(path)
    if own is None:
        return label_grid.fit(_label_volume(path, frame, like), like), None
    if frame is not None:
        raise InputError(*labels.NEEDS_NOTHING)
    return own.load(path, like)


def _segmentation(path: Path) -> ModuleType | None:
    """The reader of files that say themselves that they hold segments."""
    kind = None if path.is_dir() else recognise(path)
    if kind is NRRD and nrrd.read_segments(path):
        return nrrd
    if kind is DICOM:
        from medical_sam2.io.dicom import headers, segmentation, structures  # pydicom takes a while to load

        modality = headers.text(headers.read_dataset(path, pixels=False), "Modality")
        return {"SEG": segmentation, "RTSTRUCT": structures}.get(modality)
    return None


def _label_volume(path: Path, frame: int | None, like: Volume) -> Volume:
    found = None if _is_picture(path) else label_grid.read_as_image(read_file, path, Options(frame=frame, clean=False), like)
    if not isinstance(found, Volume):
        raise FormatError("this is a picture, not a label map of a volume", "give a volume", subject=path)
    return found


def save(
    what: Segmentation | NDArray[Any], path: str | os.PathLike[str], like: Volume, *, formats: Sequence[str] = ()
) -> list[str]:
    """Write labels, or a map of numbers, in the grid of the volume that they belong to; whole or not at all.

    Args:
        what: a segmentation (its numbers are written in the smallest unsigned type) or an array of the volume's shape.
        path: .nii, .nii.gz, .nrrd, .mha, .dcm for a DICOM-SEG, or .rtstruct.dcm.
        like: the volume, as it was loaded: its affine is written bit for bit.
        formats: plug-ins that know further suffixes; see `medical_sam2.io.registry`.

    Returns:
        What the file does not hold of it, one line each; and one if a table of labels beside it calls its objects otherwise.

    Raises:
        InputError: unknown suffix or unwritable folder.
        GeometryError: another shape than the volume's, or a segmentation of another grid.
        FormatError: objects overlap, and the format cannot hold that; or it holds objects, and a number is none of an object.
        ResourceError: the disk is full.
    """
    path = as_path(path)
    require_volume(like)
    format = registry.writer_of(path, formats)
    shape = what.labels.shape if isinstance(what, Segmentation) else np.shape(what)
    if shape != like.shape:
        raise GeometryError(f"the result has shape {shape}, the volume {like.shape}", "save it beside its own volume")
    if format.exporter:
        voxels.check_labels(what.maps if isinstance(what, Segmentation) else (np.asarray(what),), path)
    if isinstance(what, Segmentation):
        voxels.check_grid(what, like)
    else:
        array = voxels.compact(np.asarray(what))
        return [*format.write(array, path, like, NO_NAMES), *_describe_table(format, path, NO_NAMES, array)]
    layers = tuple(voxels.compact(layer) for layer in what.layers)
    found = replace(what, labels=voxels.compact(what.labels), layers=layers)
    return [*format.export(found, path, like), *_describe_table(format, path, found.names, found.labels)]


def _describe_table(format: registry.Format, path: Path, names: Mapping[int, str], array: NDArray[Any]) -> list[str]:
    """A line if a table beside these labels calls them otherwise."""
    named_by_tables = format.reader and "names" not in format.carries and array.dtype.kind in "biu"
    return label_table.describe_others(path, names, array) if named_by_tables else []


def _is_picture(path: Path) -> bool:
    format = None if path.is_dir() else recognise(path)
    return format is not None and format.kind == "picture"


def _no_volume(path: Path) -> FormatError:
    """The refusal of pictures, which may be a stack that somebody means as a volume."""
    pages = 1
    if _is_picture(path):
        with suppress(MedicalSam2Error):
            pages = page_count(path)
    if pages == 1:
        return FormatError("this is a picture, not a volume", "outline it with `medsam2 segment-images`", subject=path)
    problem = f"each of its {pages} pages is a picture, not a volume"
    unrelated = "where they are unrelated images, give the folder that it lies in to `medsam2 segment-images`"
    return FormatError(problem, f"{voxels.CONVERT}; {unrelated}", subject=path)


def _stacked(pictures: tuple[Picture, ...], path: Path) -> Volume:
    """The frames of a cine as a volume; a single picture is refused."""
    grey = [voxels.grey(picture.array) if picture.colour else picture.array for picture in pictures]
    if len(grey) == 1 or len({picture.shape for picture in pictures}) > 1:
        raise _no_volume(path)
    rows_mm, columns_mm = pictures[0].spacing_mm or (1.0, 1.0)
    notes = dict.fromkeys(note for picture in pictures for note in picture.warnings)
    notes[voxels.NO_PLACE] = None
    affine = np.diag([-columns_mm, -rows_mm, 1.0, 1.0])
    return Volume(np.stack(grey).transpose(2, 1, 0), affine, pictures[0].modality, path, tuple(notes))
