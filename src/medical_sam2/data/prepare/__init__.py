"""Preprocessing (METHOD §4): any data set in; normalised images, label maps, training arrays and a manifest out."""

from medical_sam2.data.prepare.run import PrepareProgress, PrepareResult, prepare
from medical_sam2.data.prepare.units import DataSource, PrepareSettings

__all__ = ["DataSource", "PrepareProgress", "PrepareResult", "PrepareSettings", "prepare"]
