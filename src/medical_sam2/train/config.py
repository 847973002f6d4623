"""A training run in one frozen description: defaults in code, a TOML recipe over them, `--set key=value` over that."""

import dataclasses
import difflib
import tomllib
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf, isfinite
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from torch import nn

from medical_sam2.data.cases import SMALLEST
from medical_sam2.data.clips import Sampling, Strength
from medical_sam2.errors import ConfigError
from medical_sam2.io.safe_open import explain
from medical_sam2.model.image_encoders import Insertion
from medical_sam2.model.nano import Nano
from medical_sam2.model.sam2 import Sam2

NANO_RATE = 1e-4  # a seventh of the rate from scratch; no measurement chose it yet
T = TypeVar("T")


STRIDE = 32
"""Pixels of the input that the coarsest features of a network stand for."""
RANGES: tuple[tuple[str, Callable[[float], bool], frozenset[str]], ...] = (
    ("a number above 0", lambda x: 0 < x < inf, frozenset({"rate", "clip"})),
    ("1 or more", lambda x: x >= 1, frozenset({"steps", "frames", "clips", "objects", "save_every", "rank"})),
    (
        "0 or more",
        lambda x: 0 <= x < inf,
        frozenset({"encoder_rate", "weight_decay", "warm_up", "clicks", "workers", "picture_every", "context"})
        | frozenset({"focal", "dice", "iou", "presence", "absent", "gamma", "consistency"}),
    ),
    (
        "a share from 0 to 1",
        lambda x: 0 <= x <= 1,
        frozenset({"cool_down", "corrections", "from_truth", "regions", "later", "ends", "inwards", "sets"}),
    ),
    ("0 or more, below 1", lambda x: 0 <= x < 1, frozenset({"average", "smallest"})),
    ("a number above 0, up to 1", lambda x: 0 < x <= 1, frozenset({"layer_decay"})),
    ("a number up to 1", lambda x: -inf < x <= 1, frozenset({"alpha"})),
    ("a whole number from 0 to 4294967295", lambda x: 0 <= x < 2**32, frozenset({"seed"})),
)
"""What a setting may be, in words and as a test, and which settings that goes for."""


def _check_numbers(config: object, table: str = "") -> None:
    """Refuse numbers with which nothing is learnt; raises ConfigError."""
    for words, fits, names in RANGES:
        for name, value in vars(config).items():
            if name in names and not fits(value):
                raise ConfigError(f"{value!r} makes no sense", f"give {words}", subject=f"{table}{name}")


@dataclass(frozen=True)
class Phase:
    """A stretch of the curriculum: single frames first, then pairs, then clips."""

    steps: int  # how many
    frames: int  # of each clip that are learned from
    clips: int  # of a batch, over all processes
    objects: int = 3  # at most, of each clip
    size: int = 128  # side of the input in pixels
    smallest: float = SMALLEST  # share of the frame under which an object is left out
    context: int = 0  # frames tracked between the first and the others without learning from them, so that the bank must choose

    def __post_init__(self) -> None:
        if self.size < STRIDE or self.size % STRIDE:
            raise ConfigError(
                f"no network learns from {self.size} pixels", f"give a multiple of {STRIDE}", subject="phases, size"
            )
        _check_numbers(self, "phases, ")

    @property
    def least_bytes(self) -> int:
        """Memory that the clips of a step take, on whatever machine: pictures (float32, three channels) and outlines."""
        return self.clips * (self.frames + self.context) * self.size**2 * (3 * 4 + self.objects)


@dataclass(frozen=True)
class LossWeights:
    """How much each loss counts.

    `focal` 20, `dice` 1, `iou` 1, `presence` 1, `gamma` 2, `alpha` 0.25 is SAM 2's own recipe, for fine-tuning.
    From scratch the focal loss stays at the empty mask for long, so cross-entropy (`gamma` 0, `focal` 1) with dice moves first.
    """

    focal: float = 1.0  # pixel-wise cross-entropy, focused by `gamma`
    dice: float = 1.0  # one less the soft Dice
    iou: float = 0.5  # L1 between predicted and true IoU, of every proposed mask
    presence: float = 0.25  # cross-entropy of the object being on the frame
    absent: float = 0.0  # cross-entropy of all proposed masks with the empty one, where the object is not on the frame
    gamma: float = 0.0  # exponent of the focal loss
    alpha: float = -1.0  # share of the object's pixels in the focal loss, the others have the rest; below 0 both count alike
    consistency: float = 0.2  # contrast of the features of different structures, see `consistency`

    def __post_init__(self) -> None:
        _check_numbers(self, "losses, ")


