"""What a program holds: slots, numbers, names; programs inside mods and for other types of score."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from pairwise import SIZES, all_pairs, by_program, by_torch, check, scores
from saccade.errors import TraceError
from saccade.ir.dtype import DType
from saccade.ir.ops import Op
from saccade.ir.program import Program, conjunction
from saccade.ir.structure import CaptureType, ModKind
from saccade.ir.verify import verify
from saccade.masks import and_masks, causal, document, noop_mask, or_masks, padding, xor_masks
from saccade.signatures import MaskMod
from saccade.tracing import trace

MASK, SCORE = ModKind.MASK, ModKind.SCORE
FIXED = torch.Generator().manual_seed(5)  # a module is imported before any fixture seeds a test
TABLE = torch.randn(2, 5, generator=FIXED)
OTHER = torch.randn(4, generator=FIXED)


def window(width: int):
    return lambda b, h, q_idx, kv_idx: (q_idx - kv_idx < width) & (q_idx >= kv_idx)


def test_numbers_are_run_time_arguments() -> None:
    narrow, wide = trace(window(3)), trace(window(300))
    assert narrow.structure is not wide.structure
    assert narrow.structure == wide.structure
    assert (narrow.numbers, wide.numbers) == ((3,), (300,))
    assert narrow.structure.numbers == (DType.INT64,)


def test_chosen_numbers_are_specialised() -> None:
    assert trace(window(1)).numbers == ()
    assert trace(lambda b, h, q, k: (q // 7 == k % 3) & (q >> 4 == (k << 2))).numbers == ()
    assert trace(lambda s, b, h, q, k: s**2.5 + float("inf") - float("nan"), SCORE).numbers == ()


def test_each_use_of_a_number_has_a_slot_of_its_type() -> None:
    program = trace(lambda s, b, h, q, k: torch.where(q < 7, s * 7, 7.0) / 7, SCORE)
    assert program.numbers == (7, 7.0, 7.0, 7.0)
    assert program.structure.numbers == (DType.INT64, DType.FLOAT32, DType.FLOAT32, DType.FLOAT32)
    assert trace(lambda s, b, h, q, k: s // 2.5, SCORE).numbers == (2.5,)


def test_a_tensor_has_one_slot_and_stays_itself() -> None:
    learned = nn.Parameter(torch.ones(2))
    program = trace(lambda s, b, h, q, k: s * learned[h] + TABLE[h, k] * learned[b] + TABLE[0, q], SCORE)
    assert program.captures[0] is learned
    assert program.captures[1] is TABLE
    assert len(program.captures) == 2
    assert program.structure.captures == (CaptureType(DType.FLOAT32, 1), CaptureType(DType.FLOAT32, 2))
    assert program.names == ("learned", "TABLE")


def test_what_touches_tensors_alone_is_torchs() -> None:
    learned = torch.ones(2, requires_grad=True)
    program = trace(lambda s, b, h, q, k: s * (2 * learned.exp())[h], SCORE)
    (scaled,) = program.captures
    assert isinstance(scaled, torch.Tensor)
    assert scaled.grad_fn is not None
    assert program.names == ("tensor0",)


def test_every_trace_sees_present_values() -> None:
    class Mod:
        def __init__(self) -> None:
            self.width = 2
            self.table = TABLE

        def __call__(self, b, h, q_idx, kv_idx):
            return (self.table[h, kv_idx] > 0) & (q_idx - kv_idx < self.width)

    mod = Mod()
    before = trace(mod)
    mod.width, mod.table = 5, TABLE + 1
    after = trace(mod)
    assert (before.numbers, after.numbers) == ((2,), (5,))
    assert before.captures[0] is TABLE
    assert after.captures[0] is mod.table
    assert after.names == ("table",)


@dataclass(frozen=True)
class Held:
    slopes: torch.Tensor

    def bias(self, score, b, h, q_idx, kv_idx):
        return score + self.slopes[h]


class Learned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2))
        self.register_buffer("table", TABLE)
        self.inner = nn.Linear(1, 2)

    def forward(self, score, b, h, q_idx, kv_idx):
        return score * self.weight[h] + self.table[h, kv_idx] + self.inner.bias[b]


def with_default(score, b, h, q_idx, kv_idx, table=TABLE):
    return score + table[h, kv_idx]


def of_dict(tables):
    return lambda score, b, h, q_idx, kv_idx: score + tables["far"][0][h, kv_idx]


def unassigned():
    def mod(score, b, h, q_idx, kv_idx):
        return score + (TABLE if score.ndim == 0 else later)[h, kv_idx]

    if TABLE.ndim == 0:
        later = TABLE
    return mod


def within(mod):
    return lambda *pair: mod(*pair) + 0.5


@pytest.mark.parametrize(
    ("mod", "names"),
    [
        (Held(torch.randn(2)).bias, ("slopes",)),
        (Learned(), ("weight", "table", "inner.bias")),
        (with_default, ("table",)),
        (functools.partial(with_default, table=TABLE), ("table",)),
        (functools.partial(lambda table, s, b, h, q, k: s + table[h, k], TABLE), ("[0]",)),
        (of_dict({"far": [TABLE]}), ("tables['far'][0]",)),
        (unassigned(), ("TABLE",)),
        (within(with_default), ("table",)),
        (lambda s, b, h, q, k: s + torch.tensor(3.0), ("tensor0",)),
        (lambda s, b, h, q, k: s + Learned.__name__.__len__(), ()),
    ],
)
def test_callables_of_every_kind_and_the_names_of_what_they_hold(mod, names: tuple[str, ...]) -> None:
    program = check(mod, SCORE)
    assert program.names == names


def test_a_tensor_of_two_names_does_not_shift_the_others() -> None:
    first = second = torch.ones(2)
    made = [torch.ones(2)]
    mod = lambda s, b, h, q, k: s * first[h] * second[h] * made[0][h]  # noqa: E731
    assert trace(mod, SCORE).names == ("first", "made[0]")


@pytest.mark.parametrize(
    ("mod", "kind"),
    [
        (window(2), MASK),
        (with_default, SCORE),
        (Held(torch.randn(2)).bias, SCORE),
        (Learned(), SCORE),
        (functools.partial(with_default, table=TABLE), SCORE),
        (lambda b, h, q, k, *, strict=False: q > k, MASK),
    ],
)
def test_the_kind_follows_from_the_required_arguments(mod, kind: ModKind) -> None:
    assert trace(mod).kind is kind


def test_a_program_is_a_mod() -> None:
    causal = trace(lambda b, h, q, k: q >= k)
    assert trace(causal) is causal
    assert trace(causal, MASK, score_dtype=DType.FLOAT64) is causal
    near = trace(
        lambda b, h, q, k: causal(b, h, q + OTHER.long()[q] * 0, k) & (TABLE[h, k] > -9) & (q - k < 3)
    )
    verify(near.structure)
    assert by_program(near, all_pairs()).sum() == 4 * sum(0 <= q - k < 3 for q in range(4) for k in range(5))
    verify(conjunction(near, causal).structure)


def test_programs_with_captures_numbers_and_sums_are_inlined() -> None:
    inner = lambda s, b, h, q, k: s * 2.5 + (TABLE[h] * TABLE[b]).sum() + OTHER[q].sum()  # noqa: E731
    program = trace(inner, SCORE)

    def outer(score, b, h, q_idx, kv_idx, inner=program):
        first = inner(score + 0.5, b, h, q_idx, kv_idx)
        return first * TABLE[h].sum() + inner(TABLE[b].sum(), h, b, 1, kv_idx) * 3.5

    joined = trace(outer, SCORE)
    verify(joined.structure)
    assert joined.captures == (TABLE, OTHER)
    assert joined.names == ("TABLE", "OTHER")
    assert joined.numbers == (0.5, 2.5, 2.5, 3.5)
    expected = by_torch(functools.partial(outer, inner=inner), SCORE, all_pairs())
    np.testing.assert_allclose(by_program(joined, all_pairs()), expected, rtol=1e-5, atol=1e-5)


def test_an_inlined_program_wants_its_arguments() -> None:
    causal = trace(lambda b, h, q, k: q >= k)
    with pytest.raises(TraceError, match=r"a mask program takes \(b, h, q_idx, kv_idx\); got 2 arguments"):
        trace(lambda b, h, q, k: causal(q, k))


class Cubed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x * x

    @staticmethod
    def backward(ctx, grad):
        return grad * 3 * ctx.saved_tensors[0]


RETYPED = {
    "softcap": lambda s, b, h, q, k: 2.5 * torch.tanh(s / 2.5),
    "table": lambda s, b, h, q, k: s + TABLE[h, k] * 0.1 + TABLE[h, 0],
    "table times number first": lambda s, b, h, q, k: 0.1 * TABLE[h, k] + s,
    "integers": lambda s, b, h, q, k: s * (q - k) / 3.5,
    "choice": lambda s, b, h, q, k: torch.where((s > 0.3) & (q > k), s, -float("inf")),
    "unused": lambda s, b, h, q, k: TABLE[h, k],
    "number": lambda s, b, h, q, k: 1.3,
    "silu": lambda s, b, h, q, k: torch.nn.functional.gelu(s) + torch.clamp(s, -0.7, 0.7),
    "one number, two types": lambda s, b, h, q, k: (lambda n: s * n + TABLE[h, k] * n)(s.new_tensor(0.1)),
    "double": lambda s, b, h, q, k: s + TABLE.double()[h, k] * 0.1,
    "bfloat16": lambda s, b, h, q, k: s + s.to(torch.bfloat16),
    "function": lambda s, b, h, q, k: Cubed.apply(s) * 0.3,
    "function of a table": lambda s, b, h, q, k: Cubed.apply(TABLE[h, k]) * s,
    "sum": lambda s, b, h, q, k: s * (TABLE[h] * TABLE[b]).sum(),
}


@pytest.mark.parametrize("name", RETYPED)
def test_a_program_serves_both_types_of_score(name: str) -> None:
    single = trace(RETYPED[name], SCORE)
    double = trace(RETYPED[name], SCORE, score_dtype=DType.FLOAT64)
    pairs = all_pairs()
    args = tuple(pairs.T)
    for program, dtype in ((single, DType.FLOAT64), (double, DType.FLOAT32)):
        other = trace(program, SCORE, score_dtype=dtype)
        verify(other.structure)
        fresh = double if dtype is DType.FLOAT64 else single
        given = scores(len(pairs), torch.float64).numpy()
        if dtype is DType.FLOAT32:
            given = given.astype(np.float32)
        assert other.root.dtype is dtype
        close = 1e-6 if dtype is DType.FLOAT32 or "table" in name or "types" in name else 1e-12
        np.testing.assert_allclose(other(given, *args), fresh(given, *args), rtol=close, atol=close)


def test_retyping_keeps_what_is_simple() -> None:
    single = trace(RETYPED["softcap"], SCORE)
    double = trace(single, score_dtype=DType.FLOAT64)
    assert double.structure == trace(RETYPED["softcap"], SCORE, score_dtype=DType.FLOAT64).structure
    assert trace(double).structure == single.structure


def test_lengths_under_compilation_are_numbers() -> None:
    length = ShapeEnv().create_unbacked_symint()
    program = trace(lambda s, b, h, q, k: torch.where(q < length, s + length, length * s), SCORE)
    assert program.numbers[0] is length
    assert program.structure.numbers == (DType.INT64, DType.FLOAT32, DType.FLOAT32)


def test_device_is_what_the_caller_says() -> None:
    seen = []

    def mod(b, h, q_idx, kv_idx):
        seen.append(q_idx.device)
        return (q_idx >= kv_idx).to(kv_idx.device)

    trace(mod)
    trace(mod, device=torch.device("meta"))
    assert seen == [torch.device("cpu"), torch.device("meta")]


def test_what_a_value_tells_of_itself() -> None:
    def mod(score, b, h, q_idx, kv_idx):
        row = TABLE[h]
        assert (score.dtype, q_idx.dtype, (q_idx > 0).dtype) == (torch.float32, torch.int64, torch.bool)
        assert (score.shape, score.ndim, score.dim(), score.numel(), score.size()) == ((), 0, 0, 1, ())
        assert (row.shape, row.ndim, row.size(-1), row.numel(), len(row)) == ((5,), 1, 5, 5, 5)
        assert score.is_floating_point()
        assert score.requires_grad
        assert not q_idx.requires_grad
        assert repr(row) == "<traced float32[5]: <Expr load 0 f32>>"
        with pytest.raises(TypeError, match="cannot be a key of a dict or set"):
            hash(score)
        return score

    trace(mod)


def test_torchs_global_state_changes_nothing() -> None:
    def mod(score, b, h, q_idx, kv_idx):
        return score * torch.tensor(0.5, dtype=torch.float32) + q_idx / 2 + torch.where(q_idx > 1, 1.0, 0.5)

    expected = trace(mod, SCORE)
    torch.set_default_device("meta")
    try:
        in_meta = trace(mod, SCORE)
    finally:
        torch.set_default_device(None)
    torch.set_default_dtype(torch.float64)
    try:
        in_double = trace(mod, SCORE)
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.inference_mode():
        in_inference = trace(mod, SCORE)
    for program in (in_meta, in_double, in_inference):
        assert program.structure == expected.structure
        np.testing.assert_array_equal(by_program(program, all_pairs()), by_program(expected, all_pairs()))


def test_tensors_that_live_on_meta_are_captured() -> None:
    table = torch.empty(3, device="meta")
    program = trace(lambda s, b, h, q, k: s + table[h], SCORE)
    assert program.captures == (table,)


def test_scalars_within_other_tensors() -> None:
    offset = torch.tensor(1, dtype=torch.int32)
    check(lambda s, b, h, q, k: s + TABLE[h, k % 4 + offset], SCORE)
    check(lambda s, b, h, q, k: s + TABLE[offset, k], SCORE)
    check(lambda s, b, h, q, k: s + TABLE[np.int64(1), k], SCORE)


def test_equal_sums_do_not_share_an_axis() -> None:
    program = check(lambda s, b, h, q, k: s + TABLE[h].sum() * (TABLE[b] + TABLE[h].sum()).sum(), SCORE)
    assert program.root.op is Op.ADD


def test_sizes_cover_more_than_one_of_each() -> None:
    assert min(SIZES) > 1
    assert isinstance(trace(window(2)), Program)


@pytest.mark.parametrize(
    ("combined", "alone"),
    [
        (and_masks(causal), causal),
        (or_masks(causal), causal),
        (xor_masks(causal), causal),
        (noop_mask & causal, causal),
        (and_masks(), noop_mask),
        (~causal, lambda b, h, q_idx, kv_idx: ~(q_idx >= kv_idx)),
    ],
)
def test_what_a_combination_starts_from_leaves_no_trace(combined: MaskMod, alone: MaskMod) -> None:
    assert trace(combined).structure == trace(alone).structure


def test_a_tensor_of_a_library_mod_is_named_by_the_call_that_took_it() -> None:
    combined = causal & document(lengths=[3, 4]) & ~padding(lengths=[5])
    assert trace(combined).names == ("document.q_ids", "padding.lengths")


def test_an_explicit_cast_wraps_what_was_computed_and_leaves_what_was_read() -> None:
    small = torch.tensor([100, -100], dtype=torch.int8)
    for wide in (torch.int8, torch.int16, torch.int64):
        program = trace(
            lambda b, h, q_idx, kv_idx, wide=wide: (small[q_idx] + small[q_idx]).to(wide) > 0, MASK
        )
        expected = torch.tensor([200, -200]).to(wide) > 0
        assert program(0, 0, np.arange(2), 0).tolist() == expected.tolist()
    read = trace(lambda b, h, q_idx, kv_idx: small[q_idx].to(torch.int8) > 0)
    assert "i8(" not in repr(read)
