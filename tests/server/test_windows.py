"""The page is shown what the network sees, and told who chose it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medical_sam2 import io
from medical_sam2.cli import main
from medical_sam2.intensity_window import Window
from medical_sam2.io import Picture
from medical_sam2.prompts import FramePrompt, Point
from medical_sam2.segmenter import Segmenter
from medical_sam2.server.inference_queue import InferenceQueue
from medical_sam2.server.rendering import encode_frame
from medical_sam2.server.security import ServerSettings
from medical_sam2.server.segmentation import SessionImageSet, SessionVolume
from medical_sam2.server.state import Gesture
from medical_sam2.volume import Volume
from tests.backbones import Brightness
from tests.phantoms import segmenter
from tests.server.conftest import Served
from tests.test_intensity_window import ct, tissue

LUNG, SOFT = Window(-1250, 250), Window(-160, 240)


def said(t: int, y: int, x: int, plane: str = "axial") -> Gesture:
    return Gesture(1, 1, plane, t, "points", ((y, x),), (True,))


def seen_by(subject: SessionVolume, voxel: tuple[int, int, int]) -> Window:
    """What the network truly saw."""
    return segmenter().segment_volume(subject.volume, [Point(voxel)], window=subject.window_name).windows[1]


@pytest.mark.parametrize(("voxel", "window"), [((8, 7, 5), LUNG), ((16, 12, 5), SOFT)])
def test_a_structure_is_told_the_window_that_the_network_saw_it_through(voxel: tuple[int, int, int], window: Window) -> None:
    subject = SessionVolume(Volume(ct(), np.diag([-1.0, -1.0, 1.0, 1.0])))
    i, j, k = voxel
    assert subject.window == SOFT
    assert subject.network_window([said(k, j, i)]) == seen_by(subject, voxel) == window
    told = SessionVolume(subject.volume, "percentile")
    assert told.network_window([said(k, j, i)]) == told.window == seen_by(told, voxel) != window


def test_a_slice_is_seen_ahead_through_the_windows_of_the_structures_that_were_shown() -> None:
    subject, network, counts = SessionVolume(Volume(ct(), np.diag([-1.0, -1.0, 1.0, 1.0]))), Brightness(), list[int]()
    asked = Segmenter(network, device="cpu", precision="fp32")
    for gestures in ([], [said(5, 7, 8)], [said(5, 12, 16)], [said(5, 7, 8), said(5, 12, 16)]):
        subject.see_ahead(asked, "axial", 3, gestures)
        counts.append(len(network.counts.encoded))
    assert counts == [1, 2, 2, 2]  # soft tissue, and the lung that somebody clicked on
    needed = list[int]()
    for t, seen in ((4, [said(5, 7, 8)]), (6, [])):
        subject.see_ahead(asked, "axial", t, seen)
        before = len(network.counts.encoded)
        subject.segment_frame(asked, [said(t, 7, 8)], None)
        needed.append(len(network.counts.encoded) - before)
    assert needed[0] == needed[1] - 1  # the whole slice is there


def test_a_mad_voxel_leaves_the_page_its_levels() -> None:
    array = (1000 * tissue(0)).astype(np.float32)
    plain = SessionVolume(Volume(array.copy(), np.eye(4))).extent
    array[3, 3, 3] = 1e30
    extent = SessionVolume(Volume(array, np.eye(4))).extent
    assert plain.high == pytest.approx(float(tissue(0).max() * 1000), rel=0.01)
    assert plain.high < extent.high < 50 * plain.high
    codes = np.frombuffer(encode_frame(array[:, :, 3], extent, 0).data, "<u2")
    assert len(np.unique(codes)) > 100


def test_an_image_is_told_as_the_network_sees_it() -> None:
    grey, colour = (tissue(0)[:, :, 5] * 3000).astype(np.uint16), np.random.default_rng(0).integers(90, 140, (24, 20, 3))
    subject = SessionImageSet([Picture(grey), Picture(colour.astype(np.uint8)), Picture(ct()[:, :, 5], modality="CT")])
    prompts = {2: {1: FramePrompt.click(8, 7)}}
    for found in segmenter().segment_images(
        [p.array for p in subject.pictures], prompts, modality=lambda i: (None, None, "CT")[i]
    ):
        window = subject.display_window(found.index, [said(2, 7, 8, "image")])
        assert window == found.window
        shown = encode_frame(subject.pixels("image", found.index), window, 0)
        assert (shown.headers["x-low"], shown.headers["x-high"]) == (repr(window.low), repr(window.high))
        kind, most = ("<u2", 65_535) if shown.headers["x-channels"] == "1" else (np.uint8, 255)
        codes = np.frombuffer(shown.data, kind).reshape(subject.pictures[found.index].array.shape) / most
        np.testing.assert_allclose(codes, window.apply(subject.pictures[found.index].array), atol=0.003)
    assert SessionImageSet([Picture(grey)], "10,20").display_window(0, []) == Window(10, 20)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.float32])
def test_codes_stand_for_all_intensities_of_an_image(kind: type[np.generic]) -> None:
    """Those beyond the percentiles too, which are shown in black and white."""
    array = np.random.default_rng(0).integers(60, 190, (40, 50)).astype(kind)
    array[0, :3] = 0 if kind is np.uint8 else 3, 203, 255
    if kind in {np.int16, np.uint16}:
        array[1, :2] = np.iinfo(kind).min, np.iinfo(kind).max
    subject = SessionImageSet([Picture(array)])
    seen, whole = subject.display_window(0, []), subject.code_range(0)
    assert (whole.low, whole.high) == (array.min(), array.max())
    assert whole.low < seen.low < seen.high < whole.high
    sent = encode_frame(array, whole, 0, seen)
    low, high, black, white = (float(sent.headers[f"x-{name}"]) for name in ("low", "high", "black", "white"))
    assert (black, white, sent.headers["x-whole"]) == (seen.low, seen.high, str(int(kind is not np.float32)))
    told = low + np.frombuffer(sent.data, "<u2").reshape(array.shape) * ((high - low) / 65_535)
    np.testing.assert_array_equal(np.rint(told), array)


@pytest.mark.usefixtures("inline")
def test_the_page_is_told_a_guess_and_the_window_can_be_set_for_all(serve: Callable[..., Served], tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    io.save(ct(), path, Volume(ct(), np.diag([-1.0, -1.0, 1.0, 1.0])))
    for window, low, told in (("auto", -160, "soft: a CT, guessed from its values"), ("lung", -1250, "lung, as given")):
        served = serve(library=path, window=window)
        id = served.post("sessions", library=0)["id"]
        info = served.post(f"sessions/{id}/open")
        assert info["window"][0] == low
        assert told in info["seen_as"]
        state = served.post(f"sessions/{id}/structures", version=0)
        assert state["structures"][0]["window"][0] == low
        assert told in state["structures"][0]["seen_as"]


def test_the_command_takes_a_window(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[ServerSettings] = []

    def run(settings: ServerSettings, queue: InferenceQueue, **options: object) -> None:
        started.append(settings)

    monkeypatch.setattr("medical_sam2.server.app.serve", run)
    assert main(["serve", "--window", "-5,77", "--state", str(tmp_path), "--port", "9"]) == 0
    assert started[0].window == "-5,77"
    assert main(["serve", "--window", "lungs"]) == 2
    assert "unknown window 'lungs'" in capsys.readouterr().err
