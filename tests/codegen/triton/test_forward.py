"""The forward kernel, interpreted, against attention by its definition: types, shapes, walks, mods."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import oracle
from codegen.triton.forward_call import Forward, Result, run_forward
from codegen.triton.kernel_process import KernelProcess
from saccade.block_mask import BlockMask, create_block_mask
from saccade.ir.dropout import keep_mask, keep_rate
from saccade.ir.dtype import DType
from saccade.ir.structure import ModKind
from saccade.masks import causal, sliding_window
from saccade.tracing import trace

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# B, batches of keys, Hq, Hkv, Q, K, D, Dv
SHAPES = (
    (1, 1, 1, 1, 1, 1, 8, 8),
    (2, 1, 4, 2, 19, 37, 24, 40),
    (2, 2, 2, 2, 5, 32, 64, 16),
    (1, 1, 1, 1, 33, 17, 8, 136),
)


def tensors(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value amid NaN: whatever lies around them must not be read."""
    batch, kv_batch, q_heads, kv_heads, q_len, kv_len, dim, value_dim = shape
    generator = torch.Generator().manual_seed(0)

    def draw(*sizes: int) -> Tensor:
        memory = torch.full((sizes[0], sizes[1], sizes[2] + 3, sizes[3] + 8), math.nan)
        memory[:, :, 1:-2, :-8] = torch.randn(sizes, generator=generator)
        return memory.to(dtype)[:, :, 1:-2, :-8]

    return (
        draw(batch, q_heads, q_len, dim),
        draw(kv_batch, kv_heads, kv_len, dim),
        draw(kv_batch, kv_heads, kv_len, value_dim),
    )


def score(function: Any) -> Any:
    return trace(function, ModKind.SCORE, score_dtype=DType.FLOAT32)


def blocks(mask: Any, query: Tensor, key: Tensor, heads: int | None = None) -> BlockMask:
    return create_block_mask(mask, None, heads, query.shape[2], key.shape[2], device="cpu", BLOCK_SIZE=16)


def assert_equals(call: Forward, result: Result, reference: oracle.Reference) -> None:
    """Outputs within a few times what rounding inputs, weights and output to the element type costs."""
    epsilon, precise = torch.finfo(call.query.dtype).eps, torch.finfo(torch.float32).eps
    size = call.value.double().abs().amax().item()
    scores = reference.max_scores.where(reference.max_scores.isfinite(), 0.0).abs().amax().item()
    tolerance = 2 * epsilon * size + 16 * precise * (1 + scores) * size
    torch.testing.assert_close(result.out.double(), reference.out, rtol=0, atol=tolerance)
    for ours, exact in ((result.lse, reference.lse), (result.max_scores, reference.max_scores)):
        torch.testing.assert_close(ours.double(), exact, rtol=0, atol=32 * precise * (1 + scores))


def check(process: KernelProcess, call: Forward, **meaning: Any) -> None:
    reference = oracle.attention(
        call.query, call.key, call.value, scale=call.factor, sinks=call.sinks, **meaning
    )
    assert_equals(call, run_forward(process, call), reference)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_full(interpreted, shape, dtype):
    check(interpreted, Forward(*tensors(shape, dtype)))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_causal_blocks(interpreted, dtype, packed):
    query, key, value = tensors(SHAPES[1], dtype)
    call = Forward(query, key, value, block_mask=blocks(causal, query, key), packed=packed)
    check(interpreted, call, mask=causal)


def test_groups_that_divide_no_tile(interpreted):
    query, key, value = tensors((1, 1, 6, 2, 7, 20, 16, 16))
    call = Forward(query, key, value, block_mask=blocks(causal, query, key), packed=True)
    check(interpreted, call, mask=causal)


@pytest.mark.parametrize("tile", [(16, 32), (32, 16), (64, 64)])
def test_tiles(interpreted, tile):
    query, key, value = tensors((1, 1, 1, 1, 50, 70, 16, 16))
    mask = sliding_window(30)
    rows, keys = tile
    call = Forward(query, key, value, block_mask=blocks(mask, query, key), rows=rows, keys=keys)
    check(interpreted, call, mask=mask)


