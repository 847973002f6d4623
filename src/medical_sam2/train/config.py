"""A training run in one frozen description: defaults in code, a TOML recipe over them, `--set key=value` over that."""

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from medical_sam2.errors import ConfigError
from medical_sam2.train.losses import Weights

T = TypeVar("T")


@dataclass(frozen=True)
class Phase:
    """A stretch of the curriculum: single frames first, then pairs, then clips.

    Args:
        steps: how many.
        frames: of each clip.
        clips: of a batch.
        objects: at most, of each clip.
        size: side of the input in pixels.
        smallest: share of the frame under which an object is left out.
    """

    steps: int
    frames: int
    clips: int
    objects: int = 3
    size: int = 128
    smallest: float = 0.00153


@dataclass(frozen=True)
class Recipe:
    """A training run.

    Args:
        pool: folder of synthetic cases.
        phases: the curriculum.
        seed: of everything.
        start: weights to start from, a folder or a name; from scratch where empty.
        rate: highest learning rate.
        encoder_rate: the image encoder's, as a share of `rate`.
        weight_decay: of AdamW.
        warm_up: steps until the highest rate.
        cool_down: share of the run's last steps over which the rate falls to nothing, by a cosine.
        clip: largest norm of the gradient.
        average: decay of the exponential moving average of the weights, which is what ships.
        sets: share of clips that come from sets of images.
        prompt: probabilities of a mask, a click, a box as the first prompt.
        corrections: probability that a clip gets corrective clicks, on up to two frames, the first among them.
        clicks: corrective clicks on such a frame.
        from_truth: share of corrective clicks placed without looking at the prediction.
        workers: processes that prepare clips.
        save_every: steps between checkpoints.
        losses: their weights.
    """

    pool: str = "pool"
    phases: tuple[Phase, ...] = ()
    seed: int = 0
    start: str = ""
    rate: float = 6e-4
    encoder_rate: float = 1.0
    weight_decay: float = 0.05
    warm_up: int = 200
    cool_down: float = 0.2
    clip: float = 1.0
    average: float = 0.998
    sets: float = 0.4
    prompt: tuple[float, float, float] = (0.5, 0.25, 0.25)
    corrections: float = 0.3
    clicks: int = 2
    from_truth: float = 0.1
    workers: int = 1
    save_every: int = 100
    losses: Weights = field(default_factory=Weights)

    @property
    def steps(self) -> int:
        """All steps of the run."""
        return sum(phase.steps for phase in self.phases)

    def phase(self, step: int) -> Phase:
        """The phase that a step lies in."""
        for phase in self.phases:
            if step < phase.steps:
                return phase
            step -= phase.steps
        return self.phases[-1]


def read_recipe(path: Path, settings: Sequence[str] = ()) -> Recipe:
    """A recipe from TOML, with `key=value` settings over it.

    Raises:
        ConfigError: a key that does not exist (the nearest one is named), or a value of the wrong type.
    """
    try:
        told = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"the recipe cannot be read ({error})", "give a TOML file", subject=path) from error
    for setting in settings:
        key, _, value = setting.partition("=")
        inner = told
        *parents, last = key.split(".")
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = _value(value)
    return build(Recipe, told)


def build(kind: type[T], told: Mapping[str, Any]) -> T:
    """A frozen dataclass from a mapping; unknown keys are refused."""
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in told:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            raise ConfigError(
                f"unknown setting {key!r}", f"did you mean {near[0]!r}?" if near else f"choose among {sorted(fields)}"
            )
    values = dict(told)
    if "phases" in values:
        values["phases"] = tuple(build(Phase, phase) for phase in values["phases"])
    if "losses" in values and isinstance(values["losses"], Mapping):
        values["losses"] = build(Weights, values["losses"])
    if "prompt" in values:
        values["prompt"] = tuple(values["prompt"])
    return kind(**values)


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
