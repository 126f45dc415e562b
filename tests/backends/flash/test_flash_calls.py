"""The flash-attn backends call their libraries so that the result is the mask's, and learn from them."""

from __future__ import annotations

import re
import sys
from functools import wraps

import pytest
import torch
from torch import Tensor

import oracle
from backends.flash.stand_in import CALLS, FLASH_2, FLASH_3, FLASH_4, deterministic, installed
from saccade import create_block_mask, flex_attention
from saccade.backends.flash.library import Library
from saccade.errors import BackendError, UnsupportedError
from saccade.masks import causal, document, jagged, local, shift, sliding_window
from saccade.signatures import MaskMod

# Where each library is, and a GPU it is for.
BACKENDS = {
    "flash_attention_2": (FLASH_2, (8, 0)),
    "flash_attention_3": (FLASH_3, (9, 0)),
    "flash_attention_4": (FLASH_4, (10, 0)),
}
LENGTH = 12
IDS = torch.tensor([3, 3, 3, 3, 0, 7, 7, 7, 7, 7, 1, 1])
HALVES = torch.tensor([5] * 6 + [2] * 6)
ROWS = torch.stack([IDS, torch.zeros(LENGTH, dtype=torch.long)])

# A mask, and the lengths of queries and keys.
CASES: dict[str, tuple[MaskMod | None, int, int]] = {
    "nothing hidden": (None, 5, 9),
    "causal": (causal, LENGTH, LENGTH),
    "causal, more keys": (causal, 5, 9),
    "causal, fewer keys": (causal, 9, 7),
    "causal at the lower right": (shift(causal, q=4), 5, 9),
    "a window": (sliding_window(3), LENGTH, LENGTH),
    "a window, more keys": (sliding_window(3), 5, 9),
    "a window at the lower right": (shift(sliding_window(3), q=4), 5, 9),
    "a window of both sides": (local(2, 1), LENGTH, LENGTH),
    "a window ahead": (lambda b, h, q, kv: (kv >= q) & (kv <= q + 2), 6, LENGTH),
    "a query that sees nothing": (lambda b, h, q, kv: kv < q, LENGTH, LENGTH),
    "documents": (document(IDS), LENGTH, LENGTH),
    "documents by batch": (document(ROWS), LENGTH, LENGTH),
    "causal documents": (document(IDS) & causal, LENGTH, LENGTH),
    "documents with a window": (document(ROWS) & sliding_window(2), LENGTH, LENGTH),
    "two kinds of documents": (document(IDS) & document(HALVES), LENGTH, LENGTH),
    "a jagged batch": (jagged(causal, offsets=[0, 5, 5, LENGTH]), LENGTH, LENGTH),
}


