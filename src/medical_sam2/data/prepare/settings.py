"""What a user may choose about preprocessing."""

from dataclasses import dataclass

from medical_sam2.errors import ConfigError

SMALLEST = 0.00153
"""100 px of 256² (METHOD §4)."""
LEAST_SIDE = 32


@dataclass(frozen=True)
class Settings:
    """How a data set is prepared.

    Args:
        size: longest side of a slice in the training arrays, in pixels; smaller slices keep their size.
        smallest: share of a slice that an object must reach on one of them to become a task.
        window_hu: Hounsfield units that a CT is clipped to first.
        split: whether the connected components of a structure become tasks of their own.
        images: whether images and label maps are written, beside the training arrays.
        group: images of a set in one training case.
        seed: of the order in which images are put into groups.

    Raises:
        ConfigError: a value that makes no sense.
    """

    size: int = 256
    smallest: float = SMALLEST
    window_hu: tuple[float, float] = (-160.0, 240.0)
    split: bool = True
    images: bool = True
    group: int = 24
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < LEAST_SIDE:
            raise ConfigError(f"slices of {self.size} pixels show nothing", f"give {LEAST_SIDE} or more", subject="size")
        if not 0 <= self.smallest < 1:
            raise ConfigError(f"{self.smallest} is no share of a slice", "give a number from 0 to 1", subject="smallest")
        if self.window_hu[0] >= self.window_hu[1]:
            raise ConfigError(f"the window {self.window_hu} is empty", "give LOW,HIGH with LOW below HIGH", subject="window")
        if self.group < 2:
            raise ConfigError(f"{self.group} images make no set", "give 2 or more", subject="group")
