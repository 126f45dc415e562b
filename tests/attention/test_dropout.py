"""Dropout of weights: the stream decides which are kept, whatever engine, tile, thread or pass asks."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import oracle
from saccade import create_block_mask, flex_attention
from saccade.errors import ArgumentError
from saccade.ir.dropout import keep_mask, keep_rate
from saccade.masks import causal, document, sliding_window

BATCH, HEADS, KV_HEADS, Q_LEN, KV_LEN = 2, 4, 2, 45, 150
ENGINES = ["cpu", "eager"]
MASKS = {
    "causal": {"mask_mod": causal},
    "documents": {
        "block_mask": create_block_mask(
            document(lengths=[100, 50]), None, None, Q_LEN, KV_LEN, device="cpu", BLOCK_SIZE=16
        )
    },
    "everything": {},
}


def draw(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Leaves: a query, a key and a value."""
    shapes = ((BATCH, HEADS, Q_LEN, 8), (BATCH, KV_HEADS, KV_LEN, 8), (BATCH, KV_HEADS, KV_LEN, 5))
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def attend(*leaves: Tensor, dropout_p: float = 0.3, backend: str = "cpu", **options: object) -> Tensor:
    return flex_attention(*leaves, enable_gqa=True, dropout_p=dropout_p, backend=backend, **options)  # type: ignore[call-overload, no-any-return]


def seed_of(state: int) -> int:
    """What the next call draws from torch's generator, which is left so."""
    torch.manual_seed(state)
    seed = int(torch.randint(2**63 - 1, ()))
    torch.manual_seed(state)
    return seed


def stream(seed: int, p: float, q_len: int = Q_LEN, kv_len: int = KV_LEN) -> Tensor:
    """[B, Hq, Q, K] bool: what the stream says."""
    rows = np.arange(BATCH * HEADS).reshape(BATCH, HEADS, 1, 1)
    return torch.from_numpy(keep_mask(seed, p, rows, np.arange(q_len)[:, None], np.arange(kv_len)))


def gradients(*leaves: Tensor, **options: object) -> tuple[Tensor, ...]:
    return torch.autograd.grad(attend(*leaves, **options).square().sum(), leaves)


def assert_bits(found: object, expected: object) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


class Forward:
    """Which weights are kept, read off an output that is the weights: values are unit vectors."""

    def __init__(self, q_len: int = Q_LEN) -> None:
        self.query, self.key = torch.randn(BATCH, HEADS, q_len, 8), torch.randn(BATCH, KV_HEADS, KV_LEN, 8)
        self.units = torch.eye(KV_LEN).expand(BATCH, KV_HEADS, KV_LEN, KV_LEN)

    def kept(self, **options: object) -> Tensor:
        return attend(self.query, self.key, self.units, **options) != 0


class Backward:
    """The same read off the value's gradient, which is the weights where the output's is unit vectors."""

    def __init__(self, q_len: int = Q_LEN) -> None:
        self.query, self.key = torch.randn(BATCH, HEADS, q_len, 8), torch.randn(BATCH, HEADS, KV_LEN, 8)
        self.value = torch.zeros(BATCH, HEADS, KV_LEN, q_len, requires_grad=True)

    def kept(self, **options: object) -> Tensor:
        out = attend(self.query, self.key, self.value, **options)
        units = torch.eye(out.shape[-1]).expand_as(out)
        return torch.autograd.grad(out, self.value, units)[0].mT != 0


