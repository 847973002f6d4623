"""Entries by their names, which are the names of their files."""

import importlib
import pkgutil
from pathlib import Path

from medical_sam2.data.catalog.entry import Entry
from medical_sam2.plugins import find

PACKAGE = "medical_sam2.data.catalog"
NO_ENTRIES = {"entry", "find"}


def available() -> dict[str, Entry]:
    """Short name → entry, sorted by name."""
    folder = str(Path(__file__).parent)
    names = sorted(module.name for module in pkgutil.iter_modules([folder]) if module.name not in NO_ENTRIES)
    return {name: importlib.import_module(f"{PACKAGE}.{name}").ENTRY for name in names}


def find_entry(name: str) -> Entry:
    """The entry of that name, or of a `module:attribute` or `file.py:attribute`.

    Raises:
        ConfigError: there is none; the nearest name is suggested.
    """
    return find(available(), name, what="data set")
