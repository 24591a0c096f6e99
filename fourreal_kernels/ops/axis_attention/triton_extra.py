"""How the queries of the grid are cut into chunks for the gradients of the extra tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .call import KeyValue
from .triton_relation import Relation

# The queries of an extra token, as one list of rows.
EVERY_TOKEN = Relation("all", exchanged=False, tokens=True)

# Programs that keep the largest chips busy. A constant, so that the sums do not depend on the chip.
_PROGRAMS = 512
_LARGEST_SCRATCH_BYTES = 32_000_000
_PARTS_BYTES = 2 * 4  # of dK and dV, in float32


@dataclass(frozen=True)
class Chunks:
    """``count`` chunks of ``rows`` queries, the last one may have fewer; ``programs`` of all tiles and chunks."""

    count: int
    rows: int
    programs: int

    @classmethod
    def of(cls, shape: Sequence[int], extra_tokens: int, block_q: int, block_k: int) -> Chunks:
        """For q of ``shape`` and tiles of ``block_q`` queries and ``block_k`` extra keys."""
        batch, _, _, _, heads, head_dim = shape
        tiles = -(-EVERY_TOKEN.rows(shape) // block_q)
        programs = batch * heads * -(-extra_tokens // block_k)
        fitting = _LARGEST_SCRATCH_BYTES // (_PARTS_BYTES * batch * extra_tokens * heads * head_dim)
        wanted = max(1, min(tiles, fitting, -(-_PROGRAMS // programs)))
        tiles_of_chunk = -(-tiles // wanted)
        count = -(-tiles // tiles_of_chunk)
        return cls(count, tiles_of_chunk * block_q, count * programs)

    def destinations(self, grads: KeyValue) -> KeyValue:
        """Where the kernel writes the parts of dK and dV, (chunks * B, L, H, D); one chunk is the result itself."""
        if self.count == 1:
            return grads
        batch, *rest = grads[0].shape
        scratch = grads[0].new_empty((2, self.count * batch, *rest), dtype=torch.float32)
        return scratch[0], scratch[1]

    def add(self, parts: KeyValue, grads: KeyValue) -> None:
        """The sum of the parts, in an order that depends on shapes alone, into ``grads``."""
        if self.count > 1:
            for part, grad in zip(parts, grads, strict=True):
                grad.copy_(part.view(self.count, *grad.shape).sum(0))
