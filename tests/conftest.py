"""Rules for every test: one thread each, no clock, and no skip but for want of a GPU."""

import gc
import os
from collections.abc import Generator
from typing import TypeVar

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: the tests run beside each other

import pytest
from hypothesis import settings

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)
NEEDS_A_GPU = "needs a GPU"
LONG = (
    "tests/train/",
    "tests/test_docs.py",
)  # first, and together: nobody waits for them in the end, and they load things once

settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=40)  # the same examples every time
settings.register_profile("long", deadline=None, max_examples=10_000, print_blob=True)  # by hand: --hypothesis-profile=long
settings.load_profile("repeatable")
gc.disable()  # while everything is imported


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long comes first; what is marked `gpu` is skipped where no GPU is."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not has_gpu():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=NEEDS_A_GPU))


def pytest_collection_finish() -> None:
    """No collection of garbage looks through all that was imported, and processes that fork share its memory."""
    gc.freeze()
    gc.enable()


def has_gpu() -> bool:
    """Whether this machine has CUDA or MPS."""
    import torch

    return torch.cuda.is_available() or torch.backends.mps.is_available()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that skips itself fails: whatever it lacks, the set-up should have installed."""
    return refuse_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a file that skips itself as a whole."""
    return refuse_skip((yield))


def refuse_skip(report: Report) -> Report:
    """The report, as a failure if it is a skip for another reason than the one allowed."""
    if report.skipped and not hasattr(report, "wasxfail") and NEEDS_A_GPU not in str(report.longrepr):
        report.outcome = "failed"
        report.longrepr = f"Only tests that need a GPU may skip; this one did: {report.longrepr}"
    return report
