"""Plug-ins: found by short name, module or file; what cannot be found is said in one line with the nearest name."""

import dataclasses
import math
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medical_sam2.errors import ConfigError
from medical_sam2.plugins import find, suggestion

TABLE = {"mean": 1, "vote": 2, "weighted": 3}
PLUGIN = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass(frozen=True)
class Bank:
    size: int = 7
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "plugin.py"
    path.write_text(PLUGIN, encoding="utf-8")
    return path


def test_short_names() -> None:
    assert [find(TABLE, name) for name in TABLE] == [1, 2, 3]


def test_the_part_itself() -> None:
    assert find(TABLE, 4) == 4


def test_module_and_attribute() -> None:
    assert find({"e": 2.7}, "math:pi") == math.pi


def test_file_and_attribute(plugin: Path) -> None:
    bank = find({}, f"{plugin}:Bank")
    assert bank().size == 7
    assert dataclasses.is_dataclass(bank)
    assert find({}, f"{plugin}:Bank") is bank, "loaded once, so that isinstance works"


def test_two_files_of_one_name_are_two_modules(plugin: Path, tmp_path: Path) -> None:
    other = tmp_path / "more" / "plugin.py"
    other.parent.mkdir()
    other.write_text(PLUGIN.replace("7", "8"), encoding="utf-8")
    assert (find({}, f"{plugin}:Bank")().size, find({}, f"{other}:Bank")().size) == (7, 8)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vot", "unknown fusion 'vot'; did you mean 'vote'\\? valid are mean, vote, weighted"),
        ("zzz", "valid are mean, vote, weighted"),
        ("Mean", "did you mean 'mean'"),
        ("no_such_module_here:x", "cannot load fusion 'no_such_module_here:x': ModuleNotFoundError"),
        ("math:pie", "did you mean 'pi'"),
        ("nowhere.py:x", "there is no file nowhere.py"),
        (":x", "cannot load"),
        ("math:", "math has no ''"),
        ("", "unknown fusion ''"),
    ],
)
def test_what_is_not_there(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        find(TABLE, name, what="fusion")


def test_a_broken_file_is_named_and_may_be_mended(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("1 / 0", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"broken\.py:Bank': ZeroDivisionError"):
        find({}, f"{path}:Bank")
    path.write_text(PLUGIN, encoding="utf-8")
    assert find({}, f"{path}:Bank")().size == 7


def test_untrusted_names_run_no_code(tmp_path: Path) -> None:
    path, trace = tmp_path / "evil.py", tmp_path / "trace"
    path.write_text(f"open({str(trace)!r}, 'w').close()", encoding="utf-8")
    with pytest.raises(ConfigError, match="unknown") as caught:
        find(TABLE, f"{path}:x", trusted=False)
    assert not trace.exists()
    assert "module:attribute" not in str(caught.value)
    assert find(TABLE, "vote", trusted=False) == 2


@given(st.sampled_from(sorted(TABLE)), st.data())
def test_one_slip_is_mended(name: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(name) - 1))
    assert f"did you mean {name!r}" in suggestion(name[:place] + name[place + 1 :], TABLE)


def test_nothing_to_suggest() -> None:
    assert suggestion("x", []) == "none is defined"


class Speaker(Protocol):
    """What a plug-in of these tests has to be."""

    def speak(self) -> str: ...

    def stop(self) -> None: ...


class Parrot:
    def speak(self) -> str:
        return "hello"

    def stop(self) -> None: ...


class Mute:
    def stop(self) -> None: ...


PARROT, GREY_PARROT = Parrot(), partial(Parrot)


@pytest.mark.parametrize("name", ["os:system", "os:sep", "os:PathLike", f"{__file__}:{Mute.__name__}", f"{__file__}:PARROT"])
def test_what_is_no_such_class(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name} is no bank; give a class with speak and stop \(see .*\.Speaker\)"):
        find({}, name, what="bank", makes=Speaker)


def test_what_is_no_such_object() -> None:
    for name in ("os:system", f"{__file__}:Parrot"):
        with pytest.raises(ConfigError, match=f"{name} is no method; give an object with speak and stop"):
            find({}, name, what="method", interface=Speaker)


def test_what_is_one() -> None:
    assert find({}, f"{__file__}:Parrot", makes=Speaker)().speak() == "hello"
    assert find({}, f"{__file__}:GREY_PARROT", makes=Speaker)().speak() == "hello"
    assert find({}, f"{__file__}:PARROT", interface=Speaker).speak() == "hello"
