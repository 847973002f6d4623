"""The command line `medsam2`: `main`, and the table of its commands, each loaded when it is called.

What is imported here is what `medsam2 --help` waits for: neither numpy nor torch. A command's file imports what it needs; where
a mistyped path shall not wait for the network's packages, the command imports `network`, which needs them, after its checks.
"""

import logging
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import SequenceMatcher
from pathlib import Path

from cyclopts import App, CycloptsError, Parameter

from medical_sam2.cli.options import convert_strictly, join_numbers
from medical_sam2.errors import DEFECT, InputError, MedicalSam2Error, explain_refusal, spell_options

COMMANDS = {  # name → (file and function, help)
    "data": ("data:data", "The published data sets that are known, and what is known of them."),
    "doctor": ("installation:doctor", "What this machine has, and what that means for speed and for what can be done."),
    "evaluate": ("experiments:evaluate", "Measure a network on data sets of yours, as the paper measures."),
    "finetune": (
        "experiments:finetune",
        "Teach a network a data set of yours, and see on cases that it never saw whether that helped.",
    ),
    "info": ("data:info", "Show what an image is, where it lies, and what is odd about it."),
    "prepare": ("data:prepare", "Bring a data set into the form that is trained on."),
    "segment": ("segment:segment", "Outline what was pointed at in the whole of a volume."),
    "segment-images": ("segment_images:segment_images", "Outline what was pointed at on one image in all images of a folder."),
    "segment-volumes": (
        "segment_volumes:segment_volumes",
        "Outline many volumes, each from its own prompts or by one annotated volume.",
    ),
    "serve": ("serve:serve", "A page on this machine to click, see the outline, correct it and download it."),
    "suggest": ("segment:suggest", "Name the image of a set, or the slice of a volume, where one more prompt would help most."),
    "train": ("experiments:train", "Run a recipe, stop at any time, go on where it stopped."),
    "weights": (
        "installation:weights",
        "Which networks there are, what a file of weights holds, and how to bring one into this package's form.",
    ),
}
EXTRAS = {  # extra → (modules that it brings, what it gives)
    "dicom": (("highdicom", "gdcm", "jpeg_ls", "openjpeg", "pylibjpeg"), "DICOM segmentations (SEG), compressed DICOM images"),
    "serve": (("fastapi", "uvicorn", "dicomweb_client"), "the page in the browser, DICOMweb, the protocols of other viewers"),
    "train": (
        ("accelerate", "tensorboard", "SimpleITK"),
        "training on several GPUs, curves in TensorBoard, tasks from real images",
    ),
    "evaluate": (("matplotlib", "cv2", "skimage", "sklearn", "SimpleITK"), "classical methods to compare with, figures"),
    "monai": (("monai", "einops"), "networks trained for one task, to compare with"),
    "meshes": (("skimage",), "surfaces of what was outlined (STL, PLY, OBJ)"),
    "openvino": (("openvino",), "a faster image encoder on Intel processors"),
    "ray": (("ray",), "many volumes on a cluster (segment-volumes --cluster)"),
}
GUESS, LIKELY = re.compile(r"Unknown option: (\S+)\. Did you mean (\S+)\?"), 0.75
INTERRUPTED = 130
"""Exit code for an error of this program (EX_SOFTWARE of sysexits.h)."""
TRACEBACK = "MEDSAM2_TRACEBACK"
MOVED = {"benchmark": "python benchmarks/speed.py", "synthesize": "python recipes/nano/synthesize.py"}
"""Commands of earlier versions, and the scripts of the repository that do the same."""


def build() -> App:
    """The application with every command of this package."""
    app = App(
        name="medsam2",
        help="Outline a structure in a medical volume or a set of images from one prompt.",
        version=lambda: installed_version() or "unknown",
        suppress_keyboard_interrupt=False,  # `main` does, with its exit code
        default_parameter=Parameter(converter=convert_strictly),
    )
    for name, (target, summary) in COMMANDS.items():
        app.command(f"{__name__}.{target}", name=name, help=summary)
    return app


def installed_version(package: str = "medical-sam2") -> str | None:
    """Of a package, None where it is absent."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


# Nothing but cyclopts is loaded before a command is known; no exit of the program leaves a traceback.
def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line.

    Returns:
        0 done, 2 bad input, 3 too little memory or disk, 4 ambiguous input (the choices are listed), 130 interrupted (Ctrl-C,
        SIGTERM), 70 an error of this program. Each failure is one line on standard error; the environment variable
        MEDSAM2_TRACEBACK=1 shows the traceback instead.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed by whoever called
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    logging.getLogger().addHandler(logging.NullHandler())  # else decoders print what they think of broken files
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch, when it is imported, asks for memory in large pages
    try:
        words = join_numbers(sys.argv[1:] if arguments is None else arguments)
        if words and words[0] in MOVED:
            raise InputError(f"medsam2 {words[0]} left the package", f"run {MOVED[words[0]]} in a copy of the repository")
        app = build()
        if all(word.startswith("-") for word in words):
            app.help_format = "plaintext"  # the list of commands; Markdown takes rich longer to load than all the rest
        with _sigterm_interrupts():
            result = app(words, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except BrokenPipeError:
        return _silence()
    except (Exception, KeyboardInterrupt) as error:
        if os.environ.get(TRACEBACK):
            raise
        message, code = explain(error)
        _print_error(message)
        return code


# What ends a batch job or a container would otherwise leave half of a hidden file behind.
@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does, unless the command has its own way; processes that it forked just end."""
    own, before = os.getpid(), signal.getsignal(signal.SIGTERM)

    def end(number: int, _: object) -> None:
        if os.getpid() == own:
            raise KeyboardInterrupt
        os._exit(128 + number)

    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        with suppress(ValueError):
            signal.signal(signal.SIGTERM, before)


# The order counts: our own errors carry their exit codes, and some foreign ones are OSErrors as well.
def explain(error: BaseException) -> tuple[str, int]:
    """One line and an exit code for what stopped a command; foreign errors are not quoted: they may name a person."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", INTERRUPTED
    if isinstance(error, MedicalSam2Error):
        return spell_options(str(error)), error.exit_code
    if isinstance(error, CycloptsError):
        command = " ".join(["medsam2", *(error.command_chain or ())])
        text = GUESS.sub(_keep_good_guess, str(error).replace(", ...", " and others").rstrip("."))
        return f"{text}; see {command} --help", InputError.exit_code
    refused = explain_refusal(error)
    if refused is not None:
        return refused
    if isinstance(error, ModuleNotFoundError) and (extra := _extra_of(error.name or "")):
        return f"this needs {error.name}, which is not installed; pip install 'medical-sam2[{extra}]'", InputError.exit_code
    return f"this is a defect of medsam2 ({_where(error)}); please report it ({TRACEBACK}=1 shows more)", DEFECT


def _keep_good_guess(found: re.Match[str]) -> str:
    """What cyclopts guesses of an unknown option, where that is likely: --islands is no slip for --lasso."""
    given, guessed = (word.lstrip("-") for word in found.groups())
    return found[0] if SequenceMatcher(None, given, guessed).ratio() >= LIKELY else f"Unknown option: {found[1]}"


def _extra_of(module: str) -> str:
    """The extra that brings a module, "" if none does."""
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


def _print_error(message: str) -> None:
    with suppress(OSError, ValueError):
        sys.stderr.write(f"{plain(message)}\n")


def _silence() -> int:
    """Whoever read our output has gone: say nothing more, not even at exit."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
