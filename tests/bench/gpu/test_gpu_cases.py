"""Which cases are measured on a GPU, in what order, what they hold, and the least that they cost."""

from __future__ import annotations

import pytest
import torch

from saccade.bench.gpu.cases import DECODE_PATTERNS, GpuCase, Phase, Selection
from saccade.bench.gpu.workloads import cost_of, make_pattern, make_workload
from saccade.bench.oracle import mask_rows
from saccade.bench.text_patterns import PATTERNS
from saccade.errors import ArgumentError

CPU = torch.device("cpu")
CASES = Selection().cases()


def test_what_matters_most_comes_first() -> None:
    first = [case for case in CASES if not case.is_decode][:6]
    assert {(case.pattern, case.head_dim) for case in first} == {
        (pattern, head_dim) for pattern in ("causal", "document", "sliding_window") for head_dim in (64, 128)
    }
    assert {case.length for case in first} == {16384}
    assert any(case.is_decode for case in CASES[:9])


def test_every_pattern_comes_at_one_length_before_the_last_lengths() -> None:
    seen = [case.pattern for case in CASES]
    whole = [case for case in CASES if not case.is_decode]
    assert {case.pattern for case in whole} == set(PATTERNS)
    late = min(number for number, case in enumerate(CASES) if case.length == 8192)
    assert set(seen[:late]) >= set(PATTERNS)


def test_lengths_and_widths_of_the_lists() -> None:
    whole = [case for case in CASES if not case.is_decode]
    assert {case.length for case in whole} == {2048, 4096, 8192, 16384, 32768}
    assert {case.head_dim for case in whole} == {64, 128}
    assert len(set(CASES)) == len(CASES)
    # Equal tokens and equal width: a longer sequence has fewer beside it, a wider head fewer.
    assert {max(case.batch * case.length, 16384) for case in whole} == {16384, 32768}
    assert {case.heads * case.head_dim for case in whole} == {2048}
    assert {case.length for case in whole if case.pattern == "jagged"} == {16384}
    steps = [case for case in CASES if case.is_decode]
    assert {(case.heads, case.kv_heads, case.head_dim) for case in steps} == {(32, 8, 128)}
    assert {(case.length, case.batch) for case in steps if case.pattern == "noop"} == {
        (4096, 16), (4096, 1), (16384, 4), (16384, 1), (65536, 1),
    }  # fmt: skip


def test_quick_is_four_cases_of_the_first_kinds() -> None:
    names = [str(case) for case in Selection(quick=True).cases()]
    assert len(names) == 5
    assert [name.split()[0] for name in names] == [
        "causal", "document", "sliding_window", "decode", "decode",
    ]  # fmt: skip


def test_a_named_value_replaces_its_list() -> None:
    chosen = Selection(("natten", "softcap"), (64, 32), (16,), tokens=64, width=64)
    assert sorted(map(str, chosen.cases())) == [
        "decode softcap K=32 D=16 B=1 H=32/8",
        "decode softcap K=32 D=16 B=8 H=32/8",
        "decode softcap K=64 D=16 B=1 H=32/8",
        "decode softcap K=64 D=16 B=4 H=32/8",
        "natten S=32 D=16 B=2 H=4",
        "natten S=64 D=16 B=1 H=4",
        "softcap S=32 D=16 B=2 H=4",
        "softcap S=64 D=16 B=1 H=4",
    ]


@pytest.mark.parametrize("only", list(Phase))
def test_one_phase_alone(only: Phase) -> None:
    chosen = Selection(only=only)
    assert {phase for case in chosen.cases() for phase in chosen.phases(case)} == {only}
    assert {case.is_decode for case in chosen.cases()} == {only is Phase.DECODE}


def test_misuse() -> None:
    for arguments, message in {
        (("causl",),): "no pattern called 'causl'; did you mean causal",
        ((), (0,)): "length must be at least 1, got length=0",
        ((), (), (-1,)): "head_dim must be at least 1, got head_dim=-1",
        ((), (), (), None, False, 0): "tokens must be at least 1, got tokens=0",
        ((), (), (), None, False, 1, 0): "width must be at least 1, got width=0",
        ((), (), (64, 128), None, False, 1, 64): "hold a head at least, got width=64 and head_dim=128",
        (("natten",), (), (), Phase.DECODE): "no case is left: natten has no decoding step",
    }.items():
        with pytest.raises(ArgumentError, match=message):
            Selection(*arguments)


@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_the_cost_of_a_sequence_is_that_of_its_visible_pairs(pattern: str) -> None:
    work = make_workload(GpuCase(pattern, 64, 16, 2, 4, 4), CPU, torch.bfloat16)
    size = work.size
    assert work.inputs[0].shape == (size.batch, 4, size.q_len, 16)
    assert work.inputs[1].shape == work.inputs[2].shape == (size.batch, 4, size.kv_len, 16)
    seen = size.q_len * size.kv_len
    if work.mask_mod is not None:
        seen = int(mask_rows(work.mask_mod, 0, 0, range(size.q_len), size.kv_len).sum())
    pairs = seen * size.batch * 4
    forward, backward = cost_of(work, Phase.FORWARD), cost_of(work, Phase.BACKWARD)
    assert (forward.flops, backward.flops) == (4 * pairs * 16, 10 * pairs * 16)
    rows, keys = (size.batch * 4 * length for length in (size.q_len, size.kv_len))
    # bfloat16: query and output, key and value; backward twice, and lse in float32.
    assert forward.bytes == 2 * 16 * (2 * rows + 2 * keys)
    assert backward.bytes == 2 * 16 * (4 * rows + 4 * keys) + 4 * rows


@pytest.mark.parametrize("pattern", DECODE_PATTERNS)
def test_a_decoding_step_is_the_last_row_and_reads_what_it_sees(pattern: str) -> None:
    case = GpuCase(pattern, 2048, 16, 2, 4, 2, is_decode=True)
    work, whole = (
        make_workload(case, CPU, torch.bfloat16),
        make_pattern(GpuCase(pattern, 2048, 16, 2, 4, 2), CPU),
    )
    seen = 2048
    if whole.mask_mod is not None:
        row = mask_rows(whole.mask_mod, 0, 0, range(2047, 2048), 2048)
        assert work.mask_mod is not None
        torch.testing.assert_close(mask_rows(work.mask_mod, 0, 0, range(1), 2048), row)
        seen = int(row.sum())
    cost = cost_of(work, Phase.DECODE)
    assert cost.flops == 4 * seen * 2 * 4 * 16
    assert cost.bytes == 2 * 16 * (2 * (2 * 2) * seen + 2 * (2 * 4))
    assert seen == (256 if pattern == "sliding_window" else 2048)