def test_blocks_differ_among_batches_and_heads(interpreted):
    def mask(b, h, q, k):
        return (q >= k) | (k < 8 * b + 4 * h)

    query, key, value = tensors((2, 2, 2, 1, 19, 37, 16, 16))
    found = create_block_mask(mask, 2, 2, 19, 37, device="cpu", BLOCK_SIZE=16)
    check(interpreted, Forward(query, key, value, block_mask=found), mask=mask)
    check(interpreted, Forward(query, key, value, block_mask=found, packed=True), mask=mask)
    check(interpreted, Forward(query, key, value, mask=trace(mask), packed=True), mask=mask)


def test_a_mask_mod_holds_beside_blocks(interpreted):
    def even(b, h, q, k):
        return (q + k + h) % 2 == 0

    query, key, value = tensors((1, 1, 2, 1, 35, 40, 16, 16))
    call = Forward(query, key, value, block_mask=blocks(causal, query, key), mask_mod=trace(even))
    check(interpreted, call, mask=lambda b, h, q, k: causal(b, h, q, k) & even(b, h, q, k))
    check(interpreted, Forward(query, key, value, mask_mod=trace(even)), mask=even)


@pytest.mark.parametrize("scale", [0.3, -0.7, 0.0, 1e-44])
@pytest.mark.parametrize("modified", [False, True])
def test_scale(interpreted, scale, modified):
    call = Forward(*tensors(SHAPES[2], torch.bfloat16 if scale < 0 else torch.float32), scale=scale)
    if not modified:
        check(interpreted, call)
        return
    call = Forward(call.query, call.key, call.value, scale=scale, score_mod=score(lambda s, b, h, q, k: -s))
    check(interpreted, call, score=lambda s, b, h, q, k: -s)


@pytest.mark.parametrize("packed", [False, True])
def test_score_mods_with_captures(interpreted, packed):
    query, key, value = tensors((2, 2, 4, 2, 9, 37, 16, 16))
    bias, slopes = torch.randn(4, 9, 37), torch.rand(4)

    def biased(s, b, h, q, k):
        return torch.tanh(s / 2) * 2 + bias[h, q, k] - slopes[h] * (q - k).abs() + b

    found = blocks(causal, query, key)
    call = Forward(query, key, value, block_mask=found, score_mod=score(biased), packed=packed)
    check(interpreted, call, mask=causal, score=biased)
    check(interpreted, Forward(query, key, value, score_mod=score(biased), packed=packed), score=biased)


@pytest.mark.parametrize(
    "constant",
    [lambda s, b, h, q, k: s * 0 + 2.0, lambda s, b, h, q, k: q * 1.0, lambda s, b, h, q, k: k * 0.1 + h],
    ids=["number", "queries", "keys"],
)
def test_scores_that_vary_along_one_axis(interpreted, constant):
    check(interpreted, Forward(*tensors(SHAPES[1]), score_mod=score(constant)), score=constant)


@pytest.mark.parametrize("masked", [False, True])
def test_sinks(interpreted, masked):
    query, key, value = tensors((1, 1, 4, 2, 19, 37, 16, 16))
    sinks = torch.tensor([0.5, -math.inf, 30.0, -20.0])
    mask = (lambda b, h, q, k: k + 10 < q) if masked else None  # the first rows are empty
    found = blocks(mask, query, key) if masked else None
    check(interpreted, Forward(query, key, value, block_mask=found, sinks=sinks, packed=masked), mask=mask)


