"""What `nano` finds in memory beside SAM 2's memory attention, in three ways, each a module:

- `MaskPropagation` carries masks over by likeness, from anywhere in any remembered frame;
- `LocalMatching` moves the mask of the neighbouring slice, within a small window;
- `PixelClassifier` tells pixels apart by a classifier that is solved, not trained.

Shapes: B objects, N frames, D channels of a key, h w feature map, n = h·w, M memories, O places of a window, E features of a
pixel with a constant one.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from medical_sam2.model.backbone import FramePrediction, Recalled

SUBPIXELS = 16  # mask logits (stride 4) under one pixel of the deepest map (stride 16)
LEAST_PROBABILITY = 0.005  # of a propagated mask
QUERIES_AT_ONCE = 128
REACH = 3  # pixels of stride 4 that a place may move in each direction
WINDOW = 2 * REACH + 1
PICTURES = 3  # that `LocalMatching` gives
LEAST_SHARE = 1e-4  # of a frame under which a side counts less than the other
UNPROMPTED_WEIGHT = 0.3  # of a memory that nobody prompted, at first
PIXELS_AT_ONCE = 2048  # whose features stay in cache


class MaskPropagation(nn.Module):
    """Masks carried over from memory by likeness.

    A pixel of the frame is likely inside if the remembered pixels that look like it were inside. With unit keys k at stride 8,
    remembered masks y and the log-weights w of the bank, over all pixels j of all memories m,

        p_i = Σ a_ij y_j,    a = softmax_j( k_i·k_j / τ − g_m · d²(i, j) / 2σ² + w_m )

    where d is the distance in the frame and g_m in [0, 1] grows with how alike the two frames are place by place: neighbouring
    slices are, so place counts; images of different patients are not, so it does not. Masks are carried with the four pixels of
    stride 4 under each key. The result is a residual of the mask logits and is shown to the decoder, which learns to mend it.
    Label propagation of this kind is the core of STM (Oh et al., 2019) and of few-shot segmentation by matching pixels.

    Args:
        width: channels of the feature maps.
        depth: D, channels of a key.
    """

    def __init__(self, width: int, depth: int = 64) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, depth // 2, 1, bias=False)
        self.second = nn.Conv2d(width, depth // 2, 1, bias=False)
        self.sharpness = nn.Parameter(torch.tensor(math.log(1 / 0.05)))
        self.nearness = nn.Parameter(torch.tensor(math.log(1 / (2 * 0.12**2))))
        self.alike = nn.Parameter(torch.tensor([15.0, 0.8]))
        self.trust = nn.Parameter(torch.tensor(1.0))
        self.embed = nn.Sequential(nn.Conv2d(SUBPIXELS, width, 1), nn.GELU(), nn.Conv2d(width, width, 1))

    @torch.no_grad()
    def initialise(self) -> None:
        """Random orthonormal keys keep the angles between features."""
        for projection in (self.first, self.second):
            nn.init.orthogonal_(projection.weight.view(projection.weight.shape[:2]))

    def keys(self, first_NChw: Tensor, second_NChw: Tensor) -> Tensor:
        """Unit keys (N, D, h, w) from the maps of stride 4 and 8."""
        fine = F.normalize(self.first(F.avg_pool2d(first_NChw, 2)).float(), dim=1)
        coarse = F.normalize(self.second(second_NChw).float(), dim=1)
        return torch.cat([fine, coarse], 1) / math.sqrt(2)

    def forward(self, key_BDhw: Tensor, recall: Sequence[Sequence[Recalled]]) -> Tensor:
        """Propagated mask logits of each object, folded: (B, 16, h/2, w/2); 0 for an object without a past."""
        keys = key_BDhw.expand(len(recall), -1, -1, -1)
        return torch.stack([self._propagate(key, memories) for key, memories in zip(keys, recall, strict=True)])

    def _propagate(self, key_Dhw: Tensor, memories: Sequence[Recalled]) -> Tensor:
        _, height, width = key_Dhw.shape
        attended = [r for r in memories if r.map]
        if not attended:
            return key_Dhw.new_zeros(SUBPIXELS, height // 2, width // 2)
        query_Dn = key_Dhw.flatten(1)
        keys_MDn = torch.stack([r.memory.own["key"].flatten(1) for r in attended])
        mask_M4n = torch.stack([r.memory.own["mask"].flatten(1) for r in attended])
        weight_M = torch.tensor([r.log_weight for r in attended], device=query_Dn.device)
        slope, middle = self.alike
        gate_M = torch.sigmoid(slope * ((query_Dn * keys_MDn).sum(1).mean(-1) - middle))
        with torch.autocast(query_Dn.device.type, enabled=False):  # squares of places need all digits
            pull_M = gate_M.float() * self.nearness.exp()
            place_3n = _places(height, width, query_Dn.device)
            query_nE = torch.cat([query_Dn.float() * self.sharpness.exp(), place_3n, torch.ones_like(place_3n[:1])]).T
            key_MEn = torch.cat([keys_MDn.float(), _distance_terms(place_3n, pull_M, weight_M)], 1)
            inside_n4 = _attend(query_nE, key_MEn.transpose(0, 1).flatten(1), mask_M4n.transpose(0, 1).flatten(1).float())
        fine = F.pixel_shuffle(inside_n4.T.reshape(1, 4, height, width), 2)
        return F.pixel_unshuffle(fine.clamp(LEAST_PROBABILITY, 1 - LEAST_PROBABILITY).logit(), 4)[0]


def inside_probability(prediction: FramePrediction, hard_B: Tensor) -> Tensor:
    """What of each pixel of the mask logits (B, h, w) counts as inside, in [0, 1]; a prompted object's mask is hard."""
    logits = prediction.logits_Bhw.float()
    return torch.where(hard_B[:, None, None], (logits > 0).float(), logits.sigmoid())


