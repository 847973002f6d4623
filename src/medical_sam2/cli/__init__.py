"""The command `medsam2`. Each command is one file of this package; none is imported before it is called.

A command is added by adding a file: `cli/some_thing.py` with a function (or a cyclopts App, for a group of commands) called
`some_thing` becomes `medsam2 some-thing`; the first line of its docstring, "`medsam2 some-thing`: what it does.", is its help.
Files that start with an underscore are no commands.
"""

import ast
import errno
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from cyclopts import App, CycloptsError

from medical_sam2.cli._numbers import joined
from medical_sam2.errors import InputError, MedicalSam2Error, ResourceError

INTERRUPTED = 130
DEFECT = 70
"""Exit code for an error of this program (EX_SOFTWARE of sysexits.h)."""
TRACEBACK = "MEDSAM2_TRACEBACK"
MOVED = {"benchmark": "python benchmarks/speed.py", "synthesize": "python recipes/nano/synthesize.py"}
"""Commands of earlier versions, and the scripts of the repository that do the same."""
FULL = {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE}


def build() -> App:
    """The application with every command of this package."""
    app = App(
        name="medsam2",
        help="Outline a structure in a medical volume or a set of images from one prompt.",
        version=_version,
        suppress_keyboard_interrupt=False,  # `main` says so, and tells the exit code
    )
    for file in sorted(Path(__file__).parent.glob("[!_]*.py")):
        target, name = f"{__name__}.{file.stem}:{file.stem}", file.stem.replace("_", "-")
        app.command(target, name=name, help=_summary(file))
    return app


def _summary(file: Path) -> str:
    """What a command does, from its docstring, without running its file."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    said = text.split("\n\n", 1)[0].rpartition("`: ")[2].strip()
    return said[:1].upper() + said[1:]


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("medical-sam2")
    except PackageNotFoundError:
        return "unknown"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line.

    Returns:
        0 done, 2 bad input, 3 too little memory or disk, 4 ambiguous input (the choices are listed), 130 interrupted,
        70 an error of this program. Each failure is one line on standard error; the environment variable MEDSAM2_TRACEBACK=1
        shows the traceback instead.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    logging.getLogger().addHandler(logging.NullHandler())  # else decoders print what they think of broken files
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch, when it is imported, asks for memory in large pages
    try:
        words = joined(sys.argv[1:] if arguments is None else arguments)
        if words and words[0] in MOVED:
            raise InputError(f"medsam2 {words[0]} left the package", f"run {MOVED[words[0]]} in a copy of the repository")
        app = build()
        if all(word.startswith("-") for word in words):
            app.help_format = "plaintext"  # the list of commands; Markdown takes rich longer to load than all the rest
        result = app(words, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except BrokenPipeError:
        return _silence()
    except (Exception, KeyboardInterrupt) as error:
        if os.environ.get(TRACEBACK):
            raise
        message, code = explain(error)
        _say(message)
        return code


def explain(error: BaseException) -> tuple[str, int]:
    """One line and an exit code for what stopped a command; foreign errors are not quoted: they may name a person."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", INTERRUPTED
    if isinstance(error, MedicalSam2Error):
        return str(error), error.exit_code
    if isinstance(error, CycloptsError):
        command = " ".join(["medsam2", *(error.command_chain or ())])
        return f"{str(error).rstrip('.')}; see {command} --help", InputError.exit_code
    if isinstance(error, MemoryError):
        return "the memory is exhausted; close other programs or use a smaller image", ResourceError.exit_code
    if isinstance(error, OSError) and error.errno:
        code = ResourceError.exit_code if error.errno in FULL else InputError.exit_code
        name = f"{error.filename}: " if error.filename else ""
        return f"{name}{os.strerror(error.errno).lower()}; check the path, its permissions and the disk", code
    if isinstance(error, ModuleNotFoundError) and (extra := _extra_of(error.name or "")):
        return f"this needs {error.name}, which is not installed; install medical-sam2[{extra}]", InputError.exit_code
    if type(error).__name__ == "OutOfMemoryError":
        return "the memory of the GPU is exhausted; use --device cpu or a smaller image", ResourceError.exit_code
    return f"this is a defect of medsam2 ({_where(error)}); please report it ({TRACEBACK}=1 shows more)", DEFECT


def _extra_of(module: str) -> str:
    """The extra that brings a module, "" if none does."""
    from medical_sam2.cli.doctor import EXTRAS

    return next((extra for extra, (modules, _) in EXTRAS.items() if module.partition(".")[0] in modules), "")


def _where(error: BaseException) -> str:
    trace, place = error.__traceback__, "unknown place"
    while trace is not None:
        place = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(error).__name__} in {place}"


def plain(text: str) -> str:
    """One printable line: control characters, such as those that steer a terminal, become escapes."""
    line = " ".join(text.split())
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in line)


def _say(message: str) -> None:
    with suppress(OSError, ValueError):
        sys.stderr.write(f"{plain(message)}\n")


def _silence() -> int:
    """Whoever read our output has gone: say nothing more, not even at exit."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
