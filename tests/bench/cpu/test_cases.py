"""Which cases are measured, and what is asked of the user's choice."""

from __future__ import annotations

import pytest
import torch

from saccade.bench.cpu.cases import DTYPES, Case, Phase, Selection
from saccade.bench.cpu.patterns import PATTERNS, cpu_pattern
from saccade.bench.oracle import mask_rows
from saccade.errors import ArgumentError


def test_the_short_list_is_part_of_the_long_one() -> None:
    short, full = set(Selection().cases()), set(Selection(full=True).cases())
    assert short < full
    assert {case.pattern for case in short} == set(PATTERNS)
    assert {case.dtype for case in short} == set(DTYPES)
    assert {case.length for case in full} == {512, 2048, 4096, 8192, 16384}
    assert [str(case) for case in Selection().cases() if case.after_matmul] == [
        "forward causal float32 S=2048 D=64, after a matmul",
        "forward causal bfloat16 S=2048 D=64, after a matmul",
        "decode full float32 K=4096 D=128, after a matmul",
        "decode full bfloat16 K=4096 D=128, after a matmul",
    ]


def test_named_values_replace_their_axis() -> None:
    named = Selection(("natten", "alibi"), ("bfloat16",), (700,), (32,)).cases()
    assert [(case.phase, case.pattern, case.length) for case in named] == [
        (Phase.FORWARD, "alibi", 700),
        (Phase.FORWARD, "natten", 26 * 26),
        (Phase.DECODE, "alibi", 700),
    ]
    assert {(case.dtype, case.head_dim) for case in named} == {("bfloat16", 32)}


def test_shapes() -> None:
    forward, decode = (Case(phase, "full", "float32", 4096, 128).shape for phase in Phase)
    assert forward == {
        "batch": 1, "heads": 8, "q_len": 4096, "kv_len": 4096, "head_dim": 128, "kv_heads": 8,
    }  # fmt: skip
    assert (decode["heads"], decode["kv_heads"], decode["q_len"]) == (32, 8, 1)


def test_refusals() -> None:
    with pytest.raises(ArgumentError, match="no pattern called 'causl'; did you mean causal"):
        Selection(patterns=("causl",))
    with pytest.raises(ArgumentError, match=r"no pattern called 'xyz'; choose one of full, .*, natten$"):
        cpu_pattern("xyz", 8, 1)
    with pytest.raises(ArgumentError, match="dtype must be one of float32, bfloat16, got 'float16'"):
        Selection(dtypes=("float16",))
    with pytest.raises(ArgumentError, match="length must be at least 1, got length=0"):
        Selection(lengths=(0,))
    with pytest.raises(ArgumentError, match="head_dim must be at least 1, got head_dim=-1"):
        Selection(head_dims=(-1,))
    with pytest.raises(ArgumentError, match="no case is left: natten is measured forward"):
        Selection(patterns=("natten",), only=Phase.DECODE)


@pytest.mark.parametrize("name", [name for name in PATTERNS if name != "full"])
def test_a_decoding_step_is_the_last_row_of_the_pattern(name: str) -> None:
    length = 36
    pattern = cpu_pattern(name, length, heads=2)
    last = pattern.last_row()
    assert pattern.mask_mod is not None
    assert last.mask_mod is not None
    whole = mask_rows(pattern.mask_mod, 0, 0, range(length), length)
    assert torch.equal(mask_rows(last.mask_mod, 0, 0, range(1), length)[0], whole[-1])
    assert (pattern.score_mod is None) == (last.score_mod is None)
    if pattern.score_mod is not None and last.score_mod is not None:
        score, head, zero = torch.randn(length), torch.tensor(1), torch.tensor(0)
        kv_idx = torch.arange(length)
        expected = pattern.score_mod(score, zero, head, torch.tensor(length - 1), kv_idx)
        assert torch.equal(last.score_mod(score, zero, head, zero, kv_idx), expected)


def test_full_stays_full_in_a_decoding_step() -> None:
    last = cpu_pattern("full", 8, heads=1).last_row()
    assert (last.mask_mod, last.score_mod) == (None, None)
