"""Keys shared among programs, and what they give merged, against attention by its definition."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from codegen.triton.forward_call import Forward
from codegen.triton.test_forward import blocks, check, score, tensors
from saccade.codegen.triton.kernel import write
from saccade.codegen.triton.spec import KernelKind
from saccade.ir.dropout import keep_mask, keep_rate
from saccade.masks import causal, sliding_window
from saccade.tracing import trace

# B, batches of keys, Hq, Hkv, Q, K, D, Dv
DECODE = (2, 2, 8, 2, 1, 70, 16, 24)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("splits", [1, 3, 9])
def test_all_keys(interpreted, splits, dtype):
    check(interpreted, Forward(*tensors(DECODE, dtype), splits=splits, packed=True))


def test_a_mask_asked_everywhere(interpreted):
    window = lambda b, h, q, k: (k > 40) & (k % 3 > 0)  # noqa: E731
    check(interpreted, Forward(*tensors(DECODE), mask=trace(window), splits=4, packed=True), mask=window)


@pytest.mark.parametrize("packed", [False, True])
def test_blocks(interpreted, packed):
    query, key, value = tensors((1, 1, 4, 2, 19, 70, 16, 16))
    mask = sliding_window(40)
    found = blocks(mask, query, key)
    check(interpreted, Forward(query, key, value, block_mask=found, splits=3, packed=packed), mask=mask)


def test_sinks_join_once_and_empty_rows_are_theirs(interpreted):
    query, key, value = tensors((1, 1, 4, 2, 5, 40, 16, 16))
    mask = lambda b, h, q, k: k + 1 < q  # noqa: E731
    sinks = torch.tensor([0.5, -math.inf, 30.0, -20.0])
    call = Forward(query, key, value, block_mask=blocks(mask, query, key), splits=2, sinks=sinks)
    check(interpreted, call, mask=mask)


def test_dropout_and_score_mod(interpreted):
    query, key, value = tensors((1, 1, 4, 2, 5, 70, 16, 16))
    p, seed = 0.4, -3
    index = np.arange(4).reshape(1, 4, 1, 1), np.arange(5)[:, None], np.arange(70)
    keep = torch.from_numpy(keep_mask(seed, p, *index))
    far = lambda s, b, h, q, k: s - (q - k) * 0.01  # noqa: E731
    call = Forward(query, key, value, splits=3, packed=True, dropout=(p, seed), score_mod=score(far))
    check(interpreted, call, score=far, keep=keep, keep_rate=keep_rate(p))


def test_rows_beyond_a_program_of_combine(interpreted):
    query, key, value = tensors((2, 1, 3, 3, 9, 33, 8, 8))
    call = Forward(query, key, value, block_mask=blocks(causal, query, key), splits=2)
    assert call.rows < 2 * 3 * 9
    check(interpreted, call, mask=causal)


def test_combine_depends_on_no_program_or_walk():
    query, key, value = tensors(DECODE)
    plain = replace(Forward(query, key, value, splits=2).spec, kind=KernelKind.COMBINE)
    masked = replace(Forward(query, key, value, mask=trace(causal), splits=2).spec, kind=KernelKind.COMBINE)
    assert write(plain).text == write(masked).text
