"""Figures of a study, each for one kind of cases: the paper's Figs. 5, 6 and 7, and whether confidence can be trusted."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medical_sam2.evaluate.cases import EvaluationCase, FramePrompts, MaskArray
from medical_sam2.evaluate.methods import method_label
from medical_sam2.evaluate.protocols import Protocol
from medical_sam2.evaluate.study import EvaluationJob, Row, select_answered
from medical_sam2.evaluate.tables import last_rounds, mean_by_case, mean_interval
from medical_sam2.io.atomic import writing
from medical_sam2.preview.drawing import PreviewCrop, tile
from medical_sam2.prompts import FramePrompt
from medical_sam2.simulate import NOISE_LEVELS
from medical_sam2.tracking.frames import Canvas, box_of

Draw = Callable[[Any, Mapping[str, list[Row]]], None]
BINS = 10
SKETCHES = "sketches"
TILE = 1.35  # inches
CAPTION = "the largest cross-section that nobody prompted: answer in orange, truth as a white line"
SIDE = 220  # pixels of a sketch
ANSWER = 1
COLOURS = {ANSWER: (255, 176, 0)}
MARGIN = 2.2  # side of what is shown over the longer side of the structure


def write_figures(protocol: Protocol, rows: Sequence[Row], folder: Path) -> list[Path]:
    """PNG and SVG of every figure that the rows hold something for; needs matplotlib (the extra `evaluate`).

    Returns:
        The PNG files.
    """
    from matplotlib.figure import Figure

    written: list[Path] = []
    rows = [row for row in last_rounds(rows) if not row.distractors]  # no figure compares with and without
    for kind in dict.fromkeys(row.kind for row in select_answered(rows)):
        own = [row for row in select_answered(rows) if row.kind == kind]
        names = [method_label(method) for method in protocol.methods]
        methods = {name: [row for row in own if row.method == name] for name in names}
        for name, draw in _choose_figures(protocol, own).items():
            figure = Figure(figsize=(5, 3.6), layout="constrained")
            axes = figure.add_subplot()
            axes.set_title(f"{protocol.name}: {kind}s")
            draw(axes, methods)
            written.append(_save_figure(figure, folder / f"{name}-{kind}s.png"))
    return written


def _save_figure(figure: Any, path: Path) -> Path:
    for target in (path.with_suffix(".svg"), path):
        with writing(target) as stream:
            figure.savefig(stream, format=target.suffix[1:], dpi=160)
    return path


def _choose_figures(protocol: Protocol, rows: Sequence[Row]) -> dict[str, Draw]:
    figures: dict[str, Draw] = {}
    if len({row.share for row in rows}) > 1:
        figures["frequency"] = _draw_frequency
    if len({row.care for row in rows}) > 1:
        figures["hands"] = _draw_hands
    if len(protocol.seeds) > 1:
        figures["spread"] = _draw_spread
    if any(row.information for row in rows):
        figures["information"] = _draw_information
    if any(row.sure for row in rows):
        figures["reliability"] = _draw_reliability
    return figures


def _draw_frequency(axes: Any, methods: Mapping[str, list[Row]]) -> None:
    """Dice over the share of prompted frames, with its interval over cases (Fig. 7)."""
    # Suggested frames are a curve of their own, dashed, at the shares where both were measured.
    curves = {
        f"{method}{ending}": [row for row in rows if row.choice == choice]
        for method, rows in methods.items()
        for choice, ending in (("random", ""), ("suggest", ", suggested"))
    }
    for method, rows in curves.items():
        shares = sorted({row.share for row in rows}, key=float)
        if not shares:
            continue
        mean, low, high = _intervals([row for row in rows if row.share == share] for share in shares)
        x = [100 * float(share) for share in shares]
        axes.plot(x, mean, marker="o", linestyle="--" if method.endswith("suggested") else "-", label=method)
        axes.fill_between(x, low, high, alpha=0.2)
    axes.set(xlabel="frames prompted (%)", ylabel="Dice (mean, 95 % interval)")
    axes.legend()


def _draw_hands(axes: Any, methods: Mapping[str, list[Row]]) -> None:
    """Dice by how careful the hand is, of each kind of prompt, with its interval over cases."""
    # A line for each method and kind of prompt, over the levels that the rows hold, in their order.
    for method, rows in methods.items():
        for prompt in dict.fromkeys(row.prompt for row in rows):
            own = [row for row in rows if row.prompt == prompt]
            levels = [care for care in NOISE_LEVELS if any(row.care == care for row in own)]
            mean, low, high = _intervals([row for row in own if row.care == care] for care in levels)
            axes.errorbar(levels, mean, (mean - low, high - mean), marker="o", capsize=4, label=f"{method}, {prompt}")
    axes.set(xlabel="hand", ylabel="Dice (mean, 95 % interval)")
    axes.legend()


def _intervals(groups: Iterable[list[Row]]) -> NDArray[np.float64]:
    """(3, groups): mean Dice over the cases of each, and the ends of its 95 % interval."""
    return np.array([mean_interval(list(mean_by_case(rows).values()), np.random.default_rng(0)) for rows in groups]).T


def _draw_spread(axes: Any, methods: Mapping[str, list[Row]]) -> None:
    """Mean Dice over cases, with the standard deviation of that mean over seeds (Fig. 5)."""
    for place, rows in enumerate(methods.values()):
        seeds = sorted({row.seed for row in rows})
        means = [float(np.mean(list(mean_by_case(row for row in rows if row.seed == seed).values()))) for seed in seeds]
        if means:
            axes.bar(place, np.mean(means), yerr=np.std(means), capsize=5)
    axes.set_xticks(range(len(methods)), list(methods), rotation=20, ha="right")
    axes.set(ylabel="Dice (mean, deviation over seeds)", ylim=(0, 1))


def _draw_information(axes: Any, methods: Mapping[str, list[Row]]) -> None:
    """Mutual information of the bank from the first to the last stage, mean over answers with as many stages (Fig. 6)."""
    for method, rows in methods.items():
        most = max((len(row.information) for row in rows), default=0)
        full = [row.information for row in rows if most and len(row.information) == most]
        if full:
            axes.plot(range(1, most + 1), np.mean(full, axis=0), marker="o", label=f"{method} ({len(full)} answers)")
    axes.set(xlabel="stage of tracking", ylabel="pairwise mutual information (nats)")
    axes.legend()


def _draw_reliability(axes: Any, methods: Mapping[str, list[Row]]) -> None:
    """Mean IoU over predicted IoU in ten bins, on frames that nobody prompted."""
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
    for method, rows in methods.items():
        pairs = np.array([pair for row in rows for pair in row.sure]).reshape(-1, 2)
        bins = np.clip((pairs[:, 0] * BINS).astype(int), 0, BINS - 1)
        means = [pairs[bins == each].mean(axis=0) for each in range(BINS) if (bins == each).any()]
        if means:
            axes.plot(*np.array(means).T, marker="o", label=f"{method} ({len(pairs)} frames)")
    axes.set(xlabel="predicted IoU", ylabel="IoU", xlim=(0, 1), ylim=(0, 1))
    axes.legend()


def write_sketch(job: EvaluationJob, shown: EvaluationCase, prompts: FramePrompts, masks: Sequence[MaskArray]) -> None:
    """Leave the picture in the folder of the job: the answer in orange, the truth as a white line.

    The frame is the one with the largest cross-section among those that nobody prompted: the same for all methods.
    """
    areas = {t: int(truth.sum()) for t, truth in enumerate(shown.truths) if t not in prompts}
    t = max(areas, key=lambda t: areas[t], default=-1)
    if job.sketch is None or t < 0 or not areas[t]:
        return
    picture = np.round(255 * shown.viewer(prompts)(t)).astype(np.uint8)
    truth, mask = shown.truths[t], masks[t]
    high, wide = (shown.spacings[0] or (1.0, 1.0, 1.0))[-2:] if shown.task is not None else (1.0, 1.0)
    region = Canvas((truth.shape[0], truth.shape[1]), (high, wide)).around(box_of(truth), MARGIN)
    corner, size = ((0, 0), truth.shape) if region is None else ((region.top, region.left), region.shape_hw)
    scale = SIDE / max(size[0] * high, size[1] * wide)
    crop = PreviewCrop(corner, (size[0], size[1]), (scale * high, scale * wide))
    drawn = tile(picture, [np.where(mask, ANSWER, 0)], crop, COLOURS, [FramePrompt.mask(truth)])
    canvas = Image.new("RGB", (SIDE, SIDE))
    canvas.paste(drawn, ((SIDE - drawn.width) // 2, (SIDE - drawn.height) // 2))
    job.sketch.mkdir(parents=True, exist_ok=True)
    with writing(sketch_path(job.sketch, job.blank.dataset, job.structure, job.blank.method)) as stream:
        canvas.save(stream, format="png")


def sketch_path(folder: Path, dataset: str, structure: str, method: str) -> Path:
    """Where the picture lies; names of structures and methods may hold what no file name may."""
    return folder / f"{crc32(f'{dataset}/{structure}/{method}'.encode()):08x}.png"


def write_gallery(protocol: Protocol, rows: Sequence[Row], folder: Path) -> list[tuple[str, Path]]:
    """PNG and SVG for volumes and for sets, of the pictures that were kept while it ran; needs matplotlib.

    Returns:
        Title and PNG file of each.
    """
    written: list[tuple[str, Path]] = []
    methods = [method_label(method) for method in protocol.methods]
    for kind in dict.fromkeys(row.kind for row in rows):
        columns: dict[str, str] = {}  # a data set is shown by its first structure that there is a picture of
        for row in rows:
            there = row.kind == kind and sketch_path(folder / SKETCHES, row.dataset, row.structure, row.method).exists()
            if there:
                columns.setdefault(row.dataset, row.structure)
        if columns:
            written.append((f"{kind}s, {CAPTION}", _draw_grid(methods, list(columns.items()), folder, f"examples-{kind}s")))
    return written


def _draw_grid(methods: Sequence[str], columns: Sequence[tuple[str, str]], folder: Path, name: str) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(TILE * len(columns) + 1, TILE * len(methods) + 0.5), layout="constrained")
    axes = figure.subplots(len(methods), len(columns), squeeze=False)
    for down, method in enumerate(methods):
        for across, (dataset, structure) in enumerate(columns):
            place = axes[down][across]
            place.set_xticks([])
            place.set_yticks([])
            path = sketch_path(folder / SKETCHES, dataset, structure, method)
            if path.exists():
                with Image.open(path) as picture:
                    place.imshow(picture.convert("RGB"))
            if not down:
                place.set_title(f"{dataset}\n{structure}", fontsize=7)
            if not across:
                place.set_ylabel(method, fontsize=7)
    return _save_figure(figure, folder / f"{name}.png")
