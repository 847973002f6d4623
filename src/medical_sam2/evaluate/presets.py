"""How much of a study is run: all of it, what two cores do within an hour, or a look within minutes.

A preset leaves out; it changes nothing of what it keeps but, where it says so, the size of the network's input.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from medical_sam2.evaluate.protocols import Condition, Protocol

T = TypeVar("T")


@dataclass(frozen=True)
class Preset:
    """Limits; None is no limit.

    Args:
        about: what it is for, one sentence.
        cases: volumes of each data set.
        slices: of a volume; those with more are passed over.
        images: of each set of images.
        structures: of each data set.
        seeds: of each protocol.
        conditions: of each protocol, of each kind of prompt and each way to choose frames; at equal steps.
        image_size: side of the network's input in pixels; None for that of the weights.
    """

    about: str
    cases: int | None = None
    slices: int | None = None
    images: int | None = None
    structures: int | None = None
    seeds: int | None = None
    conditions: int | None = None
    image_size: int | None = None


PRESETS: Mapping[str, Preset] = {
    "full": Preset("Everything."),
    "study": Preset(
        "The whole study on some twenty data sets within an hour of two cores.",
        cases=3,
        images=12,
        structures=2,
        image_size=192,
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
    ),
}


def trimmed(protocol: Protocol, preset: Preset) -> Protocol:
    """What a preset leaves of a protocol."""
    alike: dict[tuple[str, str], list[Condition]] = {}
    for condition in protocol.conditions:
        alike.setdefault((condition.prompt, condition.choice), []).append(condition)
    most = preset.conditions
    half = None if most is None else max(1, most // 2)  # what is suggested takes several answers each
    conditions = tuple(each for (_, choice), own in alike.items() for each in spread(own, most if choice == "random" else half))
    return replace(protocol, conditions=conditions, seeds=protocol.seeds[: preset.seeds])


def spread(many: Sequence[T], most: int | None) -> list[T]:
    """At most so many, at equal steps, the first and the last among them; of one, the first."""
    if most is None or most >= len(many):
        return list(many)
    return [many[round(place * (len(many) - 1) / max(1, most - 1))] for place in range(most)]
