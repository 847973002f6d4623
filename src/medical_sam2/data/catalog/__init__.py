"""Published data sets: where each is obtained, how it is laid out, and how a downloaded folder becomes a `DataSet`.

An entry is one file of this folder that defines `ENTRY`, and needs no edit elsewhere; one of your own is named as
`module:ENTRY` or `file.py:ENTRY`.
"""

from medical_sam2.data.catalog.entry import Entry, Layout
from medical_sam2.data.catalog.find import available, find_entry

__all__ = ["Entry", "Layout", "available", "find_entry"]
