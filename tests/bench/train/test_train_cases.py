"""Which training cases are measured, and that SDPA's dense bias says what the score_mod says."""

from __future__ import annotations

import math

import pytest
import torch

from saccade.bench.oracle import mask_rows
from saccade.bench.train.cases import Phase, Selection, TrainCase
from saccade.bench.train.patterns import PATTERNS, TrainPattern, train_pattern
from saccade.errors import ArgumentError


def test_the_short_list_has_every_pattern_once_a_type_and_width() -> None:
    cases = Selection().cases()
    assert [case.pattern for case in cases[: len(PATTERNS)]] == list(PATTERNS)
    assert len(cases) == 2 * 2 * len(PATTERNS) + 2
    assert {case.length for case in cases if case.pattern == "window"} == {8192}
    assert {case.length for case in cases if case.pattern != "window"} == {2048}
    assert [str(case) for case in cases if case.after_matmul] == [
        "causal float32 S=2048 D=64, after a matmul",
        "causal bfloat16 S=2048 D=64, after a matmul",
    ]
    assert set(cases) < set(Selection(full=True).cases())
    assert {case.length for case in Selection(full=True).cases()} == {512, 2048, 8192}


def test_named_values_replace_their_axis() -> None:
    chosen = Selection(("t5", "window"), ("bfloat16",), (700,), (32,), only=Phase.STEP)
    assert chosen.cases() == tuple(TrainCase(name, "bfloat16", 700, 32) for name in ("t5", "window"))
    assert (chosen.phases, chosen.is_default) == ((Phase.STEP,), False)
    assert (Selection(full=True).phases, Selection(full=True).is_default) == (tuple(Phase), True)


def test_refusals() -> None:
    with pytest.raises(ArgumentError, match=r"no pattern called 'dropuot'; did you mean dropout\?"):
        Selection(patterns=("dropuot",))
    with pytest.raises(ArgumentError, match=r"no pattern called 'xyz'; choose one of full, .*, dropout$"):
        train_pattern("xyz", 8, 1)
    with pytest.raises(ArgumentError, match="dtype must be one of float32, bfloat16, got 'float16'"):
        Selection(dtypes=("float16",))
    with pytest.raises(ArgumentError, match="length must be at least 1, got length=0"):
        Selection(lengths=(0,))


def learned_scores(pattern: TrainPattern, length: int, heads: int) -> torch.Tensor:
    """What the score_mod makes of scores of 0, -inf at pairs that the mask hides."""
    assert pattern.learned is not None
    score_mod = pattern.learned.score_of(pattern.learned.numbers)
    q_idx, kv_idx, zero = torch.arange(length)[:, None], torch.arange(length), torch.tensor(0)
    found = torch.stack(
        [score_mod(torch.zeros(length, length), zero, torch.tensor(h), q_idx, kv_idx) for h in range(heads)]
    )
    if pattern.mask_mod is not None:
        found = found.masked_fill(~mask_rows(pattern.mask_mod, 0, 0, range(length), length), -math.inf)
    return found[None]


@pytest.mark.parametrize("name", ["alibi", "t5"])
def test_the_dense_bias_is_the_score_and_has_its_gradient(name: str) -> None:
    length, heads = 150, 4
    pattern = train_pattern(name, length, heads)
    assert pattern.learned is not None
    assert pattern.dense_bias is not None
    bias, expected = pattern.dense_bias(), learned_scores(pattern, length, heads)
    torch.testing.assert_close(bias, expected, rtol=1e-6, atol=0)
    upstream = torch.randn(bias.shape, generator=torch.Generator().manual_seed(0)).masked_fill(
        bias == -math.inf, 0.0
    )
    numbers = pattern.learned.numbers
    (found,) = torch.autograd.grad(bias, numbers, upstream)
    (wanted,) = torch.autograd.grad(expected, numbers, upstream)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)
    assert bool(found.abs().max() > 0)


def test_learned_slopes_begin_as_the_papers() -> None:
    learned = train_pattern("alibi", 8, 8).learned
    assert learned is not None
    assert learned.numbers.tolist() == [2.0 ** -(h + 1) for h in range(8)]
    assert learned.numbers.requires_grad
