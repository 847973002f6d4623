"""Somebody at napari with the plug-in of nnInteractive, by the mouse; run by the Python of napari's own environment.

    python in_napari.py URL TOKEN IMAGE FOLDER GESTURES

GESTURES is JSON: steps, one after the other. What the plug-in shows after each is written into FOLDER: labels, a picture of the
window, and `seen.json`.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import napari
import numpy as np
from napari.utils.notifications import notification_manager
from napari_nninteractive._version_check import VersionChecker
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

PATIENCE_S = 120
TOOLS = ("click", "box", "scribble", "lasso")  # in the order of the plug-in's buttons
VersionChecker.start = lambda self: None  # nothing is asked of other machines


@dataclass
class Seat:
    """A window with the plug-in.

    Args:
        viewer: napari's.
        plugin: the widget.
        folder: for what is seen.
    """

    viewer: Any
    plugin: Any
    folder: Path
    seen: list[dict[str, Any]] = field(default_factory=list)

    def wait(self, what: str, done: Callable[[], Any]) -> None:
        """Until something is so, while the window lives."""
        ends = time.monotonic() + PATIENCE_S
        while not done():
            if time.monotonic() > ends:
                raise SystemExit(f"{what} did not come about; status: {self.plugin.remote_status_label.text()}")
            QApplication.processEvents()
            time.sleep(0.01)

    def rest(self, seconds: float = 0.3) -> None:
        """Let the window draw."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            QApplication.processEvents()
            time.sleep(0.01)

    def connect(self, url: str, token: str) -> None:
        """Fill in the fields and press the button."""
        self.plugin.server_url_edit.setText(url)
        self.plugin.api_key_edit.setText(token)
        self.plugin.connect_btn.click()
        self.wait(
            "the connection", lambda: self.plugin.connect_btn.isEnabled() and self.plugin.connect_btn.text() != "Connecting…"
        )

    def initialize(self) -> None:
        """Press the button, and wait for the upload."""
        self.press(self.plugin.init_button)
        self.wait("the upload", self.is_ready)
        self.rest()

    def is_ready(self) -> bool:
        """Whether the image was sent."""
        session = self.plugin.session
        return session is not None and self.plugin._upload_dialog is None and session.target_buffer is not None

    @property
    def image(self) -> Any:
        """The layer that is segmented."""
        return self.viewer.layers[self.plugin.image_selection.currentText()]

    def look_at(self, place: Sequence[int]) -> None:
        """Go to the slice of a voxel."""
        if self.image.ndim == 3:
            world = self.image.data_to_world(place)
            for axis in self.viewer.dims.not_displayed:
                self.viewer.dims.set_point(axis, world[axis])
            self.rest()

    def at(self, voxel: Sequence[float]) -> QPoint:
        """Where a voxel is on the canvas."""
        world = np.asarray(self.image.data_to_world(voxel))
        camera, canvas = self.viewer.scene.camera, self.canvas()
        shown = [axis - 3 for axis in self.viewer.dims.displayed]  # of a picture, the last two of two
        down, right = (world[shown] - np.asarray(camera.center)[-2:]) * camera.zoom
        return QPoint(round(canvas.width() / 2 + right), round(canvas.height() / 2 + down))

    def canvas(self) -> Any:
        """The widget that is drawn on."""
        return self.viewer.window._qt_viewer.canvas.native

    def press(self, button: Any) -> None:
        """The left button on one of the plug-in's own; without a window manager no window has the keys."""
        QTest.mouseClick(button, Qt.LeftButton)
        self.rest(0.1)

    def drag(self, voxels: Sequence[Sequence[float]]) -> None:
        """The left button from place to place; at one place, a click."""
        canvas, places = self.canvas(), [self.at(voxel) for voxel in voxels]
        QTest.mouseMove(canvas, places[0])
        QTest.mousePress(canvas, Qt.LeftButton, Qt.NoModifier, places[0])
        for start, end in pairwise(places):
            for part in np.linspace(0, 1, 12)[1:]:
                place = QPoint(*(round(a + (b - a) * part) for a, b in ((start.x(), end.x()), (start.y(), end.y()))))
                QTest.mouseMove(canvas, place)
                QApplication.processEvents()
        QTest.mouseRelease(canvas, Qt.LeftButton, Qt.NoModifier, places[-1])
        self.rest()

    def act(self, step: Mapping[str, Any]) -> None:
        """One step of the script."""
        kind = step["kind"]
        if kind in TOOLS:
            self.press(self.plugin.interaction_button.buttons[TOOLS.index(kind)])
            self.press(self.plugin.prompt_button.buttons[0 if step.get("inside", True) else 1])
            self.look_at([round(x) for x in step["voxels"][0]])
            self.drag(step["voxels"])
        elif kind == "undo":
            self.press(self.plugin.undo_button)
        elif kind == "next":
            self.press(self.plugin.reset_button)
        elif kind == "picture":
            self.show_picture(step["file"])
        elif kind == "axes":
            self.viewer.dims.order = step["order"]
            self.viewer.reset_view()
        self.rest()
        self.note(step["name"])

    def show_picture(self, file: str) -> None:
        """Another image, alone: beside a volume the plug-in itself cannot begin with one."""
        self.press(self.plugin.init_button)
        self.viewer.layers.clear()
        (layer,) = self.viewer.open(file)
        self.plugin.image_selection.setCurrentText(layer.name)
        self.viewer.reset_view()
        self.initialize()

    def note(self, name: str) -> None:
        """What is seen now."""
        layers = {layer.name: layer for layer in self.viewer.layers}
        labels = layers.get(self.plugin.label_layer_name)
        if labels is not None:
            np.save(self.folder / f"{name}.npy", labels.data)
        self.viewer.screenshot(str(self.folder / f"{name}.png"), canvas_only=False, flash=False)
        self.seen.append(
            {
                "name": name,
                "status": self.plugin.remote_status_label.text(),
                "tools": {button.text(): button.isEnabled() for button in self.plugin.interaction_button.buttons},
                "layers": list(layers),
                "notes": [f"{note.severity}: {note.message}" for note in notification_manager.records],
            }
        )
        (self.folder / "seen.json").write_text(json.dumps(self.seen, indent=1))


def main(url: str, token: str, image: str, folder: str, steps: str) -> None:
    """Open, connect, initialise, then the gestures."""
    viewer = napari.Viewer(show=True)
    viewer.window.resize(1400, 900)
    viewer.open(image, plugin="napari-nifti")
    _, plugin = viewer.window.add_plugin_dock_widget("napari-nninteractive")
    seat = Seat(viewer, plugin, Path(folder))
    seat.rest(1)
    np.save(seat.folder / "image.npy", np.asarray(viewer.layers[0].data))
    seat.connect(url, "a wrong key")
    seat.note("refused")
    seat.connect(url, token)
    seat.initialize()
    seat.note("ready")
    for step in json.loads(steps):
        seat.act(step)
    plugin._release_session()
    viewer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
