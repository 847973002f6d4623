"""The tables and the picture of `classics.py`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

NANO = "nano"
KINDS = ("mask", "box", "click")
SEEN = ("RadiomicsLesions", "SpinalCord", "Nuclei", "BreastUltrasound")  # by the embedded weights: see their card
VOLUMES, PICTURES = "3D", "2D"
DRAWS = 10_000  # of the bootstrap


@dataclass(frozen=True)
class Row:
    """What a method made of one prompt.

    Args:
        dataset: name of the folder.
        structure: that was prompted.
        case: the volume, or the template.
        prompt: mask, box or click.
        method: that answered.
        of: 1 for a volume, else the number of pictures, the template among them.
        dice: on all slices or pictures but the prompted one; None where there is nothing to score.
        seconds: it took.
        problem: why there is no score, or a score of 0.
    """

    dataset: str
    structure: str
    case: str
    prompt: str
    method: str
    of: int
    dice: float | None = None
    seconds: float = 0.0
    problem: str = ""

    @property
    def key(self) -> "Row":
        """What was asked, without the answer."""
        return replace(self, dice=None, seconds=0.0, problem="")

    @property
    def kind(self) -> str:
        """Whether it is a volume or a set of pictures."""
        return VOLUMES if self.of == 1 else PICTURES


def means(rows: Sequence[Row], kind: str, prompt: str) -> dict[str, dict[str, float]]:
    """Method → data set → mean Dice over structures and cases."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row.kind == kind and row.prompt == prompt and row.dice is not None:
            found.setdefault(row.method, {}).setdefault(row.dataset, []).append(row.dice)
    return {method: {name: float(np.mean(each)) for name, each in sets.items()} for method, sets in found.items()}


def overall(sets: dict[str, dict[str, float]]) -> dict[str, float]:
    """Method → mean over the data sets that every method has answered."""
    common = set.intersection(*(set(each) for each in sets.values())) if sets else set()
    return {method: float(np.mean([each[name] for name in common])) for method, each in sets.items()} if common else {}


def report(rows: Sequence[Row], asked: int, how: str) -> str:
    """The six rows, then every set."""
    methods = list(dict.fromkeys(row.method for row in rows))
    text = [
        "# One prompt: the network beside classical methods\n\n",
        f"`python benchmarks/classics.py FOLDER`: {how}. Dice on all slices (3D) or pictures (2D) but the prompted one: the\n",
        f"mean over structures and cases of each set, then over sets. {len(rows)} of {asked} answers. In brackets the 95 %\n",
        "interval of the difference, by a paired bootstrap over sets.\n\n",
    ]
    text += six_rows(rows, methods)
    text.append(
        f"\nWithout the sets of which training saw images ({', '.join(SEEN)}: some of them, or none of their outlines):\n\n"
    )
    text += six_rows([row for row in rows if row.dataset.partition("_")[2] not in SEEN], methods)
    text.append("\nSeconds for a prompt (median; a set of pictures at once):\n\n")
    text.append(f"| | {' | '.join(methods)} |\n{'|---' * (len(methods) + 1)}|\n")
    for kind in (VOLUMES, PICTURES):
        taken = [[row.seconds for row in rows if (row.kind, row.method) == (kind, each)] for each in methods]
        text.append(f"| {kind} | {' | '.join(f'{np.median(each):.1f}' if each else '–' for each in taken)} |\n")
    for kind in (VOLUMES, PICTURES):
        for prompt in KINDS:
            text += by_set(rows, methods, kind, prompt)
    problems = list(dict.fromkeys(f"- {r.dataset} {r.structure} {r.case}: {r.problem}" for r in rows if r.problem))
    text.append("\n## Left out, or failed\n\n" + "\n".join(problems) + "\n" if problems else "\nNothing failed.\n")
    return "".join(text)


def six_rows(rows: Sequence[Row], methods: Sequence[str]) -> list[str]:
    head = f"| | {' | '.join(methods)} | best classic | {NANO} − best classic |\n{'|---' * (len(methods) + 3)}|\n"
    return [head, *(line(rows, methods, kind, prompt) for kind in (VOLUMES, PICTURES) for prompt in KINDS)]


