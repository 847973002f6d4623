"""A journal: steps on disk before they are acknowledged, so that nothing acknowledged is lost to a power cut or kill -9."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from medical_sam2.errors import FormatError
from medical_sam2.server.refusals import Unusable
from medical_sam2.server.state import History, Step, from_json, to_json

REMEDY = "remove the session's folder"


class Journal:
    """A file of steps, one line each, flushed to the disk one by one.

    Args:
        path: of the file; what it holds already is `history`. A last line that was not finished was not acknowledged and is
            cut off.

    Raises:
        FormatError: a line in the middle is broken, is missing, or comes twice.
    """

    def __init__(self, path: Path) -> None:
        self.history = History()
        whole = 0
        for number, (step, end) in enumerate(_steps(path), 1):
            if step.version != number:
                raise FormatError(f"line {number} of the journal is that of step {step.version}", REMEDY)
            try:
                self.history, whole = self.history.after(step), end
            except Unusable:
                raise FormatError(f"line {number} of the journal does not follow from those before it", REMEDY) from None
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._file, whole)
        os.lseek(self._file, 0, os.SEEK_END)
        _sync_folder(path.parent)

    def write(self, step: Step) -> History:
        """Take a step: it is on the disk when this returns.

        Raises:
            Unusable: it cannot be taken; nothing was written.
            OSError: the disk is full; nothing was taken.
        """
        after = self.history.after(step)
        start = os.lseek(self._file, 0, os.SEEK_CUR)
        data = (json.dumps(to_json(step), ensure_ascii=False, separators=(",", ":")) + "\n").encode()
        try:
            while data:
                data = data[os.write(self._file, data) :]
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, start)
            os.lseek(self._file, start, os.SEEK_SET)
            raise
        self.history = after
        return after

    def close(self) -> None:
        """Nothing more is written."""
        file, self._file = self._file, -1  # a number that the system gives to another file is not written to
        os.close(file)


def _steps(path: Path) -> Iterator[tuple[Step, int]]:
    """Each step, and where its line ends."""
    end = 0
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            return
        try:
            step = from_json(json.loads(line))
        except (ValueError, KeyError, TypeError):
            if number == len(lines):
                return
            raise FormatError(f"line {number} of the journal is broken", REMEDY) from None
        end += len(line)
        yield step, end


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
