"""Every error that this package raises on purpose, and what of foreign ones is said.

MedicalSam2Error
├── InputError            exit 2   the input cannot be used
│   ├── FormatError                the file is broken, truncated, hostile or of an unknown format
│   ├── GeometryError              the grid cannot be trusted or does not fit
│   ├── PromptError                a click, box or mask lies where it cannot work
│   ├── WeightsError               a checkpoint cannot be used
│   └── ConfigError                a setting or name that does not exist
├── ResourceError         exit 3   too little memory or disk
└── AmbiguousError        exit 4   several readings are possible: the choices are listed

A message is one line: `SUBJECT: what is wrong; what to do`. One thing is a warning and no error: `FeaturesNotKept`.
"""

import errno
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM, errno.EMFILE}
ARGUMENT = re.compile(r"`(adapt|islands|threads|views)(?:=(\w+))?`")  # that an option of the same name sets
NO_MEMORY = re.compile("allocate memory|not enough memory|unable to mmap|failed to map segment|start new thread", re.IGNORECASE)
"""What libraries say for want of memory in errors that have no type of their own: torch, safetensors, the dynamic linker."""
DEFECT = 70
"""Exit code of an error of this program."""
OF_ONE = {"are": "is", "were": "was", "have": "has", "hold": "holds", "exist": "exists"}


class MedicalSam2Error(Exception):
    """Base of all errors of this package.

    Args:
        problem: what was got and what is wrong with it.
        remedy: what to do about it.
        subject: the file, prompt or setting at fault; a path is shown as it was given.
    """

    exit_code = 2

    def __init__(self, problem: str, remedy: str = "", *, subject: str | Path | None = None) -> None:
        self.problem, self.remedy, self.subject = problem, remedy, subject
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.subject}: {self.problem}" if self.subject is not None else self.problem
        text = f"{text}; {self.remedy}" if self.remedy else text
        return " ".join(text.split())

    def about(self, subject: str | Path) -> "MedicalSam2Error":
        """The same error with its subject named, where the place that raised it did not know it."""
        return self if self.subject is not None else type(self)(self.problem, self.remedy, subject=subject)


class InputError(MedicalSam2Error):
    """The input cannot be used."""


class FormatError(InputError):
    """The file is broken, truncated, hostile or of an unknown format."""


class GeometryError(InputError):
    """The grid of an image cannot be trusted, or two grids do not fit each other."""


class PromptError(InputError):
    """A prompt lies where it cannot work."""


class WeightsError(InputError):
    """A checkpoint cannot be used."""


class ConfigError(InputError):
    """A setting or a name that does not exist."""


class ResourceError(MedicalSam2Error):
    """Too little memory or disk for the work asked for."""

    exit_code = 3


class AmbiguousError(MedicalSam2Error):
    """Several readings of the input are possible.

    Args:
        choices: one line each, with the option that picks it.
    """

    exit_code = 4

    def __init__(
        self, problem: str, remedy: str = "", *, subject: str | Path | None = None, choices: Sequence[str] = ()
    ) -> None:
        self.choices = tuple(choices)
        super().__init__(problem, remedy, subject=subject)

    def __str__(self) -> str:
        listed = " ".join(", ".join(self.choices).split())
        return f"{super().__str__()}: {listed}" if listed else super().__str__()

    def about(self, subject: str | Path) -> "AmbiguousError":
        """The same error with its subject named."""
        if self.subject is not None:
            return self
        return AmbiguousError(self.problem, self.remedy, subject=subject, choices=self.choices)


class FeaturesNotKept(UserWarning):
    """Features cannot be written to their folder; results are the same, and the next run takes longer."""


@contextmanager
def gathering_unkept() -> Iterator[list[str]]:
    """What is told of features that cannot be kept while the context lasts, each line once; other warnings go their way."""
    told: list[str] = []
    with warnings.catch_warnings(action="always", category=FeaturesNotKept):
        show = warnings.showwarning

        def note(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if not issubclass(category, FeaturesNotKept):
                show(message, category, *place, **more)
            elif str(message) not in told:
                told.append(str(message))

        warnings.showwarning = note
        yield told


def spell_options(text: str) -> str:
    """A message that names arguments of the Python interface, such as `views=one`, in the command line's words: --views one."""
    return ARGUMENT.sub(lambda found: f"--{found[1]}" + (f" {found[2]}" if found[2] else ""), text)


def explain_refusal(error: BaseException) -> tuple[str, int] | None:
    """What the machine refused, in one line, and the exit code: memory, disk, a file; None for any other foreign error.

    Foreign errors are not quoted: they may name a person.
    """
    short = next((each for each in _causes(error) if tells_of_memory(each)), None)
    if short is not None:
        asked = re.search(r"allocate ([\d.]+) (bytes|[KMGT]iB)", str(short))
        more = f": {asked[1]} {asked[2]} more were asked for" if asked else ""
        remedy = "close other programs or lift the limit (ulimit -v), crop the image or make it coarser, give fewer threads"
        return f"the memory is exhausted{more}; {remedy}", ResourceError.exit_code
    if isinstance(error, OSError) and error.errno:
        code = ResourceError.exit_code if error.errno in FULL else InputError.exit_code
        name = f"{error.filename}: " if error.filename else ""
        return f"{name}{os.strerror(error.errno).lower()}; check the path, its permissions and the disk", code
    if type(error).__name__ == "OutOfMemoryError":
        return "the memory of the GPU is exhausted; use --device cpu or a smaller image", ResourceError.exit_code
    return None


def read_number(text: str) -> float:
    """A number as people write it, whole ones whole, however large (Python takes 1_0 for 10); raises ValueError."""
    if "_" in text:
        raise ValueError(text)
    try:
        return int(text)
    except ValueError:
        return float(text)


def say_count(number: int, noun: str, verb: str = "", *, part: int | None = None) -> str:
    """So many things, or some of so many, as a message says it, and the verb that follows.

    Args:
        number: of things.
        noun: for one of them.
        verb: for several of them: are, were, have, hold or exist.
        part: how many of them are meant, unless it is all.

    >>> say_count(1, "image", "were"), say_count(0, "label map"), say_count(8, "image", "are", part=1)
    ('1 image was', '0 label maps', '1 of 8 images is')
    """
    follows = OF_ONE[verb] if (number if part is None else part) == 1 and verb else verb
    some = "" if part is None else f"{part} of "
    return f"{some}{number} {noun}{'s' * (number != 1)} {follows}".rstrip()


def require_index(what: str, index: int, count: int, subject: str | Path | None) -> None:
    """Refuse an index, from 0, beyond what a file has (frames, pages, time points); raises InputError."""
    if not 0 <= index < count:
        only = count == 1
        problem = f"there is no {what} {index}" + (": there is but one" if only else f" among {count}")
        raise InputError(problem, "use 0, or leave it out" if only else f"use 0 to {count - 1}", subject=subject)


def list_first(things: Sequence[object], most: int = 3) -> str:
    """The first of many, as a message names them.

    >>> list_first(["a.png", "b.png"]), list_first(range(9))
    ('a.png, b.png', '0, 1, 2 …')
    """
    return ", ".join(map(str, things[:most])) + " …" * (len(things) > most)


def tells_of_memory(error: BaseException) -> bool:
    """Whether a foreign error says that there is too little memory, of whatever type it is."""
    return isinstance(error, MemoryError) or (
        isinstance(error, ImportError | RuntimeError | OSError) and bool(NO_MEMORY.search(str(error)))
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it was made of, and so on: a command that cannot be loaded hides why."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
