"""A training run in one frozen description: defaults in code, a TOML recipe over them, `--set key=value` over that."""

import dataclasses
import difflib
import tomllib
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from medical_sam2.data.clips import Sampling
from medical_sam2.errors import ConfigError
from medical_sam2.train.losses import LossWeights

T = TypeVar("T")


@dataclass(frozen=True)
class Phase:
    """A stretch of the curriculum: single frames first, then pairs, then clips.

    Args:
        steps: how many.
        frames: of each clip that are learned from.
        context: frames tracked between the first and the others without learning from them, so that the bank must choose.
        clips: of a batch, over all processes.
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
    context: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.frames, self.clips, self.objects) < 1 or self.context < 0:
            raise ConfigError("a phase has at least one step, frame, clip and object", "give numbers from 1", subject="phases")


@dataclass(frozen=True)
class Recipe:
    """A training run.

    Args:
        pool: folder of cases, of `medsam2 prepare` (its `arrays`) or `recipes/nano/synthesize.py`.
        validation: folder of other cases, for the pictures; other clips of the same cases where empty.
        phases: the curriculum.
        seed: of everything.
        start: weights to start from, a folder or a name; from scratch where empty.
        coarse_classifier: whether `nano` gets a second classifier of pixels, at stride 4, which starts without a say.
        rate: highest learning rate.
        encoder_rate: the image encoder's, as a share of `rate`.
        layer_decay: each layer of the image encoder learns by this factor slower than the next deeper one.
        weight_decay: of AdamW; biases and scales have none.
        warm_up: steps until the highest rate.
        cool_down: share of the run's last steps over which the rate falls to nothing, by a cosine.
        clip: largest norm of the gradient.
        average: decay of the exponential moving average of the weights, which is what ships.
        precision: "bf16" (mixed) or "fp32".
        checkpointing: compute frames again in the backward pass instead of keeping all that is in between.
        shard: spread weights and optimiser over the processes (FSDP2), for networks too large for one device.
        sampling: "cases" draws any case; "data-sets" a data set, then a case; "tasks" a task, then a modality, then a case.
        sets: share of clips that come from sets of images, where cases are drawn.
        regions: share of clips that show a region around the object, as tracking does.
        prompt: probabilities of a mask, a click, a box as the first prompt.
        corrections: probability that a clip gets corrective clicks, on up to two frames, the first among them.
        clicks: corrective clicks on such a frame.
        from_truth: share of corrective clicks placed without looking at the prediction.
        workers: processes that prepare clips.
        save_every: steps between checkpoints.
        picture_every: steps between pictures of validation clips; 0 for none.
        losses: their weights.
    """

    pool: str = "pool"
    validation: str = ""
    phases: tuple[Phase, ...] = ()
    seed: int = 0
    start: str = ""
    coarse_classifier: bool = False
    rate: float = 6e-4
    encoder_rate: float = 1.0
    layer_decay: float = 1.0
    weight_decay: float = 0.05
    warm_up: int = 200
    cool_down: float = 0.2
    clip: float = 1.0
    average: float = 0.998
    precision: Literal["bf16", "fp32"] = "bf16"
    checkpointing: bool = False
    shard: bool = False
    sampling: Sampling = "cases"
    sets: float = 0.4
    regions: float = 0.6
    prompt: tuple[float, float, float] = (0.5, 0.25, 0.25)
    corrections: float = 0.3
    clicks: int = 2
    from_truth: float = 0.1
    workers: int = 1
    save_every: int = 100
    picture_every: int = 0
    losses: LossWeights = field(default_factory=LossWeights)

    def __post_init__(self) -> None:
        if not self.phases:
            raise ConfigError("the recipe has no phases", "write at least one [[phases]]", subject="phases")
        if self.save_every < 1:
            raise ConfigError("a checkpoint is written at least now and then", "give 1 or more", subject="save_every")

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
        values = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"the recipe cannot be read ({error})", "give a TOML file", subject=path) from error
    return build_config(Recipe, override_settings(values, settings))


def override_settings(values: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """The content of a recipe with `key=value` settings over it; `phases.0.steps=10` reaches into the first phase."""
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"{setting!r} sets nothing", "write key=value", subject="--set")
        inner: Any = values
        *parents, last = key.split(".")
        try:
            for parent in parents:
                inner = inner[int(parent)] if isinstance(inner, list) else inner.setdefault(parent, {})
            inner[last] = _parse_value(value)
        except (TypeError, ValueError, IndexError, AttributeError):
            raise ConfigError(f"there is no setting {key!r}", "look into the recipe", subject="--set") from None
    return values


def build_config(kind: type[T], given: Mapping[str, Any]) -> T:
    """A frozen dataclass from a mapping; unknown keys and values of another type are refused."""
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, value in given.items():
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            raise ConfigError(
                f"unknown setting {key!r}", f"did you mean {near[0]!r}?" if near else f"choose among {sorted(hints)}"
            )
        values[key] = _check_value(key, value, hints[key])
    try:
        return kind(**values)
    except TypeError as error:
        raise ConfigError(str(error).partition("() ")[2], "add it", subject=kind.__name__.lower()) from None


def _check_value(key: str, value: Any, hint: Any) -> Any:
    """The value as the type that the setting has."""
    # TOML has its own types: whole numbers stand for fractions, lists for tuples, tables for dataclasses; a bool is no number.
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return build_config(cast(type[Any], hint), cast(Mapping[str, Any], value))
    if get_origin(hint) is tuple and isinstance(value, list | tuple):
        items, kinds = cast(Sequence[Any], value), get_args(hint)
        kinds = (kinds[0],) * len(items) if kinds[-1] is Ellipsis else kinds
        if len(items) == len(kinds):
            return tuple(_check_value(key, item, kind) for item, kind in zip(items, kinds, strict=True))
    if get_origin(hint) is Literal and value in get_args(hint):
        return value
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and not isinstance(hint, types.GenericAlias) and type(value) is hint:
        return value
    raise ConfigError(f"{value!r} does not fit", f"give {_describe_type(hint)}", subject=key)


def _describe_type(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    names = {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}
    return names.get(hint, f"{len(get_args(hint))} numbers" if get_origin(hint) is tuple else "a table")


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
