"""The parts of SAM 2 that prompts, masks and memories go through, and the sizes of all its parts.

Written after Ravi et al., *SAM 2: Segment Anything in Images and Videos* (arXiv 2408.00714), and Meta AI's code (Apache-2.0);
only what published weights use. Attributes have the names that weights have in every file that there is.

Shapes: B objects, C channels, h w feature map, S network input, P points, T tokens of prompts, L tokens of a map, K proposed
masks; Q queries that read keys X.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from medical_sam2.errors import WeightsError

STRIDE = 16  # of the deepest map, which memory works on
STAGES = 4  # of a Hiera
FINE_NORM = 1e-6  # what layer norms add to a variance, but for those of transformer blocks


@dataclass(frozen=True)
class Hiera:
    """What the shapes of the weights of a Hiera image encoder do not tell."""

    heads: int  # attention heads of the first stage, doubled by each further one
    windows: tuple[int, ...]  # side of the attention windows of each stage
    everywhere: tuple[int, ...]  # blocks whose attention spans the whole image

    def __post_init__(self) -> None:
        if not 1 <= self.heads <= 64 or len(self.windows) != STAGES or not all(1 <= side <= 64 for side in self.windows):
            raise WeightsError(f"no image encoder has {self}", "restore the original configuration")


@dataclass(frozen=True)
class HieraSizes:
    """Sizes of a Hiera image encoder; the defaults are those of SAM 2.1 tiny."""

    blocks: tuple[int, ...] = (1, 2, 7, 2)  # of each stage
    widths: tuple[int, ...] = (96, 192, 384, 768)  # channels of each stage
    attention: Hiera = Hiera(1, (8, 4, 14, 7), (5, 7, 9))
    places: tuple[int, int] = (7, 7)  # the coarse map of the encoding of places
    adapters: int = 0  # channels in the middle of each block's adapters; 0 where it has none


@dataclass(frozen=True)
class Sam2Config:
    """Sizes of a SAM 2 network; the defaults are those of SAM 2.1 tiny."""

    image_size: int = 1024  # side of the square input in pixels
    hiera: HieraSizes | None = HieraSizes()  # None where the network has another image encoder
    width: int = 256  # channels of feature maps and tokens
    memory_width: int = 64  # channels of memories
    memory_times: int = 7  # encodings of how long ago a memory is
    mask_channels: int = 16  # of a mask prompt, halfway
    decoder_layers: int = 2
    decoder_heads: int = 8
    decoder_hidden: int = 2048
    proposals: int = 3  # masks beside the single one
    iou_layers: int = 3
    iou_hidden: int = 256
    attention_layers: int = 4  # of memory attention
    attention_hidden: int = 2048
    fuser_layers: int = 2  # of the memory encoder
    fuser_hidden: int = 1024
    times_of_pointers: bool = True  # whether object pointers tell how old they are
    marks_absence: bool = True  # whether a memory tells that the object was not there


def relu(x: Tensor) -> Tensor:
    """Of a tensor that nobody else needs, which is overwritten unless gradients may need it."""
    return F.relu(x) if torch.is_grad_enabled() else torch.relu_(x)


def gelu(x: Tensor) -> Tensor:
    """Likewise."""
    return F.gelu(x) if torch.is_grad_enabled() else torch.ops.aten.gelu_.default(x)


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of a map (B, C, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=FINE_NORM)

    def forward(self, input: Tensor) -> Tensor:
        """Same shape in and out."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class FeedForward(nn.Module):
    """Linear layers with an activation between them."""

    def __init__(
        self, before: int, hidden: int, after: int, layers: int, activation: Callable[[Tensor], Tensor] = relu
    ) -> None:
        super().__init__()
        self.activation = activation
        self.proj_in = nn.Linear(before, hidden)
        self.proj_out = nn.Linear(hidden, after)
        self.layers = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers - 2))

    def forward(self, x: Tensor) -> Tensor:
        """The last direction is that of the channels."""
        x = self.activation(self.proj_in(x))
        for layer in self.layers:
            x = self.activation(layer(x))
        return self.proj_out(x)


