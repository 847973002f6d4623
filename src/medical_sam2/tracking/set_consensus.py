"""A consensus on an image of a set once an object has been tracked: its greys and colours, its place, and what fits together.

The network tells an image's pixels by what it remembers. Beside it stand simpler witnesses: regression on the greys, colours,
edges and lines of the image that was prompted (`PixelRegression`), and on those of the pixels that were found on the image
itself, and the same on the maps of the encoder; the outline at the same place; how far each pixel lies from what was surely
found, along ways that edges make long. A small network, learnt beside the network's weights, says by how much the logit of each
pixel changes (`SetConsensus`), and by what its answer and the witnesses have in common how good the answer is. Images that were
prompted keep their answer.

Shapes: S side of the network's square input, P descriptors of a pixel, C channels of the encoder's maps, F features, A numbers
that describe an answer, h w the grid of the logits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import expit
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from medical_sam2.model.backbone import Features
from medical_sam2.model.tracker import upsample
from medical_sam2.model.weights import read_small_network
from medical_sam2.tracking.confidence import dice_of
from medical_sam2.tracking.consensus import MOST_CHANGE, SURE
from medical_sam2.tracking.witnesses import geodesics, path_costs

Floats = NDArray[np.float32]
MaskArray = NDArray[np.bool_]

NETWORK_FILE = "set_consensus.safetensors"
SIDE = 256  # pixels along a side of the square that descriptors are made of
PIXELS, RIDGE = 2400, 1e-3  # that a regression learns from; its penalty, as a share of the mean square
GREY = 0.01  # channels that differ by less are no colour
FEATURES = (
    *("tracked", "tracked around", "tracked far around", "regression", "regression around", "regression far around"),
    *(
        "own regression",
        "own regression around",
        "edge",
        "edges",
        "all",
        "place",
        "size of part",
        "peak of part",
        "share of part",
    ),
    *("confidence", "likeness", "same scene", "same place", "regression agrees", "own regression agrees", "area"),
    *("regression fits", "area of template", "parts of template", "parts", "peak", "mean", "regression at place", "colour"),
    *("area of regression", "encoder regression", "own encoder regression", "red", "green", "blue"),
)
WIDTHS = (16, 24, 32, 48)  # channels at the grid, and at each half of it
LOGITS = 3.0  # that "tracked" counts as one
WITNESSES = ("regression around", "own regression around", "encoder regression", "own encoder regression")
ANSWER = ("expected", "unchanged", "sureness", "confidence", *WITNESSES)
"""What describes an answer."""


@dataclass(frozen=True, eq=False)
class SeenImage:
    """An image as the network saw it."""

    picture_3SS: Floats  # in [0, 1]
    encoded_Chw: Floats  # the maps of its encoder, enlarged to half of the picture's size

    @classmethod
    def of(cls, shown_3SS: Tensor, frame: Features) -> "SeenImage":
        """An image, and what the encoder saw on it."""
        maps = (*frame.own.values(), *frame.fine_BChw, frame.top_BChw)
        with torch.autocast(shown_3SS.device.type, enabled=False):
            encoded = torch.cat([upsample(each[0], SIDE // 2) for each in maps]).cpu().numpy()
            return cls(upsample(shown_3SS, SIDE).cpu().numpy(), encoded)

    @cached_property
    def thumbnail(self) -> Floats:
        """Its greys in few pixels, of mean 0 and spread 1."""
        return _thumbnail(self.picture_3SS)


def _without_colour(picture_3SS: Floats) -> Floats:
    return np.repeat(picture_3SS.mean(0)[None], 3, 0)


def _thumbnail(picture_3SS: Floats) -> Floats:
    grey = _blurred(picture_3SS.mean(0), 4.0)[4::8, 4::8]
    return (grey - grey.mean()) / (grey.std() + np.float32(1e-4))


def describe_pixels(picture_3SS: Floats) -> Floats:
    """Greys and colours of a picture in [0, 1] at four scales, texture, edges, lines: (P, S, S); fewer without colour."""
    red, green, blue = picture_3SS
    light = (red + green + blue) / 3
    planes = [light, red - green, blue - (red + green) / 2] if in_colour(picture_3SS) else [light]
    scales = [[plane, *(_blurred(plane, sigma) for sigma in (1.0, 2.5, 6.0))] for plane in planes]
    lights = scales[0]
    found = [each for own in scales for each in own]
    found += [_blurred(np.abs(lights[n] - lights[n + 1]), 2.0) for n in (0, 1)]
    found += [_steepness(lights[1]) * 4]
    for plane, sigma in ((lights[1], 1.5), (lights[2], 3.0)):
        found += [each * sigma**2 * 4 for each in _curvatures(plane)]
    return np.stack([*found, _blurred(light, 16.0)], dtype=np.float32)


def in_colour(picture_3SS: Floats) -> bool:
    """Whether the channels of a picture differ."""
    return bool((np.abs(picture_3SS - picture_3SS[:1]) > GREY).any())


def _blurred(plane: Floats, sigma: float) -> Floats:
    """By a Gaussian; a wide one on means of squares of pixels, linear between their middles, in a tenth of the time."""
    side = next(each for each in (8, 4, 2, 1) if each == 1 or (sigma >= 1.25 * each and plane.shape[0] % each == 0))
    if side == 1:
        return np.asarray(ndimage.gaussian_filter(plane, sigma, mode="nearest", truncate=3), np.float32)
    rest = np.sqrt(sigma**2 - (side**2 - 1) / 12) / side  # a mean over a square blurs by itself
    means = plane.reshape(plane.shape[0] // side, side, -1, side).mean((1, 3))
    return upsample(torch.from_numpy(_blurred(means, float(rest)))[None], plane.shape[0])[0].numpy()


def _steepness(plane: Floats) -> Floats:
    """The length of the slope at each pixel."""
    down, across = np.gradient(plane)
    return np.asarray(np.hypot(down, across), np.float32)


def _parts_of(mask_SS: MaskArray) -> tuple[NDArray[np.int32], int]:
    """The number of each pixel's part, from 1, and how many there are."""
    return cast("tuple[NDArray[np.int32], int]", ndimage.label(mask_SS))


