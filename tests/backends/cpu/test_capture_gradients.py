"""Gradients of tensors that score mods read, against float64 autograd through attention by its definition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

import low_precision
import oracle
from codegen.cpu.forward_call import host_isas
from saccade import AuxRequest, create_block_mask
from saccade.attention.request import Arguments, read_request
from saccade.backends.base import Gradients
from saccade.backends.cpu import CpuBackend, capture_gradients
from saccade.backends.cpu.backward import CpuBackward
from saccade.errors import IndexOutOfRangeError
from saccade.masks import causal, sliding_window
from saccade.problem import Wanted
from saccade.runtime.host import host_isa
from saccade.schedule import Schedule
from saccade.signatures import MaskMod, ScoreMod


@dataclass(frozen=True)
class Case:
    """A score mod over learned tensors.

    Attributes:
        shapes: Of the tensors, from B, Hq, Q and K.
        score: The mod over them, and over integer tables made from those sizes.
        sizes: B, KV batches, Hq, Hkv, Q, K.
        ways: How contributions are added up, to be sure that each way is met.
    """

    shapes: Callable[[int, int, int, int], list[tuple[int, ...]]]
    score: Callable[..., ScoreMod]
    sizes: tuple[int, ...] = (2, 1, 4, 2, 77, 131)


def _scale(scale):
    return lambda score, b, h, q, k: score * scale


def _slope(slope):
    return lambda score, b, h, q, k: score + slope[h] * (k - q) * 0.05


def _key_bias(bias):
    return lambda score, b, h, q, k: score + bias[h, k] * score


def _key_lookup(bias):
    group = torch.arange(1000) // 7 % 5
    return lambda score, b, h, q, k: score + bias[b, group[k]]


def _query_bias(bias):
    return lambda score, b, h, q, k: torch.tanh(score * bias[h, q])


def _dense(bias):
    return lambda score, b, h, q, k: score + bias[h, q, k]


def _plane(bias):
    return lambda score, b, h, q, k: score + bias[q, k]


def _every_pair(bias):
    return lambda score, b, h, q, k: score + bias[b, h, q, k] * 2.0


def _relative(table):
    return lambda score, b, h, q, k: score + table[h, q - k + 140]


def _relative_up(table):
    return lambda score, b, h, q, k: score + torch.sin(table[k - q + 80])


def _from_the_end(table):
    return lambda score, b, h, q, k: score + table[h, k - q]


def _buckets(table):
    distance = torch.arange(77)[:, None] - torch.arange(131)
    bucket = distance.abs().clamp(max=20)
    return lambda score, b, h, q, k: score + table[bucket[q, k], h]


def _t5(table):
    return lambda score, b, h, q, k: score + table[torch.clamp(abs(q - k), max=9), h]


def _distances(table):
    distance = torch.randint(
        0, 30, (2, 77, 131), generator=torch.Generator().manual_seed(3), dtype=torch.int32
    )
    return lambda score, b, h, q, k: score + table[distance[b, q, k]]


def _guarded(table):
    return lambda score, b, h, q, k: torch.where(q - k < 9, score + table[abs(q - k).clamp(max=8)], score)


def _score_picks(table):
    return lambda score, b, h, q, k: score + table[torch.clamp((score * 2).to(torch.int64) + 4, 0, 8)]


def _several(scale, slope, table, bias):
    def score_mod(score, b, h, q, k):
        return (
            score * torch.exp(scale)
            + slope[h] * abs(q - k) * 0.05
            + table[h, q - k + 131] * bias[k]
            - slope[0]
        )

    return score_mod


def _twice(table):
    return lambda score, b, h, q, k: score + table[q] * table[k] + table[q - k + 131]


def _dot(a, c):
    return lambda score, b, h, q, k: score + (a[b, h, q] * c[b, h, k]).sum(-1)


def _head_sum(a):
    return lambda score, b, h, q, k: score * a[h].sum(-1)


def _product_over_axis(a, c):
    return lambda score, b, h, q, k: score + (a[q] * c[k % 7]).sum(-1)


CASES = {
    "scale": Case(lambda b, h, q, k: [()], _scale),
    "slope": Case(lambda b, h, q, k: [(h,)], _slope),
    "key_bias": Case(lambda b, h, q, k: [(h, k)], _key_bias),
    "key_lookup": Case(lambda b, h, q, k: [(b, 5)], _key_lookup),
    "query_bias": Case(lambda b, h, q, k: [(h, q)], _query_bias),
    "dense": Case(lambda b, h, q, k: [(h, q, k)], _dense),
    "plane": Case(lambda b, h, q, k: [(q, k)], _plane),
    "every_pair": Case(lambda b, h, q, k: [(b, h, q, k)], _every_pair),
    "relative": Case(lambda b, h, q, k: [(h, 300)], _relative),
    "relative_up": Case(lambda b, h, q, k: [(300,)], _relative_up),
    "from_the_end": Case(lambda b, h, q, k: [(h, 150)], _from_the_end),
    "buckets": Case(lambda b, h, q, k: [(21, h)], _buckets),
    "t5": Case(lambda b, h, q, k: [(10, h)], _t5),
    "distances": Case(lambda b, h, q, k: [(30,)], _distances),
    "guarded": Case(lambda b, h, q, k: [(9,)], _guarded),
    "score_picks": Case(lambda b, h, q, k: [(9,)], _score_picks),
    "several": Case(lambda b, h, q, k: [(), (h,), (h, 300), (k,)], _several),
    "twice": Case(lambda b, h, q, k: [(300,)], _twice),
    "dot": Case(lambda b, h, q, k: [(b, h, q, 6), (b, h, k, 6)], _dot),
    "head_sum": Case(lambda b, h, q, k: [(h, 5)], _head_sum),
    "product_over_axis": Case(lambda b, h, q, k: [(q, 3), (7, 3)], _product_over_axis),
}


@dataclass(frozen=True, eq=False)
class Call:
    """A call with learned tensors, and what flows back into it."""

    tensors: list[Tensor]
    learned: list[Tensor]
    score: Callable[..., ScoreMod]
    grad_out: Tensor
    options: dict = field(default_factory=dict)

    @classmethod
    def of(cls, case: Case, dtype=torch.float32, learned=torch.float32, dims=(16, 24), **options) -> Call:
        torch.manual_seed(0)
        batch, kv_batch, q_heads, kv_heads, q_len, kv_len = case.sizes
        tensors = [
            torch.randn(batch, q_heads, q_len, dims[0]).to(dtype),
            torch.randn(kv_batch, kv_heads, kv_len, dims[0]).to(dtype),
            torch.randn(kv_batch, kv_heads, kv_len, dims[1]).to(dtype),
        ]
        shapes = case.shapes(batch, q_heads, q_len, kv_len)
        given = [(torch.randn(shape) * 0.3).to(learned) for shape in shapes]
        grad_out = torch.randn(batch, q_heads, q_len, dims[1]).to(dtype)
        return cls(tensors, given, case.score, grad_out, options)

    def found(self, *, scores: bool = True, isa: str | None = None) -> Gradients:
        """What the engine gives; `scores`: of query, key and value, too."""
        leaves = [tensor.detach().requires_grad_() for tensor in self.learned]
        request = read_request(
            Arguments(
                *self.tensors,
                enable_gqa=True,
                score_mod=self.score(*leaves),
                return_aux=AuxRequest(lse=True),
                **self.options,
            )
        )
        operands = request.drawn()
        results = CpuBackend().compile(request.problem, Schedule())(operands)
        asked = tuple([getattr(capture, "requires_grad", False) for capture in operands.score.captures])
        wanted = Wanted(query=scores, key=scores, value=scores, captures=asked)
        backward = CpuBackward(request.problem, isa or host_isa())
        gradients = backward(operands, results, self.grad_out, None, wanted)
        # What the program reads may be views of what the mod was given.
        pairs = zip(operands.score.captures, gradients.captures, strict=True)
        read, given = zip(*[pair for pair in pairs if pair[1] is not None], strict=True)
        for capture, gradient in zip(read, given, strict=True):
            assert gradient.is_contiguous()
            assert (gradient.dtype, gradient.shape) == (capture.dtype, capture.shape)
        return replace(gradients, captures=torch.autograd.grad(read, leaves, given))

    def exact(self, mask: MaskMod | None = None) -> list[Tensor]:
        """The gradients of queries, keys, values and of what is learned, by autograd."""
        leaves = [tensor.double().requires_grad_() for tensor in (*self.tensors, *self.learned)]
        out = oracle.attention(*leaves[:3], mask=mask, score=self.score(*leaves[3:])).out
        return list(torch.autograd.grad((out * self.grad_out).sum(), leaves))

    def rough(self, mask: MaskMod | None = None) -> list[Tensor]:
        """The same in the precision of the inputs: an independent computation, whose error is a measure."""
        leaves = [tensor.clone().requires_grad_() for tensor in (*self.tensors, *self.learned)]
        out, _ = low_precision.attention(*leaves[:3], mask=mask, score=self.score(*leaves[3:]))
        return list(torch.autograd.grad((out * self.grad_out).sum(), leaves))


def check(call: Call, mask: MaskMod | None = None, isa: str | None = None) -> Gradients:
    """Hold the engine against autograd; returns its gradients."""
    found = call.found(isa=isa)
    names = ["query", "key", "value", *(f"learned {n}" for n in range(len(call.learned)))]
    given = [found.query, found.key, found.value, *found.captures]
    of = [*call.tensors, *call.learned]
    for name, ours, exact, rough, tensor in zip(
        names, given, call.exact(mask), call.rough(mask), of, strict=True
    ):
        assert ours.dtype == tensor.dtype
        assert ours.shape == tensor.shape
        error = (ours.double() - exact).abs().amax().item()
        # Over many draws the engine is as far off as the gauge, but of one number the gauge may be right by
        # luck: so last digits are allowed beside, of weights made from lse and of what is rounded.
        precise = torch.finfo(torch.float64 if call.tensors[0].dtype is torch.float64 else torch.float32)
        eps = 96 * precise.eps + 4 * max(torch.finfo(call.tensors[0].dtype).eps, torch.finfo(ours.dtype).eps)
        slack = 4 * (rough.double() - exact).abs().amax().item() + eps * (1 + exact.abs().amax().item())
        assert error <= slack, f"{name}: off by {error}, where {slack} is allowed"
    return found


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_full(case):
    check(Call.of(case))


DTYPES = {
    "float64": (torch.float64, torch.float64),
    "float64 of float32": (torch.float64, torch.float32),
    "float32 of float64": (torch.float32, torch.float64),
    "bfloat16": (torch.bfloat16, torch.bfloat16),
    "bfloat16 of float32": (torch.bfloat16, torch.float32),
    "float16": (torch.float16, torch.float16),
}


@pytest.mark.parametrize("dtypes", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("name", ["several", "dot", "t5"])
def test_dtypes(name, dtypes):
    check(Call.of(CASES[name], *dtypes), mask=None)


@pytest.mark.parametrize("isa", host_isas()[1:])
@pytest.mark.parametrize("name", ["several", "from_the_end", "distances", "dot"])
def test_instruction_sets(name, isa):
    check(Call.of(CASES[name], mask_mod=causal), causal, isa)


def _blocks(mask: MaskMod, q_len: int, kv_len: int) -> dict:
    return {"block_mask": create_block_mask(mask, None, None, q_len, kv_len, device="cpu", BLOCK_SIZE=32)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["slope", "dense", "relative", "t5", "dot"])
def test_masked(name, dtype):
    mask = sliding_window(30)
    check(Call.of(CASES[name], dtype, **_blocks(mask, 77, 131)), mask)
    check(Call.of(CASES[name], dtype, mask_mod=mask), mask)


@pytest.mark.parametrize("name", ["query_bias", "key_bias", "dense", "relative_up", "distances"])
def test_rows_that_see_nothing(name):
    def mask(b, h, q, k):
        return (q % 3 != 0) & (k < q) & (k != 17) & ((h != 1) | (b == 0))

    check(Call.of(CASES[name], mask_mod=mask), mask)


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1, 1), (2, 2, 3, 3, 5, 300), (1, 1, 2, 1, 140, 9)], ids=str)
@pytest.mark.parametrize("name", ["several", "dense", "from_the_end"])
def test_lengths(name, sizes):
    case = CASES[name]
    if name != "dense":
        sizes = (*sizes[:4], min(sizes[4], 77), min(sizes[5], 131))
    if name == "from_the_end":
        sizes = (*sizes[:4], 3, sizes[5])
    check(Call.of(Case(case.shapes, case.score, sizes)))


def _strided(bias):
    turned = bias.transpose(0, 1)
    return lambda score, b, h, q, k: score + turned[h, k]


def _not_dense(table):
    return lambda score, b, h, q, k: score + table[:, 1][q - k + 140]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_strided_captures(dtype):
    check(Call.of(Case(lambda b, h, q, k: [(k, h)], _strided), dtype))
    check(Call.of(Case(lambda b, h, q, k: [(300, 3)], _not_dense), dtype))


def test_only_what_is_wanted():
    call = Call.of(CASES["several"])
    alone, whole = call.found(scores=False), call.found()
    assert alone.query is alone.key is alone.value is None
    for one, other in zip(alone.captures, whole.captures, strict=True):
        assert torch.equal(one, other)


def test_a_tensor_that_the_score_does_not_depend_on():
    def score_mod(table):
        return lambda score, b, h, q, k: torch.where(torch.floor(table[q]) > 100, score + table[k] * 0, score)

    (found,) = Call.of(Case(lambda b, h, q, k: [(140,)], score_mod)).found().captures
    assert not found.any()


SHARED = ["slope", "dense", "plane", "every_pair", "relative", "t5", "several", "dot", "product_over_axis"]


@pytest.mark.parametrize("sizes", [(2, 1, 4, 2, 77, 131), (3, 3, 2, 2, 77, 131)], ids=str)
@pytest.mark.parametrize("name", SHARED)
def test_in_one_memory(name, sizes, monkeypatch):
    monkeypatch.setattr(capture_gradients, "_MOST_COPIES", 0)
    monkeypatch.setattr(capture_gradients, "_room", lambda problem: 0)
    case = CASES[name]
    call = Call.of(Case(case.shapes, case.score, sizes), **_blocks(causal, 77, 131))
    check(call, causal)


@pytest.mark.parametrize("copies", [True, False])
@pytest.mark.parametrize("name", ["several", "dense", "plane", "distances", "dot"])
def test_the_same_to_the_bit_for_any_number_of_threads(name, copies, monkeypatch):
    if not copies:
        monkeypatch.setattr(capture_gradients, "_room", lambda problem: 0)
    sizes = (2, 2, 4, 2, 77, 131)
    call = Call.of(Case(CASES[name].shapes, CASES[name].score, sizes), dims=(64, 64))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 1, 2, 3):
            torch.set_num_threads(threads)
            found.append(call.found().captures)
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            assert torch.equal(one, same)


def test_nan_at_hidden_pairs_stays_there():
    """Hidden pairs have no say: neither NaN they read nor what they would make of it."""
    hidden = torch.where(torch.arange(131) % 4 == 1, torch.nan, 1.0)

    def score_mod(slope, bias, table):
        return lambda score, b, h, q, k: (
            score * hidden[k] + slope[h] * torch.log(hidden[k]) + bias[h, q, k] + table[(k * 3) % 11]
        )

    def mask(b, h, q, k):
        return k % 4 != 1

    shapes = lambda b, h, q, k: [(h,), (h, q, k), (11,)]  # noqa: E731
    sizes = (1, 1, 2, 2, 40, 131)
    found = Call.of(Case(shapes, score_mod, sizes), mask_mod=mask).found()
    for gradient in found.captures:
        assert gradient.isfinite().all()
    # What hidden pairs alone would touch is untouched.
    assert not found.captures[1][:, :, 1::4].any()
    assert found.captures[2].any()


def test_an_index_out_of_range_at_hidden_pairs_touches_nothing():
    def score_mod(table):
        return lambda score, b, h, q, k: score + table[q - k] + table[(q - k) * 2 // 2]

    def in_range(table):
        return lambda score, b, h, q, k: score + 2 * table[(q - k).clamp(min=0)]

    def mask(b, h, q, k):
        return k <= q

    # A negative index within the size counts from the end; beyond it nothing may be touched.
    call = Call.of(Case(lambda b, h, q, k: [(77,)], score_mod, (1, 1, 2, 2, 77, 300)), mask_mod=mask)
    (found,), exact = call.found().captures, replace(call, score=in_range).exact(mask)[-1]
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


class Peek(torch.autograd.Function):
    """A bias whose gradient reads a table that is too short."""

    @staticmethod
    def forward(ctx, score, bias, k, table):
        ctx.save_for_backward(k, table)
        return score + bias

    @staticmethod
    def backward(ctx, grad):
        k, table = ctx.saved_tensors
        return grad, grad * table[k], None, None


@pytest.mark.parametrize("shown", [50, 51])
@pytest.mark.parametrize("learned", ["one a head", "one an element of a row"])
def test_poison_of_a_contribution_is_the_users_error_where_it_is_visible(learned, shown):
    table, factors = torch.ones(50), torch.ones(3)

    def score_mod(bias):
        if learned == "one a head":
            return lambda score, b, h, q, k: Peek.apply(score, bias[h, 0], k, table)
        return lambda score, b, h, q, k: Peek.apply(score, (bias[q] * factors).sum(-1), k, table)

    case = Case(lambda b, h, q, k: [(q, 3)], score_mod, (1, 1, 2, 2, 20, 70))
    call = Call.of(case, mask_mod=lambda b, h, q, k: k < shown)
    if shown == 50:
        assert call.found(scores=False).captures[0].isfinite().all()
    else:
        with pytest.raises(IndexOutOfRangeError, match=r"50 entries in dimension 0, got index 50"):
            call.found(scores=False)
