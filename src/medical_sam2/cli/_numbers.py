"""Coordinates on a command line: "--point 32 30 4", "--point 32,30,4", "--point 2:32 30 4" become one word, and are checked."""

import re
from collections.abc import Sequence
from math import isfinite
from pathlib import Path

from medical_sam2.errors import PromptError

VOXELS = {"--point": "I J K", "--negative": "I J K", "--box": "I J K I2 J2 K2"}
PIXELS = {"--point": "X Y", "--negative": "X Y", "--box": "X Y X2 Y2"}
WANTED = {"segment": VOXELS, "suggest": VOXELS, "segment-images": PIXELS}
COUNTED = {2: "two", 3: "three", 4: "four", 6: "six"}
SEPARATORS = re.compile(r"[\s,]+")


def joined(words: Sequence[str]) -> list[str]:
    """The command line with the numbers of each option as one word, "--point=32 30 4".

    Raises:
        PromptError: an option has too few or too many numbers, or something that is none.
    """
    wanted = WANTED.get(words[0], {}) if words else {}
    found: list[str] = []
    place = 0
    while place < len(words) and words[place] != "--":
        option, equals, value = words[place].partition("=")
        place += 1
        if option not in wanted:
            found.append(words[place - 1])
            continue
        taken = [value] if equals else []
        while place < len(words) and _belongs(words[place], " ".join(taken), wanted[option]):
            taken.append(words[place])
            place += 1
        text = " ".join(taken)
        parsed(option, text, wanted[option])
        found.append(f"{option}={text}")
    return [*found, *words[place:]]


def parsed(option: str, text: str, wanted: str) -> tuple[str, list[float]]:
    """What stands before the last colon, and the numbers after it.

    Args:
        option: that they were given with.
        text: such as "2:32 30 4".
        wanted: names of the numbers, such as "I J K".

    Raises:
        PromptError: they are too few, too many, no numbers or not finite.
    """
    head, parts = _split(text)
    many = len(wanted.split())
    numbers = [number for part in parts if (number := _number(part)) is not None]
    if len(numbers) != many or len(parts) != many:
        got = f", not {text!r}" if text else ""
        raise PromptError(f"{option} needs {COUNTED[many]} numbers{got}", f"give {option} {wanted}")
    if not all(map(isfinite, numbers)):
        raise PromptError(f"{text} is not finite", "give finite numbers", subject=option)
    return head, numbers


def _belongs(word: str, taken: str, wanted: str) -> bool:
    """Whether a word goes on with the numbers: all until there are enough, then only what can be nothing but a number."""
    number = _number(_split(word)[1][0]) is not None if _split(word)[1] else False
    if len(_split(taken)[1]) < len(wanted.split()):
        return number or not word.startswith("-")
    return number and ":" not in word and not Path(word).exists()


def _split(text: str) -> tuple[str, list[str]]:
    head, _, numbers = text.rpartition(":")
    return head, [part for part in SEPARATORS.split(numbers) if part]


def _number(part: str) -> float | None:
    try:
        return float(part)
    except ValueError:
        return None