def _curvatures(plane: Floats) -> tuple[Floats, Floats]:
    """The larger and the smaller second derivative, whatever its direction: dark and bright lines."""
    down, across = np.gradient(plane)
    (down_down, down_across), across_across = np.gradient(down), np.gradient(across)[1]
    spread = np.hypot((down_down - across_across) / 2, down_across)
    return (down_down + across_across) / 2 + spread, (down_down + across_across) / 2 - spread


class PixelRegression:
    """Which pixels are like those of an outline: ridge regression on their descriptors, their squares and products.

    Args:
        pixels: (P, S, S) descriptors.
        inside_SS: the outline.
        weight_SS: how much each pixel counts; all alike unless given. Inside and outside count alike in any case.
        products: whether squares and products of descriptors count beside them.
    """

    def __init__(self, pixels: Floats, inside_SS: MaskArray, weight_SS: Floats | None = None, *, products: bool = True) -> None:
        flat, inside = pixels.reshape(len(pixels), -1), inside_SS.ravel()
        self._mean, self._spread = flat.mean(1)[:, None], flat.std(1)[:, None] + np.float32(1e-3)
        rng = np.random.default_rng(0)
        chosen, within = rng.permutation(flat.shape[1])[:PIXELS], np.flatnonzero(inside)
        chosen = np.concatenate([chosen, rng.choice(within, min(len(within), PIXELS // 2), replace=False)])
        y = inside[chosen]
        least = 0.01 * len(y)
        weight = np.where(y, 0.5 / (y.sum() + least), 0.5 / ((~y).sum() + least))
        if weight_SS is not None:
            weight = weight * weight_SS.ravel()[chosen]
        x = self._scaled(flat[:, chosen])
        first, second = np.triu_indices(len(x)) if products else np.zeros((2, 0), int)
        terms = np.concatenate([np.ones((1, x.shape[1]), np.float32), x, x[first] * x[second]]).T
        weighted = terms * (weight / weight.sum()).astype(np.float32)[:, None]
        sums, target = (weighted.T @ terms).astype(np.float64), weighted.T @ np.where(y, 1.0, -1.0)
        sums[np.diag_indices(len(sums))] += RIDGE * np.trace(sums) / len(sums)
        solved = np.linalg.solve(sums, target).astype(np.float32)
        self._constant, self._linear = solved[0], solved[1 : len(x) + 1]
        self._square = np.zeros((len(x), len(x)) if products else (0, 0), np.float32)
        self._square[first, second] = solved[len(x) + 1 :]

    def __call__(self, pixels: Floats) -> Floats:
        """The score of each pixel, about −1 outside and 1 inside: (S, S)."""
        x = self._scaled(pixels.reshape(len(pixels), -1))
        score = self._constant + self._linear @ x
        if len(self._square):
            score += ((self._square @ x) * x).sum(0)
        return np.clip(score, -2, 2).reshape(pixels.shape[1:])

    def _scaled(self, flat: Floats) -> Floats:
        scaled = flat - self._mean
        scaled /= self._spread  # in place, here and below: the maps of an encoder are many megabytes
        return np.clip(scaled, -3, 3, out=scaled)


@dataclass(frozen=True, eq=False)
class PromptedImage:
    """An object on an image that was prompted, as it is kept: without the maps of the encoder, which are large."""

    picture_3SS: Floats  # in [0, 1]
    inside_SS: MaskArray  # its outline, not empty
    encoder_regression: PixelRegression  # what the encoder's maps at its pixels tell of others

    @classmethod
    def of(cls, seen: SeenImage, inside_SS: MaskArray) -> "PromptedImage":
        """An image, and the outline of an object on it."""
        half = inside_SS.reshape(SIDE // 2, 2, SIDE // 2, 2).mean((1, 3)) >= 0.5
        return cls(seen.picture_3SS, inside_SS, PixelRegression(seen.encoded_Chw, half, products=False))

    @cached_property
    def grey(self) -> "PromptedImage":
        """The same without colour."""
        return PromptedImage(_without_colour(self.picture_3SS), self.inside_SS, self.encoder_regression)

    @cached_property
    def thumbnail(self) -> Floats:
        """Its greys in few pixels, of mean 0 and spread 1."""
        return _thumbnail(self.picture_3SS)

    @cached_property
    def regression(self) -> tuple[PixelRegression, float]:
        """What its pixels tell of others; and its Dice on the image itself."""
        pixels = describe_pixels(self.picture_3SS)
        learnt = PixelRegression(pixels, self.inside_SS)
        return learnt, dice_of(_blurred(learnt(pixels), 1.0) > 0, self.inside_SS)

    @cached_property
    def place(self) -> Floats:
        """Signed distance from the outline in radii of the object, from −1 to 2; negative inside."""
        outside, inside = (np.asarray(ndimage.distance_transform_edt(m)) for m in (~self.inside_SS, self.inside_SS))
        return np.clip((outside - inside) / max(self.radius, 4), -1, 2).astype(np.float32)

    @property
    def radius(self) -> float:
        """Of a disc as large as the object, in pixels."""
        return float(np.sqrt(self.inside_SS.sum() / np.pi))

    @cached_property
    def parts(self) -> tuple[int, float]:
        """How many parts it has, and the median of their sizes in pixels."""
        sizes = np.bincount(_parts_of(self.inside_SS)[0].ravel())[1:]
        return len(sizes), float(np.median(sizes))


def compute_features(prompted: PromptedImage, seen: SeenImage, logits_SS: Floats, confidence: float, likeness: float) -> Floats:
    """Features (F, S / 2, S / 2) of an image that nobody prompted, beside one that was and was like it (cosine)."""
    picture_3SS, colour = seen.picture_3SS, in_colour(seen.picture_3SS)
    if colour != in_colour(prompted.picture_3SS):
        colour, prompted, picture_3SS = False, prompted.grey, _without_colour(picture_3SS)
    logits, found = np.clip(logits_SS, -SURE, SURE), logits_SS > 0
    pixels = describe_pixels(picture_3SS)
    regression, fit = prompted.regression
    score = regression(pixels)
    around = _blurred(score, 1.5)
    own, own_encoded = np.full_like(score, -1), np.full(seen.encoded_Chw.shape[1:], -1, np.float32)
    if found.any():
        own = _blurred(PixelRegression(pixels, found, _sureness(logits_SS))(pixels), 1.0)
        half = _half(logits_SS)
        own_encoded = PixelRegression(seen.encoded_Chw, half > 0, _sureness(half), products=False)(seen.encoded_Chw)
    edge = np.clip(_steepness(_blurred(picture_3SS.mean(0), 1.0)) * 12, 0, 3)
    radius, area = prompted.radius, int(prompted.inside_SS.sum())
    maps = [
        logits / LOGITS,
        _blurred(logits, max(radius / 8, 1.0)) / LOGITS,
        _blurred(logits, max(radius / 3, 2.0)) / LOGITS,
        *(score, around, _blurred(score, 4.0), own, _blurred(own, 3.0), edge / 2),
        *_geodesics(logits, own, edge, found),
        prompted.place,
        *_part_features(logits, found, prompted.parts[1]),
    ]
    count, parts = _parts_of(found)[1], prompted.parts[0]
    numbers = [
        *(confidence, likeness, float((prompted.thumbnail * seen.thumbnail).mean())),
        *(dice_of(each, found) for each in (prompted.inside_SS, around > 0, own > 0)),
        _log_ratio(found.sum(), area),
        *(fit, np.log(area / found.size) / 4, np.log(parts) / 3, np.log((count + 1) / (parts + 1)) / 3),
        *(logits_SS.max() / 6, logits_SS[found].mean() / 6 if found.any() else 0.0),
        *(dice_of(_blurred(score, 1.0) > 0, prompted.inside_SS), float(colour), _log_ratio((around > 0).sum(), area)),
    ]
    half = [each if each.shape != found.shape else each[::2, ::2] for each in maps]
    planes = (np.full_like(half[0], number) for number in numbers)
    encoded = prompted.encoder_regression(seen.encoded_Chw), own_encoded
    return np.stack([*half, *planes, *encoded, *map(_half, picture_3SS)], dtype=np.float32)


def describe_answer(features_Fhw: Floats, change_hw: Floats) -> Floats:
    """What the judge of the consensus is told of an answer, by the image's features and the change of its logits: (A,)."""
    named = dict(zip(FEATURES, features_Fhw, strict=True))
    before = named["tracked"] * LOGITS
    inside, found = expit(before + change_hw), before + change_hw > 0
    both = float(inside[found].sum())
    numbers = [
        both / max(1.0, float(inside.sum() + found.sum()) - both),  # the IoU, if each pixel is right as often as it says
        dice_of(before > 0, found),
        float((inside > 0.7).sum() / max(1, (inside > 0.3).sum())),
        float(named["confidence"][0, 0]),
    ]
    return np.array([*numbers, *(dice_of(named[name] > 0, found) for name in WITNESSES)], np.float32)


def _half(plane: Floats) -> Floats:
    """Means of two by two pixels."""
    return plane.reshape(plane.shape[0] // 2, 2, -1, 2).mean((1, 3))


def _sureness(logits: Floats) -> Floats:
    """How much pixels count for what is learnt from an answer."""
    return np.clip(np.abs(logits) / 4, 0.05, 1).astype(np.float32)


def _geodesics(logits: Floats, own: Floats, edge: Floats, found: MaskArray) -> list[Floats]:
    """How much nearer inside (1) than outside (−1) each second pixel is, along edges, and along all that was found."""
    found = found[::2, ::2]
    depth = np.asarray(ndimage.distance_transform_edt(found)) * 2
    distance = np.asarray(ndimage.distance_transform_edt(~found)) * 2
    inside, outside = depth > min(4.0, depth.max() / 2), distance > 6
    for side in (np.s_[[0, -1]], np.s_[:, [0, -1]]):
        outside[side] |= ~found[side]
    if not inside.any():
        return [np.full(found.shape, -1, np.float32)] * 2
    if not outside.any():
        return [np.zeros(found.shape, np.float32)] * 2
    along_edges, _, along_all = path_costs(*(each[None, ::2, ::2] for each in (expit(logits), expit(3 * own), edge)))
    unit = 16 / found.shape[0] / 2
    return [way[0] for way in geodesics((along_edges, along_all), (inside[None], outside[None]), [1.0, unit, unit])]


def _part_features(logits: Floats, found: MaskArray, usual: float) -> list[Floats]:
    """Of the part that a pixel belongs to: its size over what is usual, its highest logit, its size over the largest."""
    parts, count = _parts_of(found)
    sizes, peaks = np.bincount(parts.ravel(), minlength=count + 1).astype(np.float32), np.zeros(count + 1, np.float32)
    sizes[0] = 0
    if count:
        peaks[1:] = ndimage.maximum(logits, parts, np.arange(1, count + 1))
    ratio = np.clip(np.log((sizes + 1) / usual), -3, 3) / 2 * (sizes > 0)
    shares = sizes / max(sizes.max(), 1)
    return [np.asarray(each[parts], np.float32) for each in (ratio, peaks / 3, shares)]


def _log_ratio(one: float, other: float) -> float:
    return float(np.clip(np.log((one + 30) / (other + 30)), -3, 3)) / 2


class ConsensusNetwork(nn.Module):
    """Features of a grid → what is added to the logit of each of its pixels, by a small U-Net.

    Skip connections between halves of equal size as in U-Net (Ronneberger et al., 2015); no normalisation, for the features say
    by their size how sure they are. It is learnt beside the network's weights.

    Its `judge` takes what describes an answer (N, A) → the logit of the answer's predicted IoU (N, 1).

    Args:
        features: F.
        described: A.
        widths: channels at each size, from the grid to the smallest.
    """

    def __init__(self, features: int, described: int, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.mix = nn.Conv2d(features, widths[0], 1)
        self.down = nn.ModuleList(_two_convolutions(*pair) for pair in pairwise([widths[0], *widths]))
        self.up = nn.ModuleList(_two_convolutions(deep + own, own) for own, deep in reversed([*pairwise(widths)]))
        self.change = nn.Conv2d(widths[0], 1, 1)
        for part in self.change.parameters():
            nn.init.zeros_(part)  # nothing changes before it has learnt
        self.judge = nn.Linear(described, 1)

    def forward(self, features_NFhw: Tensor) -> Tensor:
        """(N, h, w); h and w of any size."""
        x, kept = F.relu(self.mix(features_NFhw)), list[Tensor]()
        for depth, part in enumerate(self.down):
            x = part(F.avg_pool2d(x, 2, ceil_mode=True) if depth else x)
            kept.append(x)
        for part, same in zip(self.up, reversed(kept[:-1]), strict=True):
            larger = F.interpolate(x, size=same.shape[-2:], mode="bilinear", align_corners=False)
            x = part(torch.cat([larger, same], 1))
        return self.change(x)[:, 0]


def _two_convolutions(width_in: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width_in, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU())


@dataclass(frozen=True, eq=False)
class SetConsensus:
    """What is made of all witnesses."""

    network: ConsensusNetwork  # features (N, F, S / 2, S / 2) → what is added to logits

    @classmethod
    def beside(cls, weights: Path) -> "SetConsensus | None":
        """The one beside a file of weights, None where there is none; raises WeightsError if it is broken or outdated."""
        file = weights.with_name(NETWORK_FILE)
        network = read_small_network(file, lambda _: ConsensusNetwork(len(FEATURES), len(ANSWER)), "the consensus of sets")
        return None if network is None else cls(network)

    def refine(
        self, prompted: Sequence[PromptedImage], seen: SeenImage, logits_hw: Tensor, confidence: float, likeness: float
    ) -> tuple[Tensor, float]:
        """The logits (h, w) of an image that nobody prompted, changed; by the prompted image whose scene is most like it.

        Returns:
            The logits, and the predicted IoU of what they outline, in [0, 1]; 0 where that is nothing.
        """
        if not (logits_hw > 0).any():
            return logits_hw, confidence  # what is judged absent stays absent
        nearest = max(prompted, key=lambda each: float((each.thumbnail * seen.thumbnail).mean()))
        logits = upsample(logits_hw[None], SIDE)[0].cpu().numpy()
        features = compute_features(nearest, seen, logits, confidence, likeness)
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            change_1hw = self.network(torch.from_numpy(features)[None]).clamp(-MOST_CHANGE, MOST_CHANGE)
            described = torch.from_numpy(describe_answer(features, change_1hw[0].numpy()))
            predicted = float(self.network.judge(described[None]).sigmoid())
        found = logits_hw.float() + upsample(change_1hw.to(logits_hw.device), logits_hw.shape[0])[0]
        return found, predicted if (found > 0).any() else 0.0
