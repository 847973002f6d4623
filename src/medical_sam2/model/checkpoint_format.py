"""What a file of weights is: the names of weights, the sizes that their shapes tell, and `config.json`.

*Names*: official ones (those of facebookresearch/sam2, which Medical-SAM2 and MedSAM2 kept for their fine-tuned weights) and
transformers' become those of `Sam2`. *Sizes* are read off the shapes; what shapes do not tell (heads, windows and global blocks
of the image encoder) is a table of the four official encoders, or stands in `config.json`, ours or that of `transformers`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from medical_sam2.errors import WeightsError
from medical_sam2.model.image_encoders import ConvPyramid
from medical_sam2.model.modules import STAGES, Hiera, HieraSizes, Sam2Config
from medical_sam2.model.sam2 import Pixels

HEADS = 8  # of the mask decoder's attention
TRUNK = "vision_encoder.backbone"
NAMES_SHOWN, NAME_LENGTH = 1000, 100


ENCODERS: Mapping[tuple[int, ...], Hiera] = {
    (1, 2, 7, 2): Hiera(1, (8, 4, 14, 7), (5, 7, 9)),
    (1, 2, 11, 2): Hiera(1, (8, 4, 14, 7), (7, 10, 13)),
    (2, 3, 16, 3): Hiera(2, (8, 4, 14, 7), (12, 16, 20)),
    (2, 6, 36, 4): Hiera(2, (8, 4, 16, 8), (23, 33, 43)),
}
"""The official encoders by their blocks per stage: tiny, small, base+ and large."""


def network_configuration(
    weights: Mapping[str, Tensor], image_size: int, *, encoder: Hiera | None = None, heads: int = HEADS
) -> Sam2Config:
    """The configuration of the network that these weights fit.

    Args:
        weights: under the names of `Sam2`.
        image_size: side of the network's square input in pixels.
        encoder: what the shapes of a Hiera encoder do not tell; looked up among the official ones unless given.

    Raises:
        WeightsError: a weight that every SAM 2 has is missing, or the encoder is none of the official ones.
    """
    shape = _Shapes({name: tuple(tensor.shape) for name, tensor in weights.items()})
    width, depth = shape("no_memory_embedding")[-1], shape("memory_encoder.projection.weight")[0]
    if heads < 1 or width // 2 % heads:
        raise WeightsError(f"no mask decoder of width {width} has {heads} heads", "restore the original configuration")
    return Sam2Config(
        image_size,
        hiera=_hiera_sizes(shape, encoder) if f"{TRUNK}.pos_embed" in weights else None,
        width=width,
        memory_width=depth,
        memory_times=shape("memory_temporal_positional_encoding")[0],
        mask_channels=shape("prompt_encoder.mask_embed.conv2.weight")[0],
        decoder_layers=shape.count("mask_decoder.transformer.layers"),
        decoder_heads=heads,
        decoder_hidden=shape("mask_decoder.transformer.layers.0.mlp.proj_in.weight")[0],
        proposals=shape("mask_decoder.mask_tokens.weight")[0] - 1,
        iou_layers=2 + shape.count("mask_decoder.iou_prediction_head.layers"),
        iou_hidden=shape("mask_decoder.iou_prediction_head.proj_in.weight")[0],
        attention_layers=shape.count("memory_attention.layers"),
        attention_hidden=shape("memory_attention.layers.0.linear1.weight")[0],
        fuser_layers=shape.count("memory_encoder.memory_fuser.layers"),
        fuser_hidden=shape("memory_encoder.memory_fuser.layers.0.pointwise_conv1.weight")[0],
        times_of_pointers="temporal_positional_encoding_projection_layer.weight" in weights,
        marks_absence="occlusion_spatial_embedding_parameter" in weights,
    )


def _hiera_sizes(shape: "_Shapes", encoder: Hiera | None) -> HieraSizes:
    widths, blocks = _stages(shape)
    encoder = encoder or ENCODERS.get(blocks)
    if encoder is None or len(blocks) != STAGES or widths[0] % encoder.heads:
        official = ", ".join("-".join(map(str, each)) for each in ENCODERS)
        raise WeightsError(
            f"the image encoder has {'-'.join(map(str, blocks))} blocks, which is none of the official ones ({official})",
            "give weights of a SAM 2 or SAM 2.1 network",
        )
    height, side = shape(f"{TRUNK}.pos_embed")[-2:]
    adapter = f"{TRUNK}.blocks.0.mlp_adapter.proj_in.weight"
    return HieraSizes(blocks, widths, encoder, (height, side), shape(adapter)[0] if adapter in shape else 0)


def make_pyramid(weights: Mapping[str, Tensor]) -> ConvPyramid:
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


def listed(names: Iterable[str], most: int = NAMES_SHOWN) -> str:
    """Names for a message: sorted, shortened where a file makes them absurd, nothing that a terminal would obey."""
    shown = sorted("".join(c for c in name[:NAME_LENGTH] if c.isprintable()) for name in names)
    rest = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + rest


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
    """Weights under the names of `Sam2`; an unknown name is kept, for a strict load to report."""
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


FORMAT, VERSION = "medical-sam2", 1
SMALLEST, LARGEST, STEP = 64, 4096, 32


@dataclass(frozen=True)
class WeightsSettings:
    """All about a network that the shapes of its weights do not tell."""

    encoder: Literal["hiera", "pyramid"] = "hiera"  # kind of the image encoder: Hiera, or the convolutional pyramid of `nano`
    image_size: int | None = None  # side of its square input in pixels; None where nothing tells
    pixels: Pixels = field(default_factory=Pixels)  # normalisation that the weights expect
    mask_heads: int = HEADS  # attention heads of the mask decoder
    hiera: Hiera | None = None  # heads, windows and global blocks of a Hiera; looked up among the official ones where None

    def __post_init__(self) -> None:
        if self.image_size is not None:
            check_image_size(self.image_size)

    def as_json(self) -> dict[str, Any]:
        """The content of our `config.json`."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}


