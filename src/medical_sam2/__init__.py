"""Outline a structure in a whole medical volume, or a whole set of images, from one prompt.

The public names, each loaded when it is first asked for: torch is not imported before `Segmenter` is.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medical_sam2.errors import AmbiguousError, InputError, MedicalSam2Error, ResourceError
    from medical_sam2.prompts import Box, FramePrompt, Mask, Point
    from medical_sam2.segmenter import Segmenter
    from medical_sam2.strokes import Diameter, Lasso, Scribble, ShapeInterpolation, SliceRange
    from medical_sam2.tracking.image_set import ImageMask
    from medical_sam2.views import AXIAL, CORONAL, SAGITTAL, SIX_VIEWS, THREE_VIEWS, View
    from medical_sam2.volume import Segmentation, SliceConfidence, Volume

__all__ = [
    "AXIAL",
    "CORONAL",
    "SAGITTAL",
    "SIX_VIEWS",
    "THREE_VIEWS",
    "AmbiguousError",
    "Box",
    "Diameter",
    "FramePrompt",
    "ImageMask",
    "InputError",
    "Lasso",
    "Mask",
    "MedicalSam2Error",
    "Point",
    "ResourceError",
    "Scribble",
    "Segmentation",
    "Segmenter",
    "ShapeInterpolation",
    "SliceConfidence",
    "SliceRange",
    "View",
    "Volume",
]

_FROM = {
    "errors": ("AmbiguousError", "InputError", "MedicalSam2Error", "ResourceError"),
    "prompts": ("Box", "FramePrompt", "Mask", "Point"),
    "segmenter": ("Segmenter",),
    "strokes": ("Diameter", "Lasso", "Scribble", "ShapeInterpolation", "SliceRange"),
    "tracking.image_set": ("ImageMask",),
    "views": ("AXIAL", "CORONAL", "SAGITTAL", "SIX_VIEWS", "THREE_VIEWS", "View"),
    "volume": ("Segmentation", "SliceConfidence", "Volume"),
}
_HOMES = {name: module for module, names in _FROM.items() for name in names}


def __getattr__(name: str) -> object:
    """A public name, from the module that defines it; `__version__` as it was installed."""
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version  # slow to load, and seldom asked for

        try:
            return version("medical-sam2")
        except PackageNotFoundError:
            return "unknown"
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """All public names, loaded or not."""
    return sorted({*globals(), *__all__})
