"""The qualitative figure (the paper's Figs. 3 and 4): methods in rows, data sets in columns, the truth as a white line."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image

from medical_sam2.evaluate.methods.named import label
from medical_sam2.evaluate.plan import SKETCHES
from medical_sam2.evaluate.protocols import Protocol
from medical_sam2.evaluate.reporting.sketch import sketched
from medical_sam2.evaluate.rows import Row
from medical_sam2.io.atomic import write_bytes

TILE = 1.35  # inches
TOLD = "the largest cross-section that nobody prompted: answer in orange, truth as a white line"


def write_gallery(protocol: Protocol, rows: Sequence[Row], folder: Path) -> list[tuple[str, Path]]:
    """PNG and SVG for volumes and for sets, of the pictures that were kept while it ran; needs matplotlib.

    Returns:
        Title and PNG file of each.
    """
    written: list[tuple[str, Path]] = []
    methods = [label(method) for method in protocol.methods]
    for kind in dict.fromkeys(row.kind for row in rows):
        columns: dict[str, str] = {}  # a data set is shown by its first structure that there is a picture of
        for row in rows:
            there = row.kind == kind and sketched(folder / SKETCHES, row.dataset, row.structure, row.method).exists()
            if there:
                columns.setdefault(row.dataset, row.structure)
        if columns:
            written.append((f"{kind}s, {TOLD}", _grid(methods, list(columns.items()), folder, f"examples-{kind}s")))
    return written


def _grid(methods: Sequence[str], columns: Sequence[tuple[str, str]], folder: Path, name: str) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(TILE * len(columns) + 1, TILE * len(methods) + 0.5), layout="constrained")
    axes = figure.subplots(len(methods), len(columns), squeeze=False)
    for down, method in enumerate(methods):
        for across, (dataset, structure) in enumerate(columns):
            place = axes[down][across]
            place.set_xticks([])
            place.set_yticks([])
            path = sketched(folder / SKETCHES, dataset, structure, method)
            if path.exists():
                with Image.open(path) as picture:
                    place.imshow(picture.convert("RGB"))
            if not down:
                place.set_title(f"{dataset}\n{structure}", fontsize=7)
            if not across:
                place.set_ylabel(method, fontsize=7)
    for suffix in ("svg", "png"):
        stream = BytesIO()
        figure.savefig(stream, format=suffix, dpi=160)
        write_bytes(folder / f"{name}.{suffix}", stream.getvalue())
    return folder / f"{name}.png"
