"""How long nobody touched a session, by a clock that cannot jump: nothing is removed because the machine's clock was set."""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from medical_sam2.errors import MedicalSam2Error
from medical_sam2.io import atomic

MOST_GAP_S = 86_400.0


class Ages:
    """Time that passed while a server ran; between two of them, a day at most.

    Args:
        path: of a file in which the count is kept from one server to the next.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._ran = path, time.monotonic()
        self._count_s, self._known = 0.0, dict[str, tuple[float, float]]()
        with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):  # without it, all are counted anew
            kept = json.loads(path.read_bytes())
            gap_s = min(max(time.time() - float(kept["wall"]), 0.0), MOST_GAP_S)
            self._known = {str(id): (float(touched), float(at)) for id, (touched, at) in kept["known"].items()}
            self._count_s = float(kept["count_s"]) + gap_s

    def of(self, touched: Mapping[str, float]) -> Mapping[str, float]:
        """Seconds since each was seen to be touched.

        Args:
            touched: id → time of its last change by the machine's clock, which is only compared with itself.
        """
        now = time.monotonic()
        self._count_s, self._ran = self._count_s + now - self._ran, now
        known = {id: self._known.get(id, (when, self._count_s)) for id, when in touched.items()}
        self._known = {id: (when, known[id][1] if known[id][0] == when else self._count_s) for id, when in touched.items()}
        kept = {"wall": time.time(), "count_s": self._count_s, "known": self._known}
        with suppress(MedicalSam2Error):  # a full disk: they are removed later
            atomic.write_bytes(self._path, json.dumps(kept).encode())
        return {id: self._count_s - at for id, (_, at) in self._known.items()}
