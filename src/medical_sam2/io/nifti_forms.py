"""Where a NIfTI image lies: its two forms (sform, qform), their contradictions, and writing them back bit for bit."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.nifti1 import Nifti1Header, xform_codes
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from medical_sam2.errors import AmbiguousError, GeometryError
from medical_sam2.io.grid import distance, sheared
from medical_sam2.io.options import Form
from medical_sam2.volume import axis_codes, check_affine

Header = Nifti1Header | Nifti2Header
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


def choose(header: Header, shape: tuple[int, int, int], wanted: Form | None, path: Path) -> Choice:
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
        return Choice(_in_mm(_default(header, path), scale), [*notes, *_default_note()])
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


def _default_note() -> list[str]:
    assumed = "axes to Left, Anterior, Superior, centred, spacing from pixdim"
    return [f"orientation unknown (sform and qform are not set); assumed: {assumed}"]


def _compare(sform: Affine, qform: Affine, shape: tuple[int, int, int], path: Path) -> list[str]:
    """Nothing if both forms agree, a warning if they lie apart, AmbiguousError if they turn an axis elsewhere."""
    apart = distance(sform, qform, shape)
    if apart <= 0.02 * float(np.linalg.norm(sform[:3, :3], axis=0).min()):
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
    return [f"sform and qform lie up to {apart:.3g} mm apart; the sform is used (--geometry-from qform takes the other)"]


def _compare_sizes(sform: Affine, header: Header) -> list[str]:
    """A warning if the voxel sizes that are set beside an sform are not its own."""
    sizes, lengths = np.abs(np.asarray(header["pixdim"], np.float64)[1:4]), np.linalg.norm(sform[:3, :3], axis=0)
    if not np.isfinite(sizes).all() or (sizes == 0).any() or (np.abs(sizes / lengths - 1) < 0.01).all():
        return []
    shown = [" × ".join(f"{size:.4g}" for size in row) for row in (sizes, lengths)]
    return [f"its voxel sizes (pixdim {shown[0]}) contradict its sform ({shown[1]}), which is used"]


def write(header: Header, affine: Affine, source: Header | None) -> None:
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
        header.set_sform(stored, code=_known(source["qform_code"]) if exact else 0)
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
    if qform is not None and distance(stored, qform, (2, 2, 2)) < 1e-6:
        _repeat(header, source, QFORM_FIELDS)
    else:
        _set_qform(header, stored, _known(source["sform_code"]))


def _known(code: Any) -> int:
    return int(code) if int(code) in xform_codes.value_set("code") else SCANNER


def _repeat(header: Header, source: Header, names: tuple[str, ...]) -> None:
    for name in names:
        header[name] = source[name]


def _set_qform(header: Header, affine: Affine, code: int) -> None:
    """The qform cannot shear: it is left unset then, so that nobody reads a wrong grid."""
    header.set_qform(affine, code=0 if sheared(affine) else code)
