"""JSON is strict."""

from pathlib import Path

import pytest

from medical_sam2 import io
from medical_sam2.errors import FormatError


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": NaN}', "NaN"),
        ('{"a": [-Infinity]}', "Infinity"),
        ('{"a": 1e999}', "infinite"),
        ('{"a": 1, "a": 2}', "twice"),
        ("[1]", "no JSON object"),
        ("{", "line 1"),
        ("", "no valid JSON"),
        ('{"version": 2}', "newer program"),
        ('{"version": 0}', "version"),
        ('{"version": true}', "version"),
        ('{"version": "1"}', "version"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested"),
        ('{"a": ' + "1" * 5000 + "}", "5000 digits"),
        ('{"a": [-1' + "0" * 400 + "]}", "402 digits"),  # which no float holds
    ],
)
def test_what_is_refused(text: str, said: str) -> None:
    with pytest.raises(FormatError, match=said):
        io.parse_json(text, "prompts.json")


def test_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes('{"version": 1, "name": "é"}'.encode())
    assert io.load_json(tmp_path / "a.json") == {"version": 1, "name": "é"}
    assert io.parse_json(b"{}", "x") == {}
    assert io.parse_json(b'{"version": 3}', "x", newest=3) == {"version": 3}


@pytest.mark.parametrize("data", [b'{"a": "\xff"}', b"\xff\xfe{"])
def test_other_encodings_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match="no valid JSON"):
        io.parse_json(data, "x")


def test_large_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"{}" + b" " * 100)
    with pytest.raises(FormatError, match="larger than 50"):
        io.load_json(tmp_path / "a.json", max_bytes=50)
