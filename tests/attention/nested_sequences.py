"""Nested tensors to test with, and what their sequences give one at a time: the oracle of nested calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from torch import Tensor

import low_precision
import oracle
from saccade import BlockMask, flex_attention
from saccade.attention import sequences

ENGINES = ("eager", "cpu")
HEADS, DIM = 4, 16
LENGTHS = (3, 0, 130, 1, 37)

Attend = Callable[..., tuple[Tensor, Tensor]]


def offsets_of(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def leaves_of(
    lengths: Sequence[int],
    kv_lengths: Sequence[int] | None = None,
    *,
    kv_heads: int = HEADS,
    dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    """Packed values [total, H, D] of a query, a key and a value."""
    keys = sum(lengths if kv_lengths is None else kv_lengths)
    shapes = ((sum(lengths), HEADS, DIM), (keys, kv_heads, DIM), (keys, kv_heads, 8))
    return [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]


def nest(values: Tensor, offsets: Tensor) -> Tensor:
    """[B, H, j, D] of [total, H, D]."""
    return torch.nested.nested_tensor_from_jagged(values, offsets).transpose(1, 2)


def nested(
    leaves: Sequence[Tensor], lengths: Sequence[int], kv_lengths: Sequence[int] | None = None
) -> list[Tensor]:
    offsets = offsets_of(lengths)
    kv_offsets = offsets if kv_lengths is None else offsets_of(kv_lengths)
    return [nest(one, each) for one, each in zip(leaves, (offsets, kv_offsets, kv_offsets), strict=True)]


def of_sequence(mod: Any, number: int) -> Any:
    """A mod as it is asked about one sequence of the batch."""
    if mod is None:
        return None
    return lambda *at: mod(*at[:-4], torch.tensor(number), *at[-3:])


def one_by_one(
    attend: Attend,
    leaves: Sequence[Tensor],
    lengths: Sequence[int],
    kv_lengths: Sequence[int] | None = None,
    *,
    mask: Any = None,
    score: Any = None,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """The output [H, total, Dv] and lse [H, total] of each sequence alone."""
    outs, lses = [], []
    bounds = (pairwise(offsets_of(each).tolist()) for each in (lengths, kv_lengths or lengths))
    for number, (rows, columns) in enumerate(zip(*bounds, strict=True)):
        query, key, value = (
            one[slice(*part)].transpose(0, 1)[None]
            for one, part in zip(leaves, (rows, columns, columns), strict=True)
        )
        mods = {"mask": of_sequence(mask, number), "score": of_sequence(score, number)}
        out, lse = attend(query, key, value, **mods, **options)
        outs.append(out[0])
        lses.append(lse[0])
    return torch.cat(outs, dim=1), torch.cat(lses, dim=1)


def exactly(*tensors: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    found = oracle.attention(*tensors, **options)
    return found.out, found.lse


@contextmanager
def one_thread() -> Iterator[None]:
    """For small products, where torch's threads wait for each other most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def assert_like_the_oracle(
    leaves: Sequence[Tensor],
    lengths: Sequence[int],
    kv_lengths: Sequence[int] | None = None,
    *,
    learned: Sequence[Tensor] = (),
    mask: Any = None,
    score: Any = None,
    enable_gqa: bool = False,
    backends: Sequence[str] = ("cpu",),
    block_masks: Sequence[BlockMask | None] = (None,),
    **options: Any,
) -> None:
    """Output, lse and every gradient are as good as those of an independent computation of that precision.

    Every backend is asked, under each of some block masks that say what `mask` says.
    """
    dtype, wanted = leaves[0].dtype, [*leaves, *learned]
    asked = {"mask": mask, "score": score, **options}
    doubles = [one.detach().double().requires_grad_() for one in leaves]
    with one_thread():
        theirs = one_by_one(low_precision.attention, leaves, lengths, kv_lengths, **asked)
        exact = one_by_one(exactly, doubles, lengths, kv_lengths, **asked)
        their_gradients = low_precision.gradients(theirs, wanted, dtype)
        exact_gradients = low_precision.gradients(exact, [*doubles, *learned], dtype)
    for backend, block_mask in product(backends, block_masks):
        results = flex_attention(
            *nested(leaves, lengths, kv_lengths),
            score,
            mask_mod=None if block_mask is not None else mask,
            block_mask=block_mask,
            return_lse=True,
            enable_gqa=enable_gqa,
            backend=backend,
            **options,
        )
        mine = [one.values() for one in results]
        low_precision.assert_as_good(
            [seen(one) for one in mine],
            [seen(one).to(each.dtype) for one, each in zip(theirs, mine, strict=True)],
            [seen(one) for one in exact],
        )
        found = low_precision.gradients(mine, wanted, dtype)
        low_precision.assert_as_good(found, their_gradients, exact_gradients)


def seen(result: Tensor) -> Tensor:
    """Without the −inf of lse in rows that see nothing."""
    return result.detach().masked_fill(result.isneginf(), 0.0)


def near(score, b, h, q_idx, kv_idx):
    return score - 0.25 * (q_idx - kv_idx).abs()


def counted(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every analysis from now on that nested tensors ask for."""
    asked: list[object] = []
    make = sequences.create_block_mask

    def noted(mod: Any, *args: Any) -> BlockMask:
        asked.append(mod)
        return make(mod, *args)

    monkeypatch.setattr(sequences, "create_block_mask", noted)
    return asked
