"""Lists of frames: which rows of the grid a tile of queries or keys holds, and where they lie in memory.

Every attention relation is one list of frames per query. A list position j is token ``j % tokens`` of the list's frame
``j // tokens``, so that only the last tile of a list has a tail. The kernels know four relations (``FRAMES``):

* ``"own"``: the own frame;
* ``"views"``: the frames of all views at the own timestep (time attention is this relation with views and timesteps
  exchanged by the launcher);
* ``"all"``: every frame;
* ``"union"``: the T frames of the own view first, then the other V - 1 frames of the own timestep.

All four are symmetric: the queries that attend to a key are found by walking the same list from the key's frame. With
``TOKENS`` false a frame counts as the one token at the own position, and the position becomes part of the batch.

Extra tokens, outside the grid, are a list of their own that all queries of a batch and head have in common.

Tuples: ``sizes`` (views, times, tokens, heads), ``strides`` (batch, view, time, token, head), ``place`` (batch, head,
view, time, token) of a program; a part of ``place`` that its rows do not have in common is 0. Strides and offsets of
tensors with a head dim are in units of ``UNIT`` elements, the others' in elements; offsets are int64.
"""

import triton
import triton.language as tl


@triton.jit
def locate(program, tiles, sizes, FRAMES: tl.constexpr, TOKENS: tl.constexpr):
    """(place, tile) of a program; the tiles of a list, and then its timesteps, come together.

    Neighbouring programs read the same keys: all frames of one head, which fit the second-level cache.
    """
    views, times, tokens, heads = sizes
    tile = program % tiles
    rest = program // tiles
    view = 0
    time = 0
    token = 0
    if FRAMES != "all":
        time = rest % times
        rest = rest // times
    if FRAMES == "own" or FRAMES == "union":
        view = rest % views
        rest = rest // views
    if not TOKENS:
        token = rest % tokens
        rest = rest // tokens
    return (rest // heads, rest % heads, view, time, token), tile


@triton.jit
def listed_frame(entry, view, time, times, FRAMES: tl.constexpr):
    """(view, time) of an entry of the frame list of the frame (view, time)."""
    if FRAMES == "own":
        return view, time
    elif FRAMES == "views":
        return entry, time
    elif FRAMES == "all":
        return entry // times, entry % times
    else:
        other = entry - times
        other = tl.where(other >= view, other + 1, other)
        return tl.where(entry < times, view, other), tl.where(entry < times, entry, time)


@triton.jit
def list_length(sizes, FRAMES: tl.constexpr, TOKENS: tl.constexpr):
    """Rows of a frame list."""
    views, times, tokens, _ = sizes
    frames = 1
    if FRAMES == "views":
        frames = views
    elif FRAMES == "all":
        frames = views * times
    elif FRAMES == "union":
        frames = views + times - 1
    if TOKENS:
        return frames * tokens
    else:
        return frames


@triton.jit
def own_length(sizes, FRAMES: tl.constexpr, TOKENS: tl.constexpr):
    """How many rows have one list in common, and are packed into tiles.

    For the union these are the rows of a frame only: a tile across two frames would walk the other views of both
    timesteps, each for a part of its rows.
    """
    return list_length(sizes, "own" if FRAMES == "union" else FRAMES, TOKENS)


@triton.jit
def _scaled(index, stride):
    return tl.cast(index, tl.int64) * stride


@triton.jit
def _place_offset(place, strides, TOKENS: tl.constexpr):
    """Offset of what all rows of a program have in common."""
    offset = _scaled(place[0], strides[0]) + _scaled(place[1], strides[4])
    return offset if TOKENS else offset + _scaled(place[4], strides[3])


@triton.jit
def _frame_offset(view, time, strides):
    return _scaled(view, strides[1]) + _scaled(time, strides[2])


@triton.jit
def own_rows(tile, place, sizes, FRAMES: tl.constexpr, TOKENS: tl.constexpr, BLOCK: tl.constexpr):
    """The rows that a program owns, (view, time, token), and which of them exist."""
    tokens = sizes[2]
    position = tile * BLOCK + tl.arange(0, BLOCK)
    entry = position // tokens if TOKENS else position
    token = position % tokens if TOKENS else 0
    view, time = listed_frame(entry, place[2], place[3], sizes[1], "own" if FRAMES == "union" else FRAMES)
    return (view, time, token), position < own_length(sizes, FRAMES, TOKENS)


@triton.jit
def own_offsets(place, rows, strides, TOKENS: tl.constexpr, BLOCK: tl.constexpr):
    """(base, offsets) of the rows of :func:`own_rows`."""
    view, time, token = rows
    offsets = tl.zeros([BLOCK], tl.int64) + _frame_offset(view, time, strides) + _scaled(token, strides[3])
    return _place_offset(place, strides, TOKENS), offsets


@triton.jit
def listed_offsets(
    start, place, sizes, strides,
    FRAMES: tl.constexpr, TOKENS: tl.constexpr, SPAN: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):
    """(base, offsets) of the rows ``start``, ..., ``start + BLOCK - 1`` of the frame list of a place.

    ``SPAN`` says how many frames a tile may touch, so that the inner loop divides as little as possible: ``"line"``,
    the frames lie behind one another in memory; ``"one"``; ``"two"``; ``"any"``. Offsets inside a tile are int32 unless
    ``WIDE``, which halves the registers they take.
    """
    _, times, tokens, _ = sizes
    view = place[2]
    time = place[3]
    base = _place_offset(place, strides, TOKENS)
    rows = tl.arange(0, BLOCK)
    if SPAN == "any":
        position = start + rows
        entry = position // tokens if TOKENS else position
        token = position % tokens if TOKENS else 0
        row_view, row_time = listed_frame(entry, view, time, times, FRAMES)
        offsets = tl.zeros([BLOCK], tl.int64) + _frame_offset(row_view, row_time, strides)
        return base, offsets + _scaled(token, strides[3])
    else:
        step = _scaled(rows, strides[3]) if WIDE else rows * strides[3]
        entry = 0 if SPAN == "line" else start // tokens
        first = start - entry * tokens
        here_view, here_time = listed_frame(entry, view, time, times, FRAMES)
        here = _frame_offset(here_view, here_time, strides)
        base += here + _scaled(first, strides[3])
        if SPAN == "two":
            next_view, next_time = listed_frame(entry + 1, view, time, times, FRAMES)
            jump = _frame_offset(next_view, next_time, strides) - here - _scaled(tokens, strides[3])
            return base, tl.where(first + rows < tokens, 0, jump) + step
        else:
            return base, step


@triton.jit
def extra_offsets(start, place, strides, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    """(base, offsets) of the extra tokens ``start``, ..., of a place; ``strides`` (batch, token, head).

    Offsets are int32 unless ``WIDE``, as those of :func:`listed_offsets`.
    """
    base = _scaled(place[0], strides[0]) + _scaled(place[1], strides[2]) + _scaled(start, strides[1])
    rows = tl.arange(0, BLOCK)
    return base, _scaled(rows, strides[1]) if WIDE else rows * strides[1]


@triton.jit
def _pointers(pointer, base, offsets, BLOCK_D: tl.constexpr, UNIT: tl.constexpr):
    """Offsets of rows are in units of ``UNIT`` elements, so that the compiler sees 16-byte accesses at any head dim."""
    return pointer + base * UNIT + ((offsets * UNIT)[:, None] + tl.arange(0, BLOCK_D)[None, :])


@triton.jit
def load_rows(
    pointer, base, offsets, valid,
    MASKED: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, UNIT: tl.constexpr,
):
    """A tile (rows, BLOCK_D); rows that are not valid and columns beyond the head dim are 0, and not read."""
    pointers = _pointers(pointer, base, offsets, BLOCK_D, UNIT)
    dims = tl.arange(0, BLOCK_D)
    if MASKED:
        return tl.load(pointers, mask=valid[:, None] & (dims < HEAD_DIM)[None, :], other=0.0)
    elif HEAD_DIM != BLOCK_D:
        return tl.load(pointers, mask=(dims < HEAD_DIM)[None, :], other=0.0)
    else:
        return tl.load(pointers)


@triton.jit
def masked_rows(tile, extra_tokens, looped, length, BLOCK: tl.constexpr):
    """Which rows exist of the tiles of the extra tokens and, behind them, of the tile ``looped``, ... of a list."""
    extra_tiles = tl.cdiv(extra_tokens, BLOCK)
    start = tl.where(tile < extra_tiles, tile * BLOCK, looped)
    return start + tl.arange(0, BLOCK) < tl.where(tile < extra_tiles, extra_tokens, length)


@triton.jit
def load_masked(
    extra, listed, tile, extra_tokens, looped, valid, place, sizes, extra_strides, strides,
    FRAMES: tl.constexpr, TOKENS: tl.constexpr, SPAN: tl.constexpr, WIDE: tl.constexpr, TAIL: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr, UNIT: tl.constexpr,
):
    """A tile of those of :func:`masked_rows`; without a tail all of them are of extra tokens."""
    if TAIL:
        if tile < tl.cdiv(extra_tokens, BLOCK):
            base, offsets = extra_offsets(tile * BLOCK, place, extra_strides, WIDE, BLOCK)
            rows = load_rows(extra, base, offsets, valid, True, HEAD_DIM, BLOCK_D, UNIT)
        else:
            base, last = listed_offsets(looped, place, sizes, strides, FRAMES, TOKENS, SPAN, WIDE, BLOCK)
            rows = load_rows(listed, base, last, valid, True, HEAD_DIM, BLOCK_D, UNIT)
        return rows
    else:
        base, offsets = extra_offsets(tile * BLOCK, place, extra_strides, WIDE, BLOCK)
        return load_rows(extra, base, offsets, valid, True, HEAD_DIM, BLOCK_D, UNIT)


@triton.jit
def store_rows(
    pointer, base, offsets, valid, values, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, UNIT: tl.constexpr
):
    pointers = _pointers(pointer, base, offsets, BLOCK_D, UNIT)
    dims = tl.arange(0, BLOCK_D)
    tl.store(pointers, values.to(pointer.dtype.element_ty), mask=valid[:, None] & (dims < HEAD_DIM)[None, :])


@triton.jit
def negated(x):
    """-x in the dtype of x; by way of fp32, in which the interpreter computes right for bf16."""
    return (-x.to(tl.float32)).to(x.dtype)


@triton.jit
def products(a, b, PRECISION: tl.constexpr):
    """a b^T of tiles (rows, D).

    IEEE fp32 is computed outside the matrix units, where a thread holds all of D of its rows: long rows are cut.
    """
    if PRECISION == "ieee" and a.dtype == tl.float32 and a.shape[1] > 16:
        parts: tl.constexpr = a.shape[1] // 16
        a_parts = tl.permute(tl.reshape(a, [a.shape[0], parts, 16]), (1, 0, 2))
        b_parts = tl.permute(tl.reshape(b, [b.shape[0], parts, 16]), (1, 2, 0))
        return tl.sum(tl.dot(a_parts, b_parts, input_precision=PRECISION), 0)
    else:
        return tl.dot(a, tl.trans(b), input_precision=PRECISION)
