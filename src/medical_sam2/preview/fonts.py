"""Letters of all scripts: of each text the first font that has them all.

Pillow's own font has letters from A to Z and no ö, ß or é. Further ones are those that are there: DejaVu, which matplotlib
brings, and the usual ones of the system. Where none has a letter, a box would be drawn; something legible is, instead.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from unicodedata import bidirectional, combining, normalize

from PIL import Image, ImageDraw, ImageFont, features

from medical_sam2.errors import list_first

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
OWN = ""
OF_SYSTEMS = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf"),
    *("NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "wqy-microhei.ttc", "DroidSansFallbackFull.ttf"),
    *("NotoSansArabic-Regular.ttf", "NotoSansHebrew-Regular.ttf", "NotoSansDevanagari-Regular.ttf", "NotoSansThai-Regular.ttf"),
    *("Arial Unicode.ttf", "arial.ttf", "segoeui.ttf", "msyh.ttc", "msgothic.ttc", "malgun.ttf", "Nirmala.ttc", "tahoma.ttf"),
)
"""Files that Linux, macOS and Windows have; Pillow looks for them where the system keeps fonts."""
NO_LETTER, TO_THE_RIGHT = "\U0010fffd", "\u200e"
"""What no font has, and a sign that is not seen: what follows a name lies to the right of it."""


def font_for(text: str, size: int) -> Font:
    """The first font that has all letters of a text, in pixels; Pillow's own where there is none."""
    return _load(next((file for file in _files() if _has_all(file, text)), OWN), size) or ImageFont.load_default(size)


def can_draw(text: str) -> bool:
    """Whether a font has all letters of a text, and they can be put in order."""
    return any(_has_all(file, text) for file in _files())


def legible(text: str, instead: str | None = None) -> str:
    """The text; where no font has its letters the same without accents; where that is none either, something else.

    Args:
        text: to be drawn.
        instead: of a text that cannot be; unless given, the text with "_" for each letter that is missing.
    """
    plain = "".join(each for each in normalize("NFKD", text.replace("ß", "ss")) if not combining(each))
    if can_draw(text) or can_draw(plain):
        return text if can_draw(text) else plain
    return "".join(each if can_draw(each) else "_" for each in plain) if instead is None else instead


def shown_name(names: Mapping[int, str], label: int) -> str:
    """What an object is called in pictures: by its name, or its number where it has none that can be drawn."""
    name = legible(names.get(label, ""), "")
    return name + TO_THE_RIGHT * _runs_left(name) if name else f"object {label}"


def describe_lost_names(names: Mapping[int, str]) -> list[str]:
    """A line if pictures show other names than these, for want of a font."""
    lost = [label for label, name in names.items() if not can_draw(name)]
    what = "pictures show the name without accents, or the object's number"
    return [f"no font here has all letters of the name of object {list_first(lost)}: {what}"] if lost else []


def _runs_left(text: str) -> bool:
    return any(bidirectional(each) in ("R", "AL") for each in text)


def direction(text: str) -> str | None:
    """How Pillow is to put a text in order: as a line from left to right, also where its first letter runs to the left."""
    return "ltr" if _runs_left(text) and features.check("raqm") else None


def _files() -> Iterator[str]:
    yield OWN
    if (found := find_spec("matplotlib")) is not None and found.origin is not None:
        yield str(Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf")
    yield from OF_SYSTEMS


@cache
def _load(file: str, size: int) -> Font | None:
    try:
        return ImageFont.truetype(file, size) if file else ImageFont.load_default(size)
    except OSError:
        return None


# Letters from right to left are put in order, and joined, by a library that Pillow may lack.
def _has_all(file: str, text: str) -> bool:
    ordered = features.check("raqm") or not _runs_left(text)
    return _load(file, 20) is not None and ordered and all(each.isspace() or _has(file, each) for each in set(text))


@cache
def _has(file: str, letter: str) -> bool:
    """Whether a font draws a letter otherwise than one that no font has."""
    return _drawn(file, letter) != _drawn(file, NO_LETTER)


def _drawn(file: str, letter: str) -> bytes:
    picture = Image.new("L", (48, 48))
    ImageDraw.Draw(picture).text((12, 8), letter, fill=255, font=_load(file, 20))
    return picture.tobytes()
