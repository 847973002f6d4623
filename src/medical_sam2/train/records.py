"""What a run leaves behind beside its weights: metrics.jsonl always, TensorBoard where it is installed."""

import json
import math
import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from medical_sam2.io.atomic import write_bytes

if TYPE_CHECKING:
    from medical_sam2.train.loop import Progress
    from medical_sam2.train.validation import Look

METRICS, CURVES = "metrics.jsonl", "tensorboard"


class Records:
    """Curves of a run. Rows that a killed run wrote after its last checkpoint are dropped, so that each step has one; the
    others are on the disk at any time.

    Args:
        folder: of the run.
        step: that the run goes on from.
        write: whether this process is the one that writes.
    """

    def __init__(self, folder: Path, step: int, *, write: bool = True) -> None:
        self._stack, self._file, self._board = ExitStack(), None, None
        if not write:
            return
        path = folder / METRICS
        if path.exists():
            kept = [row for row in path.read_text().splitlines() if _before(row, step)]
            write_bytes(path, "".join(f"{row}\n" for row in kept).encode())
        self._file = self._stack.enter_context(path.open("a"))
        self._board = _board(folder / CURVES, step)
        if self._board is not None:
            self._stack.callback(self._board.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, progress: "Progress") -> None:
        """A step."""
        self._row(vars(progress))

    def look(self, step: int, look: "Look") -> None:
        """Validation clips."""
        self._row({"step": step, "validation_dice": look.dice})
        if self._board is not None and look.picture is not None:
            self._board.add_image("validation", np.asarray(look.picture), step, dataformats="HWC")

    def _row(self, values: dict[str, Any]) -> None:
        if self._file is None:
            return
        known = {key: value for key, value in values.items() if not (isinstance(value, float) and math.isnan(value))}
        self._file.write(json.dumps(known) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        if self._board is not None:
            for key, value in known.items():
                if key != "step":
                    self._board.add_scalar(key, value, values["step"])


def _before(row: str, step: int) -> bool:
    try:
        return int(json.loads(row)["step"]) <= step
    except (ValueError, KeyError, TypeError):
        return False  # half a line, of a run that was killed


def _board(folder: Path, step: int) -> Any:
    """A writer for TensorBoard; None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)
