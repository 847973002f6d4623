"""NIfTI-1 and NIfTI-2, single files and pairs: the header is read with nibabel, every claim that it makes is checked here.

Two forms say where an image lies (sform, qform), which may contradict each other, and are written back bit for bit.
"""

import gzip
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import AmbiguousError, FormatError, GeometryError, InputError
from medical_sam2.io import atomic, voxels
from medical_sam2.io.atomic import EFFORT
from medical_sam2.io.registry import Form, Loaded, Options
from medical_sam2.io.safe_open import Content, open_content
from medical_sam2.io.voxels import SAME_MM, grid_distance, is_sheared, shear_warning, size_warning
from medical_sam2.volume import Volume, axis_codes, check_affine

COMPLEX = {32, 1792, 2048}
COLOUR = {128: 3, 2304: 4}
NUMBERS = {2, 4, 8, 16, 64, 256, 512, 768, 1024, 1280}
COUNTERPART = {".hdr": ".img", ".img": ".hdr"}


# nibabel loads pydicom, and pydicom its decoders, for the content of one kind of header extension, which nobody here reads:
# most of the time of loading nibabel. Not where pydicom is loaded already, or another thread could ask for it.
@contextmanager
def out_of_sight(module: str) -> Iterator[None]:
    """Let imports fail to find a module that is not loaded, while no other thread runs."""
    hidden = module not in sys.modules and threading.active_count() == 1
    if hidden:
        sys.modules[module] = None  # type: ignore[assignment]  # how Python says that there is none
    try:
        yield
    finally:
        if hidden:
            del sys.modules[module]


with out_of_sight("pydicom"):
    from nibabel.nifti1 import Nifti1Header, Nifti1PairHeader, data_type_codes, xform_codes
    from nibabel.nifti2 import Nifti2Header, Nifti2PairHeader
    from nibabel.spatialimages import HeaderDataError

Header = Nifti1Header | Nifti2Header


@dataclass(frozen=True)
class NiftiOrigin:
    """The header of the source and the affine that was taken from it."""

    header: Header
    affine: NDArray[np.float64]


def read(path: Path, options: Options) -> Loaded:
    """Read a NIfTI file.

    Raises:
        FormatError: broken, truncated, or of a kind that is no image of numbers.
        GeometryError: no usable affine.
        AmbiguousError: several time points, or forms that contradict each other.
    """
    with _image_files(path) as (head, image):
        header = _header(head)
        shape, frames = _shape(header, path)
        form = choose_form(header, shape, options.geometry_from, path)
        frame = voxels.pick_frame(frames, options.frame, path)
        array, notes = _voxels(header, image, shape, (frame, frames), options)
        notes = [*form.warnings, *_container_notes(path, head), *notes]
    if options.clean:
        array, odd = voxels.clean(array)
        notes += odd + size_warning(shape)
    origin, told = NiftiOrigin(header, form.affine), (*notes, *shear_warning(form.affine))
    return Loaded(array, form.affine, source=path, warnings=told, origin=origin, geometry_from=options.geometry_from)


def read_grid(path: Path, options: Options) -> Volume:
    """The grid of a file, in which every voxel is 0: nothing but its header is read.

    Raises:
        FormatError, GeometryError, AmbiguousError: as `read`, as far as the header tells.
    """
    with _image_files(path) as (head, _):
        header = _header(head)
        shape, frames = _shape(header, path)
        form = choose_form(header, shape, options.geometry_from, path)
        voxels.pick_frame(frames, options.frame, path)
        dtype, _ = _dtype(header, path)
    zeros = np.broadcast_to(np.zeros((), dtype), shape)
    return Loaded(zeros, form.affine, source=path, geometry_from=options.geometry_from)


@contextmanager
def _image_files(path: Path) -> Iterator[tuple[Content, Content]]:
    """The content that holds the header and the one that holds the voxels: the same, or those of a pair."""
    with open_content(path) as first:
        name = path.name.lower().removesuffix(".gz")
        if not name.endswith((".hdr", ".img")):
            yield first, first
            return
        partner = _counterpart(path)
        with _open_partner(partner, path) as second:
            yield (first, second) if name.endswith(".hdr") else (second, first)


def _counterpart(path: Path) -> Path:
    """`brain.img` of `brain.hdr` and back, with or without .gz."""
    packed = path.name.lower().endswith(".gz")
    stem = path.with_suffix("") if packed else path
    other = stem.with_suffix(COUNTERPART[stem.suffix.lower()])
    choices = [other.with_name(other.name + ".gz"), other] if packed else [other, other.with_name(other.name + ".gz")]
    return next((choice for choice in choices if choice.exists()), other)


