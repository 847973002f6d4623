"""A set of unordered images as a film: one is told what to outline, the others follow (METHOD §3)."""

from medical_sam2.imagesets.masks import ImageMask
from medical_sam2.imagesets.order import ORDERS, Order, Shuffled, chosen
from medical_sam2.imagesets.outline import ImageSetting, outlined
from medical_sam2.imagesets.suggest import Need, neediest, slice_needs
from medical_sam2.imagesets.viewer import Viewer, direction
from medical_sam2.imagesets.windows import choose_set_windows

__all__ = [
    "ORDERS",
    "ImageMask",
    "ImageSetting",
    "Need",
    "Order",
    "Shuffled",
    "Viewer",
    "choose_set_windows",
    "chosen",
    "direction",
    "neediest",
    "outlined",
    "slice_needs",
]
