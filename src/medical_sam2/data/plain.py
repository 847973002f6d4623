"""Images that lie in no published layout: a folder `images` with, if there are any, `labels` of the same names.

```text
FOLDER/images/ct1.nrrd      or a folder ct1/ with a DICOM series
FOLDER/labels/ct1.nii.gz    any format; a DICOM segmentation too
```

A file, a DICOM series, or a folder of images without labels are taken as well: there is nothing to train on in them, but they
can be converted.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from medical_sam2.data.cases import Kind
from medical_sam2.data.dataset import Case, DataSet
from medical_sam2.errors import FormatError, InputError
from medical_sam2.io import load_pictures
from medical_sam2.io.registry import DICOM, Format, data_suffixes, recognise

IMAGES, LABELS = "images", "labels"
NAME = re.compile(r"(?P<name>.+?)(\.nii|\.hdr)?(\.gz)?(\.[A-Za-z0-9]{1,6})?$")


def read_folder(folder: Path, structures: Mapping[str, tuple[int, ...]], modality: str | None = None) -> DataSet:
    """List images that lie in no published layout.

    Images without labels count as test cases. Values of the label maps that no structure has count as background.

    Args:
        folder: with `images` and `labels`; or a file, a DICOM series, a folder of images.
        structures: name → values in the label maps.
        modality: what took the images, as a DICOM code; unless given, what the first DICOM file says, or unknown.

    Raises:
        InputError: nothing there.
        FormatError: no image, labels without names, a name twice.
    """
    if not folder.exists():
        raise InputError("there is no such file or folder", "check the path", subject=folder)
    images = _images(folder / IMAGES if (folder / IMAGES).is_dir() else folder)
    if not images:
        raise FormatError("there is no image in it", "give a data set, or a folder with images and labels", subject=folder)
    labels = {stem(path): path for path in _images(folder / LABELS)} if (folder / LABELS).is_dir() else {}
    if labels and not structures:
        raise FormatError("nothing tells what its labels mean", "name them, as --label liver=1", subject=folder / LABELS)
    names = [stem(path) for path in images]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise FormatError(f"two images are called {twice!r}", "rename one of them", subject=folder)
    if alone := next((path for name, path in sorted(labels.items()) if name not in names), None):
        raise FormatError("there is no image of this name", "name labels as their images", subject=alone)
    kind, modality = _kind(images[0]), modality or _modality(images[0])
    colour = kind == "set" and load_pictures(images[0])[0].colour
    channels = ("R", "G", "B") if colour else (modality or "unknown",)
    found = (Case(name, (path,), labels.get(name)) for name, path in zip(names, images, strict=True))
    cases = tuple(case if case.label else replace(case, split="test") for case in found)
    return DataSet(
        name=folder.resolve().name,
        folder=folder,
        kind=kind,
        channels=channels,
        structures=dict(structures),
        cases=cases,
        modality=modality or ("RGB" if colour else "unknown"),
        strict=False,
    )


def stem(path: Path) -> str:
    """The name of an image without its suffixes; of a folder its name.

    >>> stem(Path("a/ct.1.nii.gz"))
    'ct.1'
    """
    if path.is_dir():
        return path.name
    found = NAME.fullmatch(path.name)
    return found["name"] if found else path.name


def _images(folder: Path) -> list[Path]:
    """Files that are images, and folders of DICOM files; one DICOM series is one image."""
    if not folder.is_dir():
        return [folder] if recognise(folder) else []
    files = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    apart = data_suffixes()  # read through the header beside them
    kinds = {path: _recognised(path) for path in files if path.is_file() and path.suffix.lower() not in apart}
    if any(kind is DICOM for kind in kinds.values()) and folder.name not in (IMAGES, LABELS):
        return [folder]
    series = [path for path in files if path.is_dir() and any(_recognised(inner) is DICOM for inner in _first(path))]
    return sorted([path for path, kind in kinds.items() if kind] + series)


def _modality(image: Path) -> str | None:
    """What a DICOM file says of how it was taken."""
    file = next((path for path in _first(image) if _recognised(path) is DICOM), None) if image.is_dir() else image
    if file is None or _recognised(file) is not DICOM:
        return None
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    try:
        return str(dcmread(file, specific_tags=["Modality"], stop_before_pixels=True, force=True).get("Modality", "")) or None
    except (InvalidDicomError, OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _first(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_file()][:3]


def _recognised(path: Path) -> Format | str | None:
    """What a file is; a broken one counts, so that it is named when it is read."""
    try:
        return recognise(path)
    except FormatError:
        return "broken"


def _kind(image: Path) -> Kind:
    found = None if image.is_dir() else _recognised(image)
    return "set" if isinstance(found, Format) and found.kind == "picture" else "volume"
