"""Methods by name: the network with its banks, prototypes, networks trained for the task, other programs."""

import re
from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import partial

from medical_sam2.errors import ConfigError
from medical_sam2.evaluate.methods.baselines import Prototypical
from medical_sam2.evaluate.methods.command import IMAGE, Command
from medical_sam2.evaluate.methods.method import Method
from medical_sam2.evaluate.methods.tailored import Tailored
from medical_sam2.evaluate.methods.tracking import Tracking, WithoutMemory
from medical_sam2.model.memory_bank import Fifo, Greedy, SelfSorting
from medical_sam2.plugins import find

ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
METHODS: Mapping[str, Method] = {
    "self-sorting": Tracking(SelfSorting),
    "fifo": Tracking(Fifo),
    "greedy": Tracking(Greedy),
    "prompt alone": Tracking(partial(SelfSorting, threshold=2.0)),
    "without memory": WithoutMemory(),
    "no sorting": Tracking(partial(SelfSorting, threshold=0.0, sort=False, resample="none")),
    "+ threshold": Tracking(partial(SelfSorting, sort=False, resample="none")),
    "+ dissimilarity": Tracking(partial(SelfSorting, resample="none")),
    "+ resampling": Tracking(SelfSorting),
    "prototypes": Prototypical(),
    "local prototypes": Prototypical(window=4),
    "dynunet": Tailored("DynUNet"),
    "unetr": Tailored("UNETR"),
    "swin-unetr": Tailored("SwinUNETR"),
}
"""From "no sorting" to "+ resampling": the ladder of Table 3: the latest memories; only sure ones; dissimilar ones; weighed."""
CLASSICAL = ("copy", "registration", "random walker", "classifier", "grow cut", "geodesic")
"""Methods of `benchmarks/classical_methods.py`, which is no part of the package."""


def method_named(name: str) -> Method:
    """The method called so.

    Args:
        name: of `METHODS`; `module:attribute`; `file.py:attribute`; or `LABEL=PROGRAM {image} {prompts} {output}`.

    Raises:
        ConfigError: there is none.
    """
    if IMAGE in name:
        return Command.parsed(name.partition("=")[2] if "=" in name.partition(IMAGE)[0] else name)
    if name in CLASSICAL:
        place = f"benchmarks/classical_methods.py:{name.upper().replace(' ', '_')}"
        raise ConfigError(f"the method {name!r} left the package", f"give {place}, in a copy of the repository")
    return find(METHODS, name, what="method")


def label(name: str) -> str:
    """What a method is called in tables.

    >>> label("other=python other.py {image} {prompts} {output}")
    'other'
    """
    before = name.partition(IMAGE)[0]
    return before.partition("=")[0] if before != name and "=" in before else name


def settings(method: Method) -> str:
    """What decides about the answers of a method, in words that change when it does."""
    if isinstance(method, Tracking):
        return repr(method.bank())
    told = repr(method) if is_dataclass(method) else type(method).__qualname__
    return ADDRESS.sub("", told)  # it differs from run to run