@pytest.fixture(autouse=True)
def _on_a_gpu(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    """Tensors on a CPU that say they are on a GPU, where the library is."""
    monkeypatch.setattr("saccade.backends.facts._device_type", lambda device: "cuda")
    module, gpu = BACKENDS[request.node.callspec.params["backend"]]
    with installed(module, capability=gpu):
        yield


def _inputs(q_len: int, kv_len: int, kv_batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    shapes = ((2, 4, q_len, 64), (kv_batch, 2, kv_len, 64), (kv_batch, 2, kv_len, 64))
    return tuple(torch.randn(shape, dtype=torch.bfloat16, requires_grad=True) for shape in shapes)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_equals_the_oracle(backend: str, case: str) -> None:
    mask_mod, q_len, kv_len = CASES[case]
    inputs = _inputs(q_len, kv_len)
    out = flex_attention(*inputs, mask_mod=mask_mod, scale=0.2, enable_gqa=True, backend=backend)
    assert len(CALLS) == 1
    reference = oracle.attention(*inputs, mask=mask_mod, scale=0.2).out
    torch.testing.assert_close(out, reference.to(out.dtype), rtol=2**-7, atol=2**-8)
    upstream = torch.randn_like(out)
    mine = torch.autograd.grad(out, inputs, upstream)
    theirs = torch.autograd.grad(reference, inputs, upstream.double())
    torch.testing.assert_close(mine, theirs, rtol=2**-6, atol=2**-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", ["causal", "documents by batch", "a window at the lower right"])
def test_lse_is_returned(backend: str, case: str) -> None:
    mask_mod, q_len, kv_len = CASES[case]
    inputs = [one.detach() for one in _inputs(q_len, kv_len)]
    out, lse = flex_attention(*inputs, mask_mod=mask_mod, enable_gqa=True, return_lse=True, backend=backend)
    reference = oracle.attention(*inputs, mask=mask_mod)
    torch.testing.assert_close(lse, reference.lse.float())
    torch.testing.assert_close(out, reference.out.to(out.dtype), rtol=2**-7, atol=2**-8)
    assert lse.shape == (2, 4, q_len)
    assert lse.is_contiguous()


@pytest.mark.parametrize(
    ("backend", "case", "causal_flag", "window"),
    [
        ("flash_attention_2", "nothing hidden", False, (-1, -1)),
        ("flash_attention_2", "causal", True, (-1, -1)),
        ("flash_attention_3", "causal at the lower right", True, (-1, -1)),
        ("flash_attention_3", "a window", False, (2, 0)),
        ("flash_attention_2", "a window, more keys", False, (2, 0)),
        ("flash_attention_4", "causal, more keys", True, (None, None)),
        ("flash_attention_4", "a window of both sides", False, (2, 1)),
        ("flash_attention_4", "a window at the lower right", False, (2, 0)),
    ],
)
def test_windows_count_from_the_lower_right(
    backend: str, case: str, causal_flag: bool, window: tuple[object, object]
) -> None:
    mask_mod, q_len, kv_len = CASES[case]
    flex_attention(*_inputs(q_len, kv_len), mask_mod=mask_mod, enable_gqa=True, backend=backend)
    assert (CALLS[0]["causal"], CALLS[0]["window"]) == (causal_flag, window)


@pytest.mark.parametrize("backend", ["flash_attention_2"])
def test_documents_of_a_block_mask_are_read_once(backend: str) -> None:
    mask = create_block_mask(document(ROWS) & causal, 2, None, LENGTH, LENGTH, device="cpu", BLOCK_SIZE=16)
    inputs = _inputs(LENGTH, LENGTH)
    first = flex_attention(*inputs, block_mask=mask, enable_gqa=True, backend=backend)
    reference = oracle.attention(*inputs, mask=document(ROWS) & causal).out
    torch.testing.assert_close(first, reference.to(first.dtype), rtol=2**-7, atol=2**-8)
    starts = CALLS[0]["lengths"][0]
    assert starts.tolist() == [0, 4, 5, 10, 12, 24]
    flex_attention(*inputs, block_mask=mask, enable_gqa=True, backend=backend)
    assert CALLS[1]["lengths"][0] is starts


@pytest.mark.parametrize("backend", ["flash_attention_2"])
@pytest.mark.parametrize("leading", ["h", "bh"])
def test_documents_that_differ_between_heads_are_not_read(backend: str, leading: str) -> None:
    ids = torch.stack([IDS, IDS.flip(0), IDS * 0, HALVES])
    ids = ids if leading == "h" else ids.expand(2, -1, -1).contiguous()

    def mask_mod(b, h, q_idx, kv_idx):
        row = (h,) if leading == "h" else (b, h)
        return ids[(*row, q_idx)] == ids[(*row, kv_idx)]

    with pytest.raises(BackendError, match="the mask is another"):
        flex_attention(*_inputs(LENGTH, LENGTH), mask_mod=mask_mod, enable_gqa=True, backend=backend)


@pytest.mark.parametrize("backend", ["flash_attention_2"])
def test_lse_of_another_layout_is_refused(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As before version 2.6, padded by document: as many elements, where documents are equally long."""
    module = sys.modules[FLASH_2]
    real = module.flash_attn_varlen_func

    def padded(*tensors, **options):
        out, lse, rest = real(*tensors, **options)
        return out, lse.view(len(lse), -1, LENGTH // 2).transpose(0, 1).contiguous(), rest

    monkeypatch.setattr(module, "flash_attn_varlen_func", wraps(real)(padded))
    inputs = [one.detach() for one in _inputs(LENGTH, LENGTH)]
    expected = "flash_attn should return lse of shape (4, 24), as it documents, got shape=(4, 4, 6); install"
    with pytest.raises(UnsupportedError, match=re.escape(expected)):
        flex_attention(*inputs, mask_mod=document(HALVES), enable_gqa=True, return_lse=True, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", ["causal", "documents"])
def test_gradients_are_summed_in_order_where_torch_is_told_to(backend: str, case: str) -> None:
    mask_mod, q_len, kv_len = CASES[case]
    inputs = _inputs(q_len, kv_len)

    def asked(*tensors: Tensor) -> object:
        flex_attention(*tensors, mask_mod=mask_mod, enable_gqa=True, backend=backend)
        return CALLS[-1]["deterministic"]

    assert asked(*inputs) is False
    with deterministic():
        assert asked(*inputs) is True
        assert asked(*[one.detach() for one in inputs]) is False
    with deterministic(warn_only=True):
        assert asked(*inputs) is True


@pytest.mark.parametrize("backend", ["flash_attention_2"])
def test_gradients_in_no_order_are_warned_of(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Library, "takes_deterministic", lambda self, *, packed: False)
    expected = "flash_attn: its installed version sums gradients in no fixed order, and .*warn_only=True"
    with deterministic(warn_only=True), pytest.warns(UserWarning, match=expected):
        flex_attention(*_inputs(LENGTH, LENGTH), enable_gqa=True, backend=backend)
    assert CALLS[-1]["deterministic"] is False


@pytest.mark.parametrize("backend", ["flash_attention_4"])
def test_keys_that_every_batch_shares(backend: str) -> None:
    inputs = _inputs(LENGTH, LENGTH, kv_batch=1)
    mask_mod = document(ROWS)
    out = flex_attention(*inputs, mask_mod=mask_mod, enable_gqa=True, backend=backend)
    reference = oracle.attention(*inputs, mask=mask_mod).out
    torch.testing.assert_close(out, reference.to(out.dtype), rtol=2**-7, atol=2**-8)


@pytest.mark.parametrize("backend", ["flash_attention_3"])
def test_the_output_lies_as_the_query_does(backend: str) -> None:
    query, key, value = _inputs(LENGTH, LENGTH)
    projected = query.transpose(1, 2).contiguous().transpose(1, 2)
    out = flex_attention(projected, key, value, enable_gqa=True, backend=backend)
    assert out.stride() == projected.stride()
