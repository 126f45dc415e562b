"""The backward kernel against autograd through attention by its definition, in float64."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

import oracle
from catalogue import CATALOGUE, Case, Sizes
from codegen.cpu.backward_call import Backward, Gradients, prepared, run_backward
from codegen.cpu.forward_call import Forward, host_isas, run_forward
from codegen.cpu.test_forward import (
    BEST,
    DTYPES,
    SHAPES,
    at_end_of_memory,
    block_mask,
    tensors,
)
from codegen.cpu.test_kernel import TRIPLES
from saccade.block_mask import BlockMask, create_block_mask
from saccade.codegen.cpu.arguments import State
from saccade.codegen.cpu.isa import ISAS
from saccade.codegen.cpu.kernel import emit
from saccade.ir.dropout import keep_mask, keep_rate
from saccade.ir.dtype import DType
from saccade.ir.structure import ModKind
from saccade.masks import causal, sliding_window
from saccade.problem import Wanted
from saccade.runtime.elf import undefined_symbols
from saccade.runtime.llvm import Target, emit_object
from saccade.scores import alibi, softcap
from saccade.tracing import trace


def rough(leaves: list[Tensor], call: Forward, visible: Tensor, score, keep: Tensor | None):
    """Output and lse in the precision of the leaves: an independent computation; its error is the measure."""
    query, key, value = leaves[:3]
    batch, group = query.shape[0], query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(group, dim=1).expand(batch, -1, -1, -1) for t in (key, value))
    precise = torch.float64 if query.dtype == torch.float64 else torch.float32
    scores = (query @ key.mT).to(precise) * call.factor
    if score is not None:
        scores = oracle.modified_scores(score, scores, visible).to(precise)
    scores = scores.masked_fill(~visible, -math.inf)
    if call.sinks is not None:
        sinks = leaves[3].to(precise)[:, None, None].expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, sinks], dim=-1)
    empty = (scores == -math.inf).all(dim=-1, keepdim=True)
    scores = scores.masked_fill(empty, 0.0)
    weights = torch.softmax(scores, dim=-1).masked_fill(empty, 0.0)[..., : key.shape[2]]
    if keep is not None:
        weights = weights * keep / keep_rate(call.dropout[0])
    return weights.to(query.dtype) @ value, torch.logsumexp(scores, dim=-1)


def check(
    call: Forward,
    *,
    mask=None,
    score=None,
    keep: Tensor | None = None,
    with_lse: bool = False,
    shown: Tensor | None = None,  # in place of `mask`: what it says
    **options,
) -> Gradients:
    """Compare all gradients, and return them."""
    generator = torch.Generator().manual_seed(1)
    shape = (*call.query.shape[:3], call.value.shape[-1])
    grad_out = torch.randn(shape, generator=generator).to(call.query.dtype)
    grad_lse = torch.randn(shape[:3], generator=generator).to(call.query.dtype) if with_lse else None
    found = run_backward(Backward(call, grad_out, grad_lse, **options))
    assert found.state[State.ERROR] == 0
    names = ["query", "key", "value"] + ["sinks"] * (call.sinks is not None)

    def gradients(leaves: list[Tensor], out: Tensor, lse: Tensor) -> tuple[Tensor, ...]:
        loss = (out * grad_out.to(out.dtype)).sum().double()
        if grad_lse is not None:
            loss = loss + (lse.where(lse.isfinite(), 0.0) * grad_lse.to(lse.dtype)).sum()
        return torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)

    if mask is not None:
        shown = oracle.visible_pairs(mask, *shape[:3], call.key.shape[2])
    leaves = [getattr(call, name).double().requires_grad_() for name in names]
    reference = oracle.attention(
        *leaves[:3],
        mask=None if shown is None else (lambda b, h, q_idx, kv_idx: shown[b, h, q_idx, kv_idx]),
        score=score,
        scale=call.scale,
        sinks=leaves[3] if call.sinks is not None else None,
        keep=keep,
        keep_rate=keep_rate(call.dropout[0]),
    )
    exact = gradients(leaves, reference.out, reference.lse)
    precise = torch.float64 if call.query.dtype == torch.float64 else torch.float32
    visible = torch.ones_like(reference.weights, dtype=torch.bool) if shown is None else shown
    low = [getattr(call, name).clone().requires_grad_() for name in names]
    measure = gradients(low, *rough(low, call, visible, score, keep))
    # dP and delta may cancel; what is left of their rounding reaches a gradient through a query or key.
    largest = [tensor.abs().amax().item() for tensor in (grad_out, call.value, call.query, call.key)]
    cost = 4 * torch.finfo(precise).eps * largest[0] * largest[1] * abs(call.factor) * max(largest[2:])
    for name, gradient, other in zip(names, exact, measure, strict=True):
        ours = getattr(found, name)
        error = (other.double() - gradient).abs().amax().item()
        slack = 4 * error + 4 * torch.finfo(call.query.dtype).eps * (1 + gradient.abs().amax().item()) + cost
        worst = (ours.double() - gradient).abs().amax().item()
        assert worst <= slack, f"{name}: off by {worst}, where {slack} is allowed"
    return found


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


@pytest.mark.parametrize("tile", [(12, 64), (24, 128), (48, 256), (192, 64)])
def test_tiles(tile):
    query, key, value = tensors((1, 1, 1, 1, 200, 290, 32, 48), torch.float32)
    mask = sliding_window(100)
    call = Forward(query, key, value, isa=BEST, block_mask=block_mask(mask, query, key))
    check(call, mask=mask, tile=tile)


@pytest.mark.parametrize("ranges", [1, 2, 3, 8])
def test_chunks(ranges):
    query, key, value = tensors((2, 1, 4, 2, 300, 500, 16, 16), torch.float32)
    mask = lambda b, h, q, k: (k > q) & (k < q + 150) & (h + b < 4)  # noqa: E731
    blocks = create_block_mask(mask, 2, 4, 300, 500, device="cpu", BLOCK_SIZE=32)
    check(Forward(query, key, value, isa=BEST, block_mask=blocks), mask=mask, ranges=ranges)


@pytest.mark.parametrize("scale", [0.3, -0.7, 0.0])
def test_scale(scale):
    check(Forward(*tensors((1, 1, 1, 1, 9, 70, 16, 16), torch.float32), isa=BEST, scale=scale))


def test_large_scores():
    query, key, value = tensors((1, 1, 1, 1, 90, 170, 16, 16), torch.float32)
    call = Forward(query * 30, key, value, isa=BEST)
    check(call)


@pytest.mark.parametrize("isa", host_isas())
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_is_read_or_written_behind_a_tensor(dtype, isa):
    query, key, value = (at_end_of_memory(t) for t in tensors((1, 1, 1, 1, 7, 9, 19, 21), dtype))
    check(Forward(query, key, value, isa=isa), place=at_end_of_memory)


def test_strided_inputs_are_read_in_place():
    query, key, value = (
        t.transpose(1, 2).contiguous().transpose(1, 2) for t in tensors(SHAPES[1], torch.bfloat16)
    )
    check(Forward(query[..., ::2, :], key[:, :, 3:], value[:, :, 3:], isa=BEST))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("with_lse", [False, True])
def test_sinks(masked, with_lse):
    query, key, value = tensors((2, 1, 4, 2, 40, 50, 16, 16), torch.float32)
    sinks = torch.tensor([0.5, -math.inf, 30.0, -20.0])
    mask = (lambda b, h, q, k: k + 10 < q) if masked else None  # the first rows are empty
    blocks = block_mask(mask, query, key) if masked else None
    call = Forward(query, key, value, isa=BEST, block_mask=blocks, sinks=sinks)
    check(call, mask=mask, with_lse=with_lse)


@pytest.mark.parametrize("isa", host_isas())
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradient_of_lse(dtype, isa):
    query, key, value = tensors((1, 1, 2, 1, 50, 70, 16, 8), dtype)
    mask = lambda b, h, q, k: (k < 60) & (q > 5)  # noqa: E731
    call = Forward(query, key, value, isa=isa, block_mask=block_mask(mask, query, key))
    found = check(call, mask=mask, with_lse=True)
    assert found.query[:, :, :6].eq(0).all()
    assert found.key[:, :, 60:].eq(0).all()
    assert found.value[:, :, 60:].eq(0).all()


@pytest.mark.parametrize("isa", host_isas())
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dropout(dtype, isa):
    query, key, value = tensors((2, 2, 2, 1, 70, 300, 16, 32), dtype)
    dropout = (0.3, 2**63 - 25)
    call = Forward(query, key, value, isa=isa, block_mask=block_mask(causal, query, key), dropout=dropout)
    check(call, mask=causal, keep=kept(call))


def kept(call: Forward) -> Tensor:
    p, seed = call.dropout
    (batch, heads, q_len, _), kv_len = call.query.shape, call.key.shape[2]
    b_h = np.arange(batch * heads).reshape(batch, heads, 1, 1)
    return torch.from_numpy(keep_mask(seed, p, b_h, np.arange(q_len)[:, None], np.arange(kv_len)))


@pytest.mark.parametrize("p", [0.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_given_blocks_of_any_size(dtype, p):
    """Tiles begin at any key and any query, and blocks overrule the mask."""
    query, key, value = tensors((1, 1, 2, 1, 100, 210, 16, 16), dtype)
    columns = torch.tensor([[0, 2, 4, 0, 0, 0], [1, 2, 3, 5, 0, 0], [5, 0, 0, 0, 0, 0]], dtype=torch.int32)
    counts = torch.tensor([3, 4, 1], dtype=torch.int32)
    full = torch.tensor([[1, 0, 0, 0, 0, 0], [4, 0, 0, 0, 0, 0], [2, 3, 0, 0, 0, 0]], dtype=torch.int32)
    odd = lambda b, h, q, k: (q + k) % 3 > 0  # noqa: E731
    blocks = BlockMask.from_kv_blocks(
        counts[None, None],
        columns[None, None],
        torch.tensor([[[1, 1, 2]]], dtype=torch.int32),
        full[None, None],
        BLOCK_SIZE=(37, 37),
        mask_mod=trace(odd, ModKind.MASK),
        seq_lengths=(100, 210),
    )
    shown = torch.zeros(1, 2, 111, 222, dtype=torch.bool)
    for row in range(3):
        for column in columns[row, : counts[row]].tolist():
            rows, keys = (slice(37 * number, 37 * number + 37) for number in (row, column))
            shown[..., rows, keys] = odd(0, 0, torch.arange(111)[rows, None], torch.arange(222)[keys])
        for column in full[row, : int([1, 1, 2][row])].tolist():
            shown[..., 37 * row : 37 * row + 37, 37 * column : 37 * column + 37] = True
    call = Forward(query, key, value, isa=BEST, block_mask=blocks, dropout=(p, 7))
    check(call, shown=shown[..., :100, :210], keep=kept(call) if p else None)


def test_hidden_scores_have_no_say():
    """The mod is NaN where the mask hides; a visible score of -inf weighs nothing."""
    query, key, value = tensors((1, 1, 1, 1, 64, 64, 8, 8), torch.float32)
    bias = torch.zeros(64)
    bias[40:], bias[3] = math.nan, -math.inf
    hides = lambda b, h, q, k: k < 40  # noqa: E731
    visible = lambda s, b, h, q, k: s + torch.where(k < 40, bias[k], 0.0)  # noqa: E731
    call = Forward(
        query,
        key,
        value,
        isa=BEST,
        block_mask=block_mask(hides, query, key),
        score_mod=trace(lambda s, b, h, q, k: s + bias[k], ModKind.SCORE, score_dtype=DType.FLOAT32),
    )
    found = check(call, mask=hides, score=visible)
    assert found.key[:, :, 3].eq(0).all()


SCORES = {
    "alibi": alibi(4),
    "softcap": softcap(5.0),
    "times": lambda s, b, h, q, k: s * (1 + h) / (1 + (q - k).abs()),
    "square": lambda s, b, h, q, k: s * s * 0.3,
    "constant": lambda s, b, h, q, k: (q - k) * 0.01,
}


@pytest.mark.parametrize("isa", host_isas())
@pytest.mark.parametrize("name", SCORES)
def test_score_mods(name, isa):
    query, key, value = tensors((2, 1, 4, 2, 75, 140, 16, 24), torch.float32)
    score = SCORES[name]
    program = trace(score, ModKind.SCORE, score_dtype=DType.FLOAT32)
    blocks = block_mask(causal, query, key)
    call = Forward(query, key, value, isa=isa, score_mod=program, block_mask=blocks)
    check(call, mask=causal, score=score, with_lse=True)


def test_softcap_with_everything():
    query, key, value = tensors((2, 1, 4, 2, 200, 140, 33, 24), torch.float64)
    score, mask = softcap(5.0), sliding_window(90)
    call = Forward(
        query,
        key,
        value,
        isa=BEST,
        score_mod=trace(score, ModKind.SCORE, score_dtype=DType.FLOAT64),
        block_mask=block_mask(causal, query, key),
        mask_mod=trace(mask, ModKind.MASK),
        sinks=torch.tensor([0.5, 1.0, -2.0, 0.0], dtype=torch.float64),
        dropout=(0.2, 11),
    )
    both = lambda b, h, q, k: causal(b, h, q, k) & mask(b, h, q, k)  # noqa: E731
    check(call, mask=both, score=score, with_lse=True, keep=kept(call))


@pytest.mark.parametrize("case", CATALOGUE, ids=str)
def test_catalogue(case: Case):
    mods = case.build(Sizes(q_len=131, kv_len=150, heads=2, dtype=torch.float32))
    query, key, value = tensors((2, 2, 2, 1, 131, 150, 16, 16), torch.float32)
    program = None if mods.score is None else trace(mods.score, ModKind.SCORE, score_dtype=DType.FLOAT32)
    shown, blocks = None, None
    if mods.mask is not None:
        shown = oracle.visible_pairs(mods.plain_mask or mods.mask, 2, 2, 131, 150, pairwise=case.pairwise)
        blocks = create_block_mask(mods.mask, 2, 2, 131, 150, device="cpu", BLOCK_SIZE=32)
    score = mods.score
    if score is not None and case.pairwise:
        one_by_one = score
        pairs = torch.ones(2, 2, 131, 150, dtype=torch.bool) if shown is None else shown
        score = lambda s, *_: oracle.modified_scores(one_by_one, s, pairs, pairwise=True)  # noqa: E731
    check(
        Forward(query, key, value, isa=BEST, score_mod=program, block_mask=blocks), shown=shown, score=score
    )


def test_bits_are_the_same_for_any_number_of_threads():
    query, key, value = tensors((1, 1, 4, 2, 500, 700, 32, 32), torch.float32)
    call = Forward(query, key, value, isa=BEST, block_mask=block_mask(causal, query, key))
    grad_out, before = torch.randn_like(query), torch.get_num_threads()
    result, found = run_forward(call), []
    try:
        for threads in (1, 2, 3, 2):
            torch.set_num_threads(threads)
            found.append(prepared(Backward(call, grad_out), result)())
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        for name in ("query", "key", "value"):
            assert torch.equal(getattr(found[0], name), getattr(other, name))


def rich_call(isa: str, dtype: torch.dtype) -> Backward:
    """Every part of the kernel."""
    tensor = torch.zeros(1, 1, 40, 33, dtype=dtype)
    forward = Forward(
        tensor,
        tensor,
        tensor,
        isa=isa,
        block_mask=create_block_mask(causal, None, None, 40, 40, device="cpu"),
        mask_mod=trace(sliding_window(7), ModKind.MASK),
        score_mod=trace(softcap(30.0), ModKind.SCORE),
        sinks=torch.zeros(1),
        dropout=(0.1, 3),
    )
    return Backward(forward, tensor, torch.zeros(1, 1, 40))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_objects_of_every_instruction_set_import_nothing(isa, dtype):
    target, source = ISAS[isa], emit(rich_call(isa, dtype).spec)
    code = emit_object(source.text, Target(TRIPLES[target.arch], target.cpu, target.features))
    assert undefined_symbols(code) == set()


def all_wanted() -> list[Wanted]:
    return [Wanted(*flags) for flags in product([False, True], repeat=4) if any(flags)]


@pytest.mark.parametrize("isa", ["avx2", "avx512_bf16"])
@pytest.mark.parametrize("wanted", all_wanted(), ids=str)
def test_nothing_is_emitted_for_gradients_nobody_wants(wanted, isa):
    call = replace(rich_call(isa, torch.bfloat16), wanted=wanted)
    source, has_weights = emit(call.spec), wanted.of_scores or wanted.value
    expected = {"pack": True, "sinks": wanted.sinks, "attend": has_weights, "merge": wanted.query}
    assert source.entries == tuple(entry for entry, is_there in expected.items() if is_there)
    for entry, is_there in expected.items():
        assert (f'define void @"{entry}"' in source.text) == is_there
    products = [has_weights, wanted.of_scores, wanted.value, wanted.key, wanted.query]
    assert source.text.count('call void @"product') == sum(products)
    pairs = ISAS[isa].bf16_dot
    rows = {
        "packed_queries": wanted.key or (has_weights and not pairs),
        "packed_grads": wanted.value or (wanted.of_scores and not pairs),
        "query_words": has_weights and pairs,
        "grad_words": wanted.of_scores and pairs,
        "row_lse": True,
        "row_delta": wanted.of_scores or wanted.sinks,
    }
    assert {name: size > 0 for name, size in source.row_bytes.items()} == rows
    assert (source.partial_bytes > 0) == wanted.query
    assert (source.scratch_bytes > 0) == has_weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_one_gradient_alone_reads_nothing_that_is_not_made(dtype):
    query, key, value = tensors((1, 1, 4, 2, 70, 100, 16, 24), dtype)
    sinks, generator = torch.tensor([0.5, -math.inf, 30.0, -20.0]), torch.Generator().manual_seed(1)
    blocks = block_mask(causal, query, key)
    call = Forward(query, key, value, isa=BEST, block_mask=blocks, sinks=sinks)
    grad_out = torch.randn((1, 4, 70, 24), generator=generator).to(dtype)
    result, names = run_forward(call), ("query", "key", "value", "sinks")
    full = prepared(Backward(call, grad_out), result)()
    for wanted in names:
        found = prepared(Backward(call, grad_out, wanted=Wanted(**{wanted: True})), result)()
        for name in names:
            whole = getattr(full, name)
            expected = whole if name == wanted else torch.full_like(whole, 7.0)
            assert torch.equal(getattr(found, name), expected), f"{name}, where {wanted} is wanted"


def test_scratch_memory_holds_what_is_wanted():
    call = rich_call(BEST, torch.float32)

    def size(*names: str) -> int:
        return emit(replace(call, wanted=Wanted(**dict.fromkeys(names, True))).spec).scratch_bytes

    everything = size("query", "key", "value")
    for name in ("query", "key", "value"):
        assert size(name) < everything
    assert size("value", "sinks") == size("value")


def test_text_is_a_function_of_the_spec():
    assert emit(rich_call(BEST, torch.float32).spec) == emit(rich_call(BEST, torch.float32).spec)