def fold_mask(inside_Bhw: Tensor) -> Tensor:
    """The mask of stride 2 at stride 4, folded under stride 8: (B, 4, h, w), as a memory keeps it."""
    return F.pixel_unshuffle(F.avg_pool2d(inside_Bhw[:, None], 2), 2)


def _places(height: int, width: int, device: torch.device) -> Tensor:
    """Row and column of each pixel in sides of the frame, from its middle, and the sum of their squares: (3, n)."""
    rows = (torch.arange(height, device=device) / height - 0.5).repeat_interleave(width)
    columns = (torch.arange(width, device=device) / width - 0.5).repeat(height)
    return torch.stack([rows, columns, rows**2 + columns**2])


def _distance_terms(place_3n: Tensor, pull_M: Tensor, weight_M: Tensor) -> Tensor:
    """What turns −pull·d² + w into a product with (row, column, square, 1): (M, 4, n)."""
    pull_M1, weight_M1 = pull_M[:, None], weight_M[:, None]
    rows, columns, squares = place_3n
    parts = (2 * pull_M1 * rows, 2 * pull_M1 * columns, -pull_M1.expand(-1, len(rows)), weight_M1 - pull_M1 * squares)
    return torch.stack(parts, 1)


def _attend(query_nE: Tensor, key_EK: Tensor, value_4K: Tensor) -> Tensor:
    """Attention; in pieces, in the same place, unless gradients are needed, which keep all scores anyway."""
    if torch.is_grad_enabled():
        return F.linear((query_nE @ key_EK).softmax(-1), value_4K)
    scores, read = query_nE.new_empty(min(QUERIES_AT_ONCE, len(query_nE)), key_EK.shape[1]), list[Tensor]()
    for part in query_nE.split(QUERIES_AT_ONCE):
        own = torch.mm(part, key_EK, out=scores[: len(part)])
        read.append(F.linear(torch.softmax(own, -1, out=own), value_4K))
    return torch.cat(read)


