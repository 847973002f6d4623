"""What is measured: the paper's protocols (METHOD §7), each a frozen description that is printed and hashed with its results.

A condition is who prompts, where, how much and how carefully; a method is who answers. Every method is asked with the same
prompts, but for frames that are prompted because a method's own answer suggested them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from typing import Any, Literal, TypeAlias, TypeVar, get_args

from medical_sam2.errors import ConfigError
from medical_sam2.plugins import find

VERSION = 3  # of the descriptions and of the rows; a change of either makes results that cannot be mixed


PlainKind: TypeAlias = Literal["click", "box", "mask"]
DrawnKind: TypeAlias = Literal["scribble", "diameter", "lasso", "box and negative lasso"]
VolumeKind: TypeAlias = Literal["box and slices", "box in 3D", "outlines", "joined outlines"]
Kind: TypeAlias = PlainKind | DrawnKind | VolumeKind
OF_VOLUMES: tuple[VolumeKind, ...] = get_args(VolumeKind)
EVERY_KIND: tuple[Kind, ...] = (*get_args(PlainKind), *get_args(DrawnKind), *OF_VOLUMES)


@dataclass(frozen=True)
class Condition:
    """How the simulated person prompts."""

    prompt: Kind | Literal["own"] = "own"  # "own": what the data set names as its prompt (else a box)
    volume: float | None = 0.25  # probability of each slice of a volume; None for exactly one slice
    images: float | None = 0.3  # probability of each image of a set; None for exactly one template
    care: str = "none"  # name of a level of `simulate.NOISE_LEVELS`
    # which frames are prompted: those that chance takes; or one that chance takes and then, as many in all as chance would have
    # taken, those that the method's own answer needs most
    choice: Literal["random", "suggest"] = "random"
    # in a volume, further clicks after the first prompt, each in the middle of the largest error of the answer so far; then the
    # first prompt is a box on the middle slice of the structure, or a click in the middle of all of it
    clicks: int = 0
    # images of other sets that are mixed, unprompted, among those of a set, over how many these are; None: no question of the
    # protocol, which asks volumes too
    distractors: float | None = None

    def share(self, kind: str) -> float | None:
        """Of the slices of a volume, or of the images of a set."""
        return self.volume if kind == "volume" else self.images


BANKS = ("self-sorting", "fifo", "greedy")
PROTOTYPES = ("prototypes", "local prototypes")


@dataclass(frozen=True)
class Protocol:
    """A study."""

    name: str  # of the protocol
    about: str  # what it answers, one sentence
    conditions: tuple[Condition, ...] = (Condition(),)  # of prompting
    # names in `methods.METHODS`, or plug-ins; the first is the one that the others are compared with
    methods: tuple[str, ...] = BANKS
    seeds: tuple[int, ...] = (0,)  # each draws prompted frames, hands and the order of sets anew
    views: str = "one"  # of volumes
    fusion: str = "mean"  # of views
    tolerance_mm: float = 1.0  # of the surface Dice
    watch: bool = False  # whether the bank's mutual information is recorded
    limit_s: float = 600.0  # that a command of another program may take for one answer

    def described(self) -> dict[str, Any]:
        """All that decides about its results, as JSON stores it."""
        return {"version": VERSION, **json.loads(json.dumps(asdict(self)))}

    @property
    def digest(self) -> str:
        """SHA-256 of the description: results of equal digests may be put together."""
        return sha256(json.dumps(self.described(), sort_keys=True).encode()).hexdigest()


SHARES = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
SUGGESTED = (0.05, 0.1, 0.25)
LADDER = ("no sorting", "+ threshold", "+ dissimilarity", "+ resampling")
ONE = (Condition(volume=None, images=None),)

PROTOCOLS: Mapping[str, Protocol] = {
    each.name: each
    for each in (
        Protocol(
            "universal",
            "Tables 1 and 2: each slice prompted with probability 0.25, each image with 0.3.",
            methods=(*BANKS, "one view", "all pinned", "prompt alone", "without memory", *PROTOTYPES),
            views="six",
        ),
        Protocol(
            "one-prompt",
            "Fig. 5: one prompted slice or image, five runs with other templates and orders.",
            conditions=ONE,
            methods=(*BANKS, *PROTOTYPES),
            seeds=(0, 1, 2, 3, 4),
        ),
        Protocol(
            "frequency",
            "Fig. 7: from 5 % to all of the frames prompted, by chance or where the answer so far needs it most.",
            conditions=(
                *(Condition(volume=share, images=share) for share in SHARES),
                *(Condition(volume=share, images=share, choice="suggest") for share in SUGGESTED),
            ),
            methods=("self-sorting", "fifo"),
        ),
        Protocol("ablation", "Table 3: the steps of the self-sorting bank, one after the other.", methods=LADDER, views="six"),
        Protocol(
            "memory",
            "Fig. 6: mutual information of what the bank holds, over the time of tracking.",
            conditions=ONE,
            methods=("self-sorting", "fifo"),
            watch=True,
        ),
        Protocol(
            "noise",
            "Prompts of a careless hand on 10 % of the frames: levels that were chosen, not measured on people.",
            conditions=tuple(
                Condition(prompt=prompt, volume=0.1, images=0.1, care=care)
                for prompt in ("click", "box", "mask")
                for care in ("none", "expert", "trained", "lay")
            ),
            methods=("self-sorting",),
        ),
        Protocol(
            "prompt-kinds",
            "What each kind of prompt is worth: one slice or image, pointed at in every way; of volumes also where they end.",
            conditions=tuple(Condition(prompt=kind, volume=None, images=None) for kind in EVERY_KIND),
            methods=("self-sorting",),
        ),
        Protocol(
            "challenge",
            "CVPR's challenge of interactive 3D segmentation: a box, then five clicks, each in the largest error.",
            conditions=(Condition("box", volume=None, images=None, clicks=5),),
            methods=("self-sorting",),
            tolerance_mm=2.0,
        ),
        Protocol(
            "clicks",
            "Clicks alone, each in the largest error, until there are ten: Dice after each, and how many a good answer takes.",
            conditions=(Condition("click", volume=None, images=None, clicks=9),),
            methods=("self-sorting",),
        ),
        Protocol(
            "distractors",
            "Sets of images, one prompted, without and with images of other sets among them, which do not show the structure.",
            conditions=tuple(Condition(images=None, distractors=share) for share in (0.0, 0.5)),
            methods=(*BANKS, "prompt alone"),
            seeds=(0, 1, 2),
        ),
    )
}


BEYOND_PAPER = ("prompt-kinds", "challenge", "clicks", "distractors")  # run where they are named


T = TypeVar("T")


@dataclass(frozen=True)
class Preset:
    """Limits; None is no limit."""

    about: str  # what it is for, one sentence
    cases: int | None = None  # volumes of each data set
    slices: int | None = None  # of a volume; those with more are passed over
    images: int | None = None  # of each set of images
    structures: int | None = None  # of each data set
    seeds: int | None = None  # of each protocol
    conditions: int | None = None  # of each protocol, of each kind of prompt and each way to choose frames; at equal steps
    image_size: int | None = None  # side of the network's input in pixels; None for that of the weights
    views: str | None = None  # of volumes; None for those of each protocol
    # method that takes the place of "one view" where a protocol has more views than this; None for none
    beside: str | None = None


PRESETS: Mapping[str, Preset] = {
    "full": Preset("Everything."),
    "study": Preset(
        "The whole study on some twenty data sets in little more than an hour of two cores.",
        cases=3,
        images=12,
        structures=2,
        image_size=192,
        views="one",
        beside="six views",
    ),
    "quick": Preset(
        "A look at every protocol within minutes; too few cases to conclude anything from.",
        cases=1,
        slices=100,
        images=4,
        structures=1,
        seeds=2,
        conditions=2,
        image_size=128,
        views="one",
    ),
}


def find_protocol(
    name: str, *, preset: Preset = PRESETS["full"], views: str | None = None, methods: tuple[str, ...] = ()
) -> Protocol:
    """A protocol by its name, or a plug-in; what a preset leaves of it, with other views and methods where they are given.

    Raises:
        ConfigError: there is no such protocol.
    """
    found: Any = find(PROTOCOLS, name, what="protocol")
    if not isinstance(found, Protocol):
        raise ConfigError(f"{name} is no protocol", "give medical_sam2.evaluate.protocols.Protocol", subject="--protocol")
    trimmed = trim_protocol(found, preset)
    return replace(trimmed, views=views or trimmed.views, methods=methods or trimmed.methods)


def trim_protocol(protocol: Protocol, preset: Preset) -> Protocol:
    """What a preset leaves of a protocol."""
    alike: dict[tuple[str, str], list[Condition]] = {}
    for condition in protocol.conditions:
        alike.setdefault((condition.prompt, condition.choice), []).append(condition)
    most = preset.conditions
    half = None if most is None else max(1, most // 2)  # what is suggested takes several answers each
    conditions = tuple(
        each for (_, choice), own in alike.items() for each in spread_evenly(own, most if choice == "random" else half)
    )
    fewer = replace(protocol, conditions=conditions, seeds=protocol.seeds[: preset.seeds])
    if preset.views in (None, protocol.views):
        return fewer
    methods = (preset.beside if method == "one view" else method for method in protocol.methods)
    return replace(fewer, views=preset.views, methods=tuple(method for method in methods if method))


def spread_evenly(many: Sequence[T], most: int | None) -> list[T]:
    """At most so many, at equal steps, the first and the last among them; of one, the first."""
    if most is None or most >= len(many):
        return list(many)
    return [many[round(place * (len(many) - 1) / max(1, most - 1))] for place in range(most)]
