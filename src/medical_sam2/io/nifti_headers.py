"""What of nibabel reads and writes headers, loaded without pydicom.

nibabel loads pydicom, and pydicom its decoders, for the content of one kind of header extension, which nobody here reads. That
takes most of the time of loading nibabel. So pydicom is out of sight meanwhile, unless it is loaded already, or another thread
could ask for it.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


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

__all__ = [
    "HeaderDataError",
    "Nifti1Header",
    "Nifti1PairHeader",
    "Nifti2Header",
    "Nifti2PairHeader",
    "data_type_codes",
    "xform_codes",
]
