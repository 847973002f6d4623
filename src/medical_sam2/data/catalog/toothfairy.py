"""ToothFairy: the inferior alveolar canal in cone-beam CT, stored as NumPy arrays."""

from pathlib import Path

import numpy as np

from medical_sam2.data.catalog.entry import Entry, Layout
from medical_sam2.errors import FormatError
from medical_sam2.io.files import open_regular, require_memory
from medical_sam2.volume import Volume

SPACING_MM = 0.3


def read_array(path: Path) -> Volume:
    """Read a volume (slice, row, column) of 0.3 mm voxels; it knows no place in the patient.

    Raises:
        FormatError: no array of numbers with three axes.
        ResourceError: too large.
    """
    open_regular(path).close()
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        raise FormatError("this is no NumPy array of numbers", "download it again", subject=path) from None
    if not isinstance(mapped, np.memmap) or mapped.ndim != 3 or mapped.dtype.kind not in "iufb":
        raise FormatError("it holds no volume", "check what it is", subject=path)
    require_memory(mapped.nbytes, path)
    array = np.ascontiguousarray(mapped.transpose(2, 1, 0))
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise FormatError("it holds values that are not finite", "download it again", subject=path)
    return Volume(array, np.diag([-SPACING_MM, -SPACING_MM, SPACING_MM, 1.0]), source=path)


ENTRY = Entry(
    title="ToothFairy",
    about="inferior alveolar canal: 153 cone-beam CTs with dense labels (those with sparse labels alone are left out)",
    url="https://toothfairy.grand-challenge.org/",
    access="registration",
    licence="CC BY-SA",
    citation="Cipriano 2022, IEEE Access 10:11500",
    kind="volume",
    modality="CBCT",
    channels=("CBCT",),
    structures={"inferior_alveolar_canal": (1,)},
    prompt="mask",
    layouts=(Layout(("**/Dataset/{case}/data.npy",), "**/Dataset/{case}/gt_alpha.npy", some=True),),
    unconfirmed=("the axes are slice, row, column, and voxels 0.3 mm wide; the arrays do not say", "the licence"),
    opener=read_array,
)
