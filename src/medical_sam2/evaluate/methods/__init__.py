"""Who answers, by name: the network with its banks, prototypes, networks trained for the task, other programs.

`interface` is what each of them offers, and calls other programs; each other file is one method, or one family.
"""

import re
from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import partial

from medical_sam2.errors import ConfigError
from medical_sam2.evaluate.methods.interface import IMAGE, Command, Method
from medical_sam2.evaluate.methods.own_network import Prototypical, TrackingMethod, WithoutMemory
from medical_sam2.evaluate.methods.trained_networks import Tailored
from medical_sam2.model.memory_bank import Fifo, Greedy, SelfSorting
from medical_sam2.plugins import find

ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
PAPER = partial(SelfSorting, pin="first")
METHODS: Mapping[str, Method] = {
    "self-sorting": TrackingMethod(PAPER),
    "all pinned": TrackingMethod(SelfSorting),
    "one view": TrackingMethod(PAPER, views="one"),
    "six views": TrackingMethod(PAPER, views="six"),
    "fifo": TrackingMethod(Fifo),
    "greedy": TrackingMethod(Greedy),
    "prompt alone": TrackingMethod(partial(SelfSorting, threshold=2.0)),
    "without memory": WithoutMemory(),
    "no sorting": TrackingMethod(partial(PAPER, threshold=0.0, sort=False, resample="none")),
    "+ threshold": TrackingMethod(partial(PAPER, sort=False, resample="none")),
    "+ dissimilarity": TrackingMethod(partial(PAPER, resample="none")),
    "+ resampling": TrackingMethod(PAPER),
    "prototypes": Prototypical(),
    "local prototypes": Prototypical(window=4),
    "dynunet": Tailored("DynUNet"),
    "unetr": Tailored("UNETR"),
    "swin-unetr": Tailored("SwinUNETR"),
    "transunet": Tailored("TransUNet"),
    "segdiff": Tailored("SegDiff", size=64),
    "ensdiff": Tailored("EnsDiff", size=64),
    "medsegdiff": Tailored("MedSegDiff", size=64),
}
"""The first prompt alone is pinned, as in the paper; "one view", "six views" are "self-sorting" whatever the
protocol's views are; "all pinned" is the bank for people who prompt, which keeps every prompt.
From "no sorting" to "+ resampling": the ladder of Table 3: the latest memories; only sure ones; dissimilar ones; weighed."""
CLASSICAL = ("copy", "registration", "random walker", "classifier", "grow cut", "geodesic")
"""Methods of `benchmarks/classical_methods.py`, which is no part of the package."""


def find_method(name: str) -> Method:
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
    return find(METHODS, name, what="method", interface=Method)


def method_label(name: str) -> str:
    """What a method is called in tables.

    >>> method_label("other=python other.py {image} {prompts} {output}")
    'other'
    """
    before = name.partition(IMAGE)[0]
    return before.partition("=")[0] if before != name and "=" in before else name


def describe_method(method: Method) -> str:
    """What decides about the answers of a method, in words that change when it does.

    They are part of a study's digest: where a class of a method or a bank gets another name, no earlier run goes on.
    """
    if isinstance(method, TrackingMethod):
        return repr(method.bank()) + (f", views {method.views}" if method.views else "")
    description = repr(method) if is_dataclass(method) else type(method).__qualname__
    return ADDRESS.sub("", description)  # it differs from run to run
