"""`medsam2 data`: the published data sets that are known, and what is known of them."""

import json
from dataclasses import asdict
from typing import Annotated, Any

from cyclopts import App, Parameter

data = App(name="data")
Json = Annotated[bool, Parameter(name="--json", negative="")]


@data.command(name="list")
def list_(*, one_object: Json = False) -> None:
    """List the data sets that `medsam2 prepare --as NAME` understands.

    Args:
        one_object: print JSON instead of a table.
    """
    from medical_sam2.data.catalog import ENTRIES

    if one_object:
        print(
            json.dumps(
                [{"name": name, "title": entry.title, "about": entry.about} for name, entry in ENTRIES.items()], indent=2
            )
        )
        return
    for name, entry in ENTRIES.items():
        print(f"{name:<14} {entry.modality:<11} {entry.prompt:<6} {entry.about}")


@data.command
def show(name: str, *, one_object: Json = False) -> None:
    """Show where a data set is obtained, how it must lie, what its labels are, and what is not confirmed about it.

    Args:
        name: a name that `list` shows, or module:attribute or file.py:attribute of an entry.
        one_object: print one JSON object instead of lines for a person.
    """
    from medical_sam2.data.catalog import find_entry

    entry = find_entry(name)
    facts: dict[str, Any] = {key: value for key, value in asdict(entry).items() if key not in ("remap", "opener", "layouts")}
    facts["layout"] = [asdict(layout) for layout in entry.layouts]
    if one_object:
        print(json.dumps({"name": name, **facts}, indent=2))
        return
    for key in ("title", "about", "url", "access", "licence", "citation", "modality", "prompt"):
        print(f"{key:<12} {facts[key]}")
    print(f"{'structures':<12} {', '.join(entry.structures)}")
    for layout in entry.layouts:
        where = " + ".join(layout.images) + (f" with {layout.label}" if layout.label else ", no labels")
        print(f"{'layout':<12} {layout.split}: {where}")
    for doubt in entry.unconfirmed:
        print(f"{'unconfirmed':<12} {doubt}")
