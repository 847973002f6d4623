"""Volumes and segmentations: an array, where it lies in the patient, and nothing of who the patient is."""

from collections.abc import Mapping, Sequence
from colorsys import hls_to_rgb
from dataclasses import dataclass, field
from importlib import import_module
from itertools import permutations
from numbers import Integral
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import ConfigError, GeometryError, InputError
from medical_sam2.intensity_window import Window

LETTERS = np.array([["L", "R"], ["P", "A"], ["I", "S"]])
SMALLEST_MM, LARGEST_MM, MOST_ANISOTROPY = 1e-7, 1e5, 1e6
"""Limits of a voxel's sides: no atom is smaller, no patient larger."""
MOST_OBJECTS = 65_535
"""The largest label: label files of all formats hold it."""
Colour = tuple[int, int, int]
"""Red, green, blue, each from 0 to 255."""
COLOURS: tuple[Colour, ...] = (
    (76, 201, 240),
    (249, 132, 74),
    (144, 190, 109),
    (249, 199, 79),
    (199, 125, 255),
    (249, 65, 68),
    (67, 170, 139),
    (255, 143, 171),
)
"""Of the first objects that were given none, in files, pictures and at the page; see `colour_of`."""
FIRST_HUE, GOLDEN, LIGHTNESS = 0.04, 0.618034, (0.66, 0.42, 0.5, 0.78, 0.58)
"""Of further ones: where their hues begin, the step between them, and how light they are: far from the first and each other."""


def colour_of(label: int) -> Colour:
    """The colour of an object that was given none; from the ninth label on hues by the golden ratio, light and dark in turn.

    >>> colour_of(1) == COLOURS[0]
    True
    >>> colour_of(9) in COLOURS
    False
    """
    if label <= len(COLOURS):
        return COLOURS[label - 1]
    lightness = LIGHTNESS[label % len(LIGHTNESS)]
    red, green, blue = (round(255 * each) for each in hls_to_rgb((FIRST_HUE + label * GOLDEN) % 1, lightness, 0.75))
    return red, green, blue