class Attention(nn.Module):
    """Attention of several heads, and its projections.

    Args:
        width: channels of what asks, and of the answer.
        inner: channels of all heads together.
        read: channels of what is read; `width` unless given.
    """

    def __init__(self, width: int, inner: int, heads: int = 1, read: int | None = None) -> None:
        super().__init__()
        self.heads, self.scaling = heads, (inner // heads) ** -0.5
        self.q_proj = nn.Linear(width, inner)
        self.k_proj = nn.Linear(read or width, inner)
        self.v_proj = nn.Linear(read or width, inner)
        self.o_proj = nn.Linear(inner, width)

    def forward(self, query_BQC: Tensor, key_BXC: Tensor, value_BXC: Tensor) -> Tensor:
        """What each query reads (B, Q, C)."""
        parts = self.q_proj(query_BQC), self.k_proj(key_BXC), self.v_proj(value_BXC)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        read = F.scaled_dot_product_attention(query, key, value, scale=self.scaling)
        return self.o_proj(read.transpose(1, 2).flatten(2))


class FourierEmbedding(nn.Module):
    """Places as random Fourier features; the frequencies are kept with the weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.positional_embedding = nn.Buffer(nn.init.normal_(torch.empty(2, width // 2)))

    def forward(self, places: Tensor) -> Tensor:
        """Places (…, 2) in [0, 1], x first, as features (…, C)."""
        angles = 2 * math.pi * ((2 * places - 1) @ self.positional_embedding)
        return torch.cat([angles.sin(), angles.cos()], -1)


class MaskEmbedding(nn.Module):
    """Mask logits (B, 1, 4h, 4w) as a map (B, C, h, w)."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels // 4, 2, stride=2)
        self.conv2 = nn.Conv2d(channels // 4, channels, 2, stride=2)
        self.conv3 = nn.Conv2d(channels, width, 1)
        self.layer_norm1, self.layer_norm2 = LayerNorm2d(channels // 4), LayerNorm2d(channels)

    def forward(self, mask_B1hw: Tensor) -> Tensor:
        """The map."""
        fine = gelu(self.layer_norm1(self.conv1(mask_B1hw)))
        return self.conv3(gelu(self.layer_norm2(self.conv2(fine))))


class PromptEncoder(nn.Module):
    """Points as tokens, a mask as a map."""

    def __init__(self, width: int, mask_channels: int, image_size: int) -> None:
        super().__init__()
        self.image_size = image_size
        self.shared_embedding = FourierEmbedding(width)
        self.mask_embed = MaskEmbedding(width, mask_channels)
        self.no_mask_embed = nn.Embedding(1, width)
        self.point_embed = nn.Embedding(4, width)  # outside, inside, two corners of a box
        self.not_a_point_embed = nn.Embedding(1, width)

    @property
    def side(self) -> int:
        """Of the deepest map."""
        return self.image_size // STRIDE

    def forward(self, points_BP2: Tensor, labels_BP: Tensor, mask_B1hw: Tensor | None) -> tuple[Tensor, Tensor]:
        """Tokens (B, P + 1, C), the last of which is no point, and a map (B, C, h, w).

        Args:
            points_BP2: x and y in pixels of the input.
            labels_BP: 0 outside, 1 inside, 2 and 3 corners of a box, −1 no point.
            mask_B1hw: logits at stride 4.
        """
        if mask_B1hw is None:
            dense_BChw = self.no_mask_embed.weight.view(1, -1, 1, 1).expand(len(points_BP2), -1, self.side, self.side)
        else:
            dense_BChw = self.mask_embed(mask_B1hw)
        points_BP2, labels_BP1 = F.pad(points_BP2 + 0.5, (0, 0, 0, 1)), F.pad(labels_BP, (0, 1), value=-1)[..., None]
        placed_BPC = self.shared_embedding(points_BP2 / self.image_size)
        placed_BPC = torch.where(labels_BP1 == -1, self.not_a_point_embed.weight, placed_BPC)
        return placed_BPC + self.point_embed(labels_BP1[..., 0].clamp(min=0)) * (labels_BP1 >= 0), dense_BChw

    def grid(self) -> Tensor:
        """The encoding (1, C, h, w) of the places of a map's pixels, as that of points."""
        places = (torch.arange(self.side, device=self.no_mask_embed.weight.device) + 0.5) / self.side
        xy = torch.stack(torch.meshgrid(places, places, indexing="xy"), -1)
        return self.shared_embedding(xy[None]).permute(0, 3, 1, 2)


class TwoWayBlock(nn.Module):
    """Tokens attend to each other and to the map, the map to the tokens.

    Args:
        first: whether the places of tokens are left out among themselves, since the tokens are still nothing else.
    """

    def __init__(self, config: Sam2Config, *, first: bool) -> None:
        super().__init__()
        width, heads, self.first = config.width, config.decoder_heads, first
        self.self_attn = Attention(width, width, heads)
        self.layer_norm1 = nn.LayerNorm(width)
        self.cross_attn_token_to_image = Attention(width, width // 2, heads)
        self.layer_norm2 = nn.LayerNorm(width)
        self.mlp = FeedForward(width, config.decoder_hidden, width, config.decoder_layers)
        self.layer_norm3, self.layer_norm4 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.cross_attn_image_to_token = Attention(width, width // 2, heads)

    def forward(self, tokens_BTC: Tensor, map_BLC: Tensor, prompts_BTC: Tensor, grid_BLC: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and map in the light of each other; prompts and grid are their places."""
        if self.first:
            tokens_BTC = self.self_attn(tokens_BTC, tokens_BTC, tokens_BTC)
        else:
            placed = tokens_BTC + prompts_BTC
            tokens_BTC = tokens_BTC + self.self_attn(placed, placed, tokens_BTC)
        tokens_BTC, placed_BLC = self.layer_norm1(tokens_BTC), map_BLC + grid_BLC
        read = self.cross_attn_token_to_image(tokens_BTC + prompts_BTC, placed_BLC, map_BLC)
        tokens_BTC = self.layer_norm2(tokens_BTC + read)
        tokens_BTC = self.layer_norm3(tokens_BTC + self.mlp(tokens_BTC))
        read = self.cross_attn_image_to_token(placed_BLC, tokens_BTC + prompts_BTC, tokens_BTC)
        return tokens_BTC, self.layer_norm4(map_BLC + read)


class TwoWayTransformer(nn.Module):
    """Blocks of two-way attention, and a last look of the tokens at the map."""

    def __init__(self, config: Sam2Config) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(config, first=not i) for i in range(config.decoder_layers))
        self.final_attn_token_to_image = Attention(config.width, config.width // 2, config.decoder_heads)
        self.layer_norm_final_attn = nn.LayerNorm(config.width)

    def forward(self, prompts_BTC: Tensor, map_BLC: Tensor, grid_BLC: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, T, C) and map (B, L, C)."""
        tokens_BTC = prompts_BTC
        for layer in self.layers:
            tokens_BTC, map_BLC = layer(tokens_BTC, map_BLC, prompts_BTC, grid_BLC)
        read = self.final_attn_token_to_image(tokens_BTC + prompts_BTC, map_BLC + grid_BLC, map_BLC)
        return self.layer_norm_final_attn(tokens_BTC + read), map_BLC


class MaskDecoder(nn.Module):
    """Prompts and a map as masks at stride 4."""

    margin = 0.05  # of logits: a mask that is larger below it than above it is not stable
    least_stability = 0.98  # IoU of the two; below it the single mask gives way to the surest of the others

    def __init__(self, config: Sam2Config) -> None:
        super().__init__()
        width, self.masks = config.width, config.proposals + 1
        self.iou_token = nn.Embedding(1, width)
        self.mask_tokens = nn.Embedding(self.masks, width)
        self.transformer = TwoWayTransformer(config)
        self.upscale_conv1 = nn.ConvTranspose2d(width, width // 4, 2, stride=2)
        self.upscale_conv2 = nn.ConvTranspose2d(width // 4, width // 8, 2, stride=2)
        self.upscale_layer_norm = LayerNorm2d(width // 4)
        self.output_hypernetworks_mlps = nn.ModuleList(FeedForward(width, width, width // 8, 3) for _ in range(self.masks))
        self.iou_prediction_head = FeedForward(width, config.iou_hidden, self.masks, config.iou_layers)
        self.conv_s0, self.conv_s1 = nn.Conv2d(width, width // 8, 1), nn.Conv2d(width, width // 4, 1)
        self.obj_score_token = nn.Embedding(1, width)
        self.pred_obj_score_head = FeedForward(width, width, 1, 3)

    def forward(
        self,
        map_BChw: Tensor,
        grid_BChw: Tensor,
        sparse_BTC: Tensor,
        dense_BChw: Tensor,
        fine_BChw: tuple[Tensor, Tensor],
        *,
        several: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mask logits (B, K, 4h, 4w), predicted IoUs (B, K), tokens (B, K, C) of the masks, logits (B, 1) of presence.

        Args:
            fine_BChw: maps of stride 4 and 8, by `conv_s0` and `conv_s1`.
            several: all proposals but the single mask, instead of one answer, which comes with the single mask's token.
        """
        learnt = torch.cat([self.obj_score_token.weight, self.iou_token.weight, self.mask_tokens.weight])
        prompts_BTC = torch.cat([learnt.expand(len(map_BChw), -1, -1), sparse_BTC], 1)
        # channel by channel, as the official code has it: bfloat16 rounds sums otherwise where pixels lie together
        whole = (map_BChw + dense_BChw).contiguous(), grid_BChw.contiguous()
        seen, grid_BLC = (part.flatten(2).transpose(1, 2) for part in whole)
        tokens_BTC, map_BLC = self.transformer(prompts_BTC, seen, grid_BLC)
        presence_B1C, iou_B1C, each_BKC = tokens_BTC[:, :1], tokens_BTC[:, 1:2], tokens_BTC[:, 2 : 2 + self.masks]
        masks_BKhw = self._draw(map_BLC.transpose(1, 2).unflatten(2, map_BChw.shape[2:]), each_BKC, fine_BChw)
        iou_BK = self.iou_prediction_head(iou_B1C).sigmoid()[:, 0]
        presence_B1 = self.pred_obj_score_head(presence_B1C)[:, 0]
        if several:
            return masks_BKhw[:, 1:], iou_BK[:, 1:], each_BKC[:, 1:], presence_B1
        if not self.training:
            return *self._choose_stable(masks_BKhw, iou_BK), each_BKC[:, :1], presence_B1
        return masks_BKhw[:, :1], iou_BK[:, :1], each_BKC[:, :1], presence_B1

    def _draw(self, map_BChw: Tensor, each_BKC: Tensor, fine_BChw: tuple[Tensor, Tensor]) -> Tensor:
        """The map, enlarged, as each mask's token weighs its channels."""
        finest, finer = fine_BChw
        large_BChw = gelu(self.upscale_layer_norm(self.upscale_conv1(map_BChw) + finer))
        large_BChw = gelu(self.upscale_conv2(large_BChw) + finest)
        tokens = zip(self.output_hypernetworks_mlps, each_BKC.split(1, 1), strict=True)
        return (torch.cat([network(token_B1C) for network, token_B1C in tokens], 1) @ large_BChw.flatten(2)).unflatten(
            2, large_BChw.shape[2:]
        )

    def _choose_stable(self, masks_BKhw: Tensor, iou_BK: Tensor) -> tuple[Tensor, Tensor]:
        """The single mask where it is stable, else the surest of the others."""
        single_BL, rows = masks_BKhw[:, 0].flatten(1), torch.arange(len(masks_BKhw), device=masks_BKhw.device)
        core_B, all_B = ((single_BL > edge).sum(1).float() for edge in (self.margin, -self.margin))
        stable_B = torch.where(all_B > 0, core_B / all_B, 1.0) >= self.least_stability
        best_B = torch.where(stable_B, 0, 1 + iou_BK[:, 1:].argmax(1))
        return masks_BKhw[rows, best_B][:, None], iou_BK[rows, best_B][:, None]


class MemoryEncoder(nn.Module):
    """A frame's deepest map and its mask as a memory."""

    def __init__(self, config: Sam2Config) -> None:
        super().__init__()
        self.mask_downsampler = MaskDownsampler(config.width)
        self.feature_projection = nn.Conv2d(config.width, config.width, 1)
        self.memory_fuser = MemoryFuser(config)
        self.projection = nn.Conv2d(config.width, config.memory_width, 1)

    def forward(self, map_BChw: Tensor, mask_B1SS: Tensor) -> Tensor:
        """The memory (B, M, h, w)."""
        mask_BChw = self.mask_downsampler(mask_B1SS)
        return self.projection(self.memory_fuser(self.feature_projection(map_BChw) + mask_BChw))


class MaskDownsampler(nn.Module):
    """A mask (B, 1, S, S) as a map (B, C, h, w): four times half as large with four times the channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        steps = int(math.log2(STRIDE))
        self.layers = nn.Sequential(*(Downsampling(4**i) for i in range(steps)))
        self.final_conv = nn.Conv2d(4**steps, width, 1)

    def forward(self, x_BChw: Tensor) -> Tensor:
        """The map."""
        return self.final_conv(self.layers(x_BChw))


class Downsampling(nn.Module):
    """One of these steps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * channels, 3, stride=2, padding=1)
        self.layer_norm = LayerNorm2d(4 * channels)

    def forward(self, x_BChw: Tensor) -> Tensor:
        """Half as large."""
        return gelu(self.layer_norm(self.conv(x_BChw)))


class MemoryFuser(nn.Module):
    """Blocks that mix map and mask."""

    def __init__(self, config: Sam2Config) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(FuserBlock(config.width, config.fuser_hidden) for _ in range(config.fuser_layers)))

    def forward(self, x_BChw: Tensor) -> Tensor:
        """Same shape in and out."""
        return self.layers(x_BChw)


class FuserBlock(nn.Module):
    """A block of ConvNeXt: neighbours, channel by channel, then channels, pixel by pixel."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.depthwise_conv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.layer_norm = LayerNorm2d(width)
        self.pointwise_conv1, self.pointwise_conv2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.scale = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x_BChw: Tensor) -> Tensor:
        """Same shape in and out."""
        mixed_BhwC = self.layer_norm(self.depthwise_conv(x_BChw)).permute(0, 2, 3, 1)
        mixed_BhwC = self.scale * self.pointwise_conv2(gelu(self.pointwise_conv1(mixed_BhwC)))
        return x_BChw + mixed_BhwC.permute(0, 3, 1, 2)