# On multiples of the tile's keys words are shared; ranges that begin on 16 are none of 32.
@pytest.mark.parametrize(("keys", "packed"), [(16, False), (32, True), (64, True), (128, False), (256, True)])
def test_dropout(interpreted, keys, packed):
    query, key, value = tensors((1, 1, 2, 1, 19, 150, 16, 8))
    p, seed = 0.3, 2**63 - 25
    index = np.arange(2).reshape(1, 2, 1, 1), np.arange(19)[:, None], np.arange(150)
    meaning = {"keep": torch.from_numpy(keep_mask(seed, p, *index)), "keep_rate": keep_rate(p)}
    call = Forward(query, key, value, dropout=(p, seed), keys=keys, packed=packed)
    check(interpreted, call, **meaning)
    if keys == 32:
        window = lambda b, h, q, k: (k - q >= 16) & (k - q < 100)  # noqa: E731
        found = blocks(window, query, key)
        call = Forward(query, key, value, dropout=(p, seed), keys=keys, packed=packed, block_mask=found)
        assert not call.spec.aligned_dropout
        check(interpreted, call, mask=window, **meaning)


def test_all_is_dropped(interpreted):
    result = run_forward(interpreted, Forward(*tensors(SHAPES[2]), dropout=(1.0, 3)))
    assert result.out.eq(0).all()
    assert result.lse.isfinite().all()


def test_rows_that_see_nothing(interpreted):
    query, key, value = tensors((1, 1, 1, 1, 20, 20, 8, 8))
    mask = trace(lambda b, h, q, k: k < q - 3)
    for call in (Forward(query, key, value, mask_mod=mask), Forward(query, key, value, mask=mask, splits=2)):
        result = run_forward(interpreted, call)
        assert result.out[0, 0, :4].eq(0).all()
        assert result.lse[0, 0, :4].eq(-math.inf).all()
        assert result.max_scores[0, 0, :4].eq(-math.inf).all()
        assert result.lse[0, 0, 4:].isfinite().all()


def test_no_keys_at_all(interpreted):
    query, key, value = tensors((1, 1, 1, 1, 3, 20, 8, 8))
    result = run_forward(interpreted, Forward(query, key[:, :, :0], value[:, :, :0]))
    assert result.out.eq(0).all()
    assert result.lse.eq(-math.inf).all()


def test_nan_and_infinity_reach_what_sees_them(interpreted):
    query, key, value = tensors((1, 1, 1, 1, 8, 40, 8, 8))
    key[0, 0, 20] = math.nan
    query[0, 0, 2, 0] = math.inf
    mask = lambda b, h, q, k: (k < q * 5) | (k == 3)  # noqa: E731  # rows 5 to 7 see key 20
    reference = oracle.attention(query, key, value, mask=mask)
    rows = torch.tensor([False, False, True, False, False, True, True, True])
    for splits in (0, 2):
        call = Forward(query, key, value, block_mask=blocks(mask, query, key), splits=splits)
        result = run_forward(interpreted, call)
        for ours, exact in ((result.out, reference.out), (result.max_scores, reference.max_scores)):
            assert torch.equal(ours.isnan(), exact.isnan())
        assert torch.equal(result.lse[0, 0].isnan(), rows)
        assert torch.equal(result.out[0, 0].isnan().all(dim=-1), rows)
        assert result.max_scores[0, 0, 2] == math.inf


def test_hidden_nan_in_keys_has_no_say(interpreted):
    query, key, value = tensors((1, 1, 1, 1, 20, 40, 8, 8))
    key[0, 0, 25:] = math.nan
    mask = lambda b, h, q, k: k < 25  # noqa: E731
    result = run_forward(interpreted, Forward(query, key, value, block_mask=blocks(mask, query, key)))
    assert result.out.isfinite().all()
    assert result.max_scores.isfinite().all()


def test_strided_inputs_are_read_in_place(interpreted):
    query, key, value = (t.transpose(1, 2).contiguous().transpose(1, 2) for t in tensors(SHAPES[1]))
    check(interpreted, Forward(query[..., ::2, :], key[:, :, 3:], value[:, :, 3:]))


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_descriptors(interpreted, dtype):
    query, key, value = tensors(SHAPES[1], dtype)
    found = blocks(causal, query, key)
    key, value = (torch.nn.functional.pad(t, (0, 0, 1, 2))[:, :, 1:-2] for t in (key, value))
    call = Forward(query, key, value, block_mask=found, aligned=True, descriptors=True)
    check(interpreted, call, mask=causal)