def axis_codes(affine: NDArray[np.float64]) -> str:
    """Directions in which the array axes run, as letters of RAS; oblique axes take the nearest direction.

    Each array axis gets another anatomical axis: the assignment with the largest summed alignment (as nibabel's
    `io_orientation` does by singular values), found here among the six permutations.

    >>> axis_codes(np.diag([-1.0, -1.0, 2.0, 1.0]))
    'LPS'
    """
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    best = max(permutations(range(3)), key=lambda rows: sum(abs(directions[row, i]) for i, row in enumerate(rows)))
    return "".join(LETTERS[row, int(directions[row, i] > 0)] for i, row in enumerate(best))


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3D image in its file's own voxel order.

    Args:
        array: intensities (I, J, K), in the order of the file (for DICOM: column, row, slice).
        affine: (4, 4) float64, voxel index → mm in RAS+ (x to Right, y to Anterior, z to Superior).
        modality: DICOM code of the modality ("CT", "MR", "US", "PT", "XA" …) where known.
        source: the file or folder that it came from.
        warnings: what the reader noticed, one line each.

    Raises:
        InputError: the array is none of integers or floating-point numbers.
        GeometryError: it is not three-dimensional or empty, or the affine is not finite and invertible.
    """

    array: NDArray[np.generic]
    affine: NDArray[np.float64]
    modality: str | None = None
    source: Path | None = None
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_array(self.array, "image", "biuf")
        object.__setattr__(self, "affine", check_affine(self.affine))
        if self.array.ndim != 3 or 0 in self.array.shape:
            raise GeometryError(f"an array of shape {self.array.shape} is no volume", "give three dimensions, none empty")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along each array axis."""
        i, j, k = self.array.shape
        return i, j, k

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along each array axis."""
        i, j, k = (float(length) for length in np.linalg.norm(self.affine[:3, :3], axis=0))
        return i, j, k

    @property
    def orientation(self) -> str:
        """Directions of the array axes, such as "LPS"."""
        return axis_codes(self.affine)

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel (exact for sheared grids too)."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def to_voxel(self, point_mm: tuple[float, float, float]) -> tuple[float, float, float]:
        """Fractional voxel index of a point given in RAS+ mm."""
        i, j, k = (float(x) for x in np.linalg.solve(self.affine, np.array([*point_mm, 1.0]))[:3])
        return i, j, k


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Objects outlined in a volume, in that volume's own grid.

    Where objects were kept apart, `layers` hold each of them whole, and `labels` is what one label map can tell of them.

    Args:
        labels: (I, J, K) unsigned integers, 0 is background; each voxel belongs to one object.
        affine: bit-equal to the image's.
        names: label → name of the structure.
        probability: label → (I, J, K) float in [0, 1], where it was asked for.
        uncertainty: (I, J, K) float in [0, 1], disagreement of the views, where it was asked for.
        confidence: one row per (object, view, slice), where tracking made it.
        warnings: what the user should look at, one line each.
        windows: label → the intensities that the network saw as black and white.
        layers: label maps (I, J, K) in which objects may overlap: each object lies, whole, in one of them; none where `labels`
            tell all.
        colours: label → colour, where one was chosen.
        image: what was outlined, for pictures of it; kept as long as the segmentation is. None where it is not known.

    Raises:
        InputError: the labels are no array of integers.
        ConfigError: the names are no mapping of labels to names.
    """

    labels: NDArray[np.unsignedinteger]
    affine: NDArray[np.float64]
    names: Mapping[int, str] = field(default_factory=dict)
    probability: Mapping[int, NDArray[np.floating]] = field(default_factory=dict)
    uncertainty: NDArray[np.floating] | None = None
    confidence: tuple["SliceConfidence", ...] = ()
    warnings: tuple[str, ...] = ()
    windows: Mapping[int, Window] = field(default_factory=dict)
    layers: tuple[NDArray[np.unsignedinteger], ...] = ()
    colours: Mapping[int, Colour] = field(default_factory=dict)
    image: Volume | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_array(self.labels, "label map", "biu")
        check_names(self.names)

    @property
    def maps(self) -> tuple[NDArray[np.unsignedinteger], ...]:
        """Label maps that together hold every object whole: the layers, or the labels where there are none."""
        return self.layers or (self.labels,)

    @property
    def overlaps(self) -> bool:
        """Whether a single label map cannot hold all objects."""
        return len(self.layers) > 1

    def mask(self, label: int) -> NDArray[np.bool_]:
        """All voxels (I, J, K) of an object, those too that it shares with others."""
        return np.logical_or.reduce([each == label for each in self.maps])

    def objects(self) -> tuple[int, ...]:
        """Labels of the objects that have voxels, ascending."""
        return tuple(sorted({int(label) for each in self.maps for slab in each for label in np.unique(slab)} - {0}))

    @property
    def chosen_colours(self) -> dict[int, Colour]:
        """Label → colour, of those that have another one than `colour_of` gives them."""
        return {label: colour for label, colour in self.colours.items() if tuple(colour) != colour_of(label)}

    def colour(self, label: int) -> Colour:
        """The colour of an object: the chosen one, or that of `colour_of`."""
        return self.colours.get(label, colour_of(label))

    def mean_confidence(self, label: int) -> float | None:
        """Mean predicted IoU in [0, 1] of the slices with an outline of the object that nobody prompted; None without one."""
        sure = [row.confidence for row in self.confidence if row.object == label and row.area_px and not row.prompted]
        return float(np.mean(sure)) if sure else None

    # Pictures lie in a layer above and need Pillow: they are asked for by name, when a notebook shows a result.
    def _repr_html_(self) -> str:
        """What a notebook shows: slices with the outlines, a table of volumes in mL and confidence; see `preview.as_html`."""
        return import_module("medical_sam2.preview").as_html(self)


def bounding_box(array: NDArray[np.generic]) -> tuple[slice, ...]:
    """The smallest box that holds all that is not 0, whatever the number of axes; empty slices where nothing is."""
    sides: list[slice] = []
    for axis in range(array.ndim):
        there = np.flatnonzero(array.any(axis=tuple({*range(array.ndim)} - {axis})))
        sides.append(slice(int(there[0]), int(there[-1]) + 1) if len(there) else slice(0, 0))
    return tuple(sides)


def add_to_layers(layers: list[NDArray[np.unsignedinteger]], label: int, mask: NDArray[np.bool_]) -> None:
    """Draw an object (I, J, K) into the first layer where it meets no other, or into a further one; nothing if it is empty.

    >>> layers = []
    >>> for label, row in enumerate([(1, 1, 0), (0, 1, 1), (0, 0, 1)], 1):
    ...     add_to_layers(layers, label, np.array(row, bool).reshape(3, 1, 1))
    >>> [layer.ravel().tolist() for layer in layers]
    [[1, 1, 3], [0, 2, 2]]
    """
    if not mask.any():
        return
    place = next((n for n, layer in enumerate(layers) if not layer[mask].any()), len(layers))
    if place == len(layers):
        layers.append(np.zeros(mask.shape, np.uint8))
    layers[place] = layers[place].astype(np.promote_types(layers[place].dtype, np.min_scalar_type(label)), copy=False)
    layers[place][mask] = label


