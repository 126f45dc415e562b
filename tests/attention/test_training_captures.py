"""Tensors that a score reads learn on the CPU engine as they do in dense attention; bits never vary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

import low_precision
import oracle
from saccade import create_block_mask, flex_attention
from saccade.masks import causal, document, local, sliding_window
from saccade.signatures import MaskMod, ScoreMod

BATCH, HEADS, KV_HEADS = 2, 4, 2
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


@dataclass(frozen=True)
class Sizes:
    q_len: int = 45
    kv_len: int = 61

    @property
    def length(self) -> int:
        return max(self.q_len, self.kv_len)

    def distances(self) -> Tensor:
        """[Q, K] int64."""
        return torch.arange(self.q_len)[:, None] - torch.arange(self.kv_len)


@dataclass(frozen=True)
class Learned:
    """A score and the tensors it learns, made for some sizes in some dtype."""

    score: ScoreMod
    tensors: list[Tensor]
    mask: MaskMod | None = None
    plain: ScoreMod | None = None  # the same where it is visible, for dense attention


def drawn(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_()


def t5(s: Sizes, dtype: torch.dtype) -> Learned:
    """Distances fall into buckets, in whose table a row is learned for each head."""
    distance = s.distances().abs()
    bucket = torch.where(
        distance < 8, distance, 8 + (2 * torch.log2(distance.clamp(min=8) / 8)).long()
    ).clamp(max=15)
    table = drawn(HEADS, 16, dtype=dtype)
    return Learned(lambda score, b, h, q, kv: score + table[h, bucket[q, kv]], [table])


def one_slope(s: Sizes, dtype: torch.dtype) -> Learned:
    slope = drawn(dtype=dtype)
    return Learned(lambda score, b, h, q, kv: score - torch.sigmoid(slope) * (q - kv), [slope], causal)


def slopes(s: Sizes, dtype: torch.dtype) -> Learned:
    slope = drawn(HEADS, dtype=dtype)
    return Learned(lambda score, b, h, q, kv: score + 0.1 * slope[h] * (q - kv).abs(), [slope], local(9, 5))


def whole_bias(s: Sizes, dtype: torch.dtype) -> Learned:
    bias = drawn(HEADS, s.q_len, s.kv_len, dtype=dtype)
    return Learned(lambda score, b, h, q, kv: score + bias[h, q, kv], [bias])


def bias_per_batch(s: Sizes, dtype: torch.dtype) -> Learned:
    bias = drawn(BATCH, HEADS, s.q_len, s.kv_len, dtype=dtype)
    return Learned(lambda score, b, h, q, kv: score + bias[b, h, q, kv], [bias], causal)


def bias_for_all(s: Sizes, dtype: torch.dtype) -> Learned:
    bias = drawn(s.q_len, s.kv_len, dtype=dtype)
    return Learned(lambda score, b, h, q, kv: torch.tanh(score) * bias[q, kv], [bias], causal)


def transposed_bias(s: Sizes, dtype: torch.dtype) -> Learned:
    """Read across its memory: keys are rows."""
    bias = drawn(s.kv_len, s.q_len, dtype=dtype)
    return Learned(lambda score, b, h, q, kv: score + bias.T[q, kv] + bias[kv, q], [bias])


def bias_of_rows(s: Sizes, dtype: torch.dtype) -> Learned:
    rows, keys = drawn(BATCH, s.q_len, dtype=dtype), drawn(s.kv_len, dtype=dtype)
    return Learned(lambda score, b, h, q, kv: score * rows[b, q] + keys[kv], [rows, keys])


def graph(s: Sizes, dtype: torch.dtype) -> Learned:
    """Distances of a graph that each batch entry has its own of."""
    distance = torch.randint(0, 9, (BATCH, s.q_len, s.kv_len))
    table = drawn(9, dtype=dtype)
    return Learned(lambda score, b, h, q, kv: score + table[distance[b, q, kv]], [table])


def offsets(s: Sizes, dtype: torch.dtype) -> Learned:
    """Forwards, backwards and from the end."""
    table, far = drawn(HEADS, 2 * s.length, dtype=dtype), s.length

    def score(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return score + table[h, q - kv + far] - 0.5 * table[h, kv - q - 1 - far]

    return Learned(score, [table])


def read_twice(s: Sizes, dtype: torch.dtype) -> Learned:
    place = torch.randint(0, 7, (s.length,))
    table = drawn(7, dtype=dtype)
    return Learned(lambda score, b, h, q, kv: score + table[place[q]] * table[place[kv]], [table])


def several(s: Sizes, dtype: torch.dtype) -> Learned:
    gain, slope = drawn(dtype=dtype), drawn(HEADS, dtype=dtype)
    bias, table = drawn(s.q_len, s.kv_len, dtype=dtype), drawn(BATCH, 5, dtype=dtype)

    def score(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return torch.tanh(score * gain) * 2 + slope[h] * bias[q, kv] + table[b, (q + kv) % 5]

    return Learned(score, [gain, slope, bias, table], sliding_window(20))


def reduced(s: Sizes, dtype: torch.dtype) -> Learned:
    """Loads inside sums over a static extent; a plain function of rows, as the oracle's indices have axes."""
    a, c = drawn(HEADS, s.q_len, 3, dtype=dtype), drawn(HEADS, s.kv_len, 3, dtype=dtype)
    return Learned(lambda score, b, h, q, kv: score + (a[h, q] * c[h, kv]).sum(-1), [a, c], causal)


