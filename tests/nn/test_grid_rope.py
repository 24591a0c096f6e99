"""GridRope: positions by axes, and attention scores that depend on differences of positions only."""

import pytest
import torch

from fourreal_kernels import qk_norm_rope
from fourreal_kernels.nn import GridRope

HEAD_DIM, HEIGHT, WIDTH = 20, 2, 3
SPACE_PAIRS = HEAD_DIM // 2 // 3
FRAME_PAIRS = HEAD_DIM // 2 - 2 * SPACE_PAIRS
VIEWS, TIMES = torch.tensor([0, 2, 3]), torch.tensor([1, 2, 5, 7])


def _rope(**options):
    return GridRope(HEAD_DIM, HEIGHT, WIDTH, **options)


def _frame_positions(axes, max_times):
    view, time = VIEWS[:, None].expand(3, 4), TIMES[None, :].expand(3, 4)
    if axes in ("vn|tn", "v|t", "vt", "vtn"):
        return view * max_times + time
    return {"vn": view, "v": view, "tn": time, "t": time, "n": torch.zeros_like(view)}[axes]


def _expected_angles(axes, max_times, frame_base, space_base):
    """``(V, T, N, D/2)`` pair by pair from the docstring."""
    position = _frame_positions(axes, max_times).double()
    angles = torch.empty(3, 4, HEIGHT * WIDTH, HEAD_DIM // 2, dtype=torch.float64)
    for token in range(HEIGHT * WIDTH):
        y, x = divmod(token, WIDTH)
        for pair in range(FRAME_PAIRS):
            angles[:, :, token, pair] = position * frame_base ** (-pair / FRAME_PAIRS)
        for pair in range(SPACE_PAIRS):
            frequency = space_base ** (-pair / SPACE_PAIRS)
            angles[:, :, token, FRAME_PAIRS + pair] = y * frequency
            angles[:, :, token, FRAME_PAIRS + SPACE_PAIRS + pair] = x * frequency
    return angles


@pytest.mark.parametrize("axes", ["vn", "v", "tn", "t", "n", "vn|tn", "v|t", "vt", "vtn"])
def test_positions_of_each_axes(axes):
    cos, sin = _rope(max_times=9, frame_base=50.0, space_base=20.0)(axes, VIEWS, TIMES)
    expected = _expected_angles(axes, 9, 50.0, 20.0)
    assert cos.dtype == sin.dtype == torch.float32
    torch.testing.assert_close(cos.double(), expected.cos(), atol=1e-5, rtol=0)
    torch.testing.assert_close(sin.double(), expected.sin(), atol=1e-5, rtol=0)


def _scores(axes):
    """Scores between all tokens when every token has the same query and the same key: position is all that differs."""
    cos, sin = _rope(max_times=9)(axes, VIEWS, TIMES)
    query, key = (torch.randn(HEAD_DIM).expand(1, 3, 4, HEIGHT * WIDTH, 1, HEAD_DIM) for _ in range(2))
    q, k = qk_norm_rope(query, key, None, None, cos, sin)
    return q.reshape(-1, HEAD_DIM) @ k.reshape(-1, HEAD_DIM).T


@pytest.mark.parametrize("axes", ["vn", "tn", "vn|tn", "n"])
def test_scores_depend_on_differences_of_own_axis_y_and_x_only(axes):
    scores = _scores(axes)
    frame = _frame_positions(axes, 9).reshape(-1, 1).expand(-1, HEIGHT * WIDTH).reshape(-1)
    token = torch.arange(HEIGHT * WIDTH).repeat(12)
    position = torch.stack([frame, token // WIDTH, token % WIDTH], dim=-1)
    difference = (position[:, None] - position[None, :]).flatten(0, 1)
    kinds, kind = difference.unique(dim=0, return_inverse=True)
    flat = scores.flatten()
    lowest, highest = (
        torch.zeros(len(kinds)).scatter_reduce(0, kind, flat, how, include_self=False) for how in ("amin", "amax")
    )
    torch.testing.assert_close(lowest, highest, atol=2e-4, rtol=0)
    middle = (lowest + highest) / 2
    nearest = (middle[:, None] - middle[None, :]).abs().fill_diagonal_(1).amin()
    assert middle.std() > 0.3 and nearest > 0, "different offsets should have different scores"


def test_angles_have_no_gradient_and_are_not_in_checkpoints():
    rope = _rope()
    cos, sin = rope("vn", VIEWS, TIMES)
    assert not cos.requires_grad and not sin.requires_grad
    assert not list(rope.parameters()) and not rope.state_dict()


@pytest.mark.parametrize("head_dim", [4, 7, 2])
def test_head_dim_must_be_even_and_hold_three_pairs(head_dim):
    with pytest.raises(ValueError, match=f"^head_dim: got {head_dim}, expected an even number of at least 6"):
        GridRope(head_dim, 2, 2)