@dataclass(frozen=True)
class Recipe:
    """A training run."""

    pool: str = "pool"  # folder of cases, of `medsam2 prepare` (its `arrays`) or `recipes/nano/synthesize.py`
    validation: str = ""  # folder of other cases, for the pictures; other clips of the same cases where empty
    phases: tuple[Phase, ...] = ()  # the curriculum
    seed: int = 0  # of everything
    start: str = ""  # weights to start from, a folder or a name; from scratch where empty
    # "lora" trains updates of low rank in SAM 2's image encoder (as SAMed), "adapter" small layers between its own (as MSA);
    # both train the mask decoder, too, and nothing else; "none" trains all of the network
    adapter: Insertion = "none"
    rank: int = 4  # of LoRA's updates, or channels in the middle of an adapter
    parts: tuple[str, ...] = ()  # how the names of the weights begin that are trained ("memory_attention."); all unless given
    rate: float = 6e-4  # highest learning rate
    encoder_rate: float = 1.0  # the image encoder's, as a share of `rate`
    layer_decay: float = 1.0  # each layer of the image encoder learns by this factor slower than the next deeper one
    weight_decay: float = 0.05  # of AdamW; biases and scales have none
    warm_up: int = 200  # steps until the highest rate
    cool_down: float = 0.2  # share of the run's last steps over which the rate falls to nothing, by a cosine
    clip: float = 1.0  # largest norm of the gradient
    average: float = 0.998  # decay of the exponential moving average of the weights, which is what ships
    precision: Literal["bf16", "fp32"] = "bf16"  # "bf16" (mixed) or "fp32"
    checkpointing: bool = False  # compute frames again in the backward pass instead of keeping all that is in between
    shard: bool = False  # spread weights and optimiser over the processes (FSDP2), for networks too large for one device
    # "cases" draws any case; "data-sets" a data set, then a case; "tasks" a task, then a modality, then a case
    sampling: Sampling = "cases"
    # "strong": more often than in the paper, with zooms, and sets of images twice; "paper": its table (appendix C.2) as it is
    augmentation: Strength = "strong"
    sets: float = 0.4  # share of clips that come from sets of images, where cases are drawn
    regions: float = 0.6  # share of clips that show a region around the object, as tracking does
    later: float = 0.0  # share of these, from volumes, whose region lies around the object as it is on any slice of the clip
    ends: float = 0.35  # share of clips of volumes that go on beyond the end of their object
    inwards: float = 0.3  # share of them that begins at an end of it, so that it grows from slice to slice
    prompt: tuple[float, float, float] = (0.5, 0.25, 0.25)  # probabilities of a mask, a click, a box as the first prompt
    corrections: float = 0.3  # probability that a clip gets corrective clicks, on up to two frames, the first among them
    clicks: int = 2  # corrective clicks on such a frame
    from_truth: float = 0.1  # share of corrective clicks placed without looking at the prediction
    workers: int = 1  # processes that prepare clips
    save_every: int = 100  # steps between checkpoints
    picture_every: int = 0  # steps between pictures of validation clips; 0 for none
    losses: LossWeights = field(default_factory=LossWeights)  # their weights

    def __post_init__(self) -> None:
        if not self.phases:
            raise ConfigError("the recipe has no phases", "write at least one [[phases]]", subject="phases")
        _check_numbers(self)
        usable = self.prompt[1:] if any(phase.frames + phase.context == 1 for phase in self.phases) else self.prompt
        if not (all(isfinite(odds) and odds >= 0 for odds in self.prompt) and sum(usable) > 0):
            remedy = "give how often a mask, a click and a box come, 0 or more; of single frames a click or a box is learnt"
            raise ConfigError(f"nobody prompts with {list(self.prompt)}", remedy, subject="prompt")
        if self.parts and self.adapter != "none":
            raise ConfigError("an adapter chooses by itself what is trained", "leave one of both out", subject="parts")
        if self.shard and self.adapter != "none":
            raise ConfigError(
                "few weights that are trained are not spread over processes", "leave shard out", subject="adapter"
            )

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
        InputError: the file is not there, or may not be read.
        ConfigError: it is no TOML; a key that does not exist (the nearest one is named), a value of the wrong type, or one with
            which nothing is learnt.
    """
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise explain(error, path) from None
    except ValueError as error:  # not TOML, or no text at all
        reason = f" ({error})" if isinstance(error, tomllib.TOMLDecodeError) else ""
        raise ConfigError(f"the recipe cannot be read{reason}", "give a TOML file", subject=path) from None
    return build_config(Recipe, override_settings(values, settings))


def choose_recipe(network: Sam2, start: str, pool: Path, *, seed: int, steps: int) -> Recipe:
    """How a network is fine-tuned: SAM 2's own settings, but for `nano`, which is small and learns faster."""
    small = isinstance(network, Nano)
    size = network.image_size
    phase = Phase(steps=steps, frames=4 if small else 8, clips=2, objects=2, size=size)
    common = Recipe(
        pool=str(pool), phases=(phase,), seed=seed, start=start, sampling="tasks", average=0.99, warm_up=min(20, steps // 10)
    )
    if small:
        losses = LossWeights(consistency=0.1)
        return replace(common, rate=NANO_RATE, weight_decay=0.05, cool_down=0.5, clip=1.0, corrections=0.3, losses=losses)
    losses = LossWeights(focal=20, dice=1, iou=1, presence=1, gamma=2, alpha=0.25, consistency=0)
    rates = {"rate": 5e-6, "encoder_rate": 0.6, "layer_decay": 0.9, "weight_decay": 0.1, "clip": 0.1, "cool_down": 1.0}
    return replace(common, **rates, corrections=1.0, clicks=7, from_truth=0.1, checkpointing=True, losses=losses)


def freeze_others(network: nn.Module, parts: Sequence[str]) -> None:
    """Train only weights whose names begin in one of these ways; all if none is given. Raises ConfigError if none does."""
    names = [name for name, _ in network.named_parameters()] if parts else []
    unknown = [part for part in parts if not any(name.startswith(part) for name in names)]
    if unknown:
        problem = f"no weight of the network begins with {unknown[0]!r}"
        raise ConfigError(problem, f"some do with {', '.join(sorted({name.split('.')[0] for name in names}))}", subject="parts")
    for name, weight in network.named_parameters() if parts else ():
        weight.requires_grad_(name.startswith(tuple(parts)))


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
                inner = inner[int(parent)] if isinstance(inner, list | tuple) else inner.setdefault(parent, {})
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
                f"unknown setting {key!r}", f"did you mean {near[0]!r}?" if near else f"choose among {', '.join(sorted(hints))}"
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
    return names.get(hint, _describe_items(get_args(hint)) if get_origin(hint) is tuple else "a table")


def _describe_items(kinds: Sequence[Any]) -> str:
    return "a list of texts" if kinds[0] is str else f"{len(kinds)} numbers"


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
