"""Stand-ins for the flash-attn packages: their documented signatures and meaning, in dense float64.

Written from the documentation of Dao-AILab/flash-attention. They check what they are given as those packages
would: shapes, dtypes, and that windows are two integers (or None). Windows and causality count from the lower
right corner; a row that sees nothing gives 0.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor

from saccade.backends.flash import library

FLASH_2, FLASH_3, FLASH_4 = "flash_attn.flash_attn_interface", "flash_attn_interface", "flash_attn.cute"
CALLS: list[dict[str, object]] = []
"""The arguments of the latest calls that are no tensors of a batch."""


@contextmanager
def installed(*modules: str, capability: tuple[int, int] | None = (9, 0)) -> Iterator[None]:
    """Put stand-ins where the packages would be, on a machine with a GPU of a compute capability."""
    made = {FLASH_2: _with_probabilities, FLASH_3: _without_dropout, FLASH_4: _with_none}
    before = {name: sys.modules.get(name) for name in (*made, "flash_attn")}
    kept = library._is_installed, library.capability
    for name in modules:
        package = name.partition(".")[0]
        sys.modules.setdefault(package, ModuleType(package))
        module = sys.modules[name] = ModuleType(name)
        module.flash_attn_func, module.flash_attn_varlen_func = made[name]()
    _forget()
    CALLS.clear()
    library._is_installed = modules.__contains__
    with _capability(capability):
        try:
            yield
        finally:
            library._is_installed, _ = kept
            for name, module in before.items():
                sys.modules.pop(name, None) if module is None else sys.modules.__setitem__(name, module)
            _forget()


@contextmanager
def deterministic(*, warn_only: bool = False) -> Iterator[None]:
    """Tell torch to use deterministic algorithms."""
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def _capability(found: tuple[int, int] | None) -> Iterator[None]:
    from saccade.backends.flash import backend

    real, backend.capability = backend.capability, lambda: found
    try:
        yield
    finally:
        backend.capability = real


def _forget() -> None:
    library._imported.cache_clear()
    library._faults.cache_clear()


def _with_probabilities():
    """Version 2: dropout comes first, probabilities are a third result."""

    def flash_attn_func(
        q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0,
        alibi_slopes=None, deterministic=False, return_attn_probs=False,
    ):  # fmt: skip
        assert dropout_p == softcap == 0.0
        _record(causal, window_size, deterministic)
        out, lse = _batch(q, k, v, softmax_scale, causal, window_size, none=-1)
        return (out, lse, None) if return_attn_probs else out

    def flash_attn_varlen_func(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None,
        causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None, deterministic=False,
        return_attn_probs=False, block_table=None,
    ):  # fmt: skip
        assert dropout_p == softcap == 0.0
        lengths = (cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
        _record(causal, window_size, deterministic, lengths)
        out, lse = _packed(q, k, v, *lengths, softmax_scale, causal, window_size, none=-1)
        return (out, lse, None) if return_attn_probs else out

    return flash_attn_func, flash_attn_varlen_func


def _without_dropout():
    """Version 3: no dropout, and two results."""

    def flash_attn_func(
        q, k, v, softmax_scale=None, causal=False, qv=None, q_descale=None, k_descale=None, v_descale=None,
        window_size=(-1, -1), attention_chunk=0, softcap=0.0, num_splits=1, pack_gqa=None,
        deterministic=False, sm_margin=0, return_attn_probs=False,
    ):  # fmt: skip
        _record(causal, window_size, deterministic)
        out, lse = _batch(q, k, v, softmax_scale, causal, window_size, none=-1)
        return (out, lse) if return_attn_probs else out

    def flash_attn_varlen_func(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, seqused_q=None, seqused_k=None,
        softmax_scale=None, causal=False, qv=None, q_descale=None, k_descale=None, v_descale=None,
        window_size=(-1, -1), attention_chunk=0, softcap=0.0, num_splits=1, pack_gqa=None,
        deterministic=False, sm_margin=0, return_attn_probs=False,
    ):  # fmt: skip
        lengths = (cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
        _record(causal, window_size, deterministic, lengths)
        out, lse = _packed(q, k, v, *lengths, softmax_scale, causal, window_size, none=-1)
        return (out, lse) if return_attn_probs else out

    return flash_attn_func, flash_attn_varlen_func


def _with_none():
    """Version 4: None for no limit, always two results, lse None where nobody asked."""

    def flash_attn_func(
        q, k, v, softmax_scale=None, causal=False, window_size=(None, None), learnable_sink=None,
        softcap=0.0, num_splits=1, pack_gqa=None, deterministic=False, mask_mod=None, return_lse=False,
    ):  # fmt: skip
        _record(causal, window_size, deterministic)
        out, lse = _batch(q, k, v, softmax_scale, causal, window_size, none=None)
        return out, lse if return_lse else None

    def flash_attn_varlen_func(
        q, k, v, cu_seqlens_q=None, cu_seqlens_k=None, max_seqlen_q=None, max_seqlen_k=None, seqused_q=None,
        seqused_k=None, page_table=None, softmax_scale=None, causal=False, window_size=(None, None),
        learnable_sink=None, softcap=0.0, num_splits=1, pack_gqa=None, deterministic=False, score_mod=None,
        mask_mod=None, aux_tensors=None, return_lse=False,
    ):  # fmt: skip
        lengths = (cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
        _record(causal, window_size, deterministic, lengths)
        out, lse = _packed(q, k, v, *lengths, softmax_scale, causal, window_size, none=None)
        return out, lse if return_lse else None

    return flash_attn_func, flash_attn_varlen_func


def _record(
    causal: bool,
    window: tuple[int | None, int | None],
    ordered: bool,
    lengths: tuple[object, ...] = (),
) -> None:
    CALLS.append({"causal": causal, "window": window, "deterministic": ordered, "lengths": lengths})


def _batch(
    q: Tensor,  # [B, S, H, D]
    k: Tensor,
    v: Tensor,
    scale: float | None,
    causal: bool,
    window: tuple[int | None, int | None],
    none: int | None,
) -> tuple[Tensor, Tensor]:
    """[B, S, H, D] of q's dtype, and lse [B, H, S] float32."""
    assert q.dim() == k.dim() == v.dim() == 4
    assert q.shape[0] == k.shape[0] == v.shape[0]
    assert k.shape == v.shape
    assert q.shape[3] == k.shape[3]
    assert q.shape[2] % k.shape[2] == 0
    assert q.dtype == k.dtype == v.dtype
    assert q.dtype in (torch.float16, torch.bfloat16)
    assert isinstance(causal, bool)
    assert isinstance(window, tuple)
    group, q_len, kv_len = q.shape[2] // k.shape[2], q.shape[1], k.shape[1]
    queries = q.double().transpose(1, 2)
    keys, values = (one.double().repeat_interleave(group, 2).transpose(1, 2) for one in (k, v))
    scores = queries @ keys.mT * (1 / math.sqrt(q.shape[3]) if scale is None else scale)
    left, right = (None if limit is none else limit for limit in window)
    assert all(limit is None or limit >= 0 for limit in (left, right))
    # Version 2 reads a limit of as many keys as there are for none.
    left, right = (None if limit is not None and limit >= kv_len else limit for limit in (left, right))
    right = 0 if causal else right
    place = torch.arange(q_len)[:, None] + kv_len - q_len
    key = torch.arange(kv_len)
    seen = torch.ones(q_len, kv_len, dtype=torch.bool)
    if left is not None:
        seen &= key >= place - left
    if right is not None:
        seen &= key <= place + right
    scores = scores.masked_fill(~seen, -math.inf)
    empty = ~seen.any(-1)
    lse = scores.masked_fill(empty[:, None], 0.0).logsumexp(-1).masked_fill(empty, math.inf)
    out = torch.exp(scores - lse[..., None]) @ values
    return out.transpose(1, 2).to(q.dtype), lse.float()


def _packed(
    q: Tensor,  # [tokens, H, D]
    k: Tensor,
    v: Tensor,
    starts_q: Tensor,
    starts_k: Tensor,
    longest_q: int,
    longest_k: int,
    *options: object,
    none: int | None,
) -> tuple[Tensor, Tensor]:
    """[tokens, H, D], and lse [H, tokens]."""
    assert q.dim() == k.dim() == v.dim() == 3
    assert starts_q.dtype == starts_k.dtype == torch.int32
    assert starts_q.dim() == 1
    assert starts_q[0] == starts_k[0] == 0
    assert (starts_q[-1], starts_k[-1]) == (len(q), len(k))
    assert (int(starts_q.diff().max()), int(starts_k.diff().max())) == (longest_q, longest_k)
    parts = [
        _batch(*(each[None] for each in three), *options, none=none)
        for three in zip(
            q.split(starts_q.diff().tolist()),
            k.split(starts_k.diff().tolist()),
            v.split(starts_k.diff().tolist()),
            strict=True,
        )
    ]
    outs, lses = zip(*parts, strict=True)
    return torch.cat(outs, dim=1)[0], torch.cat(lses, dim=2)[0]
