"""The decode kernel against attention by its definition: every element type, instruction set, shape, mod."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import oracle
from catalogue import CATALOGUE, Case, Sizes
from codegen.cpu.end_of_memory import at_end_of_memory
from codegen.cpu.forward_call import host_isas
from saccade import AuxRequest, create_block_mask
from saccade.attention.request import Arguments, read_request
from saccade.backends.base import Results
from saccade.backends.cpu.call import CpuKernel
from saccade.backends.cpu.specialise import Choice, key_of
from saccade.codegen.cpu.isa import ISAS
from saccade.codegen.cpu.kernel import emit
from saccade.codegen.cpu.spec import KernelKind, KernelSpec
from saccade.errors import IndexOutOfRangeError
from saccade.ir.dropout import keep_mask, keep_rate
from saccade.ir.dtype import DType
from saccade.masks import causal, shift, sliding_window
from saccade.problem import AttentionProblem, Outputs
from saccade.runtime.elf import undefined_symbols
from saccade.runtime.llvm import Target, emit_object

BEST = host_isas()[0]
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

# B, batches of keys, Hkv, group, Q, K, D, Dv
SHAPES = (
    (1, 1, 1, 1, 1, 1, 1, 1),
    (2, 1, 2, 4, 1, 300, 128, 128),
    (2, 2, 1, 3, 2, 129, 33, 7),
    (1, 1, 2, 8, 4, 260, 64, 80),
    (1, 1, 1, 5, 7, 70, 5, 512),
    (1, 1, 1, 2, 1, 1100, 512, 16),
    (3, 3, 1, 1, 6, 257, 160, 96),
)


def tensors(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    batch, kv_batch, kv_heads, group, q_len, kv_len, dim, value_dim = shape
    generator = torch.Generator().manual_seed(seed)

    def draw(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator).to(dtype)

    return (
        draw(batch, kv_heads * group, q_len, dim),
        draw(kv_batch, kv_heads, kv_len, dim),
        draw(kv_batch, kv_heads, kv_len, value_dim),
    )


def decode(*given: Tensor, isa: str = BEST, keys: int = 128, seed: int | None = None, **rest) -> Results:
    """Results of the decode kernel, whether or not the engine would choose it."""
    wanted = AuxRequest(lse=True, max_scores=True)
    request = read_request(Arguments(*given, enable_gqa=True, return_aux=wanted, **rest))
    rows = request.problem.group_size * request.problem.q_len
    sizes = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
    padded = next(size for size in sizes if size >= rows)
    choice = Choice(KernelKind.DECODE, key_of(request.problem, isa), padded, keys)
    operands = replace(request.operands, dropout_seed=None if seed is None else torch.tensor(seed))
    return CpuKernel(request.problem, choice)(operands)


def assert_equals_oracle(given: tuple[Tensor, ...], results: Results, reference: oracle.Reference) -> None:
    """Outputs within a few times what rounding inputs, weights and output to the element type costs."""
    query, _, value = given
    epsilon, precise = torch.finfo(query.dtype).eps, torch.finfo(results.lse.dtype).eps
    size = value.double().abs().amax().item()
    scores = reference.max_scores.where(reference.max_scores.isfinite(), 0.0).abs().amax().item()
    tolerance = 2 * epsilon * size + 16 * precise * (1 + scores) * size
    torch.testing.assert_close(results.out.double(), reference.out, rtol=0, atol=tolerance)
    # Weights of bfloat16 are added up as quickly as they are rounded.
    slack = 8e-6 if query.dtype == torch.bfloat16 else 0.0
    for ours, exact in ((results.lse, reference.lse), (results.max_scores, reference.max_scores)):
        torch.testing.assert_close(ours.double(), exact, rtol=0, atol=slack + 32 * precise * (1 + scores))


def check(*given: Tensor, mask=None, score=None, blocks=None, isa: str = BEST, **rest) -> None:
    """Compare, with the mask as given blocks or beside them."""
    query, key, value = given
    if mask is not None and blocks is not None:
        rest["block_mask"] = create_block_mask(
            mask, None, query.shape[1], query.shape[2], key.shape[2], device="cpu", BLOCK_SIZE=blocks
        )
    elif mask is not None:
        rest["mask_mod"] = mask
    results = decode(query, key, value, isa=isa, score_mod=score, **rest)
    extra = {name: rest[name] for name in ("scale", "sinks") if name in rest}
    reference = oracle.attention(query, key, value, mask=mask, score=score, **extra)
    assert_equals_oracle(given, results, reference)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_full(shape, dtype):
    check(*tensors(shape, dtype))


@pytest.mark.parametrize("isa", host_isas()[1:])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_full_with_fewer_instructions(dtype, isa):
    check(*tensors((2, 1, 2, 3, 2, 201, 72, 40), dtype), isa=isa)


@pytest.mark.parametrize("rows", range(1, 33))
def test_every_number_of_rows(rows):
    check(*tensors((1, 1, 1, rows, 1, 150, 40, 24), torch.bfloat16))


@pytest.mark.parametrize("isa", host_isas())
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("blocks", [None, 128, (1, 7)], ids=str)
def test_masks(blocks, dtype, isa):
    given = tensors((1, 1, 2, 2, 3, 300, 32, 48), dtype)
    for mask in (
        shift(causal, q=200),
        shift(sliding_window(50), q=250),
        lambda b, h, q, k: (k + h) % 3 == 0,
    ):
        check(*given, mask=mask, blocks=blocks, isa=isa)


def test_mask_beside_blocks():
    query, key, value = given = tensors((1, 1, 1, 2, 4, 300, 16, 16), torch.float32)
    first, second = shift(sliding_window(90), q=200), lambda b, h, q, k: k % 5 != h
    blocks = create_block_mask(first, None, None, 4, 300, device="cpu", BLOCK_SIZE=32)
    reference = oracle.attention(
        query, key, value, mask=lambda b, h, q, k: first(b, h, q, k) & second(b, h, q, k)
    )
    assert_equals_oracle(given, decode(*given, block_mask=blocks, mask_mod=second), reference)


@pytest.mark.parametrize("isa", host_isas())
def test_scores(isa):
    given = tensors((2, 1, 2, 2, 3, 170, 32, 32), torch.float32)
    slopes, bias = torch.rand(4), torch.randn(3, 170)
    for score in (
        lambda s, b, h, q, k: s + slopes[h] * (k - q),
        lambda s, b, h, q, k: 5 * torch.tanh(s / 5),
        lambda s, b, h, q, k: s + bias[q, k],
    ):
        check(*given, score=score, isa=isa)
        check(*given, score=score, mask=shift(causal, q=100), isa=isa)


@pytest.mark.parametrize("scale", [0.3, -0.7, 0.0])
def test_scale(scale):
    check(*tensors((1, 1, 1, 4, 1, 70, 16, 16), torch.float32), scale=scale)


@pytest.mark.parametrize("masked", [False, True])
def test_sinks(masked):
    given = tensors((1, 1, 2, 2, 5, 50, 16, 16), torch.float32)
    sinks = torch.tensor([0.5, -math.inf, 30.0, -20.0])
    mask = (lambda b, h, q, k: (k + 2 < q) & (h > 0)) if masked else None  # some rows are empty
    check(*given, mask=mask, sinks=sinks)


def test_rows_that_see_nothing():
    given = tensors((1, 1, 1, 2, 3, 140, 8, 8), torch.float32)
    results = decode(*given, mask_mod=lambda b, h, q, k: (q == 1) & (k > 5))
    for row in (0, 2):
        assert results.out[:, :, row].eq(0).all()
        assert results.lse[:, :, row].eq(-math.inf).all()
        assert results.max_scores[:, :, row].eq(-math.inf).all()
    assert results.lse[:, :, 1].isfinite().all()


@pytest.mark.parametrize("isa", host_isas())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_dropout(dtype, isa):
    query, key, value = given = tensors((2, 2, 1, 2, 3, 300, 16, 32), dtype)
    p, seed = 0.3, 2**63 - 25
    b_h = np.arange(4).reshape(2, 2, 1, 1)
    keep = torch.from_numpy(keep_mask(seed, p, b_h, np.arange(3)[:, None], np.arange(300)))
    mask = shift(sliding_window(220), q=270)
    reference = oracle.attention(query, key, value, mask=mask, keep=keep, keep_rate=keep_rate(p))
    results = decode(*given, isa=isa, mask_mod=mask, dropout_p=p, seed=seed)
    assert_equals_oracle(given, results, reference)


@pytest.mark.parametrize("isa", host_isas())
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_is_read_or_written_behind_a_tensor(dtype, isa):
    check(*(at_end_of_memory(t) for t in tensors((1, 1, 1, 3, 1, 9, 19, 21), dtype)), isa=isa)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_caches_are_read_in_place(dtype):
    query, key, value = tensors((2, 2, 2, 2, 2, 203, 40, 24), dtype)
    transposed = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in (key, value)]
    check(query.transpose(1, 2).contiguous().transpose(1, 2), *transposed)
    longer = [torch.full((2, 2, 260, t.shape[-1]), math.nan, dtype=dtype) for t in (key, value)]
    for cache, t in zip(longer, (key, value), strict=True):
        cache[:, :, :203] = t
    check(query, *(cache[:, :, :203] for cache in longer))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_of_blocks_that_are_not_visited_have_no_say(dtype):
    query, key, value = tensors((1, 1, 1, 2, 1, 100, 16, 16), dtype)
    mask = lambda b, h, q, k: (k >= 7) & (k < 63)  # noqa: E731
    blocks = create_block_mask(mask, None, None, 1, 100, device="cpu", BLOCK_SIZE=(1, 7))
    reference = oracle.attention(query, key, value, mask=mask)
    for cache in (key, value):
        cache[:, :, :7] = cache[:, :, 63:] = math.nan
    assert_equals_oracle(
        (query, key, value[:, :, 7:63]), decode(query, key, value, block_mask=blocks), reference
    )


def test_nan_and_infinity_reach_what_sees_them():
    query, key, value = tensors((1, 1, 1, 1, 8, 140, 8, 8), torch.float32)
    key[0, 0, 100] = math.nan
    query[0, 0, 2, 0] = math.inf
    mask = lambda b, h, q, k: (k < q * 30) | (k == 3)  # noqa: E731  # rows 4 to 7 see key 100
    reference = oracle.attention(query, key, value, mask=mask)
    results = decode(query, key, value, mask_mod=mask)
    for ours, exact in ((results.out, reference.out), (results.max_scores, reference.max_scores)):
        assert torch.equal(ours.isnan(), exact.isnan())
    assert results.max_scores[0, 0, 2] == math.inf


def test_many_items_are_merged_in_one_order():
    given = tensors((1, 1, 1, 4, 1, 5003, 64, 64), torch.float32)
    check(*given)
    first, second = decode(*given), decode(*given)
    assert torch.equal(first.out, second.out)
    assert torch.equal(first.lse, second.lse)


@pytest.mark.parametrize("keys", [32, 64, 256])
def test_tiles(keys):
    given = tensors((1, 1, 1, 4, 1, 700, 64, 64), torch.float32)
    assert_equals_oracle(given, decode(*given, keys=keys), oracle.attention(*given))


def test_poison_of_a_visible_pair_raises():
    given = tensors((1, 1, 1, 2, 2, 200, 8, 8), torch.float32)
    bias = torch.zeros(150)
    with pytest.raises(IndexOutOfRangeError, match="150"):
        decode(*given, score_mod=lambda s, b, h, q, k: s + bias[k])
    shown = decode(*given, score_mod=lambda s, b, h, q, k: s + bias[k], mask_mod=lambda b, h, q, k: k < 150)
    assert shown.out.isfinite().all()


@pytest.mark.parametrize("case", CATALOGUE, ids=str)
def test_catalogue(case: Case):
    mods = case.build(Sizes(q_len=6, kv_len=150, heads=2, dtype=torch.float32))
    query, key, value = given = tensors((2, 2, 1, 2, 6, 150, 16, 16), torch.float32)
    with torch.no_grad():
        mask = None
        if mods.mask is not None:
            shown = oracle.visible_pairs(mods.plain_mask or mods.mask, 2, 2, 6, 150, pairwise=case.pairwise)
            mask = lambda b, h, q_idx, kv_idx: shown[b, h, q_idx, kv_idx]  # noqa: E731
        reference = oracle.attention(query, key, value, mask=mask, score=mods.score, pairwise=case.pairwise)
        results = decode(*given, mask_mod=mods.mask, score_mod=mods.score)
        assert_equals_oracle(given, results, reference)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_drawn_shapes(data):
    draw = data.draw
    batch, kv_heads, group = (draw(st.integers(1, most)) for most in (3, 3, 8))
    kv_batch, q_len = draw(st.sampled_from([1, batch])), draw(st.integers(1, 64 // group))
    dims = [draw(st.integers(1, 160)) for _ in range(2)]
    shape = (batch, kv_batch, kv_heads, group, q_len, draw(st.integers(1, 400)), *dims)
    given = tensors(shape, draw(st.sampled_from(DTYPES)), seed=draw(st.integers(0, 99)))
    mask = draw(st.sampled_from([None, shift(causal, q=100), shift(sliding_window(30), q=120)]))
    check(
        *given,
        mask=mask,
        blocks=draw(st.sampled_from([None, 128, (16, 9)])),
        isa=draw(st.sampled_from(host_isas())),
    )


@pytest.mark.parametrize("isa", ["neon", "avx2", "avx512_bf16", "baseline"])
@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.FLOAT64, DType.FLOAT16, DType.BFLOAT16])
@pytest.mark.parametrize("rows", [1, 6, 32])
def test_objects_need_nothing_of_the_process(rows, dtype, isa):
    problem = AttentionProblem(
        "cpu", dtype, 1, 1, rows, 1, 1, 64, 72, 33, 0.125, dropout_p=0.1, outputs=Outputs(True, True)
    )
    spec = KernelSpec(KernelKind.DECODE, problem.kernel_key(isa, small_indices=True), rows, 128)
    target = Target(f"{ISAS[isa].arch}-unknown-linux-gnu", ISAS[isa].cpu, ISAS[isa].features)
    assert undefined_symbols(emit_object(emit(spec).text, target)) == set()
