"""JSON from people and programs: strict, bounded, and never of a version that is not known."""

import json
import math
from pathlib import Path
from typing import Any

from medical_sam2.errors import FormatError
from medical_sam2.io.files import open_regular

MOST_BYTES = 64 << 20


def load_json(path: Path | str, *, newest: int | None = 1, max_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: the file.
        newest: the highest `version` that the caller understands; a file without a version counts as version 1. None for
            files of other programs, whose `version` is their own affair.
        max_bytes: largest file.

    Raises:
        FormatError: no JSON object, NaN or infinite numbers, a key twice, nested too deeply, or of a future version.
    """
    path = Path(path)
    with open_regular(path) as stream:
        data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise FormatError(f"the file is larger than {max_bytes} bytes", "check what it is", subject=path)
    return parse_json(data, path, newest=newest)


def parse_json(data: bytes | str, subject: Path | str, *, newest: int | None = 1) -> dict[str, Any]:
    """Parse a JSON object that came from elsewhere; see `load_json`."""
    try:
        parsed = json.loads(data, parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_unique)
    except RecursionError:
        raise FormatError("its JSON is nested too deeply", "check what it is", subject=subject) from None
    except FormatError as error:
        raise error.about(subject) from None
    except ValueError as error:
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise FormatError(f"this is no valid JSON{where}", "repair the file", subject=subject) from None
    if not isinstance(parsed, dict):
        raise FormatError("it holds no JSON object", "check what it is", subject=subject)
    if newest is not None:
        _check_version(parsed.get("version", 1), newest, subject)
    return parsed


def _check_version(version: object, newest: int, subject: Path | str) -> None:
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise FormatError("its version is no positive whole number", "repair the file", subject=subject)
    if version > newest:
        raise FormatError(
            f"it was written by a newer program (version {version}, known up to {newest})",
            "update this program",
            subject=subject,
        )


def _no_constant(name: str) -> float:
    raise FormatError(f"it holds {name}, which is no JSON number", "write finite numbers")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise FormatError(f"it holds the number {text[:20]}, which is infinite", "write finite numbers")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise FormatError("it holds a key twice", "repair the file")
    return found
