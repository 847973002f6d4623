"""Names of weights: from the official SAM 2 code's, or transformers', to those of `Sam2`.

The official names are those of facebookresearch/sam2, which Medical-SAM2 and MedSAM2 kept for their fine-tuned weights.
"""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

_SEQUENCES = [  # numbered parts of an official `nn.Sequential`, whose activations are counted too
    (
        r"^sam_prompt_encoder\.mask_downscaling",
        "prompt_encoder.mask_embed",
        {0: "conv1", 1: "layer_norm1", 3: "conv2", 4: "layer_norm2", 6: "conv3"},
    ),
    (r"^sam_mask_decoder\.output_upscaling", "mask_decoder", {0: "upscale_conv1", 1: "upscale_layer_norm", 3: "upscale_conv2"}),
    (
        r"^memory_encoder\.mask_downsampler\.encoder",
        "memory_encoder.mask_downsampler",
        {3 * i: f"layers.{i}.conv" for i in range(4)}
        | {3 * i + 1: f"layers.{i}.layer_norm" for i in range(4)}
        | {12: "final_conv"},
    ),
]
_RENAMED = [
    *((rf"{old}\.{number}\.", f"{new}.{name}.") for old, new, names in _SEQUENCES for number, name in names.items()),
    (r"^maskmem_tpos_enc$", "memory_temporal_positional_encoding"),
    (r"^no_mem_embed$", "no_memory_embedding"),
    (r"^no_mem_pos_enc$", "no_memory_positional_encoding"),
    (r"^no_obj_ptr$", "no_object_pointer"),
    (r"^no_obj_embed_spatial$", "occlusion_spatial_embedding_parameter"),
    (r"^obj_ptr_proj\.", "object_pointer_proj."),
    (r"^obj_ptr_tpos_proj\.", "temporal_positional_encoding_projection_layer."),
    (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
    (r"^image_encoder\.neck\.convs\.(\d+)\.conv\.", r"vision_encoder.neck.convs.\1."),
    (r"patch_embed\.proj\.", "patch_embed.projection."),
    (
        r"^sam_prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$",
        "prompt_encoder.shared_embedding.positional_embedding",
    ),
    (r"^sam_prompt_encoder\.", "prompt_encoder."),
    (r"^sam_mask_decoder\.", "mask_decoder."),
    (r"^memory_encoder\.pix_feat_proj\.", "memory_encoder.feature_projection."),
    (r"^memory_encoder\.out_proj\.", "memory_encoder.projection."),
    (r"^memory_encoder\.fuser\.layers\.(\d+)\.gamma$", r"memory_encoder.memory_fuser.layers.\1.scale"),
    (r"^memory_encoder\.fuser\.", "memory_encoder.memory_fuser."),
    (r"\.dwconv\.", ".depthwise_conv."),
    (r"\.pwconv(\d)\.", r".pointwise_conv\1."),
    (r"\.out_proj\.", ".o_proj."),
    (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
    (r"\.norm(\d?)\.", r".layer_norm\1."),
]
_RULES = [(re.compile(pattern), replacement) for pattern, replacement in _RENAMED]
_POINTS = re.compile(r"^sam_prompt_encoder\.point_embeddings\.(\d+)\.weight$")
_FEED_FORWARD = re.compile(r"(.*)\.layers\.(\d+)\.(weight|bias)$")
_OFFICIAL = ("image_encoder.", "sam_mask_decoder.", "sam_prompt_encoder.", "maskmem_tpos_enc")


def is_official(names: Iterable[str]) -> bool:
    """Whether weights carry the names of the official code."""
    return any(name.startswith(_OFFICIAL) for name in names)


def from_official(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names of `Sam2`; a name that is not known is kept, for a strict load to report."""
    points = {int(match[1]): tensor for name, tensor in weights.items() if (match := _POINTS.match(name))}
    last: dict[str, int] = {}
    for match in filter(None, map(_FEED_FORWARD.match, weights)):
        last[match[1]] = max(last.get(match[1], 0), int(match[2]))
    renamed = {_renamed(name, last): tensor for name, tensor in weights.items() if not _POINTS.match(name)}
    if points:
        renamed["prompt_encoder.point_embed.weight"] = torch.cat([points[number] for number in sorted(points)])
    return renamed


def from_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a `Sam2VideoModel` under the names of `Sam2`, which holds the embedding that two parts share once."""
    shared = "shared_image_embedding.positional_embedding"
    renamed = {name: tensor for name, tensor in weights.items() if name != shared}
    if shared in weights:
        renamed.setdefault("prompt_encoder.shared_embedding.positional_embedding", weights[shared])
    return renamed


def _renamed(name: str, last: Mapping[str, int]) -> str:
    if match := _FEED_FORWARD.match(name):
        part, number = match[1], int(match[2])
        layer = "proj_in" if number == 0 else "proj_out" if number == last[part] else f"layers.{number - 1}"
        name = f"{part}.{layer}.{match[3]}"
    for rule, replacement in _RULES:
        name = rule.sub(replacement, name)
    return name
