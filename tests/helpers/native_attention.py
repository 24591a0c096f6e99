"""Attention by the compiled CPU module, called directly, compared with the dense mask in fp64."""

from __future__ import annotations

import torch

from attention_cases import dense_attention, dense_in_fp64, random_qkv
from fourreal_kernels import native
from op_numerics import assert_close_as_pytorch, dtype_name

library = native.cpu_library()
INSTRUCTION_SETS = library.usable_instruction_sets() if library else []
# Those whose multiply-adds round once; the portable kernels round large scores before they take the largest off.
FUSED = [name for name in INSTRUCTION_SETS if name != "portable"]


def forward(q, k, v, axes, instruction_set, keep_lse=True):
    """``(out, lse)`` in poisoned memory."""
    out = torch.full_like(q, float("nan"))
    lse = torch.full(q.shape[:-1], float("nan")) if keep_lse else None
    tensors = q, k, v, out, lse
    library.axis_attention_forward(dtype_name(q.dtype), q.shape, axes, q.shape[-1] ** -0.5, tensors,
                                   instruction_set=instruction_set)
    return out, lse


def check(shape, axes, dtype, instruction_set, close=assert_close_as_pytorch):
    check_tensors(*random_qkv(*shape, dtype=dtype), axes, instruction_set, close)


def check_tensors(q, k, v, axes, instruction_set, close=assert_close_as_pytorch):
    out, lse = forward(q, k, v, axes, instruction_set)
    expected, expected_lse = dense_in_fp64(q, k, v, axes, None)
    plain, plain_lse = dense_attention(q, k, v, axes, None)
    close(out, expected, plain)
    close(lse, expected_lse, plain_lse.float())


def check_gradients(shape, axes, dtype, instruction_set, close=assert_close_as_pytorch):
    q, k, v = random_qkv(*shape, dtype=dtype)
    grad_out, grad_lse = random_qkv(*shape, dtype=dtype)[0], torch.randn(shape[:-1])
    out, lse = forward(q, k, v, axes, instruction_set)
    results = [torch.full_like(q, float("nan")) for _ in range(3)]
    tensors = grad_out, grad_lse, q, k, v, out, lse, *results
    library.axis_attention_backward(dtype_name(dtype), q.shape, axes, shape[-1] ** -0.5, tensors,
                                    instruction_set=instruction_set)
    exact = [x.double().requires_grad_() for x in (q, k, v)]
    expected = torch.autograd.grad(dense_in_fp64(*exact, axes), exact, (grad_out.double(), grad_lse.double()))
    plain = [x.clone().requires_grad_() for x in (q, k, v)]
    out, lse = dense_attention(*plain, axes)
    same_dtype = torch.autograd.grad((out, lse), plain, (grad_out, grad_lse.to(lse.dtype)))
    for result, reference, pytorch in zip(results, expected, same_dtype, strict=True):
        close(result, reference, pytorch)