@contextmanager
def _open_partner(partner: Path, path: Path) -> Iterator[Content]:
    with ExitStack() as stack:
        try:
            content = stack.enter_context(open_content(partner))
        except InputError as error:
            problem = f"its other half ({partner.suffix}) cannot be read ({error.problem})"
            raise FormatError(problem, "put both side by side", subject=path) from None
        yield content


def _header(content: Content) -> Header:
    start = content.read(348)
    order = "<" if int.from_bytes(start[:4], "little") in {348, 540} else ">"
    if int.from_bytes(start[:4], "little" if order == "<" else "big") == 540:
        start += content.read(540 - 348)
        kinds = {b"n+2\0\r\n\x1a\n": Nifti2Header, b"ni2\0\r\n\x1a\n": Nifti2PairHeader}
        magic = start[4:12]
    else:
        kinds = {b"n+1\0": Nifti1Header, b"ni1\0": Nifti1PairHeader}
        magic = start[344:348]
    if magic not in kinds:
        raise FormatError(
            "this is an Analyze file or a damaged NIfTI header: its magic is missing, so its orientation is unknown",
            "convert it to NIfTI with a tool that knows where it came from",
            subject=content.path,
        )
    return kinds[magic](start, endianness=order, check=False)


def _shape(header: Header, path: Path) -> tuple[tuple[int, int, int], int]:
    """The three dimensions and the number of time points."""
    count = int(header["dim"][0])
    if not 1 <= count <= 7:
        raise FormatError(f"the header declares {count} dimensions", "repair the header", subject=path)
    sizes = [int(size) for size in header["dim"][1 : count + 1]]
    if min(sizes) < 1:
        raise FormatError(f"the header declares dimensions {sizes}: the image is empty", "repair the header", subject=path)
    i, j, k, t, *more = (*sizes, *[1] * (4 - len(sizes)))
    if any(size > 1 for size in more):
        raise FormatError(
            f"the image has {count} dimensions {sizes}: it holds vectors, not intensities",
            "extract one component as a 3-dimensional image",
            subject=path,
        )
    return (i, j, k), t


def _voxels(
    header: Header, image: Content, shape: tuple[int, int, int], which: tuple[int, int], options: Options
) -> tuple[NDArray[Any], list[str]]:
    notes: list[str] = []
    dtype, channels = _dtype(header, image.path)
    if (claimed := int(header["bitpix"])) != 8 * dtype.itemsize * channels:
        notes.append(f"bitpix says {claimed} bits, the datatype {8 * dtype.itemsize * channels}; the datatype counts")
    count = int(np.prod([int(size) for size in (*shape, channels)], dtype=object))
    _seek(header, image, notes)
    flat = voxels.read_frame(image, dtype, count, which, options)
    if channels > 1:
        return voxels.without_colour(flat, shape, channels, options, notes), notes + image.warnings
    return _scaled(header, flat.reshape(shape, order="F"), image.path, notes), notes + image.warnings


def _dtype(header: Header, path: Path) -> tuple[np.dtype, int]:
    """Type of a number and numbers per voxel."""
    code = int(header["datatype"])
    if code in COLOUR:
        return np.dtype(np.uint8), COLOUR[code]
    if code in COMPLEX:
        raise FormatError("the voxels are complex numbers", "export magnitude or phase as a real image", subject=path)
    if code not in NUMBERS:
        known = f" ({data_type_codes.label[code]})" if code in data_type_codes.value_set("code") else ""
        raise FormatError(f"datatype {code}{known} cannot be read", "convert it to integers or float32", subject=path)
    return np.dtype(cast(Any, data_type_codes.dtype[code])).newbyteorder(header.endianness), 1


# nibabel believes vox_offset and the sizes of extensions; a wrong one would shift every voxel in silence.
def _seek(header: Header, image: Content, notes: list[str]) -> None:
    """Go to the first voxel, through the extensions, whose declared sizes are checked."""
    offset = float(header["vox_offset"])
    if not (np.isfinite(offset) and offset >= 0 and offset == int(offset)):
        raise FormatError(f"vox_offset is {offset:g}, no position in a file", "repair the header", subject=image.path)
    target = int(offset)
    single = image.position >= 348
    if single and target == 0:
        target = image.position + 4
        notes.append(f"vox_offset is 0; the voxels are taken from byte {target}")
    if single and target < image.position + 4:
        raise FormatError(f"vox_offset {target} lies inside the header", "repair the header", subject=image.path)
    if single and target >= image.position + 4 and image.read(4)[0]:
        _check_extensions(header, image, target)
    image.skip(target - image.position)


