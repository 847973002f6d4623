"""This package's speed beside transformers' video session, and beside the official predictor, on this machine.

python benchmarks/speed.py --threads 1 -o benchmarks/results
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, CycloptsError, Parameter

from medical_sam2.cli import explain, plain
from medical_sam2.errors import ConfigError, InputError

if TYPE_CHECKING:
    from speed_run import Measured

SEVERAL = Parameter(consume_multiple=True, negative="")


def benchmark(
    *,
    encoder: Literal["tiny", "small", "large"] = "tiny",
    size: Annotated[tuple[int, ...], SEVERAL] = (256, 512),
    objects: Annotated[tuple[int, ...], SEVERAL] = (1, 2, 8),
    run: Annotated[tuple[str, ...], SEVERAL] = (),
    frames: int = 5,
    threads: int = 1,
    official: Path | None = None,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
) -> None:
    """Measure milliseconds a frame on the processor, beside transformers' session with the same random weights; minutes.

    Args:
        encoder: of the network.
        size: of the network's input, in pixels; several.
        objects: tracked together; several.
        run: of this package: fp32, bf16, "OpenVINO, bf16"; else all that this installation can do.
        frames: that count, of each run.
        threads: of the processor.
        official: a checkout of facebookresearch/sam2, to be measured beside them.
        output: folder for speed.md, written anew after each scene, and speed.png; else the tables are printed.
    """
    _check(size, objects, frames, threads)
    if output is not None and not output.is_dir():
        raise ConfigError("is no folder", "create it first", subject=output)
    import torch

    from speed_own import HERE, WAYS
    from speed_run import Plan, measure

    if unknown := set(run) - set(WAYS):
        raise ConfigError(f"--run {sorted(unknown)[0]!r} is unknown", f"choose {', '.join(WAYS)}")
    before, kept = torch.get_num_threads(), _Kept(output)
    torch.set_num_threads(threads)
    try:
        plan = Plan(encoder, size, objects, run or HERE, frames, official)
        measure(plan, lambda line: print(plain(line), file=sys.stderr), kept.take)
    finally:  # what was measured is there when it is interrupted, too
        torch.set_num_threads(before)
        kept.finish()


def _check(size: tuple[int, ...], objects: tuple[int, ...], frames: int, threads: int) -> None:
    for what, values in (("--size", size), ("--objects", objects), ("--frames", (frames,)), ("--threads", (threads,))):
        if not values or min(values) < 1:
            raise ConfigError(f"{what} {min(values, default=0)} leaves nothing to measure", "give 1 or more")
    if any(side % 32 for side in size):
        raise ConfigError(f"--size {' '.join(map(str, size))} does not fit the network", "give multiples of 32")


@dataclass
class _Kept:
    """What was measured so far: in the folder, or to be printed in the end."""

    folder: Path | None
    measured: "Measured | None" = None

    def take(self, measured: "Measured") -> None:
        """After each scene."""
        self.measured = measured
        if self.folder is not None:
            _write(self.folder, measured)

    def finish(self) -> None:
        """Print what is not in a folder, or draw what is."""
        if self.measured is None:
            return
        if self.folder is not None:
            _draw(self.folder, self.measured)
        else:
            from speed_report import markdown

            print(markdown(self.measured), end="")


def _write(folder: Path, measured: "Measured", end: str = "") -> None:
    from medical_sam2.io.atomic import write_bytes
    from speed_report import markdown

    write_bytes(folder / "speed.md", (markdown(measured) + end).encode())


def _draw(folder: Path, measured: "Measured") -> None:
    from medical_sam2.io.atomic import write_bytes
    from speed_report import picture

    try:
        write_bytes(folder / "speed.png", picture(measured))
        _write(folder, measured, "\n![Times faster, and where the time goes](speed.png)\n")
    except ModuleNotFoundError:
        sys.stderr.write("no picture: matplotlib is missing; pip install 'medical-sam2[evaluate]'\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit codes are those of `medsam2`; what goes wrong is one line."""
    app = App(name="speed.py", suppress_keyboard_interrupt=False)
    app.default(benchmark)
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        message, code = f"{str(error).rstrip('.')}; see python benchmarks/speed.py --help", InputError.exit_code
    except (Exception, KeyboardInterrupt) as error:
        message, code = explain(error)
    else:
        return 0
    sys.stderr.write(f"{plain(message)}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