@pytest.mark.parametrize("read_off", [Forward, Backward])
class TestTheKeptPairs:
    @pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
    @pytest.mark.parametrize("engine", ENGINES)
    def test_are_the_streams(self, engine: str, p: float, read_off: type[Forward | Backward]) -> None:
        call, expected = read_off(), stream(seed_of(3), p)
        assert torch.equal(call.kept(dropout_p=p, backend=engine), expected)

    @pytest.mark.parametrize("tile", [(8, 16), (32, 64), (64, 32), (128, 128)], ids=str)
    def test_do_not_depend_on_tiles(self, tile: tuple[int, int], read_off: type[Forward | Backward]) -> None:
        names = ("BLOCK_M", "BLOCK_N", "bwd_BLOCK_M1", "bwd_BLOCK_N1")
        call, expected = read_off(), stream(seed_of(4), 0.3)
        hints = dict(zip(names, 2 * tile, strict=True))
        assert torch.equal(call.kept(kernel_options=hints), expected)

    def test_of_few_queries_that_are_decoded(self, read_off: type[Forward | Backward]) -> None:
        call, expected = read_off(3), stream(seed_of(5), 0.3, q_len=3)
        assert torch.equal(call.kept(), expected)

    def test_are_the_same_where_a_mask_hides_others(self, read_off: type[Forward | Backward]) -> None:
        call, window = read_off(), sliding_window(20)
        shown = oracle.visible_pairs(window, BATCH, HEADS, Q_LEN, KV_LEN)
        blocks = create_block_mask(window, None, None, Q_LEN, KV_LEN, device="cpu", BLOCK_SIZE=16)
        for form in ({"mask_mod": window}, {"block_mask": blocks}):
            expected = stream(seed_of(6), 0.3) & shown
            assert torch.equal(call.kept(**form), expected)


class TestTheStreamsRate:
    @pytest.mark.parametrize("p", [0.02, 0.25, 0.5, 0.9])
    def test_are_as_many_as_asked_for(self, p: float) -> None:
        """In all, in each head and at each key; bounds of five and six standard deviations."""
        found = Forward(Q_LEN * 8).kept(dropout_p=p).double()
        for counted, deviations in (
            (found.mean(), 5),
            (found.mean((0, 2, 3)), 5),
            (found.mean((0, 1, 2)), 6),
        ):
            spread = math.sqrt(p * (1 - p) * counted.numel() / found.numel())
            assert (counted - (1 - p)).abs().max() < deviations * spread

    def test_neighbours_are_independent(self) -> None:
        """Pairs beside each other along each axis agree as often as chance has it."""
        found = Forward(Q_LEN * 8).kept(dropout_p=0.5)
        for axis, size in enumerate(found.shape):
            first, second = found.narrow(axis, 0, size - 1), found.narrow(axis, 1, size - 1)
            agree = (first == second).double()
            assert abs(float(agree.mean()) - 0.5) < 5 * math.sqrt(0.25 / agree.numel())


