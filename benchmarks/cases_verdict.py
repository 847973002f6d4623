"""A case of `cases.py`: its command, what it should do, and what is wrong with what it did."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from nasty_verdict import Run

TRACKING_S, MOST_MB = 120.0, 2000.0
Check = Callable[[Run], tuple[str, bool]]


@dataclass(frozen=True)
class Case:
    """A command, and what it should do.

    Args:
        name: folder and file.
        expected: in words.
        command: arguments of `medsam2`.
        check: what happened, in words, and whether that is right.
        limit_s: seconds.
    """

    name: str
    expected: str
    command: list[str]
    check: Check
    limit_s: float = TRACKING_S


def judged(case: Case, run: Run) -> tuple[str, bool]:
    """What happened; a signal, a defect, much memory or a second line of error are wrong whatever was expected."""
    errors = [line for line in run.err.splitlines() if not line.startswith(("warning: ", "review next: ", "failed"))]
    if run.code < 0 or run.code not in {0, 2, 3, 4} or run.rss_mb > MOST_MB or (run.code and len(errors) != 1):
        return f"exit {run.code}, {run.rss_mb:.0f} MB, {len(errors)} lines", False
    happened, right = case.check(run)
    return re.sub(r"(/\S+)/", "", happened).replace("|", "/")[:200], right


def refused(*codes: int, says: str = "") -> Check:
    """One line, an exit code of these, and the words."""
    return lambda run: (f"exit {run.code}: {run.err.strip()}", run.code in codes and says in run.err and ";" in run.err)


def little_memory(run: Run) -> tuple[str, bool]:
    text, right = refused(2, 3)(run)
    return f"{run.rss_mb:.0f} MB, {text}", right and run.rss_mb < MOST_MB / 2


def line_of(text: str, word: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.startswith(word)), "")


def lost_links(run: Run) -> tuple[str, bool]:
    return f"exit {run.code}: {run.err.strip()}", "link" in run.err and ("00.dcm" in run.err or "23.dcm" in run.err)
