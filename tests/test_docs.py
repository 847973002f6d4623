"""What the documentation says is true: its Python runs, its commands parse, its links lead somewhere."""

import doctest
import importlib
import pkgutil
import re
import runpy
import shlex
from pathlib import Path

import nibabel as nib
import pytest

import medical_sam2

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
MODULES = [module.name for module in pkgutil.walk_packages(medical_sam2.__path__, "medical_sam2.")]
FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://|mailto:|#)([^)\s#]+)")


def blocks(page: Path, *languages: str) -> list[str]:
    """Code of a page, in order; a block that is only to be looked at is marked `py` or `text`, not `python`."""
    return [code for language, code in FENCE.findall(page.read_text(encoding="utf-8")) if language in languages]


def name(page: Path) -> str:
    """A page as the tests show it."""
    return str(page.relative_to(ROOT))


def with_blocks(language: str) -> list[Path]:
    """The pages that have such a block."""
    return [page for page in PAGES if blocks(page, language)]


@pytest.fixture(scope="module")
def phantom() -> tuple[nib.Nifti1Image, nib.Nifti1Image]:
    """A small cut of the phantom, and the outline of its liver."""
    image, liver = runpy.run_path(str(ROOT / "examples" / "phantom.py"))["make"]()
    return image.slicer[30:94, 40:104, 16:24], liver.slicer[30:94, 40:104, 16:24]


@pytest.fixture
def case(phantom: tuple[nib.Nifti1Image, nib.Nifti1Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the files that the pages speak of."""
    for image, file in zip(phantom, ("ct.nii.gz", "truth.nii.gz"), strict=True):
        nib.save(image, tmp_path / file)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", with_blocks("python"), ids=name)
@pytest.mark.usefixtures("case")
def test_python_of_the_pages_runs(page: Path) -> None:
    names: dict[str, object] = {}
    for code in blocks(page, "python"):
        exec(compile(code, name(page), "exec"), names)


@pytest.mark.parametrize("page", with_blocks("sh"), ids=name)
@pytest.mark.usefixtures("case")
def test_commands_of_the_pages_parse(page: Path) -> None:
    from medical_sam2.cli import build

    for line in "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["medsam2"]:
            build().parse_args(words[1:], exit_on_error=False, print_error=False)
        elif words and words[0].startswith(("scripts/", ".ci/")):
            assert (ROOT / words[0]).is_file(), line


def test_file_of_prompts_is_read(case: Path) -> None:
    from medical_sam2.io import load
    from medical_sam2.io.promptfile import load_prompts

    (content,) = blocks(ROOT / "docs" / "prompts.md", "json")
    (case / "prompts.json").write_text(content)
    named = load_prompts(case / "prompts.json", load(case / "ct.nii.gz"))
    assert named.names == {1: "liver", 2: "spleen", 3: "lesion"}
    assert len(named.prompts) == 4


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    assert [target for target in LINK.findall(prose) if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings_run(module: str) -> None:
    assert doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS).failed == 0
