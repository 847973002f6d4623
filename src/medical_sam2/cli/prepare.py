"""`medsam2 prepare`: bring a data set into the form that is trained on."""

import json as json_format
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from medical_sam2.cli import plain
from medical_sam2.errors import ConfigError, InputError

Switch = Parameter(negative="")


def prepare(
    source: Path,
    /,
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    layout: Annotated[str, Parameter(name="--as")] = "",
    label: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    modality: str | None = None,
    window: Annotated[str, Parameter(allow_leading_hyphen=True)] = "soft",
    size: int = 256,
    smallest: float = 0.00153,
    whole: Annotated[bool, Switch] = False,
    arrays_only: Annotated[bool, Switch] = False,
    workers: int = 1,
    json: Annotated[bool, Switch] = False,
) -> int:
    """Normalise the images of a data set, cut its labels into tasks, and leave a manifest of what was done.

    What was prepared before stays: a run that was stopped goes on, and a second one does nothing. A case that cannot be
    prepared is named at the end, with exit code 2; the others are prepared.

    Args:
        source: nnU-Net raw data set; a folder with images and labels; a data set of the catalogue, with --as; a DICOM series.
        output: folder to write.
        layout: name in the catalogue (medsam2 data list), or module:attribute or file.py:attribute of an entry.
        label: NAME=VALUE (or NAME=VALUE,VALUE) of a structure, for a folder that does not tell what its labels mean.
        modality: DICOM code of the modality (CT, MR, US, DX, MG, OCT …), where the data set does not tell.
        window: of a CT: soft, lung, bone, brain, or LOW,HIGH in Hounsfield units.
        size: longest side of a slice in the training arrays.
        smallest: share of a slice that an object must cover on one of them.
        whole: structures only, not their connected components.
        arrays_only: leave out the normalised images and label maps.
        workers: processes.
        json: print one JSON object.
    """
    from medical_sam2.data.prepare import PrepareProgress, PrepareSettings
    from medical_sam2.data.prepare import prepare as run
    from medical_sam2.data.prepare.units import DataSource

    def say(done: PrepareProgress) -> None:
        first, *others = done.cases
        more = f" and {len(others)} more" if others else ""
        sys.stderr.write(plain(f"{done.done} of {done.total}: {first}{more}") + "\n")

    settings = PrepareSettings(size=size, smallest=smallest, window_hu=_window(window), split=not whole, images=not arrays_only)
    told = DataSource(source, layout, tuple(_label(text) for text in label), modality)
    outcome = run(told, output, settings, workers=workers, on_done=say)
    for case, problem in outcome.problems.items():
        sys.stderr.write(plain(f"{case}: {problem}") + "\n")
    facts = {"output": str(output), "cases": outcome.cases, "arrays": outcome.arrays, "fresh": outcome.fresh}
    if json:
        print(json_format.dumps({**facts, "failed": outcome.problems}))
    else:
        failed = f", {len(outcome.problems)} failed" if outcome.problems else ""
        arrays = f"{outcome.arrays} training arrays"
        sys.stderr.write(plain(f"{output}: {outcome.cases} cases ({outcome.fresh} of them new), {arrays}{failed}") + "\n")
    return InputError.exit_code if outcome.problems else 0


def _window(text: str) -> tuple[float, float]:
    """Hounsfield units of a window by its name or by numbers."""
    if "," in text:
        try:
            low, high = (float(part) for part in text.split(","))
        except ValueError:
            raise ConfigError(f"the window {text!r} is no pair of numbers", "give LOW,HIGH") from None
        return low, high
    from medical_sam2.intensity_window import CT_WINDOWS
    from medical_sam2.plugins import find

    level, width = find(CT_WINDOWS, text, what="window", trusted=False)
    return level - width / 2, level + width / 2


def _label(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, values = text.partition("=")
    try:
        return name, tuple(int(value) for value in values.split(","))
    except ValueError:
        raise ConfigError(f"--label {text!r} tells no number", "give NAME=VALUE, such as liver=1") from None
