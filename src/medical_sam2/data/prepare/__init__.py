"""Preprocessing (METHOD §4): any data set in; normalised images, label maps, training arrays and a manifest out."""

from medical_sam2.data.prepare.run import Done, Outcome, prepare
from medical_sam2.data.prepare.settings import Settings

__all__ = ["Done", "Outcome", "Settings", "prepare"]