class TestGradients:
    @pytest.mark.parametrize("mask", MASKS)
    @pytest.mark.parametrize("engine", ENGINES)
    def test_are_those_of_attention_with_the_same_weights_kept(self, engine: str, mask: str) -> None:
        leaves = draw()
        keep = stream(seed_of(7), 0.3)
        found = gradients(*leaves, backend=engine, **MASKS[mask])
        mods = {"causal": causal, "documents": document(lengths=[100, 50]), "everything": None}
        reference = oracle.attention(*leaves, mask=mods[mask], keep=keep, keep_rate=keep_rate(0.3)).out
        torch.testing.assert_close(found, torch.autograd.grad(reference.square().sum(), leaves))

    def test_with_a_score_sinks_and_lse(self) -> None:
        leaves, sinks = draw(), torch.randn(HEADS, dtype=torch.float64, requires_grad=True)
        keep = stream(seed_of(8), 0.6)

        def score(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
            return torch.tanh(score) - 0.1 * h * (q_idx - kv_idx).abs()

        out, lse = attend(
            *leaves, dropout_p=0.6, score_mod=score, mask_mod=causal, sinks=sinks, return_lse=True
        )
        reference = oracle.attention(
            *leaves, mask=causal, score=score, sinks=sinks, keep=keep, keep_rate=keep_rate(0.6)
        )
        torch.testing.assert_close((out, lse), (reference.out, reference.lse))
        every = (*leaves, sinks)
        torch.testing.assert_close(
            torch.autograd.grad(out.square().sum() + lse.sin().sum(), every),
            torch.autograd.grad(reference.out.square().sum() + reference.lse.sin().sum(), every),
        )

    def test_gradcheck(self) -> None:
        leaves = [leaf.detach()[:1, :, :6].requires_grad_() for leaf in draw()]

        def again(*tensors: Tensor) -> Tensor:
            torch.manual_seed(9)
            return attend(*tensors, mask_mod=causal)

        torch.autograd.gradcheck(again, leaves, fast_mode=True)


class TestProbabilities:
    @pytest.mark.parametrize("engine", ENGINES)
    def test_one_leaves_nothing(self, engine: str) -> None:
        leaves = draw()
        out, lse = attend(*leaves, dropout_p=1.0, backend=engine, mask_mod=causal, return_lse=True)
        assert not out.any()
        torch.testing.assert_close(lse, oracle.attention(*leaves, mask=causal).lse)
        assert not any(each.any() for each in torch.autograd.grad(out.sum(), leaves, retain_graph=True))
        expected = torch.autograd.grad(oracle.attention(*leaves, mask=causal).lse.sum(), leaves[:2])
        torch.testing.assert_close(torch.autograd.grad(lse.sum(), leaves[:2]), expected)

    @pytest.mark.parametrize("engine", ENGINES)
    def test_zero_is_no_dropout_and_draws_nothing(self, engine: str) -> None:
        leaves = draw()
        before = torch.get_rng_state()
        found = gradients(*leaves, dropout_p=0.0, backend=engine)
        assert torch.equal(torch.get_rng_state(), before)
        out = flex_attention(*leaves, enable_gqa=True, backend=engine)
        assert_bits(found, torch.autograd.grad(out.square().sum(), leaves))

    @pytest.mark.parametrize("p", [1e-6, 1 - 1e-6])
    def test_ones_too_fine_for_the_stream_are_rounded(self, p: float) -> None:
        leaves = draw()
        seed_of(10)
        found = gradients(*leaves, dropout_p=p)
        if p > 0.5:
            assert not any(each.any() for each in found)
        else:
            torch.testing.assert_close(found, gradients(*leaves, dropout_p=0.0))

    @pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
    def test_others_are_refused(self, p: float) -> None:
        with pytest.raises(ArgumentError, match=r"dropout_p must be in \[0, 1\]"):
            attend(*draw(), dropout_p=p)


class TestTheSeed:
    def test_repeats_a_call_and_its_gradients(self) -> None:
        leaves = draw(torch.float32)
        torch.manual_seed(11)
        first, second = gradients(*leaves), gradients(*leaves)
        torch.manual_seed(11)
        assert_bits((gradients(*leaves), gradients(*leaves)), (first, second))
        assert not torch.equal(first[0], second[0])

    def test_is_drawn_once_for_both_passes(self) -> None:
        """What others draw between forward and backward changes nothing."""
        leaves = draw(torch.float32)
        torch.manual_seed(12)
        expected = gradients(*leaves)
        torch.manual_seed(12)
        out = attend(*leaves)
        torch.randn(100)
        assert_bits(torch.autograd.grad(out.square().sum(), leaves), expected)

    @pytest.mark.parametrize("engine", ENGINES)
    @pytest.mark.parametrize("use_reentrant", [True, False])
    def test_a_checkpoint_repeats_it(self, use_reentrant: bool, engine: str) -> None:
        leaves = draw(torch.float32)
        torch.manual_seed(13)
        expected = gradients(*leaves, backend=engine)
        torch.manual_seed(13)
        out = checkpoint(partial(attend, backend=engine), *leaves, use_reentrant=use_reentrant)
        torch.randn(100)
        out.square().sum().backward()  # with use_reentrant, torch.autograd.grad is refused
        assert_bits(tuple(leaf.grad for leaf in leaves), expected)


@pytest.mark.usefixtures("_threads")
def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    leaves, found = draw(torch.float32), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        torch.manual_seed(14)
        found.append((attend(*leaves, mask_mod=causal), *gradients(*leaves, mask_mod=causal)))
    assert_bits(found[1], found[0])
    assert_bits(found[2], found[0])
