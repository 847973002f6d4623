"""The network sees the slice that is shown, and those beside it, before anybody points at them."""

import time
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from medical_sam2.segmenter import Segmenter
from medical_sam2.server.inference_queue import InferenceQueue
from medical_sam2.server.security import ServerSettings
from tests.backbones import Brightness
from tests.server.browsing import Person, running
from tests.server.conftest import session
from tests.server.test_page_gestures import SHAPE, SPACING, changes, opened
from tests.server.test_session import click

pytestmark = pytest.mark.usefixtures("inline")


def seen(segmenter: Segmenter) -> int:
    """How many pictures its network was shown."""
    assert isinstance(segmenter.network, Brightness)
    return len(segmenter.network.counts.encoded)


def reached(segmenter: Segmenter, count: int) -> bool:
    """Whether it is shown so many in the end, and no more."""
    ends = time.monotonic() + 30
    while seen(segmenter) < count and time.monotonic() < ends:
        time.sleep(0.05)
    return settled(segmenter) == count


def settled(segmenter: Segmenter) -> int:
    """The same, when no more come."""
    count = -1
    while count != seen(segmenter):
        count = seen(segmenter)
        time.sleep(0.7)
    return count


def test_slices_beside_the_shown_one_are_seen_while_nothing_else_is_done(browser: Browser, tmp_path: Path) -> None:
    network = Segmenter(Brightness(), device="cpu", precision="fp32")
    with running(ServerSettings(tmp_path / "state", token="t" * 32), InferenceQueue(lambda: network)) as settings:
        person = Person.at(browser, settings)
        opened(person, tmp_path)
        assert reached(network, 5)  # the middle slice, two on either side
        person.view("axial").press("PageUp")
        expect(person.page.locator(".view.axial .counter")).to_have_text("K 9 of 0–15")
        assert reached(network, 6)
        counts = []
        for number, t in enumerate((10, 3), 1):
            person.page.evaluate("window.setTimeout = () => 0")  # nobody rests any more
            person.page.locator(".view.axial input[type=range]").fill(str(t))
            before = settled(network)
            person.click("axial", (6, 5), SHAPE, SPACING)
            changes(person.page, number)
            counts.append(seen(network) - before)
        assert counts[0] == counts[1] - 1  # the whole slice was seen, what is looked at closer was not
        person.page.context.close()


def test_what_waits_for_an_idle_moment_is_dropped_for_what_is_shown_now(tmp_path: Path) -> None:
    network = Segmenter(Brightness(), device="cpu", precision="fp32")
    place, case = session(tmp_path, InferenceQueue(lambda: network))
    with place.queue.segmenter(urgent=True):
        for t in (2, 12, 0):
            place.see_ahead("axial", t)
    while seen(network) < 3:
        time.sleep(0.05)
    assert 3 <= settled(network) <= 4  # 0, 1, 2, and what was begun before
    place.queue.end_idle()
    place.add_structure(0)
    place.add_gesture(1, click(case, 1))  # and the lock is free again
    place.close()
