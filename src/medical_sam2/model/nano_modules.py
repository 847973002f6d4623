"""What `nano` has beside the parts of SAM 2, each a module.

What it finds in memory beside SAM 2's memory attention, in three ways:

- `MaskPropagation` carries masks over by likeness, from anywhere in any remembered frame;
- `LocalMatching` moves the mask of the neighbouring slice, within a small window;
- `PixelClassifier` tells pixels apart by a classifier that is solved, not trained.

What it adds behind SAM 2's mask decoder, both at first as networks that change nothing:

- `MaskRefiner` mends masks at stride 4;
- `MaskUpsampler` enlarges them to stride 2.

Shapes: B objects, N frames, K proposed masks, D channels of a key, h w feature map, map or mask logits at stride 4, H W map of
stride 2, n = h·w, M memories, O places of a window, E features of a pixel with a constant one.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from medical_sam2.model.backbone import FramePrediction, Recalled
from medical_sam2.model.device import map_on_cores
from medical_sam2.model.image_encoders import Residual
from medical_sam2.model.tracker import upsample

SUBPIXELS = 16  # mask logits (stride 4) under one pixel of the deepest map (stride 16)
LEAST_PROBABILITY = 0.005  # of a propagated mask
QUERIES_AT_ONCE, KEYS_AT_ONCE = 512, 512  # whose scores stay in cache
HIGHEST = 40.0  # sharpness up to which scores below the highest that is possible are no zero as powers in float32
REACH = 3  # pixels of stride 4 that a place may move in each direction
WINDOW = 2 * REACH + 1
BLOCK = 8  # side of what is matched at once; divides every side of a map of stride 4
PICTURES = 3  # that `LocalMatching` gives
LEAST_SHARE = 1e-4  # of a frame under which a side counts less than the other
UNPROMPTED_WEIGHT = 0.3  # of a memory that nobody prompted, at first
PIXELS_AT_ONCE = 2048  # whose features stay in cache
WIDTHS = (24, 32, 48, 64)  # channels at stride 4, 8, 16, 32
HINTS = 10
"""Pictures: clicks inside, outside, box, likeness to the clicks, earlier answer, propagated mask; those of `LocalMatching`; the
score of `PixelClassifier`. One of stride 4 adds its score."""
OF_A_MASK = 2  # pictures of each mask: its logits and what counts as inside
LOGIT_SCALE = 10.0  # logits are shown in tens
UPSAMPLER_WIDTH = 16


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
            pull_M, sharpness = gate_M.float() * self.nearness.exp(), self.sharpness.exp()
            place_3n = _places(height, width, query_Dn.device)
            query_En = torch.cat([query_Dn.float() * sharpness, place_3n, torch.ones_like(place_3n[:1])])
            # no score is above 0 then
            terms_M4n = _distance_terms(place_3n, pull_M, weight_M - weight_M.max() - sharpness)
            key_MEn = torch.cat([keys_MDn.float(), terms_M4n], 1)
            attend = _attend if torch.is_grad_enabled() or sharpness > HIGHEST else _attend_at_once
            inside_4n = attend(query_En, key_MEn, mask_M4n.float())
        fine = F.pixel_shuffle(inside_4n.reshape(1, 4, height, width), 2)
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


def _attend(query_En: Tensor, key_MEn: Tensor, value_M4n: Tensor) -> Tensor:
    """Attention of each pixel to all of all memories: (4, n)."""
    scores_Kn = key_MEn.transpose(1, 2).flatten(0, 1) @ query_En
    return value_M4n.transpose(0, 1).flatten(1) @ scores_Kn.softmax(0)


def _attend_at_once(query_En: Tensor, key_MEn: Tensor, value_M4n: Tensor) -> Tensor:
    """The same, by powers that are summed beside what they weigh, in pieces and in the same place: scores are at most 0."""
    values_M5n = torch.cat([value_M4n, torch.ones_like(value_M4n[:, :1])], 1)
    powers, read = query_En.new_empty(KEYS_AT_ONCE, QUERIES_AT_ONCE), list[Tensor]()
    for part in query_En.split(QUERIES_AT_ONCE, 1):
        sums_5q = query_En.new_zeros(5, part.shape[1])
        for key_En, value_5n in zip(key_MEn, values_M5n, strict=True):
            for key_Ek, value_5k in zip(key_En.split(KEYS_AT_ONCE, 1), value_5n.split(KEYS_AT_ONCE, 1), strict=True):
                own = powers.view(-1)[: key_Ek.shape[1] * part.shape[1]].view(key_Ek.shape[1], -1)
                sums_5q.addmm_(value_5k, torch.mm(key_Ek.T, part, out=own).exp_())
        read.append(sums_5q[:4] / sums_5q[4:])
    return torch.cat(read, 1)


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

    In blocks: products of all pixels of a block with all that their windows reach, of which the windows are taken.
    """
    depth, height, width = key_Dhw.shape
    reached = BLOCK + 2 * REACH
    down, across, own, seen = height // BLOCK, width // BLOCK, BLOCK**2, reached**2
    key_Xpd = key_Dhw.view(depth, down, BLOCK, across, BLOCK).permute(1, 3, 2, 4, 0).reshape(-1, own, depth)
    framed_Dhw = F.pad(other_Dhw.to(key_Dhw.dtype), [REACH] * 4)
    other_Xds = framed_Dhw.unfold(1, reached, BLOCK).unfold(2, reached, BLOCK).permute(1, 2, 0, 3, 4).reshape(-1, depth, seen)
    step = (across * own * seen, BLOCK * seen + reached, own * seen, seen + 1)  # to the next block and pixel, down and across
    sizes = (WINDOW, WINDOW, down, BLOCK, across, BLOCK)
    likeness = torch.bmm(key_Xpd, other_Xds).as_strided(sizes, (reached, 1, *step)).reshape(-1, height, width)
    return likeness + _beyond(height, width, key_Dhw.device, key_Dhw.dtype)


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # else who asks under it first makes a tensor that no gradient may pass
def _beyond(height: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """−1 for each place of a pixel's window that lies outside of the frame, else 0: (O, h, w)."""
    return (_windows(torch.ones(1, height, width, device=device))[0] - 1).to(dtype)


def _windows(map_Dhw: Tensor) -> Tensor:
    """The window around each pixel (D, O, h, w), 0 outside of the frame."""
    windows_Dhwyx = F.pad(map_Dhw, [REACH] * 4).unfold(1, WINDOW, 1).unfold(2, WINDOW, 1)
    return windows_Dhwyx.permute(0, 3, 4, 1, 2).flatten(1, 2)


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
    """

    def __init__(self) -> None:
        super().__init__()
        self.ridge = nn.Parameter(torch.tensor(-4.0))  # the logarithm of λ as a share of the features' mean square
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
            sums = torch.stack([r.memory.own["sums"] for r in attended])
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


class MaskRefiner(nn.Module):
    """Adds to mask logits what the fine features and the pictures of the prompts tell.

    SAM 2's decoder hears clicks and boxes as a few tokens and thinks at stride 16. Here the prompts are drawn as pictures, as
    interactive networks of this field take them (RITM, Sofiiuk et al., 2022; nnInteractive, Isensee et al., 2025), and a small
    U-shaped network sees them beside the proposed mask, the propagated mask and the fine features.

    Args:
        fine: channels of the decoder's maps of stride 4 and 8.
        width: channels of the deepest map.
    """

    def __init__(self, fine: tuple[int, int], width: int) -> None:
        super().__init__()
        inputs = fine[0] + OF_A_MASK + HINTS, fine[1], width, 0
        self.enter = nn.ModuleList(nn.Conv2d(wide, own, 1) for wide, own in zip(inputs[1:3], WIDTHS[1:3], strict=True))
        self.first = nn.Conv2d(inputs[0], WIDTHS[0], 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(above, own, 3, stride=2, padding=1) for above, own in pairwise(WIDTHS))
        self.blocks = nn.ModuleList(Residual(own) for own in WIDTHS)
        self.up = nn.ModuleList(nn.Conv2d(own, above, 1) for above, own in pairwise(WIDTHS))
        self.ascend = nn.ModuleList(Residual(own) for own in WIDTHS[:-1])
        self.last = nn.Conv2d(WIDTHS[0], 1, 3, padding=1)
        self.judge = nn.Linear(2 * WIDTHS[-1], 2)

    def initialise(self) -> None:
        """Change nothing at first."""
        for part in (self.last, self.judge):
            zero_initialise(part)

    def forward(
        self,
        fine: tuple[Tensor, Tensor],
        top_BChw: Tensor,
        masks_BKhw: Tensor,
        hints_BHhw: Tensor,
        choose: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, K, h, w) of the same masks; the finest map that made them (B·K, c, h, w); (B, K, 2) what it adds to the
        predicted IoU and to the logit of presence.

        Args:
            choose: the last of these → which mask of each object is wanted (B,): the others stay as they were proposed, and
                the finest map is that of the wanted ones (B, c, h, w). All are wanted unless given.
        """
        count = len(masks_BKhw)
        finest, entries = fine[0].expand(count, -1, -1, -1), (fine[1], top_BChw)
        shared = [self._see_shared(torch.cat([finest, hints_BHhw], 1), finest.shape[1])]
        shared += [enter(entry.expand(count, -1, -1, -1)) for enter, entry in zip(self.enter, entries, strict=True)]
        several = masks_BKhw.shape[1] > 1 and (choose is not None or not torch.is_grad_enabled())
        # always in two parts, on however many cores: how sums are rounded depends on how many masks are mended at once
        parts = [masks_BKhw[:, :1], masks_BKhw[:, 1:]] if several else [masks_BKhw]
        seen = map_on_cores(partial(self._descend, shared=shared), parts)
        judged = torch.cat([own for _, own in seen], 1)
        if choose is None:
            mended = map_on_cores(lambda n: self._ascend(parts[n], seen[n][0]), range(len(parts)))
            hidden = torch.cat([x.unflatten(0, (count, -1)) for _, x in mended], 1).flatten(0, 1)
            return torch.cat([logits for logits, _ in mended], 1), hidden, judged
        rows, best = torch.arange(count, device=judged.device), choose(judged)
        places = torch.where(best > 0, count + rows * (masks_BKhw.shape[1] - 1) + best - 1, rows)  # the first mask of all first
        levels = [_select_rows(torch.cat(maps), places) for maps in zip(*(levels for levels, _ in seen), strict=True)]
        logits, hidden = self._ascend(masks_BKhw[rows, best][:, None], levels)
        return masks_BKhw.index_put((rows, best), logits[:, 0]), hidden, judged

    def _descend(self, masks_BKhw: Tensor, shared: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """The maps (B·K, c, h, w) of each level, from what all masks of an object share there; and what they are judged."""
        x = _add_to_masks(self._see_masks(masks_BKhw), shared[0])
        x = self.blocks[0](F.relu(x, inplace=True))
        levels = [x]
        for depth, down in enumerate(self.down, 1):
            x = down(x)
            if depth < len(self.down):
                x = _add_to_masks(x, shared[depth])
            x = self.blocks[depth](F.relu(x, inplace=True))
            levels.append(x)
        judged = self.judge(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))
        return levels, judged.unflatten(0, masks_BKhw.shape[:2])

    def _ascend(self, masks_BKhw: Tensor, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The mended logits, and the finest map, from the maps of each level."""
        x = levels[-1]
        for depth in reversed(range(len(self.up))):
            above = F.interpolate(self.up[depth](x), size=levels[depth].shape[-2:], mode="nearest")
            x = self.ascend[depth](levels[depth] + above)
        return masks_BKhw + self.last(x)[:, 0].unflatten(0, masks_BKhw.shape[:2]), x

    def _see_shared(self, pictures_BChw: Tensor, fine: int) -> Tensor:
        """The first layer's part of what all masks of an object see: fine features, of so many channels, and hints."""
        weight = torch.cat([self.first.weight[:, :fine], self.first.weight[:, fine + OF_A_MASK :]], 1)
        pictures, weight = (part.contiguous(memory_format=torch.channels_last) for part in (pictures_BChw, weight))
        return F.conv2d(pictures, weight, self.first.bias, padding=1)

    def _see_masks(self, masks_BKhw: Tensor) -> Tensor:
        """The first layer's part of each mask itself."""
        flat = masks_BKhw.flatten(0, 1)[:, None].detach()
        weight = self.first.weight[:, -HINTS - OF_A_MASK : -HINTS]
        pictures = torch.cat([in_tens(flat), flat.sigmoid()], 1)
        pictures, weight = (part.contiguous(memory_format=torch.channels_last) for part in (pictures, weight))
        return F.conv2d(pictures, weight, padding=1)


class MaskUpsampler(nn.Module):
    """Enlarges mask logits to stride 2, for thin and small structures.

    A few convolutions see the mended mask, what mended it, the encoder's finest map, and the score of the solved classifier,
    and add to the logits, enlarged.

    Args:
        finest: channels of the encoder's map of stride 2.
        hidden: channels of what mended the mask.
    """

    def __init__(self, finest: int, hidden: int) -> None:
        super().__init__()
        self.shrink = nn.Conv2d(hidden, UPSAMPLER_WIDTH, 1)
        self.first = nn.Conv2d(finest + UPSAMPLER_WIDTH + 2, UPSAMPLER_WIDTH, 3, padding=1)
        self.second = nn.Conv2d(UPSAMPLER_WIDTH, UPSAMPLER_WIDTH, 3, padding=1)
        self.last = nn.Conv2d(UPSAMPLER_WIDTH, 1, 1)

    def initialise(self) -> None:
        """Change nothing at first."""
        zero_initialise(self.last)

    def forward(
        self, masks_BKhw: Tensor, hidden_Xchw: Tensor, finest_BCHW: Tensor, score_BHW: Tensor, best_B: Tensor | None = None
    ) -> Tensor:
        """Logits (B, K, H, W) of the same masks.

        Args:
            hidden_Xchw: what mended them, X = B·K; of the wanted ones, X = B, where not all are.
            finest_BCHW: of the encoder; B may be 1.
            best_B: which of the masks is wanted: the others are only enlarged; all are wanted unless given.
        """
        large = upsample(masks_BKhw.flatten(0, 1), (finest_BCHW.shape[-2], finest_BCHW.shape[-1]))
        large_BKHW = large.unflatten(0, masks_BKhw.shape[:2])
        if best_B is None:
            return self._sharpen(large_BKHW, hidden_Xchw, finest_BCHW, score_BHW)
        rows = torch.arange(len(best_B), device=best_B.device)
        sharp = self._sharpen(large_BKHW[rows, best_B][:, None], hidden_Xchw, finest_BCHW, score_BHW)
        return large_BKHW.index_put((rows, best_B), sharp[:, 0])

    def _sharpen(self, large_BKHW: Tensor, hidden_Xchw: Tensor, finest_BCHW: Tensor, score_BHW: Tensor) -> Tensor:
        (count, several), side = large_BKHW.shape[:2], large_BKHW.shape[-2:]
        large = large_BKHW.flatten(0, 1)[:, None]
        above = F.interpolate(self.shrink(hidden_Xchw), size=side, mode="nearest")
        seen = _repeat_for_masks(finest_BCHW, count, several)
        score = _repeat_for_masks(score_BHW[:, None], count, several)
        pictures = torch.cat([in_tens(large.detach()).to(above.dtype), score.to(above.dtype)], 1)
        pictures = pictures.contiguous(memory_format=torch.channels_last)  # else all is copied once more, channels first
        x = F.relu(self.first(torch.cat([above, seen, pictures], 1)), inplace=True)
        x = F.relu(x + self.second(x), inplace=True)
        return (large + self.last(x))[:, 0].unflatten(0, (count, several))


@torch.no_grad()
def zero_initialise(part: nn.Conv2d | nn.Linear) -> None:
    """Let a layer answer 0 until it learns."""
    part.weight.zero_()
    if part.bias is not None:
        part.bias.zero_()


def in_tens(logits: Tensor) -> Tensor:
    """Logits as they are shown."""
    return logits.clamp(-LOGIT_SCALE, LOGIT_SCALE) / LOGIT_SCALE


def _add_to_masks(map_Xchw: Tensor, shared_Bchw: Tensor) -> Tensor:
    """A map for each mask of each object, and one for each object on top of it."""
    count = len(shared_Bchw)
    return (map_Xchw.unflatten(0, (count, -1)) + shared_Bchw[:, None]).flatten(0, 1)


def _select_rows(maps_Xchw: Tensor, places_B: Tensor) -> Tensor:
    """Some of the maps, with channels last as they were."""
    return maps_Xchw.permute(0, 2, 3, 1).index_select(0, places_B).permute(0, 3, 1, 2)


def _repeat_for_masks(part: Tensor, count: int, several: int) -> Tensor:
    each = part.expand(count, -1, -1, -1)
    return each if several == 1 else each.repeat_interleave(several, 0)
