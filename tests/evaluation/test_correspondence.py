"""Pairs of neighbouring frames and the true motion between them."""

import pytest
import torch

from fourreal_kernels.data import HELD_OUT_SEED, surface_flow
from fourreal_kernels.evaluation.correspondence import AXES, correspondence
from fourreal_kernels.evaluation.held_out import held_out_render
from fourreal_kernels.model.conditioning import cross_mask


@pytest.fixture(scope="module")
def render():
    return held_out_render(HELD_OUT_SEED, 3, 4, 14, 16)


def _neighbours(axis, views=3, times=4):
    dv, dt = (1, 0) if axis == "view" else (0, 1)
    return [(v, t, v + dv, t + dt) for v in range(views - dv) for t in range(times - dt)]


@pytest.mark.parametrize("axis", AXES)
def test_all_neighbours_along_one_axis_in_order(render, axis):
    pairs = correspondence(render, axis)
    assert list(zip(pairs.view.tolist(), pairs.time.tolist(), strict=True)) == [pair[:2] for pair in _neighbours(axis)]
    index = torch.arange(12).view(3, 4)
    assert pairs.first(index).tolist() == [int(index[a, b]) for a, b, _, _ in _neighbours(axis)]
    assert pairs.second(index).tolist() == [int(index[c, d]) for _, _, c, d in _neighbours(axis)]


@pytest.mark.parametrize("axis", AXES)
def test_positions_are_the_surface_flow_and_edges_of_surfaces_are_left_out(render, axis):
    pairs = correspondence(render, axis)
    for index, (v, t, w, u) in enumerate(_neighbours(axis)):
        position, visible = surface_flow(render, torch.tensor(w), torch.tensor(u))
        torch.testing.assert_close(pairs.position[index], position[v, t])
        first, second = render.instance[v, t].tolist(), render.instance[w, u].tolist()
        found, right, down = pairs.visible[index].tolist(), *position[v, t].tolist()
        for y in range(14):
            for x in range(16):
                expected = bool(visible[v, t, y, x]) and _inside(first, y, x)
                expected = expected and _inside(second, int(down[y][x]), int(right[y][x]))
                assert found[y][x] == expected
    assert 0.2 < pairs.visible.float().mean() < 0.95


def _inside(instance, y, x):
    return len({value for row in instance[max(y - 1, 0) : y + 2] for value in row[max(x - 1, 0) : x + 2]}) == 1


@pytest.mark.parametrize("axis", AXES)
def test_pairs_of_given_frames_are_left_out(render, axis):
    given = cross_mask(3, 4)
    pairs = correspondence(render, axis, given)
    kept = [(v, t) for v, t, w, u in _neighbours(axis) if not (given[v, t] and given[w, u])]
    assert list(zip(pairs.view.tolist(), pairs.time.tolist(), strict=True)) == kept
    with pytest.raises(ValueError, match=f"^axis: no pair of frames along {axis}"):
        correspondence(render, axis, torch.ones(3, 4, dtype=torch.bool))


def test_unknown_axis(render):
    with pytest.raises(ValueError, match="^axis: got 'row', expected one of"):
        correspondence(render, "row")
