"""What the documentation says is true: its commands and its Python run, its links lead somewhere."""

import doctest
import importlib
import pkgutil
import re
import runpy
import shlex
import shutil
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType

import nibabel as nib
import numpy as np
import pytest
import yaml

import medical_sam2
from medical_sam2 import errors, io, preview
from medical_sam2.cli import build, main
from medical_sam2.cli.options import join_numbers
from medical_sam2.evaluate.methods import interface
from medical_sam2.io import load, save
from medical_sam2.io.prompt_file import load_prompts
from medical_sam2.model.weights import load_backbone
from medical_sam2.tracking.encoding import FeatureCache
from tests.backbones import Brightness
from tests.io.making import Series

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
MODULES = [module.name for module in pkgutil.walk_packages(medical_sam2.__path__, "medical_sam2.")]
FENCE = re.compile(r"^(?:<!-- not run: ([^\n]*) -->\n)?```(\w+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://|mailto:|#)([^)\s#]+)")
read_once, see_once = cache(load_backbone), cache(FeatureCache)  # a page outlines the same image with the same weights
NOT_RUN = {  # all else that the pages tell to type is run, as it stands; `py` and `text` are only looked at
    ("CONTRIBUTING.md", "sets up an environment", "scripts/setup"),
    ("README.md", "sets up an environment", "scripts/demo"),
    ("README.md", "needs a package index", "pip install torch"),
    ("README.md", "serves until it is stopped", "medsam2 serve"),
    ("docs/data.md", "needs the data set", "medsam2 prepare kits23/"),
    ("docs/data.md", "needs the data set", "medsam2 data unpack"),
    ("docs/evaluation.md", "needs data sets, and minutes to an hour", "medsam2 evaluate"),
    ("docs/evaluation.md", "needs nnInteractive", "medsam2 evaluate"),
    ("docs/evaluation.md", "takes minutes", "python benchmarks/speed.py"),
    ("docs/formats.md", "there is no kidney here", "medsam2 segment"),
    ("docs/formats.md", "counts.py is not there", "medsam2 segment"),
    ("docs/index.md", "needs a package index", "pip install medical-sam2"),
    ("docs/training.md", "takes half an hour", "medsam2 finetune"),
    ("docs/training.md", "takes hours", "python recipes/nano/synthesize.py -o pool --volumes 1000"),
    ("docs/training.md", "needs data sets, and minutes", "python recipes/nano/synthesize.py -o pool --volumes 250"),
    ("docs/volumes.md", "needs a folder of scans", "medsam2 segment-volumes scans/"),
    ("docs/viewer.md", "serves until it is stopped", "medsam2 serve"),
    ("docs/viewer.md", "serves until it is stopped, and needs a certificate", "medsam2 serve --host"),
    ("docs/viewer.md", "asks for a password", "python -m medical_sam2.server.users"),
    ("docs/viewer.md", "needs a proxy", "medsam2 serve scans --users"),
    ("docs/viewer.md", "serves until it is stopped, and needs a PACS", "medsam2 serve --pacs"),
}


@dataclass(frozen=True)
class Block:
    """Code of a page; `excuse` tells why it is not run."""

    page: Path
    excuse: str
    language: str
    code: str

    @property
    def commands(self) -> list[list[str]]:
        """The words of each line of a shell."""
        lines = self.code.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks(page: Path, *languages: str) -> list[Block]:
    """Code of a page, in order."""
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [Block(page, excuse, language, code) for excuse, language, code in found if language in languages]


