"""The forward kernel against attention by its definition: every element type, instruction set, shape, mod."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import oracle
from catalogue import CATALOGUE, Case, Sizes
from codegen.cpu.end_of_memory import at_end_of_memory
from codegen.cpu.forward_call import Forward, Result, host_isas, run_forward
from saccade.block_mask import BlockMask, create_block_mask
from saccade.codegen.cpu.arguments import State
from saccade.codegen.program.which import Which
from saccade.ir.dropout import keep_mask, keep_rate
from saccade.ir.dtype import DType
from saccade.ir.structure import ModKind
from saccade.masks import causal, sliding_window
from saccade.tracing import trace

BEST = host_isas()[0]
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

# B, batches of keys, Hq, Hkv, Q, K, D, Dv
SHAPES = (
    (1, 1, 1, 1, 1, 1, 1, 1),
    (2, 1, 4, 2, 37, 201, 33, 7),
    (2, 2, 2, 2, 97, 5, 80, 130),
    (1, 1, 3, 1, 130, 300, 64, 64),
    (1, 1, 1, 1, 20, 70, 5, 512),
    (1, 1, 1, 1, 7, 129, 512, 16),
)


def tensors(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    batch, kv_batch, q_heads, kv_heads, q_len, kv_len, dim, value_dim = shape
    generator = torch.Generator().manual_seed(seed)

    def draw(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator).to(dtype)

    return (
        draw(batch, q_heads, q_len, dim),
        draw(kv_batch, kv_heads, kv_len, dim),
        draw(kv_batch, kv_heads, kv_len, value_dim),
    )


def assert_equals_oracle(call: Forward, result: Result, reference: oracle.Reference) -> None:
    """Outputs within a few times what rounding inputs, weights and output to the element type costs."""
    assert result.state[State.ERROR] == 0
    epsilon = torch.finfo(call.query.dtype).eps
    precise = torch.finfo(result.lse.dtype).eps
    size = call.value.double().abs().amax().item()
    scores = reference.max_scores.where(reference.max_scores.isfinite(), 0.0).abs().amax().item()
    tolerance = 2 * epsilon * size + 16 * precise * (1 + scores) * size
    torch.testing.assert_close(result.out.double(), reference.out, rtol=0, atol=tolerance)
    lse_error = 8e-6 if call.isa == "avx512_bf16" and call.query.dtype == torch.bfloat16 else 0.0
    for ours, exact in ((result.lse, reference.lse), (result.max_scores, reference.max_scores)):
        torch.testing.assert_close(ours.double(), exact, rtol=0, atol=lse_error + 32 * precise * (1 + scores))


def check(call: Forward, *, mask=None, score=None, keep: Tensor | None = None) -> None:
    reference = oracle.attention(
        call.query,
        call.key,
        call.value,
        mask=mask,
        score=score,
        scale=call.scale,
        sinks=call.sinks,
        keep=keep,
        keep_rate=keep_rate(call.dropout[0]),
    )
    assert_equals_oracle(call, run_forward(call), reference)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_full(shape, dtype):
    check(Forward(*tensors(shape, dtype), isa=BEST))


@pytest.mark.parametrize("isa", host_isas()[1:])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_full_with_fewer_instructions(dtype, isa):
    check(Forward(*tensors(SHAPES[1], dtype), isa=isa))


@pytest.mark.parametrize("isa", host_isas())
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_causal(dtype, isa):
    query, key, value = tensors((1, 1, 2, 2, 300, 260, 64, 32), dtype)
    check(Forward(query, key, value, isa=isa, block_mask=block_mask(causal, query, key)), mask=causal)


@pytest.mark.parametrize("tile", [(6, 64), (24, 128), (48, 256), (192, 64)])
def test_tiles(tile):
    query, key, value = tensors((1, 1, 1, 1, 200, 290, 32, 48), torch.float32)
    mask = sliding_window(100)
    check(Forward(query, key, value, isa=BEST, block_mask=block_mask(mask, query, key), tile=tile), mask=mask)


@pytest.mark.parametrize("scale", [0.3, -0.7, 0.0, 1e-44])
def test_scale(scale):
    check(Forward(*tensors((1, 1, 1, 1, 9, 70, 16, 16), torch.float32), isa=BEST, scale=scale))


@pytest.mark.parametrize("isa", host_isas())
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_is_read_or_written_behind_a_tensor(dtype, isa):
    query, key, value = (at_end_of_memory(t) for t in tensors((1, 1, 1, 1, 7, 9, 19, 21), dtype))
    check(Forward(query, key, value, isa=isa))


def test_strided_inputs_are_read_in_place():
    query, key, value = (
        t.transpose(1, 2).contiguous().transpose(1, 2) for t in tensors(SHAPES[1], torch.bfloat16)
    )
    check(Forward(query[..., ::2, :], key[:, :, 3:], value[:, :, 3:], isa=BEST))


@pytest.mark.parametrize("masked", [False, True])
def test_sinks(masked):
    query, key, value = tensors((1, 1, 4, 2, 40, 50, 16, 16), torch.float32)
    sinks = torch.tensor([0.5, -math.inf, 30.0, -20.0])
    mask = (lambda b, h, q, k: k + 10 < q) if masked else None  # the first rows are empty
    blocks = block_mask(mask, query, key) if masked else None
    check(Forward(query, key, value, isa=BEST, block_mask=blocks, sinks=sinks), mask=mask)


@pytest.mark.parametrize("isa", host_isas())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_dropout(dtype, isa):
    query, key, value = tensors((2, 2, 2, 1, 70, 300, 16, 32), dtype)
    p, seed = 0.3, 2**63 - 25
    b_h = np.arange(4).reshape(2, 2, 1, 1)
    rows, columns = np.arange(70)[:, None], np.arange(300)
    keep = torch.from_numpy(keep_mask(seed, p, b_h, rows, columns))
    blocks = block_mask(causal, query, key)
    check(Forward(query, key, value, isa=isa, block_mask=blocks, dropout=(p, seed)), mask=causal, keep=keep)


def test_rows_that_see_nothing():
    query, key, value = tensors((1, 1, 1, 1, 140, 140, 8, 8), torch.float32)
    result = run_forward(Forward(query, key, value, isa=BEST, mask_mod=trace(lambda b, h, q, k: k < q - 3)))
    for row in range(4):
        assert result.out[0, 0, row].eq(0).all()
        assert result.lse[0, 0, row] == result.max_scores[0, 0, row] == -math.inf


@pytest.mark.parametrize("isa", host_isas())
def test_nan_and_infinity_reach_what_sees_them(isa):
    query, key, value = tensors((1, 1, 1, 1, 8, 140, 8, 8), torch.float32)
    key[0, 0, 100] = math.nan
    query[0, 0, 2, 0] = math.inf
    mask = lambda b, h, q, k: (k < q * 30) | (k == 3)  # noqa: E731  # rows 4 to 7 see key 100
    reference = oracle.attention(query, key, value, mask=mask)
    result = run_forward(Forward(query, key, value, isa=isa, block_mask=block_mask(mask, query, key)))
    rows = torch.tensor([False, False, True, False, True, True, True, True])
    for ours, exact in ((result.out, reference.out), (result.max_scores, reference.max_scores)):
        assert torch.equal(ours.isnan(), exact.isnan())
    assert torch.equal(result.out.isnan().all(dim=-1)[0, 0], rows)
    assert torch.equal(result.lse.isnan()[0, 0], rows)
    assert result.max_scores[0, 0, 2] == math.inf


def test_hidden_nan_has_no_say():
    query, key, value = tensors((1, 1, 1, 1, 64, 64, 8, 8), torch.float32)
    key[0, 0, 40:] = math.nan
    mask = lambda b, h, q, k: k < 40  # noqa: E731
    result = run_forward(Forward(query, key, value, isa=BEST, block_mask=block_mask(mask, query, key)))
    assert result.out.isfinite().all()
    assert result.max_scores.isfinite().all()


@pytest.mark.parametrize("case", CATALOGUE, ids=str)
def test_catalogue(case: Case):
    """Blocks and program, and the program alone as mask_mod, on ragged tiles."""
    sizes = Sizes(q_len=131, kv_len=150, heads=2, dtype=torch.float32)
    mods = case.build(sizes)
    query, key, value = tensors((2, 2, 2, 1, 131, 150, 16, 16), torch.float32)
    score = None if mods.score is None else trace(mods.score, ModKind.SCORE, score_dtype=DType.FLOAT32)
    with torch.no_grad():
        shown = None
        if mods.mask is not None:
            shown = oracle.visible_pairs(mods.plain_mask or mods.mask, 2, 2, 131, 150, pairwise=case.pairwise)
        reference = reference_of(case, query, key, value, shown, mods.score)
        calls = []
        if mods.mask is not None:
            blocks = create_block_mask(mods.mask, 2, 2, 131, 150, device="cpu", BLOCK_SIZE=32)
            program = trace(mods.mask, ModKind.MASK)
            calls.append(Forward(query, key, value, isa=BEST, mask_mod=program, score_mod=score))
            calls.append(Forward(query, key, value, isa=BEST, block_mask=blocks, score_mod=score))
        else:
            calls.append(Forward(query, key, value, isa=BEST, score_mod=score))
        for call in calls:
            assert_equals_oracle(call, run_forward(call), reference)


def reference_of(case, query, key, value, shown, score) -> oracle.Reference:
    mask = None if shown is None else (lambda b, h, q_idx, kv_idx: shown[b, h, q_idx, kv_idx])
    return oracle.attention(query, key, value, mask=mask, score=score, pairwise=case.pairwise)


def test_poison_of_a_visible_score_is_reported():
    query, key, value = tensors((1, 1, 2, 1, 40, 200, 8, 8), torch.float32)
    bias = torch.zeros(150)
    score = trace(lambda s, b, h, q, k: s + bias[k], ModKind.SCORE)
    state = run_forward(Forward(query, key, value, isa=BEST, score_mod=score)).state
    assert state[State.ERROR] == Which.SCORE
    assert state[State.ERROR_B] == 0
    assert state[State.ERROR_H] in (0, 1)
    assert 0 <= state[State.ERROR_Q] < 40
    lanes = 16 if BEST.startswith("avx512") else 8
    assert 150 - lanes < state[State.ERROR_K] < 200


def test_poison_that_nothing_sees_is_not_reported():
    query, key, value = tensors((1, 1, 2, 1, 40, 200, 8, 8), torch.float32)
    bias = torch.zeros(150)
    score = trace(lambda s, b, h, q, k: s + bias[k], ModKind.SCORE)
    blocks = block_mask(lambda b, h, q, k: k < 150, query, key)
    result = run_forward(Forward(query, key, value, isa=BEST, score_mod=score, block_mask=blocks))
    assert result.state[State.ERROR] == 0


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("poisoned", [Which.MASK, Which.MASK_MOD])
def test_poison_of_one_mask_counts_where_the_other_shows(poisoned, hidden):
    query, key, value = tensors((1, 1, 1, 1, 40, 100, 8, 8), torch.float32)
    shown = torch.ones(90, dtype=torch.bool)
    reads = trace(lambda b, h, q, k: shown[k], ModKind.MASK)
    other = trace(lambda b, h, q, k: k < (90 if hidden else 91), ModKind.MASK)
    ones = torch.ones(1, 1, 1, dtype=torch.int32)
    mask, mod = (reads, other) if poisoned is Which.MASK else (other, reads)
    blocks = BlockMask.from_kv_blocks(
        ones, ones[..., None] - 1, BLOCK_SIZE=128, mask_mod=mask, seq_lengths=(40, 100)
    )
    state = run_forward(Forward(query, key, value, isa=BEST, block_mask=blocks, mask_mod=mod)).state
    assert state[State.ERROR] == (0 if hidden else poisoned)


def block_mask(mask, query: Tensor, key: Tensor) -> BlockMask:
    return create_block_mask(mask, None, None, query.shape[2], key.shape[2], device="cpu")
