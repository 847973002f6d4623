"""Sessions that wait for their files: how many, how large, how long."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from medical_sam2.server.refusals import Conflict, Missing, TooLarge, Unusable
from medical_sam2.server.settings import Settings

SUFFIX = re.compile(r"(\.(nii|nrrd|nhdr|mha|mhd|raw|hdr|img|dcm|zip|png|jpe?g|tiff?|bmp))?(\.gz)?")
PAIRED = {".hdr", ".img", ".nhdr", ".mhd", ".raw"}
WITHIN_S = 3_600.0


@dataclass(eq=False)
class Upload:
    """What came of a session so far.

    Args:
        began: on the clock that only runs forward.
        bytes: that came.
        files: that were begun.
        opening: whether they are being read.
    """

    began: float = field(default_factory=time.monotonic)
    bytes: int = 0
    files: int = 0
    opening: bool = False


class Uploads:
    """All of them.

    Args:
        settings: with the folder of the sessions and the limits.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings, self._lock = settings, threading.Lock()
        self._uploads: dict[str, Upload] = {}

    def begin(self, id: str) -> None:
        """A session waits from now on."""
        with self._lock:
            self._uploads[id] = Upload()

    def forget(self, id: str) -> None:
        """It does not wait any more."""
        with self._lock:
            self._uploads.pop(id, None)

    def wait(self, id: str) -> bool:
        """Whether a session waits for files, and for no longer than it may."""
        upload = self._uploads.get(id)
        return upload is not None and (upload.opening or time.monotonic() - upload.began < WITHIN_S)

    def room(self, id: str, suffix: str) -> Path:
        """One more empty file, to be written to.

        Raises:
            Missing: no session waits for files under this id.
            Conflict: it is being opened, or has this part of a pair.
            Unusable: a kind of file that nobody reads.
        """
        with self._lock:
            upload, suffix = self._waiting(id), suffix.lower()
            if not SUFFIX.fullmatch(suffix):
                raise Unusable("files of this kind are not read; give NIfTI, NRRD, MetaImage, DICOM, PNG, JPEG, TIFF or a zip")
            source = self._settings.state / id / "source"
            if sum(1 for _ in source.iterdir()) >= self._settings.most_files:
                raise TooLarge(f"more than {self._settings.most_files} files")
            alone = suffix.removesuffix(".gz") in PAIRED
            path = source / f"{1 if alone else upload.files + 1:05d}{suffix}"
            try:
                path.touch(0o600, exist_ok=False)
            except FileExistsError:
                raise Conflict(f"there is a {suffix} file already; begin a new session for another image") from None
            upload.files += 1
            return path

    def received(self, id: str, count: int) -> None:
        """Bytes that have come in.

        Raises:
            TooLarge: more than a session may have.
        """
        with self._lock:
            upload = self._waiting(id)
            upload.bytes += count
            if upload.bytes > self._settings.most_upload_mb << 20:
                raise TooLarge(f"the upload is larger than {self._settings.most_upload_mb} MB")

    @contextmanager
    def opening(self, id: str) -> Iterator[None]:
        """Nobody else opens it, and nothing more comes.

        Raises:
            Missing: no session waits under this id.
            Conflict: it is being opened.
        """
        with self._lock:
            upload = self._waiting(id)
            upload.opening = True
        try:
            yield
        finally:
            upload.opening = False

    def _waiting(self, id: str) -> Upload:
        if id not in self._uploads:
            raise Missing("upload")
        if self._uploads[id].opening:
            raise Conflict("this session is being opened already; wait for that")
        return self._uploads[id]
