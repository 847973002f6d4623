"""What a study leaves: a row for each case, structure and seed; JSON lines while it runs, CSV and JSON when it is done."""

import csv
import io as streams
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

from medical_sam2.errors import FormatError
from medical_sam2.io.atomic import write_bytes

MEASURES = {
    "dice": "Dice coefficient 2|A∩B|/(|A|+|B|), in [0, 1]",
    "iou": "intersection over union |A∩B|/|A∪B|, in [0, 1]",
    "hausdorff95": "the larger of the two directed 95th percentiles of the surface distances (MONAI's definition), in `unit`",
    "surface_dice": "share of both surfaces within the tolerance of the other, in [0, 1]; the tolerance counts in `unit`",
    "volume_error": "relative and signed, (|B|−|A|)/|A|: 0 is perfect, −1 nothing found",
    "dice_prompted": "Dice on the frames that were prompted",
    "dice_propagated": "Dice on the frames that were not",
    "iou_prompted": "IoU on the frames that were prompted",
    "iou_propagated": "IoU on the frames that were not",
}
EMPTY = "null: truth and prediction are both empty, which is counted and never scored; inf: one of the two is empty"
ATTACHED = ("sure", "information")  # lists, which a table cannot hold
Task: TypeAlias = tuple[str, str, str, str, str, str, str, str, int]


@dataclass(frozen=True)
class Row:
    """One structure of one case, answered once; or why it was not.

    Args:
        dataset: name of the data set.
        kind: "volume" or "set".
        case: its identifier.
        structure: its name.
        method: who answered.
        prompt: "mask", "box" or "click".
        care: of the hand.
        share: probability that a frame was prompted; "one" for exactly one frame.
        seed: of all draws.
        skipped: why there is no answer; empty where there is one.
        choice: "random" where chance took the prompted frames, "suggest" where the answer so far did.
        frames: slices of the volume; 1 for an image.
        prompted: how many of them were prompted.
        unit: of the surface distance: "mm", or "px" where the file does not tell its spacing.
        sure: (predicted IoU, IoU) of frames that nobody prompted.
        information: mutual information of the bank in nats, at equal steps from the first to the last frame.
        seconds: that the answer took (of a set: its share).

    The other fields are named in `MEASURES`; nan: truth and prediction are both empty.
    """

    dataset: str
    kind: str
    case: str
    structure: str
    method: str
    prompt: str
    care: str
    share: str
    seed: int
    skipped: str = ""
    choice: str = "random"
    frames: int = 0
    prompted: int = 0
    unit: str = "mm"
    dice: float = math.nan
    iou: float = math.nan
    hausdorff95: float = math.nan
    surface_dice: float = math.nan
    volume_error: float = math.nan
    dice_prompted: float = math.nan
    dice_propagated: float = math.nan
    iou_prompted: float = math.nan
    iou_propagated: float = math.nan
    sure: tuple[tuple[float, float], ...] = ()
    information: tuple[float, ...] = ()
    seconds: float = 0.0

    @property
    def task(self) -> Task:
        """What tells it from the other answers of a study."""
        where = (self.dataset, self.case, self.structure, self.method)
        return (*where, self.prompt, self.care, self.share, self.choice, self.seed)

    @property
    def empty(self) -> bool:
        """Whether neither truth nor prediction holds anything: counted, and left out of every mean."""
        return not self.skipped and math.isnan(self.dice)


def packed(task: Task, rows: Sequence[Row]) -> str:
    """The line that stands for a finished task: whole, or not there."""
    return json.dumps({"task": task, "rows": [_encoded(row) for row in rows]}, allow_nan=False, ensure_ascii=False) + "\n"


def unpacked(path: Path) -> dict[Task, list[Row]]:
    """The finished tasks of an earlier run; a last line that was cut off is left out.

    Raises:
        FormatError: a line that is none of ours.
    """
    done: dict[Task, list[Row]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), start=1):
        if not line.endswith("\n"):
            break
        try:
            told = json.loads(line)
            task: Any = tuple(told["task"])
            done[task] = [_decoded(row) for row in told["rows"]]
        except (ValueError, KeyError, TypeError):
            raise FormatError(
                f"line {number} is damaged", "remove that line: its case is measured again", subject=path
            ) from None
    return done


def write_rows(folder: Path, rows: Sequence[Row]) -> None:
    """`rows.csv` and `rows.json`, whole or not at all."""
    names = [each.name for each in fields(Row) if each.name not in ATTACHED]
    text = streams.StringIO()
    table = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    for row in rows:
        encoded = _encoded(row)
        table.writerow({name: "" if encoded[name] is None else encoded[name] for name in names})
    write_bytes(folder / "rows.csv", text.getvalue().encode())
    told = {"measures": MEASURES, "empty": EMPTY, "rows": [_encoded(row) for row in rows]}
    write_bytes(folder / "rows.json", json.dumps(told, allow_nan=False, ensure_ascii=False, indent=1).encode())


def answered(rows: Iterable[Row]) -> Iterator[Row]:
    """Those that count in a mean."""
    return (row for row in rows if not row.skipped and not row.empty)


def _encoded(row: Row) -> dict[str, Any]:
    return {name: _number(value) if isinstance(value, float) else value for name, value in asdict(row).items()}


def _number(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return round(value, 5) if math.isfinite(value) else "inf"


def _decoded(told: dict[str, Any]) -> Row:
    back: dict[str, Any] = {
        name: math.nan if value is None else math.inf if value == "inf" else value for name, value in told.items()
    }
    back["sure"] = tuple((float(one), float(other)) for one, other in told["sure"])
    back["information"] = tuple(told["information"])
    return Row(**back)