class LocalMatching(nn.Module):
    """The mask of the frame before, moved by likeness: for slices in their order.

    Neighbouring slices of a volume show nearly the same, a little shifted. Each pixel of the frame looks at the window around
    its own place in the frame nearest in time, and takes over the mask from where that looks alike,

        p_i = Σ_j a_ij y_j,    a = softmax_{j in window of i}( k_i·k_j / τ − β |i − j|² )

    with unit keys k at stride 4. Local matching of this kind beside global matching is known from FEELVOS (Voigtlaender et al.,
    2019). Three pictures come out: the mask as it was, the mask moved, and how alike the best place is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(math.log(1 / 0.05)))
        self.nearness = nn.Parameter(torch.tensor(math.log(1 / (2 * 2.0**2))))

    def forward(self, key_BDhw: Tensor, recall: Sequence[Sequence[Recalled]]) -> Tensor:
        """The three pictures of each object (B, 3, h, w); 0 for one that has no neighbour in time."""
        keys = key_BDhw.expand(len(recall), -1, -1, -1)
        return torch.stack([self._match(key, memories) for key, memories in zip(keys, recall, strict=True)])

    def _match(self, key_Dhw: Tensor, memories: Sequence[Recalled]) -> Tensor:
        near = next((r.memory for r in memories if r.near), None)
        if near is None:
            return key_Dhw.new_zeros(PICTURES, *key_Dhw.shape[1:], dtype=torch.float32)
        mask_hw = F.pixel_shuffle(near.own["mask"][None].float(), 2)[0, 0]
        likeness_Ohw = _window_likeness(key_Dhw, near.own["look"])
        places_Ohw = _windows(mask_hw[None])[0]
        pull_O11 = self.nearness.exp() * _window_distances(key_Dhw.device)[:, None, None]
        share_Ohw = (likeness_Ohw.float() * self.sharpness.exp() - pull_O11).softmax(0)
        return torch.stack([2 * mask_hw - 1, 2 * (share_Ohw * places_Ohw).sum(0) - 1, likeness_Ohw.float().amax(0)])


def _window_likeness(key_Dhw: Tensor, other_Dhw: Tensor) -> Tensor:
    """Cosine of each pixel with those of the window around its place in the other frame: (O, h, w); −1 outside of it.

    Shift by shift: all windows at once would be 49 copies of the frame.
    """
    _, height, width = key_Dhw.shape
    within = _windows(torch.ones_like(key_Dhw[:1]))[0]
    framed = F.pad(other_Dhw.to(key_Dhw.dtype), [REACH] * 4)
    shifted = (framed[:, y : y + height, x : x + width] for y in range(WINDOW) for x in range(WINDOW))
    return torch.stack([(key_Dhw * other).sum(0) for other in shifted]) + within - 1


def _windows(map_Dhw: Tensor) -> Tensor:
    """The window around each pixel (D, O, h, w), 0 outside of the frame."""
    return F.unfold(map_Dhw[None], WINDOW, padding=REACH)[0].view(map_Dhw.shape[0], WINDOW**2, *map_Dhw.shape[1:])


def _window_distances(device: torch.device) -> Tensor:
    """Squared distance of each place of the window from its middle."""
    along = torch.arange(-REACH, REACH + 1, device=device, dtype=torch.float32) ** 2
    return (along[:, None] + along).flatten()


class PixelClassifier(nn.Module):
    """Pixels told apart by ridge regression on what is remembered: for colours and textures.

    Every memory keeps the sums that ridge regression needs of its pixels and their mask; on a new frame the memories' sums are
    added up by their weights, and the solution

        w = (Σ_m ω_m A_m + λ I)⁻¹ Σ_m ω_m b_m,    A = Σ_p s_p x_p x_pᵀ,    b = Σ_p s_p x_p y_p

    scores its pixels x, with y = ±1 inside and outside and weights s under which both sides count alike. Gradients flow through
    the solution, so the features learn to be told apart by it. Closed-form learners of this kind are known from few-shot
    learning (Bertinetto et al., Meta-learning with differentiable closed-form solvers, 2019) and from video objects (Robinson
    et al., Learning fast and robust target models for video object segmentation, 2020).

    Args:
        remembered_as: name of its sums among what a memory keeps.
        ridge: at first, the logarithm of λ as a share of the features' mean square.
    """

    def __init__(self, remembered_as: str = "sums", ridge: float = -4.0) -> None:
        super().__init__()
        self.remembered_as = remembered_as
        self.ridge = nn.Parameter(torch.tensor(ridge))
        self.guess = nn.Parameter(torch.tensor(math.log(UNPROMPTED_WEIGHT)))

    def sums(self, features_BEhw: Tensor, inside_Bhw: Tensor) -> Tensor:
        """A and b of one frame for each object, side by side: (B, E, E + 1).

        Args:
            features_BEhw: of the frame; B may be 1.
            inside_Bhw: probability of the object in each pixel.
        """
        with torch.autocast(features_BEhw.device.type, enabled=False):
            y_Bn = inside_Bhw.to(_exact_type(features_BEhw.device)).flatten(1)
            x_BEn = features_BEhw.flatten(2).expand(len(y_Bn), -1, -1)
            least = LEAST_SHARE * y_Bn.shape[1]
            within_Bn = y_Bn / (y_Bn.sum(1, keepdim=True) + least)
            without_Bn = (1 - y_Bn) / ((1 - y_Bn).sum(1, keepdim=True) + least)
            pieces = zip(*(part.split(PIXELS_AT_ONCE, -1) for part in (x_BEn, within_Bn, without_Bn)), strict=True)
            return torch.stack([_sum_pixels(*piece) for piece in pieces]).sum(0)

    def forward(self, features_BEhw: Tensor, recall: Sequence[Sequence[Recalled]]) -> Tensor:
        """The score of each pixel for each object, about −1 outside and 1 inside: (B, h, w); 0 for one without a past."""
        features = features_BEhw.expand(len(recall), -1, -1, -1)
        return torch.stack([self._score(own, memories) for own, memories in zip(features, recall, strict=True)])

    def _score(self, features_Ehw: Tensor, memories: Sequence[Recalled]) -> Tensor:
        attended = [r for r in memories if r.map]
        if not attended:
            return features_Ehw.new_zeros(features_Ehw.shape[1:], dtype=torch.float32)
        device = features_Ehw.device
        with torch.autocast(device.type, enabled=False):
            trust = [r.log_weight + self.guess * (not r.memory.prompted) for r in attended]
            share_M = torch.stack(trust).float().softmax(0)
            sums = torch.stack([r.memory.own[self.remembered_as] for r in attended])
            a_EE, b_E1 = torch.einsum("m,mef->ef", share_M.to(sums.dtype), sums).split([sums.shape[1], 1], 1)
            ridge = self.ridge.exp() * a_EE.diagonal().mean().clamp(min=1e-6)
            w_E1 = torch.linalg.solve(a_EE + ridge * torch.eye(len(a_EE), dtype=sums.dtype, device=device), b_E1)
            return torch.einsum("ehw,e->hw", features_Ehw.float(), w_E1[:, 0].float()).clamp(-3, 3)


def _sum_pixels(x_BEn: Tensor, within_Bn: Tensor, without_Bn: Tensor) -> Tensor:
    """A and b (B, E, E + 1) of some pixels, from their features and shares of either side."""
    x_BEn = x_BEn.to(within_Bn.dtype)
    signs_B1n = (within_Bn - without_Bn)[:, None]
    return x_BEn @ torch.cat([x_BEn * (within_Bn + without_Bn)[:, None], signs_B1n], 1).transpose(1, 2)


def _exact_type(device: torch.device) -> torch.dtype:
    """Sums and solution are amplified rounding where features are alike; MPS has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64
