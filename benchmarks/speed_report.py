"""What was measured, as a Markdown table and as a picture."""

from collections.abc import Iterator, Mapping
from io import BytesIO

from speed_own import VERBS
from speed_run import KEPT, OFFICIAL, PEER, Measured, Timed, chosen

FASTER, AGAIN = {(256, 1): 2.5, (256, 2): 2.5, (256, 8): 3.5, (512, 8): 3.5}, {1: 7.0, 2: 7.0, 8: 5.0}
GOALS = {
    (256, 8, "fp32"): 1.2,
    **{(size, objects, "bf16"): goal for (size, objects), goal in FASTER.items()},
    (512, 8, "OpenVINO, bf16"): 4.0,
    **{(size, objects, f"bf16, {KEPT}"): goal for size in (256, 512) for objects, goal in AGAIN.items()},
}
"""Size, objects, run → how many times faster than the official algorithm the project wants to be."""


def markdown(measured: Measured) -> str:
    """All tables."""
    lines = [
        "# Speed",
        "",
        f"{measured.machine}.",
        "",
        *_told(measured),
        "",
        "| px | objects | run | ms | faster | frame by frame | at most | goal | apart |",
        "|---|---|---|---|---|---|---|---|---|",
        *_runs(measured),
        "",
        "## Where the time goes",
        "",
        "Share of peak: operations of matrix products and convolutions, over seconds, over those of a product of two large",
        f"matrices ({', '.join(f'{precision} {rate / 1e9:.0f} GFLOP/s' for precision, rate in measured.peak.items())}).",
        "",
        "| px | objects | run | part | ms | share of time | GFLOP | share of peak |",
        "|---|---|---|---|---|---|---|---|",
        *_parts(measured),
    ]
    return "\n".join(lines) + "\n"


def _told(measured: Measured) -> list[str]:
    return [
        f"SAM 2.1 with the encoder {measured.encoder} and random weights; each object told by a box on the first frame;",
        "SAM 2's own memory (fifo). Milliseconds of the processor for a frame, median of the frames after the memory is full;",
        "the runs of a scene went frame by frame in turn, the others in fp32. *Faster*: the time of transformers' session over",
        f"that of the run; *apart* the largest difference of mask logits to it. *{KEPT.capitalize()}*: a second direction, a",
        "correction or a later object, for which no slice is encoded again. *At most*: how many times faster, if all products",
        "of matrices and convolutions ran at the peak below and all else took no time. *Goal*: what the project wants.",
    ]


def _scenes(measured: Measured) -> list[tuple[int, int]]:
    return list(dict.fromkeys((row.size, row.objects) for row in measured.timed))


def _runs(measured: Measured) -> Iterator[str]:
    for size, objects in _scenes(measured):
        rows = chosen(measured.timed, size, objects)
        for name, row in rows.items():
            faster, wanted = rows[PEER].seconds / row.seconds, GOALS.get((size, objects, name))
            goal = "" if wanted is None or measured.encoder != "tiny" else f"{wanted:.1f}"
            who = name if name in {PEER, OFFICIAL} else f"**{name}**"
            ratios = f"{faster:.2f} | {row.faster_than(rows[PEER]):.2f} | {_at_most(measured, row, rows)}"
            cost = f"{1000 * row.seconds:.0f} | {ratios}"
            yield f"| {size} | {objects} | {who} | {cost} | {goal} | {row.apart:.1e} |"


def _at_most(measured: Measured, row: Timed, rows: Mapping[str, Timed]) -> str:
    """Times faster at the peak of the processor; empty for others' runs, whose operations are not counted."""
    name, again = row.name.removesuffix(f", {KEPT}"), row.name.endswith(KEPT)
    own = [p for p in measured.parts if (p.size, p.objects, p.name) == (row.size, row.objects, name)]
    needed = sum(p.operations / measured.peak[p.precision] for p in own if not (again and p.verb == "encode"))
    return f"{rows[PEER].seconds / needed:.2f}" if needed else ""


def _parts(measured: Measured) -> Iterator[str]:
    for size, objects in _scenes(measured):
        for name in dict.fromkeys(part.name for part in measured.parts):
            own = [p for p in measured.parts if (p.size, p.objects, p.name) == (size, objects, name)]
            whole = sum(part.seconds for part in own)
            for part in own:
                of_time, of_peak = part.seconds / whole, part.operations / part.seconds / measured.peak[part.precision]
                cost = f"{1000 * part.seconds:.0f} | {of_time:.0%} | {part.operations / 1e9:.1f} | {of_peak:.0%}"
                yield f"| {size} | {objects} | {name} | {part.verb} | {cost} |"


def picture(measured: Measured) -> bytes:
    """PNG: how many times faster each run is, and of what its time consists; needs matplotlib (the extra `evaluate`)."""
    from matplotlib.figure import Figure

    scenes = _scenes(measured)
    names = [name for name in chosen(measured.timed, *scenes[0]) if name != PEER]
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    ticks = [f"{size} px\n{objects} obj." for size, objects in scenes]
    width = 0.8 / len(names)
    for place, name in enumerate(names):
        rows = [chosen(measured.timed, *each) for each in scenes]
        left.bar(
            [i + place * width for i in range(len(scenes))],
            [r[PEER].seconds / r[name].seconds for r in rows],
            width,
            label=name,
        )
    left.set_xticks([i + 0.4 - width / 2 for i in range(len(scenes))], ticks)
    left.axhline(1, color="black", linewidth=0.8)
    left.set_ylabel("times faster than transformers' session")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")  # not over bars
    last = measured.parts[-1].name
    bottom = [0.0] * len(scenes)
    for verb in VERBS:
        own = {(p.size, p.objects): 1000 * p.seconds for p in measured.parts if (p.verb, p.name) == (verb, last)}
        heights = [own[each] for each in scenes]
        right.bar(ticks, heights, bottom=bottom, label=verb)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    right.set_ylabel(f"ms a frame, {last}")
    right.legend(fontsize="small")
    stream = BytesIO()
    figure.savefig(stream, format="png", dpi=130)
    return stream.getvalue()
