"""What is to be answered: one structure of a case, or of all images of a set, by one method, under one condition."""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from medical_sam2.data.data_sets import DataSet, read_data_set
from medical_sam2.evaluate.methods.named import label, method_named, settings
from medical_sam2.evaluate.protocols import Condition, Protocol
from medical_sam2.evaluate.rows import Row, Task
from medical_sam2.evaluate.tasks import KINDS, Kind
from medical_sam2.segmenter import Precision


@dataclass(frozen=True)
class Network:
    """What answers, and on what.

    Args:
        weights: name, file, folder or hub id.
        device: as of `Segmenter`.
        precision: as of `Segmenter`.
        image_size: side of the input in pixels; that of the weights unless given.
        threads: of the processor; as torch chooses unless given.
    """

    weights: str = "nano"
    device: str = "auto"
    precision: Precision = "auto"
    image_size: int | None = None
    threads: int | None = None


@dataclass(frozen=True)
class Job:
    """One answer.

    Args:
        folder: of the data set.
        case: identifier; empty for a set.
        structure: name.
        method: name.
        condition: of prompting.
        seed: of all draws.
        protocol: that it belongs to.
        network: that answers.
        cases: identifiers of the images of a set.
        others: identifiers of labelled cases that are not measured, to train on.
        sketch: folder where a picture of the answer is left; none unless given.
    """

    folder: Path
    case: str
    structure: str
    method: str
    condition: Condition
    seed: int
    protocol: Protocol
    network: Network
    cases: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    sketch: Path | None = None

    @property
    def blank(self) -> Row:
        """Its row, without an answer."""
        data, condition = data_set(self.folder), self.condition
        share = condition.share(data.kind)
        told = "one" if share is None else f"{share:g}"
        row = Row(
            data.name, data.kind, self.case, self.structure, label(self.method), self.kind, condition.care, told, self.seed
        )
        return replace(row, choice=condition.choice)

    @property
    def kind(self) -> Kind:
        """Of its prompts."""
        told = data_set(self.folder).prompt if self.condition.prompt == "own" else self.condition.prompt
        known: dict[str, Kind] = {kind: kind for kind in KINDS}
        return known.get(told or "", "box")

    @property
    def task(self) -> Task:
        """What tells it from the other jobs of a study."""
        return self.blank.task

    @property
    def answer_key(self) -> Hashable:
        """What decides about its answer: jobs of several protocols that agree in it are answered once."""
        protocol, (name, case, structure, _, *told) = self.protocol, self.task
        how = (settings(method_named(self.method)), protocol.views, protocol.fusion, protocol.tolerance_mm, protocol.limit_s)
        return (name, case, structure, *told, *how)


@lru_cache(maxsize=64)
def data_set(folder: Path) -> DataSet:
    """The listing of a data set."""
    return read_data_set(folder)
