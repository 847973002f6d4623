import hashlib
import re
from pathlib import Path

import pytest

from medical_sam2.server import app
from medical_sam2.server.security import POLICY

ROOT = Path(__file__).parents[2]
STATIC = ROOT / "src" / "medical_sam2" / "server" / "static"
HEAD = ("index.html", "login.html", "package.json", "package-lock.json", "tsconfig.json", "vite.config.ts")


def test_the_page_is_built_from_its_source() -> None:
    """If this fails: run scripts/web, and commit what it makes."""
    web = ROOT / "web"
    files = [*(web / name for name in HEAD), *sorted((web / "src").iterdir(), key=lambda file: file.name.encode())]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    assert (STATIC / "source.sha256").read_text().strip() == digest


def test_the_page_is_small_and_whole() -> None:
    known = app.assets()
    assert {"index.html", "login.html", "app.js", "app.css", "login.css", "solid.js"} <= set(known)
    assert sum(len(data) for data, _ in known.values()) < 1_500_000


@pytest.mark.parametrize("name", ["index.html", "login.html", "app.js", "app.css"])
def test_nothing_is_loaded_from_elsewhere(name: str) -> None:
    text = (STATIC / name).read_text(encoding="utf-8")
    found = set(re.findall(r"https?://[^\s\"'`)]+", text))
    assert found <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<script>|\son\w+=|style=\"", text) or not name.endswith(".html")


def test_the_browser_is_told_to_load_nothing_from_elsewhere() -> None:
    sources = {name: set(rest) for name, *rest in (part.split() for part in POLICY.split(";"))}
    assert sources["default-src"] == sources["base-uri"] == sources["frame-ancestors"] == {"'none'"}
    assert sources["script-src"] == sources["connect-src"] == sources["form-action"] == {"'self'"}
    assert set().union(*sources.values()) == {"'none'", "'self'", "data:", "blob:"}


def test_a_checkout_without_the_page_says_so() -> None:
    from medical_sam2.server.app import NO_PAGE, PAGE, _asset

    answer = _asset({}, PAGE)
    assert (answer.status_code, bytes(answer.body).decode()) == (404, NO_PAGE)
