"""Classical methods that one prompt is enough for: what the network is compared with.

Every method takes the outline of one slice or picture; where the prompt is a box or a click, `outlined` makes one of it first.
"""

from classical.images import IMAGE_METHODS, OnImage, OnSet
from classical.start import outlined
from classical.volumes import VOLUME_METHODS, OnVolume

__all__ = ["IMAGE_METHODS", "VOLUME_METHODS", "OnImage", "OnSet", "OnVolume", "outlined"]