def line(rows: Sequence[Row], methods: Sequence[str], kind: str, prompt: str) -> str:
    sets = means(rows, kind, prompt)
    score = overall(sets)
    classic = max((m for m in score if m != NANO), key=lambda m: score[m], default=None)
    ahead = lead(sets[NANO], sets[classic]) if NANO in score and classic else "–"
    best = f"{classic} {score[classic]:.3f}" if classic else "–"
    return f"| {kind}, {prompt} | {' | '.join(shown(score, m) for m in methods)} | {best} | {ahead} |\n"


def lead(ours: dict[str, float], theirs: dict[str, float]) -> str:
    """Mean difference in points, with its 95 % interval: a paired bootstrap over data sets."""
    gains = 100 * np.array([ours[name] - theirs[name] for name in sorted(ours.keys() & theirs.keys())])
    draws = np.random.default_rng(0).choice(gains, (DRAWS, len(gains))).mean(axis=1)
    low, high = np.percentile(draws, (2.5, 97.5))
    return f"{gains.mean():+.1f} points [{low:+.1f}, {high:+.1f}]"


def by_set(rows: Sequence[Row], methods: Sequence[str], kind: str, prompt: str) -> list[str]:
    """A table of sets; where the network is not the best, the set says so."""
    sets = means(rows, kind, prompt)
    text = [f"\n## {kind}, {prompt}\n\n| set | answers | {' | '.join(methods)} | |\n{'|---' * (len(methods) + 3)}|\n"]
    for name in dict.fromkeys(row.dataset for row in rows if row.kind == kind):
        score = {method: each[name] for method, each in sets.items() if name in each}
        own = [r for r in rows if r.dataset == name and r.prompt == prompt and r.dice is not None]
        count = max((sum(r.method == m for r in own) for m in score), default=0)
        lost = score and NANO in score and max(score.values()) > score[NANO]
        note = f"{NANO} loses" if lost else ""
        text.append(f"| {name} | {count} | {' | '.join(shown(score, m) for m in methods)} | {note} |\n")
    return text


def shown(score: dict[str, float], method: str) -> str:
    if method not in score:
        return "–"
    value = f"{score[method]:.3f}"
    return f"**{value}**" if score[method] == max(score.values()) else value


def picture(rows: Sequence[Row], path: Path) -> None:
    """Bars of the six rows, a dot for each set."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    methods = list(dict.fromkeys(row.method for row in rows))
    figure, axes = plt.subplots(2, 3, figsize=(13, 7), sharey=True, layout="constrained")
    colours = {m: "#c44e52" if m == NANO else f"C{i}" if i < 3 else f"C{i + 2}" for i, m in enumerate(methods)}
    for panel, (kind, prompt) in zip(axes.flat, ((k, p) for k in (VOLUMES, PICTURES) for p in KINDS), strict=True):
        sets, score = means(rows, kind, prompt), overall(means(rows, kind, prompt))
        for place, method in enumerate(m for m in methods if m in score):
            panel.bar(place, score[method], color=colours[method], alpha=0.75, width=0.7)
            values = list(sets[method].values())
            panel.scatter(np.full(len(values), place), values, s=12, color="black", alpha=0.6, zorder=3)
            panel.text(place, 1.02, f"{score[method]:.2f}", ha="center", fontsize=9)
        panel.set_xticks(range(len(score)), [m for m in methods if m in score], rotation=25, ha="right")
        panel.set_title(f"{'volumes' if kind == VOLUMES else 'sets of pictures'}, one {prompt}", pad=12)
        panel.set_ylim(0, 1.1)
        panel.set_yticks(np.linspace(0, 1, 6))
        panel.spines[["top", "right"]].set_visible(False)
    for panel in axes[:, 0]:
        panel.set_ylabel("Dice on what was not prompted")
    figure.savefig(path, dpi=110)
    plt.close(figure)
