"""Several processes that train one model: each on its own data, with averaged gradients.

Models of up to some 60 M parameters fit every GPU whole, so that nothing is sharded. One all-reduce per step carries
all gradients; it is not overlapped with the backward pass, of which it is a small part at this size.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

# Distance between the seeds of two ranks, above the seeds that recipes use.
_SEED_STEP = 1_000_003


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; rank 0 writes."""

    rank: int = 0
    count: int = 1

    def seed(self, seed: int) -> int:
        """A seed of this rank's own; rank 0 keeps ``seed``."""
        return seed + self.rank * _SEED_STEP

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace gradients by their mean over the ranks; None stays where it is None on all of them."""
        if self.count == 1:
            return
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        present = grads[0].new_tensor([p.grad is not None for p in parameters])
        flat = torch.cat([*(grad.flatten() for grad in grads), present])
        dist.all_reduce(flat)
        *means, present = flat.split([*(grad.numel() for grad in grads), len(grads)])
        for parameter, mean, somewhere in zip(parameters, means, present.tolist(), strict=True):
            parameter.grad = (mean / self.count).view_as(parameter) if somewhere else None

    def mean(self, value: float, device: str | torch.device) -> float:
        """The mean over the ranks, the same bits on each."""
        if self.count == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return total.item() / self.count

    def gather(self, own: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """What each rank passes (CPU tensors), by rank."""
        if self.count == 1:
            return [own]
        everyone: list = [None] * self.count
        dist.all_gather_object(everyone, own)
        return everyone

    def wait(self) -> None:
        """Return when all ranks are here."""
        if self.count > 1:
            dist.barrier()


def current_ranks() -> Ranks:
    """The ranks of torch.distributed's process group; one rank where there is none."""
    if dist.is_available() and dist.is_initialized():
        return Ranks(dist.get_rank(), dist.get_world_size())
    return Ranks()


def started_by_torchrun() -> bool:
    """Whether torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def process_group(device: torch.device) -> Iterator[torch.device]:
    """Join the processes that torchrun started, if it did; yields this process's device.

    ``cuda`` without a number becomes the GPU of the local rank. Gradients travel by NCCL between GPUs, which has never
    been run, and by gloo between CPUs.
    """
    if not started_by_torchrun():
        yield device
        return
    if device.type == "cuda":
        index = int(os.environ["LOCAL_RANK"]) if device.index is None else device.index
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()
