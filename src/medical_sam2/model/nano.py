"""`nano`: the small network that ships with the package."""

import torch
from torch import nn
from transformers import Sam2VideoConfig

from medical_sam2.model.pyramid import ConvPyramid, reset
from medical_sam2.model.sam2 import Pixels, Sam2

WIDTH = 128
PIXELS = Pixels(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def nano(image_size: int = 256) -> Sam2:
    """The untrained network: a convolutional pyramid, two blocks of memory attention, SAM 2's heads at half the width.

    Args:
        image_size: side of its square input in pixels, a multiple of 32.
    """
    network = Sam2(configuration(image_size), ConvPyramid(neck=WIDTH), pixels=PIXELS)
    reset(network)
    with torch.no_grad():
        for block in network.memory_encoder.memory_fuser.layers:
            block.scale.fill_(0.1)
        for parameter in (network.no_memory_embedding, network.no_object_pointer, network.memory_temporal_positional_encoding):
            nn.init.normal_(parameter, std=0.02)
    return network


def configuration(image_size: int = 256) -> Sam2VideoConfig:
    """Sizes of all parts but the image encoder's."""
    return Sam2VideoConfig(
        vision_config=None,
        prompt_encoder_config={"hidden_size": WIDTH, "image_size": image_size},
        mask_decoder_config={
            "hidden_size": WIDTH,
            "mlp_dim": 512,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": WIDTH,
        },
        image_size=image_size,
        memory_attention_hidden_size=WIDTH,
        memory_attention_num_layers=2,
        memory_attention_feed_forward_hidden_size=512,
        memory_attention_rope_feat_sizes=[image_size // 16, image_size // 16],
        memory_attention_dropout=0.0,
        memory_attention_rope_dropout=0.0,
        memory_encoder_hidden_size=WIDTH,
        memory_fuser_embed_dim=WIDTH,
        memory_fuser_intermediate_dim=512,
        mask_downsampler_embed_dim=WIDTH,
    )
