"""A study: what is measured on what, the answers it asks for, and its rows: one for each case, structure and seed.

Rows are JSON lines while it runs, CSV and JSON when it is done.
"""

import csv
import io as streams
import json
import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeAlias

from medical_sam2.errors import FormatError
from medical_sam2.evaluate.cases import Distractor, EvaluationCase, load_case, open_data_set
from medical_sam2.evaluate.methods import describe_method, find_method, method_label
from medical_sam2.evaluate.protocols import EVERY_KIND, Condition, Kind, Protocol
from medical_sam2.io.atomic import write_bytes
from medical_sam2.segmenter import Precision

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
AnswerKey: TypeAlias = tuple[str, str, str, str, str, str, str, str, str, int]


@dataclass(frozen=True)
class Row:
    """One structure of one case, answered once; or why it was not.

    The other fields are named in `MEASURES`; nan: truth and prediction are both empty.
    """

    dataset: str  # name of the data set
    kind: str  # "volume" or "set"
    case: str  # its identifier
    structure: str  # its name
    method: str  # who answered
    prompt: str  # its kind, of `protocols.EVERY_KIND`
    care: str  # of the hand
    share: str  # probability that a frame was prompted; "one" for exactly one frame
    seed: int  # of all draws
    skipped: str = ""  # why there is no answer; empty where there is one
    choice: str = "random"  # "random" where chance took the prompted frames, "suggest" where the answer so far did
    distractors: str = ""  # images of other sets that were mixed in, over those of the set; empty where there were none
    stray: bool = False  # whether it is one of them: its Dice is 0 where something was outlined on it, and counts in no mean
    frames: int = 0  # slices of the volume; 1 for an image
    prompted: int = 0  # how many of them were prompted
    clicks: int = 0  # after a first box, or in all where there was none; rows of a structure that was clicked on differ in it
    unit: str = "mm"  # of the surface distance: "mm", or "px" where the file does not tell its spacing
    dice: float = math.nan
    iou: float = math.nan
    hausdorff95: float = math.nan
    surface_dice: float = math.nan
    volume_error: float = math.nan
    dice_prompted: float = math.nan
    dice_propagated: float = math.nan
    iou_prompted: float = math.nan
    iou_propagated: float = math.nan
    sure: tuple[tuple[float, float], ...] = ()  # (predicted IoU, IoU) of frames that nobody prompted
    # mutual information of the bank in nats, at equal steps from the first to the last frame
    information: tuple[float, ...] = ()
    seconds: float = 0.0  # that the answer took (of a set: its share)
    peak_mb: float = math.nan  # that this process held more at most while it answered than before; nan where it cannot be told

    @property
    def task(self) -> AnswerKey:
        """What tells it from the other answers of a study."""
        where = (self.dataset, self.case, self.structure, self.method)
        return (*where, self.prompt, self.care, self.share, self.choice, self.distractors, self.seed)

    @property
    def empty(self) -> bool:
        """Whether neither truth nor prediction holds anything: counted, and left out of every mean."""
        return not self.skipped and not self.stray and math.isnan(self.dice)


def pack_rows(task: AnswerKey, rows: Sequence[Row]) -> str:
    """The line that stands for a finished task: whole, or not there."""
    return json.dumps({"task": task, "rows": [_encode_row(row) for row in rows]}, allow_nan=False, ensure_ascii=False) + "\n"


def unpack_rows(path: Path) -> dict[AnswerKey, list[Row]]:
    """The finished tasks of an earlier run, less a last line that was cut off; raises FormatError for another's line."""
    done: dict[AnswerKey, list[Row]] = {}
    whole = path.read_text(encoding="utf-8").split("\n")[:-1]  # not splitlines: names may hold other ends of lines
    for number, line in enumerate(whole, start=1):
        try:
            packed = json.loads(line)
            task: Any = tuple(packed["task"])
            done[task] = [_decode_row(row) for row in packed["rows"]]
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
        encoded = _encode_row(row)
        table.writerow({name: "" if encoded[name] is None else encoded[name] for name in names})
    write_bytes(folder / "rows.csv", text.getvalue().encode())
    content = {"measures": MEASURES, "empty": EMPTY, "rows": [_encode_row(row) for row in rows]}
    write_bytes(folder / "rows.json", json.dumps(content, allow_nan=False, ensure_ascii=False, indent=1).encode())


def select_answered(rows: Iterable[Row]) -> Iterator[Row]:
    """Those that count in a mean."""
    return (row for row in rows if not row.skipped and not row.stray and not row.empty)


def _encode_row(row: Row) -> dict[str, Any]:
    return {name: _encode_number(value) if isinstance(value, float) else value for name, value in asdict(row).items()}


