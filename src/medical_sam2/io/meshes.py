"""Surfaces of objects as triangles: STL, PLY, OBJ; millimetres in LPS, as DICOM, ITK and 3D Slicer have them, said in the file.

Marching cubes between voxel centres, halfway from inside to outside, through the affine as it is: oblique, sheared and mirrored
grids too. Triangles run counterclockwise seen from outside, so that every surface encloses a positive volume. Nothing is
smoothed. Source: Lewiner et al., Efficient implementation of marching cubes' cases with topological guarantees (2003).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import ConfigError, FormatError
from medical_sam2.io import atomic
from medical_sam2.io.labels import object_boxes
from medical_sam2.volume import Colour, Segmentation, Volume

SPACE = "medical-sam2, millimetres, SPACE=LPS"
"""3D Slicer looks for SPACE=LPS, and would take what says nothing for LPS as well."""
TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attributes", "<u2")])
FACE = np.dtype([("count", "u1"), ("corners", "<i4", 3)])


@dataclass(frozen=True, eq=False)
class Surface:
    """Triangles around one object."""

    label: int  # of the object
    name: str  # what it is called
    colour: Colour  # in which it is shown
    corners_mm: NDArray[np.float64]  # (N, 3) float64, LPS
    triangles: NDArray[np.int64]  # (M, 3) which corners, counterclockwise seen from outside


def check(like: Volume, path: Path) -> None:
    """Refuse, before anything is computed, if scikit-image is missing."""
    if find_spec("skimage") is None:
        raise ConfigError("surfaces need scikit-image", "pip install 'medical-sam2[meshes]'", subject=path)


def surfaces(found: Segmentation, path: Path) -> Iterator[Surface]:
    """The surface of each object that has voxels, by label.

    Raises:
        FormatError: nothing is outlined.
        ConfigError: scikit-image is missing.
    """
    boxes = {label: (labels, box) for labels in found.maps for label, box in object_boxes(labels).items()}
    if not boxes:
        raise FormatError("nothing is outlined, and a surface cannot be empty", "save to another format", subject=path)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ found.affine
    for label, (labels, box) in sorted(boxes.items()):
        start = np.array([side.start for side in box])
        corners, triangles = _enclose(labels[box] == label, path)
        corners_mm = (corners + start) @ lps[:3, :3].T + lps[:3, 3]
        outward = triangles if np.linalg.det(lps[:3, :3]) > 0 else triangles[:, ::-1]
        yield Surface(label, found.names.get(label, f"object {label}"), found.colour(label), corners_mm, outward)


def _enclose(mask: NDArray[np.bool_], path: Path) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Corners in voxels, and triangles counterclockwise seen from outside, of a mask."""
    check(Volume(mask, np.eye(4)), path)
    from skimage.measure import marching_cubes

    padded = np.pad(mask, 1).astype(np.float32)
    corners, triangles, _, _ = marching_cubes(padded, 0.5, gradient_direction="ascent", allow_degenerate=False)
    return corners.astype(np.float64) - 1, triangles.astype(np.int64)


def _only(found: Segmentation, path: Path) -> Surface:
    first, *others = surfaces(found, path)
    if others:
        raise FormatError(
            f"{len(others) + 1} objects are outlined, and the file holds one",
            "save each to its own file (--separate), or all to .obj",
            subject=path,
        )
    return first


def save_stl(found: Segmentation, path: Path, like: Volume) -> None:
    """Write the surface of the only object as binary STL; its coordinates have single precision there.

    Raises:
        FormatError: nothing or several objects are outlined.
    """
    surface = _only(found, path)
    corners = surface.corners_mm[surface.triangles]
    triangles = np.zeros(len(corners), TRIANGLE)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    triangles["normal"] = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    triangles["corners"] = corners
    with atomic.writing(path) as stream:
        stream.write(SPACE.encode().ljust(80) + len(triangles).to_bytes(4, "little") + triangles.tobytes())


def save_ply(found: Segmentation, path: Path, like: Volume) -> None:
    """Write the surface of the only object as binary PLY, with its colour.

    Raises:
        FormatError: nothing or several objects are outlined.
    """
    surface = _only(found, path)
    kind = np.dtype([("place", "<f8", 3), ("colour", "u1", 3)])
    corners, faces = np.zeros(len(surface.corners_mm), kind), np.zeros(len(surface.triangles), FACE)
    corners["place"], corners["colour"] = surface.corners_mm, surface.colour
    faces["count"], faces["corners"] = 3, surface.triangles
    properties = [f"property double {axis}" for axis in "xyz"] + [f"property uchar {band}" for band in ("red", "green", "blue")]
    header = [
        "ply\nformat binary_little_endian 1.0",
        f"comment {SPACE}",
        f"element vertex {len(corners)}",
        *properties,
        f"element face {len(faces)}",
        "property list uchar int vertex_indices\nend_header\n",
    ]
    with atomic.writing(path) as stream:
        stream.write("\n".join(header).encode() + corners.tobytes() + faces.tobytes())


def save_obj(found: Segmentation, path: Path, like: Volume) -> None:
    """Write the surfaces of all objects as Wavefront OBJ, each under its name.

    Raises:
        FormatError: nothing is outlined.
    """
    with atomic.writing(path) as stream:
        stream.write(f"# {SPACE}\n".encode())
        before = 1
        for surface in surfaces(found, path):
            _write_object(stream, surface, before)
            before += len(surface.corners_mm)


def object_names(names: Mapping[int, str]) -> dict[int, str]:
    """Label → name as a Wavefront OBJ has it, which ends one at a blank: `_` stands for it."""
    return {label: "_".join(name.split()) for label, name in names.items()}


def _write_object(stream: BinaryIO, surface: Surface, before: int) -> None:
    """One object; its corners count on from those `before` it."""
    stream.write(f"o {object_names({surface.label: surface.name})[surface.label]}\n".encode())
    stream.writelines(f"v {x!r} {y!r} {z!r}\n".encode() for x, y, z in surface.corners_mm.tolist())
    stream.writelines(f"f {a} {b} {c}\n".encode() for a, b, c in (surface.triangles + before).tolist())
