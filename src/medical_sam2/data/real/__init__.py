"""Training cases made from real images: cut, deformed and lit anew, with objects that nobody had to outline."""

from medical_sam2.data.real.cases import make_real_case
from medical_sam2.data.real.sources import Material, Picked, read_material

__all__ = ["Material", "Picked", "make_real_case", "read_material"]
