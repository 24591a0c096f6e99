"""The axes grammar against its definition by brute force over coordinates."""

from __future__ import annotations

from itertools import chain, combinations, permutations, product

import pytest
import torch

import fourreal_kernels
from attention_cases import AXES, GROUPS, UNIONS, allowed_pairs
from fourreal_kernels.grid import Axes, Lines, parse_axes, shared_keys

SIZES = [(3, 2, 4), (1, 3, 2), (3, 1, 2), (2, 3, 1), (1, 1, 1), (1, 1, 5), (4, 5, 3)]


def keys_of(axes, query, sizes):
    """Tokens that share every axis outside some group with the query: the definition, in plain Python."""
    return {
        key for key in product(*map(range, sizes)) for group in axes.split("|")
        if all(a == b for a, b, letter in zip(query, key, "vtn", strict=True) if letter not in group)
    }


def canonical(*groups):
    """Letters and groups in the order v, t, n; a group inside another one dropped."""
    order = {letter: index for index, letter in enumerate("vtn")}
    sets = {frozenset(group) for group in groups}
    largest = [group for group in sets if not any(group < other for other in sets)]
    return sorted(("".join(sorted(group, key=order.get)) for group in largest),
                  key=lambda group: [order[letter] for letter in group])


def test_names_of_the_paper():
    assert (fourreal_kernels.VIEW, fourreal_kernels.TIME, fourreal_kernels.VIEW_OR_TIME) == ("vn", "tn", "vn|tn")


def test_the_list_of_axes_is_complete():
    """Seven groups, and every union of two of which neither contains the other."""
    groups = {"".join(g) for size in (1, 2, 3) for g in combinations("vtn", size)}
    unions = {frozenset(pair) for pair in combinations(groups, 2) if not set(pair[0]) <= set(pair[1])
              and not set(pair[1]) <= set(pair[0])}
    assert set(GROUPS) == groups and {frozenset(union.split("|")) for union in UNIONS} == unions


@pytest.mark.parametrize("axes", AXES)
def test_canonical_names_parse_to_themselves(axes):
    parsed = parse_axes(axes)
    assert str(parsed) == axes
    assert parsed.is_union == ("|" in axes)
    assert parsed.is_pointwise == ("n" not in axes)


def test_every_spelling_has_one_canonical_name():
    spelled = [p for size in (1, 2, 3) for g in combinations("vtn", size) for p in map("".join, permutations(g))]
    for first in spelled:
        assert parse_axes(first) == Axes(tuple(canonical(first)))
    for first, second in product(spelled, repeat=2):
        assert parse_axes(f"{first}|{second}") == Axes(tuple(canonical(first, second)))


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("axes", AXES)
def test_keys_per_query(axes, sizes):
    counts = {len(keys_of(axes, query, sizes)) for query in product(*map(range, sizes))}
    assert counts == {parse_axes(axes).keys_per_query(*sizes)}


@pytest.mark.parametrize("sizes", SIZES[:5], ids=str)
@pytest.mark.parametrize("axes", AXES)
def test_the_mask_of_the_operator_tests(axes, sizes):
    """The mask that the attention tests compare with is the definition."""
    tokens = list(product(*map(range, sizes)))
    expected = torch.tensor([[key in keys_of(axes, query, sizes) for key in tokens] for query in tokens])
    assert torch.equal(allowed_pairs(axes, *sizes), expected)


@pytest.mark.parametrize("axes", UNIONS)
def test_overlap_counts_the_keys_of_both_groups(axes):
    first, second = axes.split("|")
    both = keys_of(first, (1, 1, 1), (3, 2, 4)) & keys_of(second, (1, 1, 1), (3, 2, 4))
    overlap = parse_axes(axes).overlap
    assert both == (keys_of(overlap, (1, 1, 1), (3, 2, 4)) if overlap else {(1, 1, 1)})


@pytest.mark.parametrize("group", [*GROUPS, ""])
def test_lines_hold_the_keys_of_each_token_and_go_back(group):
    batch, *sizes = 2, 3, 2, 4
    index = torch.arange(batch * 24).view(batch, *sizes, 1).expand(batch, *sizes, 5)
    lines = Lines(group, batch, *sizes)
    gathered = lines.to_lines(index)
    assert gathered.shape == (lines.count, lines.length, 5) and lines.count * lines.length == batch * 24
    assert torch.equal(lines.from_lines(gathered), index)
    tokens = [(b, *token) for b in range(batch) for token in product(*map(range, sizes))]
    for line in gathered[..., 0].tolist():
        b, *query = tokens[line[0]]
        keys = keys_of(group, tuple(query), sizes) if group else {tuple(query)}
        assert {tokens[i] for i in line} == {(b, *key) for key in keys} and len(line) == len(keys)


def test_lines_of_dense_tokens_are_views():
    x = torch.randn(2, 3, 2, 4, 5)
    assert Lines("n", 2, 3, 2, 4).to_lines(x).data_ptr() == x.data_ptr()
    assert Lines("tn", 2, 3, 2, 4).to_lines(x).data_ptr() == x.data_ptr()


@pytest.mark.parametrize("axes", UNIONS)
def test_shared_keys_marks_what_the_first_group_holds(axes):
    sizes = (3, 2, 4)
    shared = shared_keys(parse_axes(axes), *sizes, device=torch.device("cpu"))
    first, second = axes.split("|")
    index = torch.arange(24).view(1, *sizes)
    lines = Lines(second, 1, *sizes)
    line_of = lines.from_lines(lines.to_lines(index)[:, None, :].expand(lines.count, lines.length, lines.length))
    tokens = list(product(*map(range, sizes)))
    for query in tokens:
        held = keys_of(first, query, sizes)
        expected = [tokens[key] in held for key in line_of[(0, *query)].tolist()]
        assert shared[(0, *query)].tolist() == expected


@pytest.mark.parametrize("axes", [
    "", "|", "vn|", "|tn", "vn||tn", "vv", "vnv", "x", "vx", "VN", "Vn", " vn", "vn ", "v n", "v,n", "vn,tn", "vn&tn",
    "vn/tn", "vtnv", "v|t|n", "vt|vn|tn", "v|tx", "row", "view", "time", "vn\n", "ν", "0",
])
def test_malformed_axes(axes):
    with pytest.raises(ValueError, match="^axes: got "):
        parse_axes(axes)


@pytest.mark.parametrize("axes", [None, 3, ["vn"], ("v", "n"), {"v"}, b"vn", float("nan"), parse_axes("vn")], ids=repr)
def test_axes_of_another_type(axes):
    with pytest.raises(TypeError, match="^axes: expected a string"):
        parse_axes(axes)


def test_more_than_two_groups_are_refused_however_they_are_ordered():
    for groups in permutations(("v", "t", "n")):
        with pytest.raises(ValueError, match="3 groups, expected at most two"):
            parse_axes("|".join(groups))
    assert len(list(chain(GROUPS, UNIONS))) == len(set(AXES)) == 16
