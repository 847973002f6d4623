"""Others that track the same scene with the same weights: transformers' video session, and the official predictor."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import Sam2VideoConfig, Sam2VideoModel
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from medical_sam2.errors import ConfigError
from medical_sam2.model.checkpoint_format import from_official
from medical_sam2.model.modules import STRIDE, HieraSizes, Sam2Config
from medical_sam2.model.sam2 import Sam2
from speed_scene import Scene, Steps

SETTINGS = {"tiny": "t", "small": "s", "large": "l"}
BUILDER = "build_sam2_video_predictor"


def session(network: Sam2, scene: Scene) -> Steps:
    """transformers' session with the weights of a network."""
    model: Any = Sam2VideoModel(transformers_configuration(network.config)).eval()
    weights = network.state_dict()
    weights["shared_image_embedding.positional_embedding"] = weights["prompt_encoder.shared_embedding.positional_embedding"]
    model.load_state_dict(weights)
    video = network.normalised(scene.frames_T3SS)
    state = Sam2VideoInferenceSession(video=video, video_height=scene.size, video_width=scene.size, dtype=torch.float32)
    for number, box in enumerate(scene.boxes):
        index = state.obj_id_to_idx(number + 1)
        corners = torch.tensor(box).view(1, 1, 2, 2)
        state.add_point_inputs(index, 0, {"point_coords": corners, "point_labels": torch.tensor([[[2, 3]]])})
    state.obj_with_new_inputs = list(state.obj_ids)
    for t in range(len(video)):
        with torch.inference_mode():
            masks = model(state, frame_idx=t).pred_masks
        yield masks.flatten(0, -3)


def transformers_configuration(config: Sam2Config) -> Sam2VideoConfig:
    """The same sizes as transformers says them; without a Hiera the image encoder is another than ours."""
    size, width = config.image_size, config.width
    return Sam2VideoConfig(
        image_size=size,
        vision_config=None if config.hiera is None else _vision_configuration(config.hiera, width, size),
        prompt_encoder_config={"hidden_size": width, "image_size": size, "mask_input_channels": config.mask_channels},
        mask_decoder_config={
            "hidden_size": width,
            "mlp_dim": config.decoder_hidden,
            "num_hidden_layers": config.decoder_layers,
            "num_attention_heads": config.decoder_heads,
            "num_multimask_outputs": config.proposals,
            "iou_head_depth": config.iou_layers,
            "iou_head_hidden_dim": config.iou_hidden,
        },
        num_maskmem=config.memory_times,
        enable_occlusion_spatial_embedding=config.marks_absence,
        enable_temporal_pos_encoding_for_object_pointers=config.times_of_pointers,
        memory_attention_hidden_size=width,
        memory_attention_num_layers=config.attention_layers,
        memory_attention_feed_forward_hidden_size=config.attention_hidden,
        memory_attention_rope_feat_sizes=[size // STRIDE, size // STRIDE],
        memory_encoder_hidden_size=width,
        memory_encoder_output_channels=config.memory_width,
        mask_downsampler_embed_dim=width,
        memory_fuser_embed_dim=width,
        memory_fuser_num_layers=config.fuser_layers,
        memory_fuser_intermediate_dim=config.fuser_hidden,
    )


def _vision_configuration(sizes: HieraSizes, width: int, size: int) -> dict[str, Any]:
    trunk = {
        "model_type": "sam2_hiera_det_model",
        "image_size": [size, size],
        "hidden_size": sizes.widths[0],
        "num_attention_heads": sizes.attention.heads,
        "window_positional_embedding_background_size": list(sizes.places),
        "blocks_per_stage": list(sizes.blocks),
        "embed_dim_per_stage": list(sizes.widths),
        "num_attention_heads_per_stage": [sizes.attention.heads << stage for stage in range(len(sizes.blocks))],
        "window_size_per_stage": list(sizes.attention.windows),
        "global_attention_blocks": list(sizes.attention.everywhere),
    }
    return {
        "model_type": "sam2_vision_model",
        "backbone_config": trunk,
        "backbone_channel_list": list(reversed(sizes.widths)),
        "backbone_feature_sizes": [[size // stride] * 2 for stride in (4, 8, STRIDE)],
        "fpn_hidden_size": width,
    }


def official(folder: Path, encoder: str, network: Sam2, scene: Scene) -> Steps:
    """The official predictor, from a checkout of its repository; the network is given its random weights.

    Raises:
        ConfigError: the folder holds no such checkout, or what it needs is not installed.
    """
    build = _builder(folder)
    overrides = [f"++model.image_size={scene.size}", f"++model.memory_attention.layer.self_attention.feat_sizes={_grid(scene)}"]
    overrides.append(f"++model.memory_attention.layer.cross_attention.feat_sizes={_grid(scene)}")
    name = f"configs/sam2.1/sam2.1_hiera_{SETTINGS[encoder]}.yaml"
    predictor = build(name, None, "cpu", hydra_overrides_extra=overrides, apply_postprocessing=False)
    _share(network, predictor)
    return _propagated(predictor, network, scene)


def _grid(scene: Scene) -> str:
    side = scene.size // 16
    return f"[{side},{side}]"


def _builder(folder: Path) -> Callable[..., Any]:
    if not (folder / "sam2" / "build_sam.py").is_file():
        raise ConfigError("holds no sam2/build_sam.py", "give a checkout of facebookresearch/sam2", subject=folder)
    sys.path.insert(0, str(folder.resolve()))
    try:
        return getattr(importlib.import_module("sam2.build_sam"), BUILDER)
    except ModuleNotFoundError as error:
        problem = f"needs the package {error.name}, which is not installed"
        raise ConfigError(problem, "install what its setup.py names", subject=folder) from error
    finally:
        sys.path.pop(0)


def _share(network: Sam2, predictor: Any) -> None:
    """The weights of the network, under the predictor's names."""
    own = predictor.state_dict()
    numbered = {name: torch.full_like(tensor, place) for place, (name, tensor) in enumerate(own.items())}
    points = {name for name in own if "point_embeddings" in name}
    weights = network.state_dict()
    for name, tensor in from_official({n: t for n, t in numbered.items() if n not in points}).items():
        own[list(own)[int(tensor.flatten()[0])]].copy_(weights[name])
    for row, name in zip(weights["prompt_encoder.point_embed.weight"], sorted(points), strict=True):
        own[name].copy_(row[None])


def _propagated(predictor: Any, network: Sam2, scene: Scene) -> Iterator[Tensor]:
    with torch.inference_mode(), TemporaryDirectory() as folder:
        for t in range(len(scene.frames_T3SS)):
            Image.fromarray(np.zeros((scene.size, scene.size, 3), np.uint8)).save(Path(folder) / f"{t:05d}.jpg")
        state = predictor.init_state(folder)
    state["images"], state["cached_features"] = network.normalised(scene.frames_T3SS), {}
    with torch.inference_mode():
        for number, box in enumerate(scene.boxes):
            predictor.add_new_points_or_box(state, 0, number + 1, box=np.array(box, np.float32))
        found = predictor.propagate_in_video(state)
    for _ in scene.frames_T3SS:
        with torch.inference_mode():
            t, _, _ = next(found)
        yield torch.cat([_kept(known, t) for known in state["output_dict_per_obj"].values()])[:, 0]


def _kept(known: dict[str, dict[int, dict[str, Tensor]]], t: int) -> Tensor:
    return (known["cond_frame_outputs"].get(t) or known["non_cond_frame_outputs"][t])["pred_masks"]
