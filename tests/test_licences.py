"""This package is under Apache-2.0, and so may not need what is under the GPL or AGPL: neither itself nor what that needs."""

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, PackagePath, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
COPYLEFT = re.compile(r"(?<![A-Za-z])A?GPL|(?<!Lesser )General Public License|Affero", re.IGNORECASE)
A_LINE = 100
"""A licence field that is longer holds the text, which may speak of others."""


def test_nothing_that_is_needed_is_under_the_gpl() -> None:
    wanted = [*PROJECT["dependencies"], *(line for extra in PROJECT["optional-dependencies"].values() for line in extra)]
    found = {name: licence for name, licence in licences(wanted) if COPYLEFT.search(licence)}
    assert found == {}


@pytest.mark.parametrize(
    ("said", "bad"),
    [
        ("GPL-3.0-or-later", True),
        ("AGPL-3.0", True),
        ("GPL v3.0", True),
        ("License :: OSI Approved :: GNU General Public License v3 (GPLv3)", True),
        ("License :: OSI Approved :: GNU Affero General Public License v3", True),
        ("LGPL-2.1", False),
        ("License :: OSI Approved :: GNU Lesser General Public License v3 (LGPLv3)", False),
        ("MIT", False),
        ("Apache-2.0", False),
    ],
)
def test_the_words_of_licences(said: str, bad: bool) -> None:
    assert bool(COPYLEFT.search(said)) == bad


def licences(wanted: list[str]) -> Iterator[tuple[str, str]]:
    """Each installed package that these lines ask for, and those need in turn, with what it says of its licence."""
    seen: set[tuple[str, str]] = set()
    todo = [(Requirement(line), "") for line in wanted]
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        for own in requirement.extras or {""}:
            if (requirement.name, own) in seen:
                continue
            seen.add((requirement.name, own))
            try:
                found = distribution(requirement.name)
            except PackageNotFoundError:
                continue
            yield requirement.name, licence(found)
            todo += [(Requirement(line), own) for line in found.requires or []]


def licence(found: Distribution) -> str:
    """What a package says in its fields for it."""
    told = found.metadata
    lines = [told.get("License-Expression", ""), told.get("License", ""), *told.get_all("Classifier", [])]
    return "; ".join(line for line in lines if len(line) < A_LINE)


class Fake(Distribution):
    """A package with a licence."""

    def __init__(self, said: str) -> None:
        self.said = said

    def read_text(self, filename: str) -> str | None:
        return f"Metadata-Version: 2.1\nName: fake\nVersion: 1\n{self.said}\n" if filename == "METADATA" else None

    def locate_file(self, path: object) -> PackagePath:
        return PackagePath(str(path))


@pytest.mark.parametrize("said", ["License: GPL-3.0", "License-Expression: AGPL-3.0-only", "Classifier: License :: GPL v2"])
def test_each_field_is_looked_at(said: str) -> None:
    assert COPYLEFT.search(licence(Fake(said)))
