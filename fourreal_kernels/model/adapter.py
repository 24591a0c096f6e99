"""What single streams train over a frozen base where two streams train their synchronisation."""

from __future__ import annotations

from torch import Tensor, nn


class StreamAdapter(nn.Module):
    """A residual map of one stream: x + gate * MLP(scale * x), C -> 2C -> C.

    It has as many weights as a dense :class:`~fourreal_kernels.nn.SoftSync`, 4 C^2, and is modulated by sigma in the
    same way: scale and gate of each sample and channel start at one, the map starts at zero. The papers have nothing
    like it; it is there so that modes can be compared over one frozen base.

    Args:
        dim: C.
        cond_dim: width of the conditioning.
    """

    def __init__(self, dim: int, cond_dim: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim))
        self.modulation = nn.Linear(cond_dim, 2 * dim)
        for layer in (self.mlp[-1], self.modulation):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """``(B, V, T, N, C)`` and ``(B, cond_dim)`` to the adapted stream."""
        scale, gate = (1 + self.modulation(cond))[:, None, None, None].chunk(2, dim=-1)
        return x + gate * self.mlp(scale * x)