def _check_extensions(header: Header, image: Content, end: int) -> None:
    order = "little" if header.endianness == "<" else "big"
    while image.position + 8 <= end:
        size = int.from_bytes(image.read(8)[:4], order, signed=True)
        if size < 16 or size % 16 or image.position - 8 + size > end:
            raise FormatError(f"a header extension declares a size of {size} bytes", "repair the header", subject=image.path)
        image.skip(size - 8)


def _scaled(header: Header, array: NDArray[Any], path: Path, notes: list[str]) -> NDArray[Any]:
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if np.isnan(slope) or (np.isnan(inter) and slope != 0):
        notes.append("the scaling (scl_slope, scl_inter) is NaN; the values are taken unscaled")
        return array
    if slope == 0:
        return array
    if np.isinf(slope) or np.isinf(inter):
        raise FormatError("the scaling (scl_slope, scl_inter) is infinite", "repair the header", subject=path)
    if slope < 0:
        notes.append(f"scl_slope is negative ({slope:g}): stored values are turned upside down")
    return voxels.rescale(array, slope, inter)


def _container_notes(path: Path, head: Content) -> list[str]:
    named = path.name.lower().endswith(".gz")
    if named == head.gzipped:
        return []
    return [
        "the file is gzipped although its name does not say so" if head.gzipped else "the file is not gzipped, as its name says"
    ]


def save(array: NDArray[Any], path: Path, like: Volume) -> list[str]:
    """Write an array in the grid of `like`; with `like` from a NIfTI file, its forms are repeated bit for bit.

    NIfTI-1 has an affine in single precision. Where that would move a voxel (of another format, far from the scanner's centre),
    or an axis is too long for it, the file is NIfTI-2, which is said unless the image's file is one, too: not all read it.
    Of a file in 2D the file has the two dimensions, too, and of one with further axes of a single entry these axes.
    """
    origin = like.origin if isinstance(like, Loaded) and isinstance(like.origin, NiftiOrigin) else None
    as_image = origin is not None and isinstance(origin.header, Nifti2Header)
    moved_mm = 0.0 if origin else _moved_by_rounding(like)
    wide = as_image or moved_mm > SAME_MM / 2 or max(array.shape) > 32767
    header = Nifti2Header() if wide else Nifti1Header()
    header.set_data_dtype(array.dtype)
    header.set_data_shape(_stored_shape(array, origin.header if origin else None))
    write_forms(header, like.affine, origin.header if origin else None)
    header["vox_offset"], header["scl_slope"], header["scl_inter"] = len(header.binaryblock) + 4, 1, 0
    with atomic.writing(path) as stream, _packed(stream, path) as out:
        out.write(header.binaryblock + bytes(4))
        for k in range(array.shape[2]):
            out.write(array[:, :, k].astype(header.get_data_dtype(), copy=False).tobytes(order="F"))
    return [_wide_note(path, moved_mm)] if wide and not as_image else []


def _wide_note(path: Path, moved_mm: float) -> str:
    """Why a file is NIfTI-2, and what to do where a program does not read it, as those built on ITK do not."""
    why = f"would move voxels by {moved_mm:.2g} mm" if moved_mm > SAME_MM / 2 else "has no room for so long an axis"
    return f"{path.name} is NIfTI-2, since NIfTI-1 {why}; for programs that do not read it (SimpleITK) save to .nrrd"


def _moved_by_rounding(like: Volume) -> float:
    """How far a voxel moves, in mm, where the affine is kept in single precision."""
    return grid_distance(like.affine.astype(np.float32).astype(np.float64), like.affine, like.shape)


def _stored_shape(array: NDArray[Any], source: Header | None) -> tuple[int, ...]:
    """The dimensions of labels beside a file: its own, but those of one time point of several."""
    sizes = () if source is None else tuple(int(size) for size in source["dim"][1 : int(source["dim"][0]) + 1])
    if len(sizes) == 2:
        return array.shape[:2]
    return array.shape if max(sizes[3:], default=1) > 1 else (*array.shape, *sizes[3:])


def _packed(stream: BinaryIO, path: Path) -> AbstractContextManager[Any]:
    """Gzip where the name says so, without name and time of writing inside."""
    return gzip.GzipFile("", "wb", EFFORT, stream, mtime=0) if path.name.lower().endswith(".gz") else nullcontext(stream)


