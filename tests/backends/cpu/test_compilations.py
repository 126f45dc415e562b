"""What compiles a kernel, and what does not: lengths, offsets, windows and all numbers are arguments."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch

import oracle
from saccade import flex_attention
from saccade.backends.cpu.kernels import KERNELS
from saccade.masks import causal, shift, sliding_window
from saccade.scores import alibi, softcap


@pytest.fixture(autouse=True)
def _no_kernels() -> Iterator[None]:
    """Nothing is compiled yet; and one thread, for calls so small."""
    KERNELS.clear()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def builds_since(before: int) -> int:
    return KERNELS.builds - before


def test_a_growing_cache_is_decoded_by_one_kernel(caplog: pytest.LogCaptureFixture) -> None:
    heads, kv_heads, dim, steps = 8, 2, 16, 512
    keys, values = (torch.randn(1, kv_heads, 40 + steps, dim) for _ in range(2))
    before = KERNELS.builds
    with caplog.at_level(logging.DEBUG, logger="saccade"):
        for n in range(40, 40 + steps):
            query, key, value = torch.randn(1, heads, 1, dim), keys[:, :, : n + 1], values[:, :, : n + 1]
            mask = shift(causal, q=n)
            out = flex_attention(query, key, value, mask_mod=mask, enable_gqa=True, backend="cpu")
            if n in (40, 41, 63, 64, 255, 256, 551):
                expected = oracle.attention(query, key, value, mask=mask).out
                torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)
    assert builds_since(before) == 1
    told = [record for record in caplog.records if record.message.startswith("compiled ")]
    assert len(told) == 1


def test_lengths_and_windows_share_kernels() -> None:
    before = KERNELS.builds
    for length in range(100, 600, 10):
        tensors = [torch.randn(1, 1, length, 8) for _ in range(3)]
        for window in range(1, 400, 20):
            mask = sliding_window(window)
            out = flex_attention(*tensors, mask_mod=mask, backend="cpu")
            if length in (100, 590) and window in (1, 141, 381):
                expected = oracle.attention(*tensors, mask=mask).out
                torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)
    assert builds_since(before) <= 2


@pytest.mark.parametrize("q_len", [3, 60], ids=["decode", "forward"])
def test_numbers_of_a_score_compile_nothing(q_len: int) -> None:
    tensors = [torch.randn(1, 4, length, 8) for length in (q_len, 70, 70)]
    mods = [
        lambda number: lambda score, b, h, q, k: score * number - 0.37 * number * (q - k),
        softcap,
        lambda number: alibi(slopes=torch.full((4,), number)),
    ]
    for mod in mods:
        flex_attention(*tensors, mod(1.25), backend="cpu")
        before = KERNELS.builds
        for number in (0.75, 0.3, 1.7):
            out = flex_attention(*tensors, mod(number), scale=0.2 * number, backend="cpu")
            expected = oracle.attention(*tensors, score=mod(number), scale=0.2 * number).out
            torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)
        assert builds_since(before) == 0