def check_image_size(size: Any) -> int:
    """The size, if a network can take it; raises WeightsError if it is too small, too large or no multiple of 32."""
    if not isinstance(size, int) or size % STEP or not SMALLEST <= size <= LARGEST:
        given = f"{size} pixels" if isinstance(size, int) else f"{size!r} pixels (a {type(size).__name__})"
        raise WeightsError(f"no network takes images of {given}", f"give a multiple of {STEP} from {SMALLEST} to {LARGEST}")
    return size


def parse_config(content: Mapping[str, Any]) -> WeightsSettings:
    """The settings in a `config.json` of ours or of transformers' `Sam2VideoModel`.

    Raises:
        WeightsError: it is neither, or holds values that no network has.
    """
    try:
        if content.get("format") == FORMAT:
            return _parse_ours(content)
        if content.get("model_type") == "sam2_video":
            return _parse_transformers(content)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise WeightsError("the configuration holds values that no network has", "restore the original one") from error
    raise WeightsError("unknown configuration: neither of this package nor of a SAM 2 video model", "give weights of SAM 2")


def _parse_ours(content: Mapping[str, Any]) -> WeightsSettings:
    values: dict[str, Any] = {name: value for name, value in content.items() if name not in {"format", "version"}}
    if content.get("version") != VERSION or values["encoder"] not in {"hiera", "pyramid"}:
        raise WeightsError("the configuration is of a later version", "update this package")
    pixels = Pixels(_three_floats(values["pixels"]["mean"]), _three_floats(values["pixels"]["std"]))
    if min(pixels.std) <= 0:
        raise ValueError(pixels)
    values["hiera"] = _parse_hiera(**values["hiera"]) if values["hiera"] is not None else None
    values |= {"pixels": pixels, "mask_heads": int(values["mask_heads"])}
    return WeightsSettings(**values)


def _three_floats(numbers: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = (float(number) for number in numbers)
    return red, green, blue


def _parse_transformers(content: Mapping[str, Any]) -> WeightsSettings:
    """Only what cannot be read off the weights; what is left out has transformers' default, that of SAM 2.1 tiny."""
    backbone = content.get("vision_config", {}).get("backbone_config", {})
    names = {"heads": "num_attention_heads", "windows": "window_size_per_stage", "everywhere": "global_attention_blocks"}
    given = {ours: backbone[theirs] for ours, theirs in names.items() if backbone.get(theirs) is not None}
    size = content.get("image_size", 1024)
    return WeightsSettings(
        image_size=size if isinstance(size, int) else max(size), hiera=_parse_hiera(**given) if len(given) == 3 else None
    )


def _parse_hiera(heads: int, windows: list[int], everywhere: list[int]) -> Hiera:
    return Hiera(int(heads), tuple(int(x) for x in windows), tuple(int(x) for x in everywhere))
