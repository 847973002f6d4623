"""What is measured: the paper's protocols (METHOD §7), each a frozen description that is printed and hashed with its results.

A condition is who prompts, where, how much and how carefully; a method is who answers. Every method is asked with the same
prompts, but for frames that are prompted because a method's own answer suggested them.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from typing import Any, Literal, TypeAlias

from medical_sam2.errors import ConfigError
from medical_sam2.plugins import find

Told: TypeAlias = Literal["mask", "box", "click", "own"]
Share: TypeAlias = float | None
"""Probability that a frame is prompted; None for exactly one frame."""

Choice: TypeAlias = Literal["random", "suggest"]

VERSION = 2  # of the descriptions and of the rows; a change of either makes results that cannot be mixed
ONE_FRAME: Share = None


@dataclass(frozen=True)
class Condition:
    """How the simulated person prompts.

    Args:
        prompt: "mask", "box" or "click"; "own" for what the data set names as its prompt (else a box).
        volume: probability of each slice of a volume; None for exactly one slice.
        images: probability of each image of a set; None for exactly one template.
        care: name of a level of `simulate.NOISE_LEVELS`.
        choice: which frames are prompted: those that chance takes; or one that chance takes and then, as many in all as chance
            would have taken, those that the method's own answer needs most (`choosing.py`).
    """

    prompt: Told = "own"
    volume: Share = 0.25
    images: Share = 0.3
    care: str = "none"
    choice: Choice = "random"

    def share(self, kind: str) -> Share:
        """Of the slices of a volume, or of the images of a set."""
        return self.volume if kind == "volume" else self.images


BANKS = ("self-sorting", "fifo", "greedy")
PROTOTYPES = ("prototypes", "local prototypes")


@dataclass(frozen=True)
class Protocol:
    """A study.

    Args:
        name: of the protocol.
        about: what it answers, one sentence.
        conditions: of prompting.
        methods: names in `methods.METHODS`, or plug-ins; the first is the one that the others are compared with.
        seeds: each draws prompted frames, hands and the order of sets anew.
        views: of volumes.
        fusion: of views.
        tolerance_mm: of the surface Dice.
        watch: whether the bank's mutual information is recorded.
        limit_s: that a command of another program may take for one answer.
    """

    name: str
    about: str
    conditions: tuple[Condition, ...] = (Condition(),)
    methods: tuple[str, ...] = BANKS
    seeds: tuple[int, ...] = (0,)
    views: str = "one"
    fusion: str = "mean"
    tolerance_mm: float = 1.0
    watch: bool = False
    limit_s: float = 600.0

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
ONE = (Condition(volume=ONE_FRAME, images=ONE_FRAME),)

PROTOCOLS: Mapping[str, Protocol] = {
    each.name: each
    for each in (
        Protocol(
            "universal",
            "Tables 1 and 2: each slice prompted with probability 0.25, each image with 0.3.",
            methods=(*BANKS, "prompt alone", "without memory", *PROTOTYPES),
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
        Protocol("ablation", "Table 3: the steps of the self-sorting bank, one after the other.", methods=LADDER),
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
    )
}


def protocol(name: str, *, views: str | None = None, methods: tuple[str, ...] = ()) -> Protocol:
    """A protocol by its name.

    Args:
        name: one of `PROTOCOLS`, or a plug-in.
        views: others than its own.
        methods: others than its own.

    Raises:
        ConfigError: there is no such protocol.
    """
    found: Any = find(PROTOCOLS, name, what="protocol")
    if not isinstance(found, Protocol):
        raise ConfigError(f"{name} is no protocol", "give medical_sam2.evaluate.protocols.Protocol", subject="--protocol")
    return replace(found, views=views or found.views, methods=methods or found.methods)
