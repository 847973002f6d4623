"""Imports point down only, and numpy code does not load torch."""

import ast
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS

from medical_sam2.cli import COMMANDS, EXTRAS

ROOT = Path(__file__).parents[1]
WITHOUT_TORCH = (
    "volume",
    "views",
    "prompts",
    "simulate",
    "metrics",
    "tracking.fusion",
    "tracking.plan",
    "tracking.finishing",
    "io",
    "plugins",
    "preview",
    "statistics",
    "batch.cases",
)
ONE_AFTER_THE_OTHER = """
import importlib, json, sys
from contextlib import redirect_stdout
from io import StringIO
def helped(words):
    from medical_sam2.cli import main
    sys.argv = ["medsam2", *words, "--help"]
    with redirect_stdout(StringIO()) as said:
        try:
            code = main()
        except SystemExit as end:
            code = end.code
    assert not code and "Usage" in said.getvalue(), words
found = {{}}
for one in {each}:
    {act}
    found[one] = [name for name in ("torch", "transformers") if name in sys.modules]
print(json.dumps(found))
"""
REPORT = "\nimport sys; print([name for name in ('torch', 'transformers') if name in sys.modules])"
SERVE = "import sys, medical_sam2.cli.serve, medical_sam2.server.app"
DEFERRED = {  # module → how many of our own modules it imports inside of functions, and why there
    "cli.segment": 2,  # a mistyped path, or the report of a set, is answered without torch
    "cli.segment_images": 1,  # likewise
    "cli.segment_volumes": 1,  # likewise, and a wrong row of a table
    "cli.serve": 2,  # FastAPI is an extra; the page opens before torch is there
    "cli.experiments": 3,  # --help answers without torch, and so does a folder that is not empty
    "cli.installation": 2,  # `weights list` answers without torch
    "io": 1,  # pydicom, for DICOM files alone
    "io.image_folder": 1,  # likewise
}
MOST_DEFERRED = 13
NEEDLESS = (
    *(
        "transformers",
        "torch.distributed.tensor",
        "torch._dynamo",
        "torch._inductor",
        "torch.fx.experimental.symbolic_shapes",
        "sympy",
    ),
    *(
        "scipy.optimize",
        "scipy.spatial",
        "scipy.stats",
        "matplotlib",
        "skimage",
        "accelerate",
        "huggingface_hub",
        "jinja2",
        "psutil",
        "pydicom",
        "requests",
    ),
)
UNUSED = f"\nimport sys; print([name for name in {NEEDLESS} if name in sys.modules])"
"""What is slow to load, and needed neither to import the segmenter nor to segment."""
SLOW = "\nprint([name for name in ('torch', 'scipy', 'nibabel', 'pydicom', 'SimpleITK') if name in sys.modules])"


def test_imports_only_point_down() -> None:
    """In a process of its own: it configures logging anew, which closes what handlers of other libraries write to."""
    lint = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(config_filename='pyproject.toml'))"
    done = subprocess.run([sys.executable, "-c", lint], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == EXIT_STATUS_SUCCESS, done.stdout + done.stderr


@pytest.fixture(scope="module")
def after_import() -> dict[str, list[str]]:
    """What is loaded after each module, and those before it in the table, was imported in one fresh interpreter."""
    return loaded_after(WITHOUT_TORCH, 'importlib.import_module(f"medical_sam2.{one}")')


@pytest.fixture(scope="module")
def after_help() -> dict[str, list[str]]:
    """The same of `--help`: what one command does not load, all of them together do not."""
    return loaded_after(["", *COMMANDS], "helped(one.split())")


def loaded_after(each: Sequence[str], act: str) -> dict[str, list[str]]:
    """What of torch and transformers is loaded after each act, one after the other."""
    return json.loads(last_line(ONE_AFTER_THE_OTHER.format(each=list(each), act=act)))


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_numpy_code_does_not_load_torch(module: str, after_import: dict[str, list[str]]) -> None:
    assert after_import[module] == []


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_does_not_load_torch(command: str, after_help: dict[str, list[str]]) -> None:
    assert after_help[command] == []


def test_the_server_answers_before_anything_slow_is_loaded() -> None:
    assert last_line(SERVE + SLOW) == "[]"


def test_nothing_of_the_extras_is_needed_to_segment(tmp_path: Path) -> None:
    """All of an image's way from file to file, with every module hidden that only an extra brings."""
    array = np.arange(1024, dtype=np.int16).reshape(16, 16, 4)
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "v.nii")  # type: ignore[attr-defined]
    hidden = sorted({"transformers", *(module for modules, _ in EXTRAS.values() for module in modules)})
    code = f"import sys; sys.modules.update(dict.fromkeys({hidden}))\nfrom medical_sam2.cli import main\n"
    words = ["segment", str(tmp_path / "v.nii"), "--point", "8", "8", "2", "--image-size", "64", "-o", str(tmp_path / "o.nii")]
    loaded = f"[name for name in {NEEDLESS} if sys.modules.get(name)]"
    assert last_line(code + f"print(main({words}), {loaded})") == "0 []"


