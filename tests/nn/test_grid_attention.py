"""GridAttention against plain attention of each line, with the weights of the module."""

import pytest
import torch

from fourreal_kernels.nn import GridAttention, GridRope
from plain_grid_attention import plain_grid_attention
from tiny_models import perturb

AXES = ("vn", "tn", "vn|tn", "v", "n")
DIM, HEADS, HEIGHT, WIDTH = 24, 3, 2, 3
GRID = (2, 3, 4, HEIGHT * WIDTH)


def _attention(axes, qk_norm=True, rope=None):
    module = GridAttention(DIM, HEADS, axes, qk_norm=qk_norm, rope=rope).double()
    perturb(module.parameters())
    return module


def _explicit_angles(*leading):
    angle = torch.randn(*leading, HEIGHT * WIDTH, DIM // HEADS // 2, dtype=torch.float64)
    return angle.cos(), angle.sin()


def _angles(rope, axes):
    """What the module is given, and the same angles ``(V, T, N, D/2)`` for the plain computation."""
    if rope == "none":
        return None, None, None
    if rope == "explicit":
        angles = _explicit_angles(3, 4)
        return None, angles, angles
    module = GridRope(DIM // HEADS, HEIGHT, WIDTH, max_times=4).double()
    return module, None, module(axes, torch.arange(3), torch.arange(4))


@pytest.mark.parametrize("rope", ["none", "GridRope", "explicit"])
@pytest.mark.parametrize("qk_norm", [True, False])
@pytest.mark.parametrize("axes", AXES)
def test_equals_plain_attention_of_each_line(axes, qk_norm, rope):
    module_rope, call_angles, angles = _angles(rope, axes)
    module = _attention(axes, qk_norm, module_rope)
    x = torch.randn(*GRID, DIM, dtype=torch.float64)
    kept = x.clone()
    with torch.no_grad():
        expected = plain_grid_attention(module, x, axes, angles)
        in_place_path = module(x, angles=call_angles)
    with_grad = module(x, angles=call_angles)
    assert with_grad.requires_grad
    torch.testing.assert_close(in_place_path, expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(with_grad.detach(), in_place_path, atol=1e-13, rtol=1e-13)
    assert torch.equal(x, kept)


def test_axes_of_the_call_replace_those_of_the_module():
    module = _attention("vn", rope=GridRope(DIM // HEADS, HEIGHT, WIDTH).double())
    time = GridAttention(DIM, HEADS, "tn", rope=module.rope).double()
    time.load_state_dict(module.state_dict())
    x = torch.randn(*GRID, DIM, dtype=torch.float64)
    assert torch.equal(module(x, axes="tn"), time(x))
    assert not torch.allclose(module(x), time(x), atol=1e-3)


def test_explicit_angles_replace_the_rope_and_broadcast_over_views_and_timesteps():
    module = _attention("tn", rope=GridRope(DIM // HEADS, HEIGHT, WIDTH).double())
    x = torch.randn(*GRID, DIM, dtype=torch.float64)
    cos, sin = _explicit_angles()
    spread = cos.expand(3, 4, -1, -1), sin.expand(3, 4, -1, -1)
    expected = plain_grid_attention(module, x, "tn", spread).detach()
    torch.testing.assert_close(module(x, angles=(cos, sin)).detach(), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("rope", ["none", "GridRope", "explicit"])
def test_two_stream_equals_two_separate_calls(rope, grad):
    module = _attention("vn", rope=GridRope(DIM // HEADS, HEIGHT, WIDTH).double() if rope == "GridRope" else None)
    view, time = torch.randn(2, *GRID, DIM, dtype=torch.float64)
    kept = view.clone(), time.clone()
    view_angles, time_angles = (_explicit_angles(3, 4), _explicit_angles(3, 4)) if rope == "explicit" else (None, None)
    with torch.set_grad_enabled(grad):
        out_view, out_time = module.two_stream(view, time, view_angles, time_angles)
        expected_view = module(view, axes="vn", angles=view_angles)
        expected_time = module(time, axes="tn", angles=time_angles)
    torch.testing.assert_close(out_view, expected_view, atol=1e-13, rtol=1e-13)
    torch.testing.assert_close(out_time, expected_time, atol=1e-13, rtol=1e-13)
    assert torch.equal(view, kept[0]) and torch.equal(time, kept[1])


def test_two_stream_gradients_equal_those_of_two_separate_calls():
    module = _attention("vn", rope=GridRope(DIM // HEADS, HEIGHT, WIDTH).double())
    streams = torch.randn(2, *GRID, DIM, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, *GRID, DIM, dtype=torch.float64)
    inputs = [streams, *module.parameters()]
    joint = torch.stack(module.two_stream(streams[0], streams[1]))
    separate = torch.stack([module(streams[0], axes="vn"), module(streams[1], axes="tn")])
    gradients = [torch.autograd.grad((out * weights).sum(), inputs) for out in (joint, separate)]
    for together, apart in zip(*gradients, strict=True):
        assert together.abs().max() > 0
        torch.testing.assert_close(together, apart, atol=1e-11, rtol=1e-11)


def test_in_place_path_leaves_weights_and_angles_unchanged():
    module = _attention("vn|tn")
    angles = _explicit_angles(3, 4)
    kept = [tensor.clone() for tensor in (*module.parameters(), *angles)]
    with torch.no_grad():
        module(torch.randn(*GRID, DIM, dtype=torch.float64), angles=angles)
    for tensor, before in zip((*module.parameters(), *angles), kept, strict=True):
        assert torch.equal(tensor, before)


def test_gradients_reach_every_parameter_and_the_input():
    module = _attention("vn|tn", rope=GridRope(DIM // HEADS, HEIGHT, WIDTH).double())
    x = torch.randn(*GRID, DIM, dtype=torch.float64, requires_grad=True)
    module(x).square().mean().backward()
    for name, tensor in (("x", x), *module.named_parameters()):
        assert tensor.grad is not None and tensor.grad.abs().max() > 0, name


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="^heads: got 5, expected a divisor of dim=24"):
        GridAttention(24, 5, "vn")


def test_unknown_axes_are_refused_when_built_and_when_called():
    with pytest.raises(ValueError, match="^axes: "):
        GridAttention(24, 3, "vx")
    with pytest.raises(ValueError, match="^axes: "):
        GridAttention(24, 3, "vn")(torch.randn(1, 2, 2, 1, 24), axes="nn")
