"""Published data sets: where each is obtained, how it is laid out, and how a downloaded folder becomes a `DataSet`.

`volumes` and `images` hold what is known, `entry` what an entry is. One of your own needs no edit here: it is one file, named
as `file.py:ENTRY` or `module:ENTRY`.
"""

from collections.abc import Mapping

from medical_sam2.data.catalog import images, volumes
from medical_sam2.data.catalog.entry import Entry, Layout
from medical_sam2.plugins import find

__all__ = ["ENTRIES", "Entry", "Layout", "find_entry"]

ENTRIES: Mapping[str, Entry] = {
    "atlas23": volumes.ATLAS23,
    "btcv": volumes.BTCV,
    "cadvidset": images.CADVIDSET,
    "cas23": volumes.CAS23,
    "crossm23": volumes.CROSSM23,
    "kits23": volumes.KITS23,
    "lnq23": volumes.LNQ23,
    "pendal": images.PENDAL,
    "refuge": images.REFUGE,
    "segrap": volumes.SEGRAP,
    "segrap_organs": volumes.SEGRAP_ORGANS,
    "star": images.STAR,
    "tdsc": volumes.TDSC,
    "toothfairy": volumes.TOOTHFAIRY,
    "wbc": images.WBC,
}


def find_entry(name: str) -> Entry:
    """The entry of that name, or of a `module:attribute` or `file.py:attribute`.

    Raises:
        ConfigError: there is none; the nearest name is suggested.
    """
    return find(ENTRIES, name, what="data set")