def test_what_an_image_is_is_told_without_what_others_need(tmp_path: Path) -> None:
    """nibabel alone loads pydicom, and with it every decoder that is installed."""
    nib.save(nib.Nifti1Image(np.zeros((16, 16, 4), np.int16), np.eye(4)), tmp_path / "v.nii")  # type: ignore[attr-defined]
    code = f"import sys\nfrom medical_sam2.cli import main\ncode = main({['info', str(tmp_path / 'v.nii')]})\n"
    needless = ("torch", "scipy.ndimage", "pydicom", "gdcm", "requests", "rich", "matplotlib")
    assert last_line(code + f"print(code, [name for name in {needless} if name in sys.modules])") == "0 []"


def test_a_module_is_out_of_sight_only_where_nobody_else_could_miss_it() -> None:
    """Not one that is loaded, nor where another thread runs; and it can be had afterwards."""
    code = "import sys, threading\nfrom medical_sam2.io.nifti import out_of_sight\nfrom importlib import import_module\n"
    code += """
def found():
    with out_of_sight("wave"):
        try:
            return bool(import_module("wave"))
        except ModuleNotFoundError:
            return False
alone, over = found(), threading.Event()
threading.Thread(target=over.wait).start()
with_another = found()
over.set()
print(alone, with_another, found(), bool(import_module("wave")))
"""
    assert last_line(code) == "False True True True"


def test_the_segmenter_loads_nothing_that_it_does_not_use() -> None:
    assert last_line("import medical_sam2.segmenter" + UNUSED) == "[]"


def test_the_package_needs_no_classical_image_processing() -> None:
    """Of what only benchmarks and recipes import; surfaces alone take marching cubes of scikit-image, an extra."""
    each = {path.name: imported(path.read_text(encoding="utf-8")) for path in (ROOT / "src").rglob("*.py")}
    names = {name for own in each.values() for name in own}
    assert not names & {"SimpleITK", "sklearn", "cv2"}
    assert [file for file, own in each.items() if "skimage" in own] == ["meshes.py"]
    assert {"numpy", "torch", "matplotlib"} <= names
    assert imported("def f():\n    import SimpleITK as sitk") == {"SimpleITK"}


def imported(code: str) -> set[str]:
    """Top-level names of the modules that it imports, anywhere."""
    nodes = list(ast.walk(ast.parse(code)))
    whole = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    parts = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in whole | parts}


def test_imports_inside_of_functions_have_a_reason() -> None:
    """They hide what a module needs: each one is in the table above, with its reason, or at the top of its file."""
    package = ROOT / "src" / "medical_sam2"
    files = {path: path.relative_to(package).with_suffix("") for path in package.rglob("*.py")}
    counts = {
        ".".join(place.parts).removesuffix(".__init__"): count
        for path, place in files.items()
        if (count := deferred(path.read_text(encoding="utf-8")))
    }
    assert counts == DEFERRED
    assert sum(counts.values()) <= MOST_DEFERRED


def deferred(code: str) -> int:
    """Imports of our own modules inside of functions."""
    functions = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = {id(node): node for function in functions for node in ast.walk(function)}.values()
    whole = [alias.name for node in inside if isinstance(node, ast.Import) for alias in node.names]
    parts = [node.module or "" for node in inside if isinstance(node, ast.ImportFrom)]
    return sum(name.partition(".")[0] == "medical_sam2" for name in whole + parts)


def test_a_deferred_import_is_counted_once() -> None:
    code = "from medical_sam2 import io\ndef f():\n    import torch\n    def g():\n        from medical_sam2 import io\n"
    assert deferred(code) == 1
    assert deferred("class A:\n    async def f(self):\n        import medical_sam2.io, medical_sam2.views") == 2


def test_the_rule_can_fail(tmp_path: Path) -> None:
    """With a module of that name which loads in no time."""
    (tmp_path / "torch.py").touch()
    assert last_line(f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import torch" + REPORT) == "['torch']"
    assert loaded_after(("json", "torch"), f"sys.path.insert(0, {str(tmp_path)!r}); importlib.import_module(one)") == {
        "json": [],
        "torch": ["torch"],
    }


def last_line(code: str) -> str:
    """What a fresh interpreter prints last."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]
