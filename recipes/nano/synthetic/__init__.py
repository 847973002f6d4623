"""Synthetic training data: random anatomies under random scanners, drawn without a single real image."""

from synthetic.pool import make_case, write_pool
from synthetic.sets import make_set
from synthetic.volumes import make_volume

__all__ = ["make_case", "make_set", "make_volume", "write_pool"]
