"""The oracle of the measurements, against tables written out by hand and torch's own attention."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import oracle
from saccade.bench.oracle import dense_attention, kinds_of_rows, mask_rows, row_chunks
from saccade.ir.dropout import keep_mask
from saccade.masks import causal, dense, local, noop_mask, padding
from saccade.scores import alibi, softcap


def test_mask_rows_are_rows_of_the_mask() -> None:
    expected = torch.tensor([[1, 1, 1, 0, 0], [0, 1, 1, 1, 0]]).bool()
    assert torch.equal(mask_rows(local(left=1, right=1), 0, 0, range(1, 3), 5), expected)
    assert mask_rows(noop_mask, 0, 0, range(2), 3).all()
    assert mask_rows(padding(keep=torch.tensor([[True, False], [True, True]])), 1, 0, range(2), 2).all()


def test_long_rows_come_in_pieces() -> None:
    table = torch.rand(7, 70_000, generator=torch.Generator().manual_seed(0)) < 0.5
    assert torch.equal(mask_rows(dense(table), 0, 0, range(2, 7), 70_000), table[2:])


def test_chunks_cover_the_rows_in_whole_blocks() -> None:
    chunks = list(row_chunks(1000, 2**14, 128))
    assert [(chunk.start, chunk.stop) for chunk in chunks] == [(0, 256), (256, 512), (512, 768), (768, 1000)]
    assert list(row_chunks(5, 2**30, 128)) == [range(5)]


@pytest.mark.parametrize(("q_len", "kv_len", "block"), [(4, 4, 2), (5, 7, 3), (1, 9, 4), (6, 2, 8)])
def test_kinds_of_rows(q_len: int, kv_len: int, block: int) -> None:
    visible = torch.rand(q_len, kv_len, generator=torch.Generator().manual_seed(q_len)) < 0.6
    visible[:block, :block] = True
    kinds = kinds_of_rows(visible, block)
    for row in range(0, q_len, block):
        for column in range(0, kv_len, block):
            part = visible[row : row + block, column : column + block]
            expected = 2 if part.all() else int(part.any())
            assert kinds[row // block, column // block] == expected
    assert kinds.shape == (-(-q_len // block), -(-kv_len // block))


def test_dense_attention_is_attention() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 3, 9, 4, generator=generator, dtype=torch.float64)
    out = dense_attention(query, key, value, mask_mod=causal, rows=range(2, 7), dtype=torch.float64)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    torch.testing.assert_close(out, expected[:, :, 2:7])
    assert (
        dense_attention(query, key, value, mask_mod=causal, rows=range(1), dtype=torch.float32).dtype
        is torch.float32
    )


def test_dropout_drops_what_the_stream_drops() -> None:
    generator = torch.Generator().manual_seed(2)
    query, key, value = torch.randn(3, 2, 3, 9, 4, generator=generator, dtype=torch.float64)
    b_h, q_idx, kv_idx = np.ogrid[:6, :9, :9]
    kept = torch.from_numpy(keep_mask(7, 0.25, b_h, q_idx, kv_idx)).view(2, 3, 9, 9)
    assert not kept.all()
    expected = oracle.attention(query, key, value, mask=causal, keep=kept, keep_rate=0.75).out
    out = dense_attention(
        query, key, value, mask_mod=causal, rows=range(2, 7), dtype=torch.float64, dropout=(7, 0.25)
    )
    torch.testing.assert_close(out, expected[:, :, 2:7])


def test_scores_are_changed_and_empty_rows_are_zero() -> None:
    query, key, value = torch.randn(3, 1, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    nothing = dense(torch.zeros(4, 4, dtype=torch.bool))
    assert (
        dense_attention(query, key, value, mask_mod=nothing, rows=range(4), dtype=torch.float64) == 0
    ).all()
    for score in (softcap(0.5), alibi(n_heads=2)):
        out = dense_attention(
            query, key, value, mask_mod=noop_mask, score_mod=score, rows=range(1, 3), dtype=torch.float64
        )
        scores = query[0, 1].double() @ key[0, 1].double().T / math.sqrt(4)
        index = torch.arange(4)
        changed = score(scores, torch.tensor(0), torch.tensor(1), index[:, None], index)
        torch.testing.assert_close(out[0, 1], (changed.softmax(-1) @ value[0, 1].double())[1:3])
