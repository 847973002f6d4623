"""Synthetic training data: random anatomies under random scanners, drawn without a single real image."""

from medical_sam2.data.synthetic.pool import PoolEntry, PoolReader, make_case, write_pool
from medical_sam2.data.synthetic.sets import make_set
from medical_sam2.data.synthetic.volumes import SyntheticCase, make_volume

__all__ = ["PoolEntry", "PoolReader", "SyntheticCase", "make_case", "make_set", "make_volume", "write_pool"]
