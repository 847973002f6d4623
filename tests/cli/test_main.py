"""The frame of the command line: exit codes, one line for each failure, nothing heavy before it is needed."""

import errno
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from cyclopts import App

from medical_sam2 import cli
from medical_sam2.errors import AmbiguousError, FormatError, ResourceError


def failing(error: BaseException) -> App:
    app = App(suppress_keyboard_interrupt=False)

    @app.default
    def fail() -> None:
        raise error

    return app


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (FormatError("is broken", "mend it", subject="a.nii"), 2, "a.nii: is broken; mend it"),
        (ResourceError("too large", "crop it"), 3, "too large; crop it"),
        (AmbiguousError("two readings", "choose one", choices=("--a", "--b")), 4, "two readings; choose one: --a, --b"),
        (MemoryError(), 3, "memory is exhausted; close other programs or lift the limit (ulimit -v), crop"),
        (
            RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 2560000 bytes. Error"
            ),
            3,
            "the memory is exhausted: 2560000 bytes more were asked for; ",
        ),
        (MemoryError("Unable to allocate 1.50 GiB for an array"), 3, "exhausted: 1.50 GiB more were asked for; "),
        (RuntimeError("can't start new thread"), 3, "fewer threads"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(28, "No space left on device", "x.nii"), 3, "x.nii: no space left"),
        (PermissionError(13, "Permission denied", "x.nii"), 2, "x.nii: permission denied"),
        (
            ModuleNotFoundError("x", name="skimage.draw"),
            2,
            "needs skimage.draw, which is not installed; pip install 'medical-sam2[evaluate]'",
        ),
        (ModuleNotFoundError("x", name="numpie"), 70, "defect"),
        (ZeroDivisionError("CANARY^NAME"), 70, "ZeroDivisionError in test_main.py"),
    ],
)
def test_errors_become_exit_codes_and_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, said: str
) -> None:
    monkeypatch.setattr(cli, "build", lambda: failing(error))
    monkeypatch.delenv(cli.TRACEBACK, raising=False)
    assert cli.main([]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1
    assert "CANARY" not in err


def test_a_traceback_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "build", lambda: failing(FormatError("is broken")))
    monkeypatch.setenv(cli.TRACEBACK, "1")
    with pytest.raises(FormatError):
        cli.main([])


@pytest.mark.parametrize("arguments", [["inof"], ["info"], ["info", "a", "--frame", "x"], ["info", "a", "--nope"]])
def test_a_wrong_command_line_is_bad_input(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)


def test_names_cannot_steer_the_terminal() -> None:
    assert cli.plain("a\nb \x1b[31m\x07\udc80 ü") == "a b \\x1b[31m\\x07\\udc80 ü"


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    for name in cli.COMMANDS:
        assert name in out
    assert "Show what an image is" in out


LISTS = "import sys; from medical_sam2.cli import main; main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"


@pytest.mark.parametrize(
    ("words", "needless"),
    [
        ("--help", {"numpy", "scipy", "rich.markdown", "pygments", "importlib.metadata", "medical_sam2.io"}),
        ("--version", {"numpy", "rich.markdown", "medical_sam2.io"}),
        (
            "info v.nii.gz",
            {"torch", "transformers", "scipy.ndimage", "scipy.optimize", "sympy", "SimpleITK", "highdicom", "rich.markdown"},
        ),
        ("segment v.nii.gz --point 1,2 -o o.nii.gz", {"numpy", "torch", "nibabel"}),
        ("segment absent.nii.gz --point 1,2,3 -o o.nii.gz", {"torch", "transformers", "nibabel"}),
        ("weights list", {"numpy", "torch", "transformers"}),
    ],
)
def test_nothing_is_loaded_that_is_not_used(tmp_path: Path, words: str, needless: set[str]) -> None:
    """Of what takes long to import; seconds would depend on the machine."""
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.eye(4)), tmp_path / "v.nii.gz")  # type: ignore[attr-defined]
    done = subprocess.run(
        [sys.executable, "-c", LISTS, *words.split()], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    loaded = set(done.stderr.splitlines()[-1].split())
    assert "medical_sam2.cli" in loaded
    assert not needless & loaded


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    code = "import sys; from medical_sam2.cli import main; sys.exit(main(sys.argv[1:]))"
    path = tmp_path / "a.json"
    path.write_text('{"version": 1, "objects": [{"points": [[1, 1, 1]]}]}')
    process = subprocess.Popen([sys.executable, "-c", code, "info", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 0


LIMITED = """
import resource, sys, numpy, nibabel
from medical_sam2.cli import main
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + (60 << 20)
resource.setrlimit(resource.RLIMIT_AS, (size, size))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("info large.nii.gz", "large.nii.gz: "),
        ("segment large.nii.gz --point 1 1 1 -o o.nii.gz", "torch: loading it needs 750 MB, "),
    ],
)
def test_a_limit_of_memory_is_told_in_one_line(tmp_path: Path, words: str, said: str) -> None:
    """As under `ulimit -v`: 60 MB for an image of 64 that is copied on the way, and for torch, which ends without a word."""
    array = np.zeros((512, 256, 256), np.int16)
    array[0] = 1
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "large.nii.gz")  # type: ignore[attr-defined]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *words.split()], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=90
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1), done.stderr
    assert done.stderr.startswith(said)
    assert "memory" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"large.nii.gz"}


def test_want_of_memory_is_found_behind_other_errors() -> None:
    try:
        try:
            raise ImportError("libtorch.so: failed to map segment from shared object")
        except ImportError as error:
            raise ImportError("cannot import the command") from error
    except ImportError as error:
        assert cli.explain(error)[1] == 3
    assert cli.explain(ImportError("cannot import the command"))[1] == 70
    assert cli.explain(OSError(errno.EFBIG, "File too large", "o.bin"))[1] == 3


ENDED = """
import os, signal, sys, time
from pathlib import Path
from medical_sam2 import io
from medical_sam2.cli import main
from medical_sam2.io import atomic

signal.signal(signal.SIGINT, signal.default_int_handler)  # what is started in the background ignores it

def read(*_, **__):
    with atomic.writing(Path("half.bin")) as stream:
        stream.write(b"half")
        stream.flush()
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
        time.sleep(30)

io.read = read
sys.exit(main(["info", "v.nii.gz"]))
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_what_ends_a_command_leaves_nothing_half_written(tmp_path: Path, name: str) -> None:
    done = subprocess.run([sys.executable, "-c", ENDED, name], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("word", "code", "told"), [("--help", 0, "Usage: medsam2 COMMAND"), ("x", 2, "see medsam2 --help")])
def test_the_package_is_run_as_a_module(word: str, code: int, told: str) -> None:
    words = [sys.executable, "-X", "importtime", "-m", "medical_sam2", word]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert told in done.stdout + done.stderr
    assert "| torch" not in done.stderr