def reassign(labels: NDArray[np.unsignedinteger], layers: Sequence[NDArray[np.unsignedinteger]]) -> None:
    """Make labels, in place, tell of layers what one map can: a voxel stays with its object, or goes to the smallest label."""
    kept = np.logical_or.reduce([labels == layer for layer in layers]) if layers else np.zeros(labels.shape, bool)
    labels[~kept] = 0
    for label in sorted({int(label) for layer in layers for label in np.unique(layer)} - {0}):
        labels[(labels == 0) & np.logical_or.reduce([layer == label for layer in layers])] = label


@dataclass(frozen=True)
class SliceConfidence:
    """How sure the network was of one object on one slice.

    Args:
        object: label of the object.
        view: code of the view ("SPL").
        slice: index along the array axis of the file.
        confidence: predicted IoU in [0, 1], 0 where the object is judged absent.
        area_px: voxels of the object on this slice, in the labels that are handed out.
        prompted: whether a prompt lies on this slice.
        look_here: whether the confidence collapses here while the object goes on.
        source: of the confidence: "decoder", of what this view showed on this slice; "consensus", of what came of it at last;
            "template", of the place where a template's object was looked for.
    """

    object: int
    view: str
    slice: int
    confidence: float
    area_px: int
    prompted: bool = False
    look_here: bool = False
    source: Literal["decoder", "consensus", "template"] = "decoder"

    @property
    def key(self) -> tuple[int, str, int]:
        """Object, view and slice, which tell it from the others."""
        return self.object, self.view, self.slice


def check_array(array: object, what: str, kinds: str) -> None:
    """Refuse what is no array of numbers of these kinds of numpy's, or has masked ones; raises InputError."""
    if isinstance(array, np.ma.MaskedArray):
        raise InputError(f"a masked array is no {what}", "fill what is masked, such as array.filled(0)")
    if not isinstance(array, np.ndarray) or array.dtype.kind not in kinds:
        got = f"an array of type {array.dtype}" if isinstance(array, np.ndarray) else _kind_of(array)
        numbers = "integers or floating-point numbers" if "f" in kinds else "integers, such as labels.astype(np.uint8)"
        raise InputError(f"{got} is no {what}", f"give a numpy array of {numbers}")


def _kind_of(thing: object) -> str:
    return f"something of type {type(thing).__name__}"


def require_volume(thing: object) -> None:
    """Refuse what is no Volume; raises InputError."""
    if not isinstance(thing, Volume):
        raise InputError(f"{_kind_of(thing)} is no Volume", "give what io.load(path) returns, or Volume(array, affine)")


def require_segmentation(thing: object) -> None:
    """Refuse what is no Segmentation; raises InputError."""
    if not isinstance(thing, Segmentation):
        remedy = "give what segment_volume or io.load_segmentation returns, or Segmentation(labels, volume.affine)"
        raise InputError(f"{_kind_of(thing)} is no Segmentation", remedy)


def check_names(names: object) -> None:
    """Refuse what does not map labels to names; raises ConfigError."""
    if not isinstance(names, Mapping) or not all(isinstance(k, Integral) and isinstance(v, str) for k, v in names.items()):
        raise ConfigError(f"names {repr(names)[:60]} are no names of objects", "give label → name, such as {1: 'liver'}")


def check_affine(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The affine as float64, if it is finite and invertible; otherwise GeometryError."""
    affine = np.asarray(affine, dtype=np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise GeometryError("the affine is not a finite 4×4 matrix", "repair the header of the image")
    if (affine[3] != (0, 0, 0, 1)).any():
        raise GeometryError("the affine's last row is not 0 0 0 1", "repair the header of the image")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if (lengths == 0).any() or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-3:
        raise GeometryError("the affine is singular: two voxel axes coincide", "repair the header of the image")
    if lengths.min() < SMALLEST_MM or lengths.max() > LARGEST_MM or lengths.max() > MOST_ANISOTROPY * lengths.min():
        shown = " × ".join(f"{length:.3g}" for length in lengths)
        raise GeometryError(f"voxels of {shown} mm are of no image", "repair the spacing in its header")
    return affine
