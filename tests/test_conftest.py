"""The rule about skips can itself fail."""

from pathlib import Path

import pytest

SKIPS = """
import pytest

@pytest.mark.skip(reason="the library is missing")
def test_forbidden(): ...

@pytest.mark.skip(reason="needs a GPU")
def test_allowed(): ...

@pytest.mark.xfail(strict=True)
def test_expected(): raise ValueError
"""


@pytest.fixture
def inner(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest((Path(__file__).parent / "conftest.py").read_text())
    return pytester


def test_only_the_want_of_a_gpu_excuses_a_skip(inner: pytest.Pytester) -> None:
    inner.makepyfile(SKIPS)
    result = inner.runpytest_inprocess("-p", "no:xdist")
    result.assert_outcomes(errors=1, skipped=1, xfailed=1)
    result.stdout.fnmatch_lines(["*Only tests that need a GPU may skip*the library is missing*"])


def test_a_file_may_not_skip_as_a_whole(inner: pytest.Pytester) -> None:
    inner.makepyfile("import pytest\npytest.importorskip('a_library_that_does_not_exist')\n")
    result = inner.runpytest_inprocess("-p", "no:xdist")
    result.assert_outcomes(errors=1)
