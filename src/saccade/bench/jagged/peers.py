"""Who takes part in attention over jagged batches, and how each is called.

Every contender is given the same packed tensors `[1, H, S, D]` and new offsets of the sequences at each call,
and gives back such a tensor. What it makes of them, a block mask, nested tensors, padding and its removal, is
part of its call: lengths change with every batch. Torch's `flex_attention` is no peer: it has no gradients on
a CPU.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from saccade.attention import flex_attention
from saccade.bench.contenders import Contender, Inputs, Workload
from saccade.bench.cpu.peers import OURS
from saccade.bench.jagged.cases import JaggedCase
from saccade.bench.train.peers import engine_with_gradients
from saccade.masks import causal

__all__ = ["EACH", "NESTED", "OURS", "PADDED", "PADDED_MASK", "participants", "torch_unheard"]

NESTED = "SDPA nested"
PADDED = "padded, no mask"
PADDED_MASK = "padded + mask"
EACH = "SDPA each"

_LOGS = ("torch.nested._internal.sdpa", "torch.fx._symbolic_trace")


def participants(case: JaggedCase, work: Workload, *, backend: str) -> list[Contender]:
    """Return who takes part in a case, ours first.

    Args:
        case: What is measured.
        work: Its packed form.
        backend: The backend of ours.
    """
    found = [_ours(case, work, backend), _nested(case), _padded_with_mask(case)]
    if case.mask_mod is causal:
        found.append(_padded(case))
    return [*found, _each(case)]


def _ours(case: JaggedCase, work: Workload, backend: str) -> Contender:
    """`flex_attention` on nested tensors, whose block mask is made at every call, as the offsets are new."""
    planned = engine_with_gradients(work, backend)
    batch, mask_mod = case.sequences, case.mask_mod

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q, k, v = _nestings(batch.offsets, query, key, value)
        return _packed_of_nested(flex_attention(q, k, v, mask_mod=mask_mod, backend=backend))

    return planned if planned.attend is None else replace(planned, attend=attend)


def _nested(case: JaggedCase) -> Contender:
    """SDPA on torch's nested tensors."""
    batch, is_causal = case.sequences, case.mask_mod is causal

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q, k, v = _nestings(batch.offsets, query, key, value)
        return _packed_of_nested(scaled_dot_product_attention(q, k, v, is_causal=is_causal))

    return Contender(NESTED, 1.0, attend)


def _padded_with_mask(case: JaggedCase) -> Contender:
    """SDPA on padded tensors, with a mask that hides the padding and what the pattern hides."""
    batch, is_causal = case.sequences, case.mask_mod is causal

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        kept = _kept(batch.offsets)
        visible = kept[:, None, None, :]
        if is_causal:
            visible = visible & torch.ones(kept.shape[1], kept.shape[1], dtype=torch.bool).tril()
        q, k, v = _paddings(kept, query, key, value)
        return _packed_of_padded(kept, scaled_dot_product_attention(q, k, v, attn_mask=visible))

    return Contender(PADDED_MASK, 1.0, attend)


def _padded(case: JaggedCase) -> Contender:
    """Causal SDPA on tensors padded at their end, which no query of a sequence sees: exact without a mask."""
    batch = case.sequences

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        kept = _kept(batch.offsets)
        q, k, v = _paddings(kept, query, key, value)
        return _packed_of_padded(kept, scaled_dot_product_attention(q, k, v, is_causal=True))

    return Contender(PADDED, 1.0, attend)


def _each(case: JaggedCase) -> Contender:
    """SDPA once for every sequence, in a Python loop."""
    batch, is_causal = case.sequences, case.mask_mod is causal

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        lengths = batch.offsets.diff().tolist()
        parts = zip(*(torch.split(one, lengths, dim=2) for one in (query, key, value)), strict=True)
        outputs = [scaled_dot_product_attention(q, k, v, is_causal=is_causal) for q, k, v in parts]
        return torch.cat(outputs, dim=2)

    return Contender(EACH, 1.0, attend)


@contextmanager
def torch_unheard() -> Iterator[None]:
    """Keep torch from telling, at first calls on nested tensors, what it lacks; its errors say so too."""
    levels = {name: logging.getLogger(name).level for name in _LOGS}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The PyTorch API of nested tensors is in prototype stage")
        try:
            for name in levels:
                logging.getLogger(name).setLevel(logging.ERROR)
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


def _nestings(offsets: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Inputs:
    """Nested `[B, H, j, D]` of packed `[1, H, S, D]`."""

    def nesting(packed: Tensor) -> Tensor:
        nested: Tensor = torch.nested.nested_tensor_from_jagged(packed.squeeze(0).transpose(0, 1), offsets)
        return nested.transpose(1, 2)

    return nesting(query), nesting(key), nesting(value)


def _packed_of_nested(nested: Tensor) -> Tensor:
    """Packed `[1, H, S, D]` of nested `[B, H, j, D]`."""
    return nested.transpose(1, 2).values().transpose(0, 1)[None]


def _kept(offsets: Tensor) -> Tensor:
    """`[B, longest]`: which places of padded sequences are no padding."""
    lengths = offsets.diff()
    return torch.arange(int(lengths.max())) < lengths[:, None]


def _paddings(kept: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Inputs:
    """Padded `[B, H, longest, D]` of packed `[1, H, S, D]`."""
    places = kept.flatten().nonzero()[:, 0]

    def padding(packed: Tensor) -> Tensor:
        rows = packed.squeeze(0).transpose(0, 1)
        padded = rows.new_zeros(kept.numel(), *rows.shape[1:]).index_copy(0, places, rows)
        return padded.view(*kept.shape, *rows.shape[1:]).transpose(1, 2)

    return padding(query), padding(key), padding(value)


def _packed_of_padded(kept: Tensor, padded: Tensor) -> Tensor:
    """Packed `[1, H, S, D]` of padded `[B, H, longest, D]`."""
    places = kept.flatten().nonzero()[:, 0]
    rows = padded.transpose(1, 2).flatten(0, 1).index_select(0, places)
    return rows.transpose(0, 1)[None]
