"""The generators of synthetic cases, which lie with the recipe of `nano`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "recipes" / "nano"))

from synthetic import make_case, make_volume, write_pool

__all__ = ["make_case", "make_volume", "write_pool"]
