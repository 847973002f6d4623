"""`scripts/mutate` names texts of the source: each must still be there, once, or its promise is no longer tried."""

from pathlib import Path
from runpy import run_path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MUTANTS = run_path(str(ROOT / "scripts/mutate"))["MUTANTS"]
SOURCES = [file.read_text(encoding="utf-8") for file in sorted((ROOT / "src").rglob("*.py"))]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.promise)
def test_the_text_of_a_mutant_stands_in_the_source_once(mutant) -> None:
    assert sum(source.count(mutant.text) for source in SOURCES) == 1
    assert all((ROOT / word).exists() for word in mutant.tests.split() if word.startswith("tests/") and "::" not in word)
