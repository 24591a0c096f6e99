"""Tiny UNets of videos with temporal attention at every position, as in SVD and AnimateDiff."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from video_models import diffusers

BATCH, TIMES, SIZE, TEXT = 2, 5, 8, 8


class SVD:
    block_name, temporal_per_block = "TemporalBasicTransformerBlock", 1

    def build(self, in_channels: int = 4) -> nn.Module:
        return diffusers.UNetSpatioTemporalConditionModel(
            sample_size=SIZE, in_channels=in_channels, out_channels=4, block_out_channels=(32, 64), layers_per_block=1,
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"), num_attention_heads=(2, 4),
            cross_attention_dim=TEXT, addition_time_embed_dim=8, projection_class_embeddings_input_dim=24,
        )

    def inputs(self) -> tuple[Tensor, ...]:
        ids = torch.tensor([[7.0, 127.0, 0.02], [5.0, 12.0, 0.1]])
        return torch.randn(BATCH, TIMES, 4, SIZE, SIZE), torch.tensor(300.0), torch.randn(BATCH, 1, TEXT), ids


class AnimateDiff:
    block_name, temporal_per_block = "BasicTransformerBlock", 2

    def build(self) -> nn.Module:
        return diffusers.UNetMotionModel(
            sample_size=SIZE, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8,
            down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"), cross_attention_dim=TEXT,
            up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"), num_attention_heads=2,
            motion_num_attention_heads=2, motion_max_seq_length=8,
        )

    def inputs(self) -> tuple[Tensor, ...]:
        text = torch.randn(BATCH, 3, TEXT).repeat_interleave(TIMES, 0)  # as the pipeline passes it
        return torch.randn(BATCH, 4, TIMES, SIZE, SIZE), torch.tensor(300.0), text
