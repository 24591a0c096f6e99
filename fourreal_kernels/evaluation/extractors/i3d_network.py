"""The I3D network (Carreira and Zisserman, 2017) with the parameter names of the PyTorch conversions of its weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_BRANCHES = ("b0", "b1a", "b1b", "b2a", "b2b", "b3b")
_SIDES = {"b0": 1, "b1a": 1, "b1b": 3, "b2a": 1, "b2b": 3, "b3b": 1}
# In order: convolutions (side, stride), pools (sides, strides), inception blocks.
_STAGES: dict[str, tuple | None] = {
    "Conv3d_1a_7x7": (7, 2),
    "MaxPool3d_2a_3x3": ((1, 3, 3), (1, 2, 2)),
    "Conv3d_2b_1x1": (1, 1),
    "Conv3d_2c_3x3": (3, 1),
    "MaxPool3d_3a_3x3": ((1, 3, 3), (1, 2, 2)),
    "Mixed_3b": None,
    "Mixed_3c": None,
    "MaxPool3d_4a_3x3": ((3, 3, 3), (2, 2, 2)),
    "Mixed_4b": None,
    "Mixed_4c": None,
    "Mixed_4d": None,
    "Mixed_4e": None,
    "Mixed_4f": None,
    "MaxPool3d_5a_2x2": ((2, 2, 2), (2, 2, 2)),
    "Mixed_5b": None,
    "Mixed_5c": None,
}
# Output channels of the published network: of a convolution, or of the six convolutions of a block.
CHANNELS: dict[str, tuple[int, ...]] = {
    "Conv3d_1a_7x7": (64,),
    "Conv3d_2b_1x1": (64,),
    "Conv3d_2c_3x3": (192,),
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
CLASSES = 400


class I3D(nn.Module):
    """Inflated Inception-v1: ``(B, 3, F, 224, 224)`` in [-1, 1], F of at least 9, to ``(B, classes)`` logits.

    The logits are averaged over the remaining timesteps.
    """

    def __init__(self, channels: Mapping[str, tuple[int, ...]] = CHANNELS, classes: int = CLASSES):
        super().__init__()
        width = 3
        for name, numbers in _STAGES.items():
            if name.startswith("MaxPool"):
                self.add_module(name, _Pool(*numbers))
            elif name.startswith("Conv"):
                self.add_module(name, _Unit(width, channels[name][0], *numbers))
                width = channels[name][0]
            else:
                self.add_module(name, _Block(width, channels[name]))
                width = sum(channels[name][index] for index in (0, 2, 4, 5))
        self.avg_pool = nn.AvgPool3d((2, 7, 7), stride=1)
        self.logits = _Unit(width, classes, 1, 1, last=True)

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> I3D:
        """The network whose widths are those of a state dict, loaded with it.

        Raises:
            ValueError: keys are missing, unknown, or do not fit together.
        """
        try:
            channels = {name: tuple(state[key].shape[0] for key in _keys(name)) for name in CHANNELS}
            network = cls(channels, state["logits.conv3d.weight"].shape[0])
            network.load_state_dict(state)
        except (KeyError, RuntimeError, AttributeError, IndexError) as error:
            raise ValueError(f"state: does not have the layout of I3D ({error})") from error
        return network.eval()

    def forward(self, frames: Tensor) -> Tensor:
        for name in _STAGES:
            frames = getattr(self, name)(frames)
        return self.logits(self.avg_pool(frames)).mean((2, 3, 4))


def _keys(name: str) -> list[str]:
    parts = [name] if name.startswith("Conv") else [f"{name}.{branch}" for branch in _BRANCHES]
    return [f"{part}.conv3d.weight" for part in parts]


class _Unit(nn.Module):
    """Convolution, batch norm and ReLU; the last one has a bias instead."""

    def __init__(self, width_in: int, width_out: int, side: int, stride: int, *, last: bool = False):
        super().__init__()
        self.conv3d = nn.Conv3d(width_in, width_out, side, stride, bias=last)
        self.bn = None if last else nn.BatchNorm3d(width_out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3d(_pad_same(x, self.conv3d.kernel_size, self.conv3d.stride))
        return x if self.bn is None else F.relu(self.bn(x))


class _Pool(nn.MaxPool3d):
    def forward(self, x: Tensor) -> Tensor:
        # What is padded is the output of a ReLU, so that zeros never win.
        return super().forward(_pad_same(x, self.kernel_size, self.stride))


class _Block(nn.Module):
    """Four branches side by side: 1x1; 1x1 then 3x3, twice; a pool then 1x1."""

    def __init__(self, width: int, channels: tuple[int, ...]):
        super().__init__()
        into = {"b1b": channels[1], "b2b": channels[3]}
        for name, count in zip(_BRANCHES, channels, strict=True):
            self.add_module(name, _Unit(into.get(name, width), count, _SIDES[name], 1))
        self.pool = _Pool(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        branches = (self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.pool(x)))
        return torch.cat(branches, dim=1)


def _pad_same(x: Tensor, sides: int | tuple[int, ...], strides: int | tuple[int, ...]) -> Tensor:
    """Pad as TensorFlow does: the output has ceil(length / stride) entries, the odd one of the padding at the end."""
    sides = (sides,) * 3 if isinstance(sides, int) else sides
    strides = (strides,) * 3 if isinstance(strides, int) else strides
    padding: list[int] = []
    for length, side, stride in zip(reversed(x.shape[2:]), reversed(sides), reversed(strides), strict=True):
        total = max(side - (length % stride or stride), 0)
        padding += [total // 2, total - total // 2]
    return F.pad(x, padding)