def _encode_number(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return round(value, 5) if math.isfinite(value) else "inf"


def _decode_row(encoded: dict[str, Any]) -> Row:
    back: dict[str, Any] = {
        name: math.nan if value is None else math.inf if value == "inf" else value for name, value in encoded.items()
    }
    back["sure"] = tuple((float(one), float(other)) for one, other in encoded["sure"])
    back["information"] = tuple(encoded["information"])
    return Row(**back)


@dataclass(frozen=True)
class NetworkSettings:
    """What answers, and on what."""

    weights: str = "nano"  # name, file, folder or hub id
    device: str = "auto"  # as of `Segmenter`
    precision: Precision = "auto"  # as of `Segmenter`
    image_size: int | None = None  # side of the input in pixels; that of the weights unless given
    threads: int | None = None  # of the processor; as torch chooses unless given


@dataclass(frozen=True)
class EvaluationJob:
    """One answer."""

    folder: Path  # of the data set
    case: str  # identifier; empty for a set
    structure: str  # name
    method: str  # name
    condition: Condition  # of prompting
    seed: int  # of all draws
    protocol: Protocol  # that it belongs to
    network: NetworkSettings  # that answers
    cases: tuple[str, ...] = ()  # identifiers of the images of a set
    distractors: tuple[Distractor, ...] = ()  # images that are mixed among them
    others: tuple[str, ...] = ()  # identifiers of labelled cases that are not measured, to train on
    sketch: Path | None = None  # folder where a picture of the answer is left; none unless given

    @property
    def blank(self) -> Row:
        """Its row, without an answer."""
        data, condition = open_data_set(self.folder), self.condition
        share = condition.share(data.kind)
        return Row(
            data.name,
            data.kind,
            self.case,
            self.structure,
            method_label(self.method),
            prompt=self.kind,
            care=condition.care,
            share="one" if share is None else f"{share:g}",
            seed=self.seed,
            choice=condition.choice,
            distractors=f"{condition.distractors:g}" if condition.distractors else "",
        )

    @property
    def kind(self) -> Kind:
        """Of its prompts."""
        wanted = open_data_set(self.folder).prompt if self.condition.prompt == "own" else self.condition.prompt
        kinds: dict[str, Kind] = {kind: kind for kind in EVERY_KIND}
        return kinds.get(wanted or "", "box")

    @property
    def task(self) -> AnswerKey:
        """What tells it from the other jobs of a study."""
        return self.blank.task

    def load(self) -> EvaluationCase:
        """What is to be outlined; raises PromptError if there is nothing to measure."""
        return load_case(self.folder, self.case, self.cases, self.structure, self.distractors)

    @property
    def answer_key(self) -> Hashable:
        """What decides about its answer: jobs of several protocols that agree in it are answered once."""
        protocol, (name, case, structure, _, *prompting) = self.protocol, self.task
        settings = protocol.views if case else "", protocol.fusion, protocol.tolerance_mm, protocol.limit_s
        return (name, case, structure, *prompting, self.condition.clicks, describe_method(find_method(self.method)), *settings)


@dataclass(frozen=True)
class Study:
    """What is measured, on what, with what."""

    protocol: Protocol  # the description
    data: tuple[Path, ...]  # folders of nnU-Net raw data sets
    network: NetworkSettings  # that answers
    weights_sha256: str  # of its weights
    cases: int | None = None  # volumes of each data set, spread over its list; all unless given
    slices: int | None = None  # of a volume; those with more are passed over
    images: int | None = None  # of each set, spread over its list; all unless given
    structures: int | None = None  # of each data set, spread over its list; all unless given
    draws: bool = False  # whether a picture of the first case of each data set is kept, of each method

    def described(self) -> dict[str, Any]:
        """What decides about an answer; answers of equal descriptions may be put together."""
        network = {name: value for name, value in asdict(self.network).items() if name not in ("weights", "threads")}
        lends = any(condition.distractors for condition in self.protocol.conditions)
        return {
            "protocol": self.protocol.described(),
            "methods": {name: describe_method(find_method(name)) for name in self.protocol.methods},
            "network": {**network, "sha256": self.weights_sha256},
            "images": self.images,
            **({"lenders": [open_data_set(folder).name for folder in self.data]} if lends else {}),
        }


@dataclass(frozen=True)
class EvaluationProgress:
    """Some more answers; the first report is of none, of so many."""

    done: int  # answers so far
    total: int  # of all that this run makes
    what: str  # data set, case and structure
    share: float  # of the work that is done, in [0, 1]


@dataclass(frozen=True)
class StudyResult:
    """What a study found."""

    rows: tuple[Row, ...]  # of all answers
    skipped: Mapping[str, str]  # case and structure → why it was not measured, once
    failed: Mapping[str, str]  # the same for defects of this program, which a further run tries again
    fresh: int  # answers that this run made
    # data set → what of it was not measured, because less was asked for
    left_out: Mapping[str, str] = field(default_factory=dict[str, str])
    # the same for faults of somebody's own method, which a further run asks again
    faults: Mapping[str, str] = field(default_factory=dict[str, str])
