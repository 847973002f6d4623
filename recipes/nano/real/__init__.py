"""Training cases made from real images: cut, deformed and lit anew, with objects that nobody had to outline."""

from real.cases import make_real_case
from real.sources import Material, Picked, read_material

__all__ = ["Material", "Picked", "make_real_case", "read_material"]