Affine = NDArray[np.float64]

MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
UNITS = {1: "metres", 3: "micrometres"}
SCANNER = 1
KNOWN_CODES = frozenset(xform_codes.value_set("code"))
SFORM_FIELDS = ("sform_code", "srow_x", "srow_y", "srow_z")
QFORM_FIELDS = ("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z", "pixdim")


@dataclass(frozen=True)
class Choice:
    """The affine in mm that was chosen, and what the user should know about it."""

    affine: Affine
    warnings: list[str]


def choose_form(header: Header, shape: tuple[int, int, int], wanted: Form | None, path: Path) -> Choice:
    """The affine of a header: the wanted form, or sform, or qform, or nibabel's default, checked.

    Raises:
        AmbiguousError: both forms are set and turn the axes differently.
        GeometryError: a form that is set cannot be used, or the wanted one is not set.
    """
    scale, notes = _unit(header)
    forms = _forms(header, wanted, path, notes)
    if wanted:
        if wanted not in forms:
            raise GeometryError(f"its {wanted} is not set", "choose the other form with --geometry-from", subject=path)
        return Choice(_in_mm(forms[wanted], scale), notes)
    if not forms:
        assumed = "axes to Left, Anterior, Superior, centred, spacing from pixdim"
        notes.append(f"orientation unknown (sform and qform are not set); assumed: {assumed}")
        return Choice(_in_mm(_default(header, path), scale), notes)
    if len(forms) == 2:
        notes += _compare(forms["sform"], forms["qform"], shape, path)
    elif "sform" in forms:
        notes += _compare_sizes(forms["sform"], header)
    return Choice(_in_mm(next(iter(forms.values())), scale), notes)


def _unit(header: Header) -> tuple[float, list[str]]:
    code = int(header["xyzt_units"]) & 7
    if code not in MILLIMETRES:
        return 1.0, [f"the unit of length has the unknown code {code}; millimetres are assumed"]
    if code in UNITS:
        return MILLIMETRES[code], [f"lengths are stored in {UNITS[code]}; they were turned into millimetres"]
    return 1.0, []


def _in_mm(affine: Affine, scale: float) -> Affine:
    return affine if scale == 1 else np.diag([scale, scale, scale, 1.0]) @ affine


def _forms(header: Header, wanted: Form | None, path: Path, notes: list[str]) -> dict[str, Affine]:
    """The forms that are set, or the wanted one; a broken qform is no loss where there is an sform, which counts first."""
    forms: dict[str, Affine] = {}
    if wanted != "qform" and (sform := _form(header, "sform", path)) is not None:
        forms["sform"] = sform
    if wanted != "sform":
        try:
            qform = _form(header, "qform", path)
        except GeometryError as error:
            if not forms:
                raise
            notes.append(f"{error.problem}; the sform is used")
            return forms
        if qform is not None:
            forms["qform"] = qform
    return forms


def _form(header: Header, name: Form, path: Path) -> Affine | None:
    """One form if it is set; GeometryError if it is set but broken."""
    try:
        if (code := int(header[f"{name}_code"])) and code not in KNOWN_CODES:
            raise GeometryError(f"{name}_code is {code}, which the standard does not know")
        affine = _sform(header) if name == "sform" else _qform(header)
        return None if affine is None else check_affine(affine)
    except (GeometryError, HeaderDataError, ValueError) as error:
        reason = error.problem if isinstance(error, GeometryError) else str(error)
        problem = f"the affine of its {name} cannot be used: {reason}"
        raise GeometryError(problem, "repair the header, or take the other form (--geometry-from)", subject=path) from None


def _sform(header: Header) -> Affine | None:
    return header.get_sform(coded=True)[0]


def _qform(header: Header) -> Affine | None:
    """As nibabel has it; a qfac of 0 means 1, as the standard says."""
    if int(header["qform_code"]) == 0:
        return None
    spacing = np.asarray(header["pixdim"], np.float64)[1:4]
    if not np.isfinite(spacing).all() or (spacing <= 0).any():
        raise GeometryError("its voxel sizes (pixdim) are not positive")
    copy = header.copy()
    copy["pixdim"][0] = -1 if header["pixdim"][0] < 0 else 1
    return copy.get_qform(coded=True)[0]


