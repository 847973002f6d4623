"""Training cases, wherever they come from: made from noise, or prepared from real data.

A reader lists what there is (`entries`, cheap) and loads one case (`load`, arrays on disk), so that sampling knows tasks and
modalities before it opens anything. `data.synthetic.PoolReader` is one.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Kind = Literal["volume", "set"]
ARRAYS = "arrays"
"""Folder within a prepared data set that its training cases are in."""
Task = tuple[int, ...]
"""An object: the union of some values of a label map."""


class Entry(Protocol):
    """What is known of a case before it is loaded."""

    @property
    def kind(self) -> Kind:
        """Whether it is a volume, or a set of images in no order."""
        ...

    @property
    def name(self) -> str:
        """What made it, or the data set that it belongs to."""
        ...

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The objects in it."""
        ...

    @property
    def task_names(self) -> tuple[str, ...]:
        """What each of `tasks` is an example of ("BTCV/spleen"); several objects may share a name."""
        ...

    @property
    def modality(self) -> str:
        """What took the images ("CT", "T1", "fundus", "synthetic")."""
        ...


class TrainingCase(Protocol):
    """Images with their objects outlined."""

    @property
    def images(self) -> NDArray[np.uint8]:
        """(D, H, W) for a volume, (N, H, W, 3) for a set of images."""
        ...

    @property
    def labels(self) -> NDArray[np.uint8]:
        """(D, H, W) or (N, H, W)."""
        ...

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The objects: each the union of some labels; they may be nested."""
        ...

    @property
    def kind(self) -> Kind:
        """Whether it is a volume, or a set of images in no order."""
        ...


class CaseReader(Protocol):
    """Something that training cases are read from."""

    @property
    def entries(self) -> Sequence[Entry]:
        """What there is."""
        ...

    def load(self, position: int) -> TrainingCase:
        """The case at a position of `entries`."""
        ...


class Joined:
    """Several readers as one: each task of each data set is found among its entries.

    Args:
        readers: what is joined; their cases follow each other in this order.
    """

    def __init__(self, *readers: CaseReader) -> None:
        self.readers = readers

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What there is in all of them."""
        return tuple(entry for reader in self.readers for entry in reader.entries)

    def load(self, position: int) -> TrainingCase:
        """The case at a position of `entries`.

        Raises:
            IndexError: there are not so many.
        """
        for reader in self.readers:
            if position < len(reader.entries):
                return reader.load(position)
            position -= len(reader.entries)
        raise IndexError(f"there is no case {position} more")
