"""A study: what is measured, on what, with what; and what came of it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from medical_sam2.evaluate.job import Network
from medical_sam2.evaluate.methods.named import method_named, settings
from medical_sam2.evaluate.protocols import Protocol
from medical_sam2.evaluate.rows import Row


@dataclass(frozen=True)
class Study:
    """What is measured, on what, with what.

    Args:
        protocol: the description.
        data: folders of nnU-Net raw data sets.
        network: that answers.
        weights_sha256: of its weights.
        cases: volumes of each data set, spread over its list; all unless given.
        slices: of a volume; those with more are passed over.
        images: of each set, spread over its list; all unless given.
        structures: of each data set, spread over its list; all unless given.
        draws: whether a picture of the first case of each data set is kept, of each method.
    """

    protocol: Protocol
    data: tuple[Path, ...]
    network: Network
    weights_sha256: str
    cases: int | None = None
    slices: int | None = None
    images: int | None = None
    structures: int | None = None
    draws: bool = False

    def described(self) -> dict[str, Any]:
        """What decides about an answer; answers of equal descriptions may be put together."""
        network = {name: value for name, value in asdict(self.network).items() if name not in ("weights", "threads")}
        return {
            "protocol": self.protocol.described(),
            "methods": {name: settings(method_named(name)) for name in self.protocol.methods},
            "network": {**network, "sha256": self.weights_sha256},
            "images": self.images,
        }


@dataclass(frozen=True)
class Done:
    """Some more answers; the first one told is none, of so many.

    Args:
        done: answers so far.
        total: of all that this run makes.
        what: data set, case and structure.
        share: of the work that is done, in [0, 1].
    """

    done: int
    total: int
    what: str
    share: float


@dataclass(frozen=True)
class Outcome:
    """What a study found.

    Args:
        rows: of all answers.
        skipped: case and structure → why it was not measured, once.
        failed: the same for defects of this program, which a further run tries again.
        fresh: answers that this run made.
        left_out: data set → what of it was not measured, because less was asked for.
    """

    rows: tuple[Row, ...]
    skipped: Mapping[str, str]
    failed: Mapping[str, str]
    fresh: int
    left_out: Mapping[str, str] = field(default_factory=dict[str, str])