def _default(header: Header, path: Path) -> Affine:
    spacing = np.asarray(header["pixdim"][1:4], np.float64)
    if not np.isfinite(spacing).all() or (spacing <= 0).any():
        raise GeometryError("neither an affine nor voxel sizes are set", "repair the header", subject=path)
    shape = np.array([max(int(size), 1) for size in header["dim"][1:4]])
    affine = np.diag([-spacing[0], spacing[1], spacing[2], 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((shape - 1) / 2)
    return affine


def _compare(sform: Affine, qform: Affine, shape: tuple[int, int, int], path: Path) -> list[str]:
    """Nothing if both forms agree, a warning if they lie apart, AmbiguousError if they turn an axis elsewhere."""
    distance = grid_distance(sform, qform, shape)
    if distance <= 0.02 * float(np.linalg.norm(sform[:3, :3], axis=0).min()):
        return []
    unit_s, unit_q = (form[:3, :3] / np.linalg.norm(form[:3, :3], axis=0) for form in (sform, qform))
    if (np.sum(unit_s * unit_q, axis=0) < 0.5).any():
        codes = axis_codes(sform), axis_codes(qform)
        raise AmbiguousError(
            f"sform and qform contradict each other (axes {codes[0]} and {codes[1]})",
            "choose one",
            subject=path,
            choices=(f"--geometry-from sform ({codes[0]})", f"--geometry-from qform ({codes[1]})"),
        )
    return [f"sform and qform lie up to {distance:.3g} mm apart; the sform is used (--geometry-from qform takes the other)"]


def _compare_sizes(sform: Affine, header: Header) -> list[str]:
    """A warning if the voxel sizes that are set beside an sform are not its own."""
    sizes, lengths = np.abs(np.asarray(header["pixdim"], np.float64)[1:4]), np.linalg.norm(sform[:3, :3], axis=0)
    if not np.isfinite(sizes).all() or (sizes == 0).any() or (np.abs(sizes / lengths - 1) < 0.01).all():
        return []
    shown = [" × ".join(f"{size:.4g}" for size in row) for row in (sizes, lengths)]
    return [f"its voxel sizes (pixdim {shown[0]}) contradict its sform ({shown[1]}), which is used"]


def write_forms(header: Header, affine: Affine, source: Header | None) -> None:
    """Set both forms of a new header to `affine`, so that a reader gets the very bits that were read from the source.

    A qform alone cannot in general be repeated as an sform in single precision: readers that prefer the sform would then
    get other bits, so the sform is left unset unless it is exact.
    """
    form, stored = _origin_form(source, affine)
    if source is None or form is None:
        header.set_xyzt_units("mm")
        header.set_sform(affine, code=SCANNER)
        _set_qform(header, affine, SCANNER)
        return
    header["xyzt_units"] = source["xyzt_units"]
    if form == "sform":
        _repeat(header, source, SFORM_FIELDS)
        _other_qform(header, source, stored)
    elif form == "qform":
        _repeat(header, source, QFORM_FIELDS)
        exact = np.array_equal(stored.astype(header["srow_x"].dtype), stored)
        header.set_sform(stored, code=_valid_code(source["qform_code"]) if exact else 0)
    else:
        _repeat(header, source, (*SFORM_FIELDS, *QFORM_FIELDS))


def _origin_form(source: Header | None, affine: Affine) -> tuple[str | None, Affine]:
    """Which form of the source gives this very affine ("none" for the default), and that form in the source's unit."""
    if source is None:
        return None, affine
    readers = {"sform": _sform, "qform": _qform, "none": lambda header: _default(header, Path())}
    for name, reader in readers.items():
        try:
            stored = reader(source)
        except (GeometryError, HeaderDataError, ValueError):
            continue
        if stored is not None and np.array_equal(_in_mm(stored, _unit(source)[0]), affine):
            return name, stored
    return None, affine


def _other_qform(header: Header, source: Header, stored: Affine) -> None:
    try:
        qform = _qform(source)
    except (GeometryError, HeaderDataError, ValueError):
        qform = None
    if qform is not None and grid_distance(stored, qform, (2, 2, 2)) < 1e-6:
        _repeat(header, source, QFORM_FIELDS)
    else:
        _set_qform(header, stored, _valid_code(source["sform_code"]))


def _valid_code(code: Any) -> int:
    return int(code) if int(code) in xform_codes.value_set("code") else SCANNER


def _repeat(header: Header, source: Header, names: tuple[str, ...]) -> None:
    for name in names:
        header[name] = source[name]


def _set_qform(header: Header, affine: Affine, code: int) -> None:
    """The qform cannot shear: it is left unset then, so that nobody reads a wrong grid."""
    header.set_qform(affine, code=0 if is_sheared(affine) else code)
