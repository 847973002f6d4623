"""The sizes of a SAM 2 network, read off the shapes of its weights.

What shapes do not tell (heads, windows and global blocks of the image encoder) is a table of the four official encoders.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from transformers import Sam2VideoConfig

from medical_sam2.errors import WeightsError
from medical_sam2.model.pyramid import ConvPyramid
from medical_sam2.model.tensors import listed

STRIDE = 16  # of the deepest map that memory works on
HEADS = 8  # of the mask decoder's attention
STAGES = 4
TRUNK = "vision_encoder.backbone"


@dataclass(frozen=True)
class Hiera:
    """What the shapes of the weights of a Hiera image encoder do not tell.

    Args:
        heads: attention heads of the first stage, doubled by each further one.
        windows: side of the attention windows of each stage.
        everywhere: blocks whose attention spans the whole image.
    """

    heads: int
    windows: tuple[int, ...]
    everywhere: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.heads <= 64 or len(self.windows) != STAGES or not all(1 <= side <= 64 for side in self.windows):
            raise WeightsError(f"no image encoder has {self}", "restore the original configuration")


ENCODERS: Mapping[tuple[int, ...], Hiera] = {
    (1, 2, 7, 2): Hiera(1, (8, 4, 14, 7), (5, 7, 9)),
    (1, 2, 11, 2): Hiera(1, (8, 4, 14, 7), (7, 10, 13)),
    (2, 3, 16, 3): Hiera(2, (8, 4, 14, 7), (12, 16, 20)),
    (2, 6, 36, 4): Hiera(2, (8, 4, 16, 8), (23, 33, 43)),
}
"""The official encoders by their blocks per stage: tiny, small, base+ and large."""


def configuration(
    weights: Mapping[str, Tensor], image_size: int, *, encoder: Hiera | None = None, heads: int = HEADS
) -> Sam2VideoConfig:
    """The configuration of the network that these weights fit.

    Args:
        weights: under the names of `Sam2`.
        image_size: side of the network's square input in pixels.
        encoder: what the shapes of a Hiera encoder do not tell; looked up among the official ones unless given.
        heads: attention heads of the mask decoder.

    Raises:
        WeightsError: a weight that every SAM 2 has is missing, or the encoder is none of the known ones.
    """
    shape = _Shapes({name: tuple(tensor.shape) for name, tensor in weights.items()})
    width, depth = shape("no_memory_embedding")[-1], shape("memory_encoder.projection.weight")[0]
    if heads < 1 or width // 2 % heads:
        raise WeightsError(f"no mask decoder of width {width} has {heads} heads", "restore the original configuration")
    return Sam2VideoConfig(
        vision_config=hiera(shape, image_size, encoder) if f"{TRUNK}.pos_embed" in weights else None,
        prompt_encoder_config={
            "hidden_size": width,
            "image_size": image_size,
            "mask_input_channels": shape("prompt_encoder.mask_embed.conv2.weight")[0],
        },
        mask_decoder_config={
            "hidden_size": width,
            "mlp_dim": shape("mask_decoder.transformer.layers.0.mlp.proj_in.weight")[0],
            "num_hidden_layers": shape.count("mask_decoder.transformer.layers"),
            "num_attention_heads": heads,
            "num_multimask_outputs": shape("mask_decoder.mask_tokens.weight")[0] - 1,
            "iou_head_hidden_dim": shape("mask_decoder.iou_prediction_head.proj_in.weight")[0],
            "iou_head_depth": 2 + shape.count("mask_decoder.iou_prediction_head.layers"),
        },
        image_size=image_size,
        num_maskmem=shape("memory_temporal_positional_encoding")[0],
        enable_occlusion_spatial_embedding="occlusion_spatial_embedding_parameter" in weights,
        enable_temporal_pos_encoding_for_object_pointers="temporal_positional_encoding_projection_layer.weight" in weights,
        memory_attention_hidden_size=width,
        memory_attention_num_layers=shape.count("memory_attention.layers"),
        memory_attention_feed_forward_hidden_size=shape("memory_attention.layers.0.linear1.weight")[0],
        memory_attention_dropout=0.0,
        memory_attention_rope_dropout=0.0,
        memory_attention_rope_feat_sizes=[image_size // STRIDE, image_size // STRIDE],
        memory_encoder_hidden_size=width,
        memory_encoder_output_channels=depth,
        mask_downsampler_embed_dim=width,
        memory_fuser_embed_dim=width,
        memory_fuser_num_layers=shape.count("memory_encoder.memory_fuser.layers"),
        memory_fuser_intermediate_dim=shape("memory_encoder.memory_fuser.layers.0.pointwise_conv1.weight")[0],
    )


def hiera(shape: "_Shapes", image_size: int, encoder: Hiera | None) -> dict[str, object]:
    """transformers' configuration of the Hiera image encoder and its neck."""
    widths, blocks = _stages(shape)
    encoder = encoder or ENCODERS.get(blocks)
    if encoder is None or len(blocks) != STAGES or widths[0] % encoder.heads:
        known = ", ".join("-".join(map(str, each)) for each in ENCODERS)
        raise WeightsError(
            f"the image encoder has {'-'.join(map(str, blocks))} blocks, which is none of the official ones ({known})",
            "give weights of a SAM 2 or SAM 2.1 network",
        )
    return {
        "model_type": "sam2_vision_model",
        "backbone_config": {
            "model_type": "sam2_hiera_det_model",
            "hidden_size": widths[0],
            "num_attention_heads": encoder.heads,
            "image_size": [image_size, image_size],
            "window_positional_embedding_background_size": list(shape(f"{TRUNK}.pos_embed")[-2:]),
            "blocks_per_stage": list(blocks),
            "embed_dim_per_stage": list(widths),
            "num_attention_heads_per_stage": [encoder.heads << stage for stage in range(len(blocks))],
            "window_size_per_stage": list(encoder.windows),
            "global_attention_blocks": list(encoder.everywhere),
        },
        "backbone_channel_list": list(reversed(widths)),
        "backbone_feature_sizes": [[image_size // stride] * 2 for stride in (4, 8, STRIDE)],
        "fpn_hidden_size": shape("no_memory_embedding")[-1],
    }


def pyramid(weights: Mapping[str, Tensor]) -> ConvPyramid:
    """The convolutional image encoder that these weights fit."""
    shape = _Shapes({name: tuple(tensor.shape) for name, tensor in weights.items()})
    stem = "vision_encoder.stages"
    stages = range(shape.count(stem))
    return ConvPyramid(
        widths=(shape("vision_encoder.stem.0.weight")[0], *(shape(f"{stem}.{i}.0.0.weight")[0] for i in stages)),
        depths=tuple(shape.count(f"{stem}.{i}") - 1 for i in stages),
        neck=shape("vision_encoder.lateral.0.weight")[0],
    )


def _stages(shape: "_Shapes") -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Widths and numbers of blocks: a stage begins where the width changes."""
    stem = f"{TRUNK}.blocks"
    every = [shape(f"{stem}.{i}.layer_norm2.weight")[0] for i in range(shape.count(stem))]
    widths = tuple(dict.fromkeys(every))
    return widths, tuple(every.count(width) for width in widths)


class _Shapes(dict[str, tuple[int, ...]]):
    """Shapes by name; a missing one is an error that names it."""

    def __call__(self, name: str) -> tuple[int, ...]:
        if not self.get(name):
            problem = f"weight {name} is missing among the keys {listed(self, most=20)}"
            raise WeightsError(problem, "give weights of a SAM 2 or SAM 2.1 network")
        return self[name]

    def count(self, stem: str) -> int:
        """How many numbered parts `stem.0 …` there are."""
        numbers = {name[len(stem) + 1 :].split(".")[0] for name in self if name.startswith(f"{stem}.")}
        return len(numbers)