def infinite_where_hidden(s: Sizes, dtype: torch.dtype) -> Learned:
    """Infinite where the mask hides, and so is the tensor's gradient; dense attention is spared that."""
    rate = drawn(HEADS, dtype=dtype)

    def score(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return score + rate[h] / torch.clamp(q - kv + 1, min=0)

    def plain(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return score + rate[h] / torch.clamp(q - kv + 1, min=1)

    return Learned(score, [rate], causal, plain)


MADE: list[Callable[[Sizes, torch.dtype], Learned]] = [
    *(t5, one_slope, slopes, whole_bias, bias_per_batch, bias_for_all, transposed_bias, bias_of_rows, graph),
    *(offsets, read_twice, several, reduced, infinite_where_hidden),
]
LENGTHS = [Sizes(), Sizes(131, 71), Sizes(3, 150)]


def leaves_of(s: Sizes, dtype: torch.dtype) -> list[Tensor]:
    keys = (BATCH, KV_HEADS, s.kv_len)
    return [drawn(*shape, dtype=dtype) for shape in ((BATCH, HEADS, s.q_len, 16), (*keys, 16), (*keys, 24))]


def attend(leaves: list[Tensor], learned: Learned, **options: object) -> tuple[Tensor, Tensor]:
    options = {"mask_mod": learned.mask, **options}
    return flex_attention(  # type: ignore[call-overload, no-any-return]
        *leaves, learned.score, enable_gqa=True, return_lse=True, backend="cpu", **options
    )


def sides(
    learned: Learned, leaves: list[Tensor], dtype: torch.dtype, **options: object
) -> list[list[Tensor]]:
    """All gradients: of the engine, of an independent computation, and in float64."""
    every = [*leaves, *learned.tensors]
    mods = {"mask": learned.mask, "score": learned.plain or learned.score}
    reference = oracle.attention(*leaves, **mods)
    results = (
        attend(leaves, learned, **options),
        low_precision.attention(*leaves, **mods),
        (reference.out, reference.lse),
    )
    return [low_precision.gradients(each, every, dtype) for each in results]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", LENGTHS, ids=str)
@pytest.mark.parametrize("made", MADE, ids=lambda it: it.__name__)
def test_they_learn_as_in_dense_attention(
    made: Callable[[Sizes, torch.dtype], Learned], sizes: Sizes, dtype: torch.dtype
) -> None:
    learned = made(sizes, torch.float64 if dtype is torch.float64 else torch.float32)
    low_precision.assert_as_good(*sides(learned, leaves_of(sizes, dtype), dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("made", [t5, bias_for_all, whole_bias], ids=lambda it: it.__name__)
def test_tensors_of_other_types_than_the_querys(
    made: Callable[[Sizes, torch.dtype], Learned], dtype: torch.dtype
) -> None:
    """Their gradients are of their own type, whatever the query's."""
    sizes = Sizes()
    learned = made(sizes, dtype)
    found, independent, exact = sides(learned, leaves_of(sizes, torch.float32), torch.float32)
    assert [each.dtype for each in found[3:]] == [dtype]
    low_precision.assert_as_good(found, independent, exact)


@pytest.mark.parametrize("block", [8, 16, 64])
@pytest.mark.parametrize("made", [t5, slopes, whole_bias, graph], ids=lambda it: it.__name__)
def test_under_block_masks(made: Callable[[Sizes, torch.dtype], Learned], block: int) -> None:
    sizes = Sizes(45, 45)
    mask = document(lengths=[13, 1, 24, 7]) & causal
    learned = replace(made(sizes, torch.float32), mask=mask)
    blocks = create_block_mask(mask, None, None, 45, 45, device="cpu", BLOCK_SIZE=block)
    low_precision.assert_as_good(
        *sides(learned, leaves_of(sizes, torch.float32), torch.float32, mask_mod=None, block_mask=blocks)
    )


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("made", MADE, ids=lambda it: it.__name__)
def test_bits_are_the_same_every_time_and_for_any_threads(
    made: Callable[[Sizes, torch.dtype], Learned], dtype: torch.dtype
) -> None:
    sizes = Sizes(260, 270)
    learned, leaves, found = made(sizes, torch.float32), leaves_of(sizes, dtype), []
    for threads in (1, 2, 3, 1):
        torch.set_num_threads(threads)
        found.append(low_precision.gradients(attend(leaves, learned), [*leaves, *learned.tensors], dtype))
    for each in found[1:]:
        torch.testing.assert_close(each, found[0], rtol=0, atol=0)


def test_frozen_ones_get_none_and_change_no_other() -> None:
    sizes, leaves = Sizes(), leaves_of(Sizes(), torch.float32)
    learned = several(sizes, torch.float32)
    every = [*leaves, *learned.tensors]
    expected = low_precision.gradients(attend(leaves, learned), every, torch.float32)
    for frozen in (0, 2, 3, 5):
        for place, one in enumerate(every):
            one.requires_grad_(place != frozen)
            one.grad = None
        (out, lse) = attend(leaves, learned)
        wanted = [one for one in every if one.requires_grad]
        found = low_precision.gradients((out, lse), wanted, torch.float32)
        torch.testing.assert_close(found, expected[:frozen] + expected[frozen + 1 :], rtol=0, atol=0)
    for one in every:
        one.requires_grad_(one is learned.tensors[1])
    attend(leaves, learned)[0].sum().backward()
    assert [one.grad is None for one in every] == [one is not learned.tensors[1] for one in every]


def test_one_that_changed_on_the_way_raises_torchs_error() -> None:
    leaves, learned = leaves_of(Sizes(), torch.float32), slopes(Sizes(), torch.float32)
    out, _ = attend(leaves, learned)
    with torch.no_grad():
        learned.tensors[0].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_a_tensor_made_of_another_passes_its_gradient_on() -> None:
    """What a mod reads need be no leaf: a network may have made it; views learn through their base."""
    leaves = leaves_of(Sizes(), torch.float64)
    base = torch.randn(HEADS, 3, dtype=torch.float64, requires_grad=True)

    def attended(function: Callable[..., Tensor]) -> Tensor:
        bias = torch.tanh(base @ torch.ones(3, Sizes().kv_len, dtype=torch.float64).cumsum(1))

        def score(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
            return score + bias[h, kv] * base[:, 1][h]

        return function(score)

    made = attended(lambda score: attend(leaves, Learned(score, []))[0])
    expected = attended(lambda score: oracle.attention(*leaves, score=score).out)
    torch.testing.assert_close(
        torch.autograd.grad(made.sin().sum(), [base, *leaves]),
        torch.autograd.grad(expected.sin().sum(), [base, *leaves]),
    )


def test_a_step_down_the_gradient_lessens_the_loss() -> None:
    """The signs are right, in a loop as a user writes it."""
    leaves, slope = [leaf.detach() for leaf in leaves_of(Sizes(), torch.float32)], torch.zeros(HEADS)
    target, _ = attend(leaves, Learned(lambda score, b, h, q, kv: score - 0.3 * (q - kv).abs(), []))
    slope.requires_grad_()
    optimizer, losses = torch.optim.Adam([slope], lr=0.1), []
    for _ in range(40):
        optimizer.zero_grad()
        out, _ = attend(leaves, Learned(lambda score, b, h, q, kv: score - slope[h] * (q - kv).abs(), []))
        loss = (out - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.05 * losses[0]
    assert (slope.detach() - 0.3).abs().max() < 0.1