def name(page: Path) -> str:
    """A page as the tests show it."""
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the pages speak of: those that the demo leaves, and copies in other formats."""
    folder = tmp_path_factory.mktemp("pages")
    phantom = runpy.run_path(str(ROOT / "examples" / "phantom.py"))
    phantom["write_pages"](*phantom["make"](), folder)
    image, truth = (nib.load(folder / file) for file in ("ct.nii.gz", "truth.nii.gz"))
    array, outline = np.asarray(image.dataobj), np.asarray(truth.dataobj)
    Series(image.affine, array).write(folder / "series")
    for part, what in (("images", image), ("labels", truth)):
        (folder / "mine" / part).mkdir(parents=True)
        nib.save(what, folder / "mine" / part / "a.nii.gz")
    (folder / "spleens" / "one").mkdir(parents=True)
    for file, what in (("ct.nrrd", array), ("spleen.nrrd", outline)):
        save(what, folder / "spleens" / "one" / file, load(folder / "ct.nii.gz"))
    return folder


@pytest.fixture
def case(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with these files."""
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if any(not b.excuse for b in blocks(page, "sh", "python"))], ids=name)
def test_what_the_pages_tell_to_type_runs(page: Path, case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shell and Python, in the order of the page; its file of prompts and its plug-ins lie beside it.

    README's with the weights that ship; for the other pages, what is as bright as what was pointed at is the answer.
    """
    weights = read_once if page.name == "README.md" else lambda _, **__: Brightness()
    monkeypatch.setattr("medical_sam2.segmenter.load_backbone", weights)
    monkeypatch.setattr("medical_sam2.segmenter.FeatureCache", see_once)
    for block in blocks(page, "json"):
        (case / "prompts.json").write_text(block.code)
    for block in blocks(page, "csv"):
        assert page.name != "README.md" or (case / "prompts.csv").read_text() == block.code, "the demo leaves another table"
        (case / "prompts.csv").write_text(block.code)
    for block in blocks(page, "py"):
        if plugin := re.match(r"# (\w+\.py)\n", block.code):
            (case / plugin[1]).write_text(block.code)
    names: dict[str, object] = {}
    for block in blocks(page, "sh", "python"):
        if block.language == "python":
            exec(compile(block.code, name(page), "exec"), names)
        elif not block.excuse:
            for program, *words in block.commands:
                assert (program, main(words)) == ("medsam2", 0), words


def test_what_is_not_run_is_listed() -> None:
    every = [block for page in PAGES for block in blocks(page, "sh", "python") if block.excuse]
    listed = {(page, excuse, start) for page, excuse, start in NOT_RUN for b in every if is_that(b, page, excuse, start)}
    assert listed == NOT_RUN
    assert len(every) == len(NOT_RUN)


def is_that(block: Block, page: str, excuse: str, start: str) -> bool:
    """Whether a block is the listed one."""
    return (name(block.page), block.excuse) == (page, excuse) and block.code.startswith(start)


@pytest.mark.parametrize("block", [b for page in PAGES for b in blocks(page, "sh") if b.excuse], ids=lambda b: b.code[:30])
def test_what_is_not_run_is_spelled_right(block: Block) -> None:
    for program, *words in block.commands:
        if program == "medsam2":
            build().parse_args(join_numbers(words), exit_on_error=False, print_error=False)
        elif program == "python" and words[0] == "-m":
            assert find_spec(words[1]), words
        elif program not in {"pip", "chmod"}:
            assert (ROOT / (words[0] if program == "python" else program)).is_file(), program


def test_file_of_prompts_is_read(case: Path) -> None:
    (block,) = blocks(ROOT / "docs" / "prompts.md", "json")
    (case / "prompts.json").write_text(block.code)
    named = load_prompts(case / "prompts.json", load(case / "ct.nii.gz"))
    assert named.names == {1: "liver", 2: "vertebra", 3: "lesion"}
    assert len(named.prompts) == 4


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    assert [target for target in LINK.findall(prose) if not (page.parent / target).exists()] == []


def test_the_glossary_names_files_that_are_there() -> None:
    named = re.findall(r"`([a-z_/]+\.py)` \|$", (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(named) > 40
    assert [file for file in named if not (ROOT / "src" / "medical_sam2" / file).is_file()] == []


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=name)
def test_links_of_the_documentation_stay_in_it(page: Path) -> None:
    """Else it cannot be built: what lies outside of docs/ is no page."""
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    assert [
        target for target in LINK.findall(prose) if not (page.parent / target).resolve().is_relative_to(ROOT / "docs")
    ] == []


def test_the_page_of_the_interface_has_every_public_name() -> None:
    """Those of the package, and of the modules that the page is about; each has a docstring to be shown."""
    paths = re.findall(r"^::: (\S+)$", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    shown = [pkgutil.resolve_name(":".join(path.rsplit(".", 1))) for path in paths]
    assert [
        path for path, what in zip(paths, shown, strict=True) if isinstance(what, type | FunctionType) and not what.__doc__
    ] == []
    offered = {
        f"{module.__name__}.{each}": getattr(module, each) for module in (medical_sam2, io, preview) for each in module.__all__
    }
    offered |= {name: what for name, what in vars(errors).items() if isinstance(what, type) and issubclass(what, Exception)}
    offered |= {name: what for name, what in vars(interface).items() if getattr(what, "__module__", "") == interface.__name__}
    assert [name for name, what in offered.items() if not any(what is each for each in shown)] == []


def test_the_citation_names_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (cited["version"], cited["license"], cited["abstract"]) == tuple(
        project[k] for k in ("version", "license", "description")
    )


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings_run(module: str) -> None:
    assert doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS).failed == 0
