"""Names are drawn in the letters of any script, and where no font has them, as something that can be read."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, features

from medical_sam2 import preview
from medical_sam2.preview import drawing
from medical_sam2.volume import Segmentation
from tests.preview.test_pictures import phantom

BOX = drawing.NO_LETTER


def drawn(text: str) -> NDArray[np.uint8]:
    """A text as pictures show it."""
    picture = Image.new("RGB", (300, 30))
    drawing.write(ImageDraw.Draw(picture), (10, 5), text)
    return np.asarray(picture)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A system without fonts: Pillow's own alone."""
    monkeypatch.setattr(drawing, "_files", lambda: iter([drawing.OWN]))
    return iter(())


@pytest.mark.parametrize("name", ["Milz größe", "Łódź", "Печень", "ήπαρ", "كبد"])
def test_each_letter_is_drawn(name: str) -> None:
    """Another picture for each letter, and none of them a box."""
    letters = [each for each in dict.fromkeys(name) if each != " "]
    pictures = [drawn(each).tobytes() for each in letters]
    assert len({*pictures, drawn(BOX).tobytes()}) == len(letters) + 1
    assert drawing.legible(name) == name


@pytest.mark.skipif(not features.check("raqm"), reason="letters from right to left need raqm")
def test_what_follows_a_name_that_runs_to_the_left_lies_to_the_right_of_it() -> None:
    text = f"{drawing.shown_name({1: 'كبد'}, 1)}   12 mL"
    both, alone = drawn(text), drawn("كبد")
    width = int(np.flatnonzero(alone.any(axis=(0, 2)))[-1])
    np.testing.assert_array_equal(both[:, : width - 1], alone[:, : width - 1])


@pytest.mark.parametrize(
    ("name", "shown"), [("Milz größe é", "Milz grosse e"), ("liver", "liver"), ("肝臓", "object 2"), ("", "object 2")]
)
@pytest.mark.usefixtures("bare")
def test_without_fonts_a_name_loses_its_accents_or_is_a_number(name: str, shown: str) -> None:
    assert drawing.shown_name({2: name}, 2) == shown
    assert drawing.legible("肝_é.png  0.87") == "__e.png  0.87"


def test_letters_that_cannot_be_put_in_order_are_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda _: False)
    assert drawing.shown_name({1: "كبد"}, 1) == "object 1"


@pytest.mark.parametrize("suffix", [".png", ".gif"])
@pytest.mark.usefixtures("bare")
def test_it_is_said_once_and_the_picture_has_no_box(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    volume, found = phantom()
    texts: list[str] = []
    write = drawing.write
    monkeypatch.setattr(
        drawing, "write", lambda draw, place, text, **how: (texts.append(text), write(draw, place, text, **how))
    )
    named = replace(found, names={1: "liver", 2: "肝臓"})
    (line,) = preview.save(tmp_path / f"a{suffix}", volume, named)
    assert line.startswith("no font here has all letters of the name of object 2: ")
    assert any(text.startswith("object 2   ") for text in texts)
    assert all(map(drawing.can_draw, texts))
    assert preview.save(tmp_path / "b.png", volume, Segmentation(found.labels, found.affine, {1: "liver"})) == []
