"""Which pairs dropout keeps, of the GPU engine interpreted: bit for bit the stream's, in both passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backends.triton.calls import assert_as_the_oracle, attend, draw, gradients
from backends.triton.interpreted import interpreted
from saccade import create_block_mask
from saccade.ir.dropout import keep_mask, keep_rate
from saccade.masks import causal, document, sliding_window

BATCH, HEADS, KV_HEADS, KV_LEN, P = 2, 2, 1, 152, 0.3
# Of the keys of a tile: fewer than share a word of the stream, as many, and all that one counter serves.
TILES = [(16, 16), (32, 64), (16, 128), (16, 256)]


def stream(p: float, q_len: int, kv_len: int = KV_LEN) -> Tensor:
    """[B, Hq, Q, K] bool: what the stream says of the next call, whose seed torch's generator will give."""
    before = torch.get_rng_state()
    seed = int(torch.randint(2**63 - 1, ()))
    torch.set_rng_state(before)
    rows = np.arange(BATCH * HEADS).reshape(BATCH, HEADS, 1, 1)
    return torch.from_numpy(keep_mask(seed, p, rows, np.arange(q_len)[:, None], np.arange(kv_len)))


def options_of(tile: tuple[int, int]) -> dict[str, int]:
    sizes = zip("MN", tile, strict=True)
    return {f"BLOCK_{axis}{which}": size for axis, size in sizes for which in ("", 1, 2)}


def shown_and_form(walk: str, q_len: int) -> tuple[Tensor, dict[str, Any]]:
    """Which pairs a mask shows, and a call's options for it."""
    mask = {"documents": document(lengths=[100, 52]), "window": sliding_window(45)}.get(walk, causal)
    q, k = torch.arange(q_len)[:, None], torch.arange(KV_LEN)
    zero = torch.zeros((), dtype=torch.int64)
    shown = torch.ones(q_len, KV_LEN, dtype=torch.bool) if walk == "everything" else mask(zero, zero, q, k)
    if walk == "everything":
        return shown, {}
    if walk == "mask_mod":
        return shown, {"mask_mod": mask}
    size = {"documents": 24, "window": 128}[walk]  # ranges begin at multiples of these
    blocks = create_block_mask(mask, None, None, q_len, KV_LEN, device="cpu", BLOCK_SIZE=size)
    return shown, {"block_mask": blocks}


@pytest.mark.parametrize("walk", ["everything", "mask_mod", "documents", "window"])
@pytest.mark.parametrize("tile", TILES, ids=str)
@interpreted
def test_the_forward_keeps_those_of_the_stream(tile: tuple[int, int], walk: str) -> None:
    """Read off an output that is the weights: values are unit vectors."""
    q_len = 20
    query, key = torch.randn(BATCH, HEADS, q_len, 8), torch.randn(BATCH, KV_HEADS, KV_LEN, 8)
    units = torch.eye(KV_LEN).expand(BATCH, KV_HEADS, KV_LEN, KV_LEN)
    shown, form = shown_and_form(walk, q_len)
    expected = stream(P, q_len) & shown
    out, _, _ = attend((query, key, units), dropout_p=P, kernel_options=options_of(tile), **form)
    assert torch.equal(out != 0, expected)


@pytest.mark.parametrize("walk", ["everything", "mask_mod", "documents", "window"])
@pytest.mark.parametrize("tile", TILES, ids=str)
@interpreted
def test_the_backward_keeps_the_same(tile: tuple[int, int], walk: str) -> None:
    """Read off the value's gradient, which is the weights where the output's is unit vectors."""
    q_len = 24
    query, key = torch.randn(BATCH, HEADS, q_len, 8), torch.randn(BATCH, HEADS, KV_LEN, 8)
    value = torch.zeros(BATCH, HEADS, KV_LEN, q_len, requires_grad=True)
    shown, form = shown_and_form(walk, q_len)
    expected = stream(P, q_len) & shown
    out, _, _ = attend((query, key, value), dropout_p=P, kernel_options=options_of(tile), **form)
    units = torch.eye(q_len).expand_as(out)
    assert torch.equal(torch.autograd.grad(out, value, units)[0].mT != 0, expected)


@pytest.mark.parametrize("splits", [1, 3])
@interpreted
def test_few_queries_keep_the_same(splits: int) -> None:
    query, key = torch.randn(BATCH, HEADS, 3, 8), torch.randn(BATCH, KV_HEADS, KV_LEN, 8)
    units = torch.eye(KV_LEN).expand(BATCH, KV_HEADS, KV_LEN, KV_LEN)
    expected = stream(P, 3)
    out, _, _ = attend((query, key, units), dropout_p=P, kernel_options={"SPLIT_KV": splits})
    assert torch.equal(out != 0, expected)


@pytest.mark.parametrize("walk", ["mask_mod", "documents"])
@interpreted
def test_results_and_gradients_are_those_of_the_kept_weights(walk: str) -> None:
    leaves = draw(24, KV_LEN, batch=BATCH, heads=HEADS, kv_heads=KV_HEADS)
    mask = {"mask_mod": causal, "documents": document(lengths=[100, 52])}[walk]
    _, form = shown_and_form(walk, 24)
    keep = stream(P, 24)
    assert_as_the_oracle(leaves, [form | {"dropout_p": P}], mask=mask, keep=keep, keep_rate=keep_rate(P))


@interpreted
def test_the_eager_engine_keeps_the_same() -> None:
    leaves, found = draw(24, KV_LEN, batch=BATCH, heads=HEADS, kv_heads=KV_HEADS), []
    for backend in ("triton", "eager"):
        torch.manual_seed(9)
        results = attend(leaves, dropout_p=P, mask_mod=causal, backend=backend)
        found.append((*results, *gradients(results, leaves)))
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("p", [1.0, 1 - 1e-6])
@interpreted
def test_everything_dropped(p: float) -> None:
    leaves = draw(24, KV_LEN)
    out, lse, _ = attend(leaves, dropout_p=p, mask_mod=causal)
    assert not out.any()
    assert lse.isfinite().all()
    assert not any(each.any() for each in torch.autograd.grad(out.sum(), leaves))
