"""Whether a contender on a GPU computes what it is timed for, at sizes whose every score nobody can hold.

Two checks. Some heads, first, middle and last, against float64 attention by the user's own functions, output
and gradients: the contender computes the whole call, of which that head is a part. And everything against
everyone: outputs and gradients of all heads and rows, none of them infinite or NaN, tile by tile against the
first contender that the other check found right.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, final

import torch
from torch import Tensor
from torch.nn.functional import pad

from saccade.bench.agreement import GradientCheck, OutputCheck
from saccade.bench.contenders import Contender, Inputs, Workload
from saccade.bench.sizes import AttentionSize
from saccade.errors import CheckError
from saccade.signatures import MaskMod, ScoreMod

__all__ = ["Consensus", "HeadChecks", "poison_memory"]

_TILE = 64  # rows that are compared as one
_NAMES = ("output", "gradient of query", "gradient of key", "gradient of value")


class _Group(NamedTuple):
    """One kv head of one batch entry, and the query heads that read it."""

    batch: int
    kv_head: int
    size: int  # query heads

    def of(self, tensor: Tensor, *, is_query: bool) -> Tensor:
        """This part of a tensor `[B, H, S, D]`, as `[1, heads, S, D]`."""
        start, count = (self.kv_head * self.size, self.size) if is_query else (self.kv_head, 1)
        return tensor[self.batch : self.batch + 1, start : start + count]


@final
class HeadChecks:
    """Some heads of a workload against float64 attention; the oracle is asked once, for all contenders.

    Args:
        work: What is computed.
        gradients: Whether gradients are checked beside the output.

    Example:
        >>> from saccade.bench.contenders import engine
        >>> from saccade.bench.gpu.cases import GpuCase
        >>> from saccade.bench.gpu.workloads import make_workload
        >>> case = GpuCase("causal", 32, 16, batch=2, heads=4, kv_heads=4)
        >>> work = make_workload(case, torch.device("cpu"), torch.float32)
        >>> HeadChecks(work, gradients=True)(engine(work, "eager"))
    """

    def __init__(self, work: Workload, *, gradients: bool) -> None:
        self._work = work
        check = _gradient_check if gradients else _output_check
        self._checks = [check(work, group) for group in _groups(work)]

    def __call__(self, contender: Contender) -> None:
        """Check a contender that runs.

        Raises:
            CheckError: A result is further from the truth than rounding explains.
        """
        for check in self._checks:
            check(contender)


@final
class Consensus:
    """Whole results of one contender after another, held against the first one's.

    Args:
        work: What is computed.
        gradients: Whether gradients are compared beside outputs.
    """

    def __init__(self, work: Workload, *, gradients: bool) -> None:
        self._work, self._gradients = work, gradients
        query = work.inputs[0]
        generator = torch.Generator(query.device).manual_seed(1)
        self._upstream = torch.randn(query.shape, generator=generator, device=query.device).to(query.dtype)
        self._first: tuple[str, list[Tensor]] | None = None

    def __call__(self, contender: Contender) -> float:
        """Compare a contender that runs; the first one is only looked through.

        Returns:
            The largest difference of a tile of 64 rows, as a share of what it holds, or of what the tiles of
            its head hold in the mean where that is more; 0 for the first contender.

        Raises:
            CheckError: A number is infinite or NaN, or a tile shares less than half of the digits.
        """
        results = self._results(contender)
        for name, result in zip(_NAMES, results, strict=False):
            if not bool(result.isfinite().all()):
                raise CheckError(
                    f"{contender.name}: the {name} must be finite everywhere, but "
                    f"{int((~result.isfinite()).sum()):,} of {result.numel():,} numbers are not; nothing was "
                    "timed"
                )
        if self._first is None:
            self._first = contender.name, results
            return 0.0
        other, expected = self._first
        # Half of the digits that the dtype has: rounding takes a few of the last, a tile left out takes all.
        allowed = math.sqrt(torch.finfo(self._upstream.dtype).eps)
        largest = 0.0
        for name, result, true in zip(_NAMES, results, expected, strict=False):
            found = _tile_difference(result, true)
            if not found <= allowed:
                raise CheckError(
                    f"{contender.name}: the {name} must agree with that of {other} to {allowed:.2g} of its "
                    f"tiles' size, but a tile is off by {found:.2g}; nothing was timed"
                )
            largest = max(largest, found)
        return largest

    def _results(self, contender: Contender) -> list[Tensor]:
        """Output and, where wanted and had, the gradients of the inputs, in memory that held NaN."""
        assert contender.attend is not None, "asked of contenders that run"
        query, key, value = self._work.inputs
        if not self._gradients or contender.backward_refusal:
            poison_memory(query)
            return [contender.attend(query, key, value)]
        inputs = self._work.inputs_with_gradients()
        poison_memory(query)
        out = contender.attend(*inputs)
        poison_memory(query, key, value)
        return [out.detach(), *torch.autograd.grad(out, inputs, self._upstream)]


def poison_memory(*shapes: Tensor) -> None:
    """Leave NaN in memory that the next tensors of these shapes are likely to be made in.

    Torch keeps freed memory of a device for its next tensors, so what a kernel never wrote shows as NaN.
    """
    blocks = [torch.full_like(one, math.nan) for one in shapes for _ in range(2)]
    del blocks


def _groups(work: Workload) -> list[_Group]:
    """The first, middle and last kv head of the first, middle and last batch entry."""
    batch, kv_heads = work.inputs[1].shape[:2]
    size = work.inputs[0].shape[1] // kv_heads
    corners = {(0, 0), (batch // 2, kv_heads // 2), (batch - 1, kv_heads - 1)}
    return [_Group(b, head, size) for b, head in sorted(corners)]


def _gradient_check(work: Workload, group: _Group) -> Callable[[Contender], object]:
    part = _part(work, group)
    check = GradientCheck(part)

    def run(contender: Contender) -> None:
        attend = contender.attend
        assert attend is not None, "asked of contenders that run"

        def attend_part(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            parts = (query, key, value)
            whole = [
                _placed(tensor, one, group, is_query=number == 0)
                for number, (tensor, one) in enumerate(zip(work.inputs, parts, strict=True))
            ]
            poison_memory(work.inputs[0])
            return group.of(attend(*whole), is_query=True)

        check(Contender(contender.name, 1.0, attend_part, backward_refusal=contender.backward_refusal))

    return run


def _output_check(work: Workload, group: _Group) -> Callable[[Contender], object]:
    check = OutputCheck(_part(work, group))

    def run(contender: Contender) -> None:
        assert contender.attend is not None, "asked of contenders that run"
        poison_memory(work.inputs[0])
        check(contender.name, group.of(contender.attend(*work.inputs), is_query=True))

    return run


def _part(work: Workload, group: _Group) -> Workload:
    """The workload of one group alone: its inputs, and mods that count batches and heads from there."""
    query, key, value = (
        group.of(tensor, is_query=number == 0).clone() for number, tensor in enumerate(work.inputs)
    )
    inputs: Inputs = (query, key, value)
    batch, head = group.batch, group.kv_head * group.size
    size = AttentionSize(1, group.size, work.size.q_len, work.size.kv_len, work.size.head_dim)
    return Workload(
        None if work.score_mod is None else _score_from(work.score_mod, batch, head),
        None if work.mask_mod is None else _mask_from(work.mask_mod, batch, head),
        None,
        size,
        inputs,
    )


def _score_from(mod: ScoreMod, batch: int, head: int) -> ScoreMod:
    def score_mod(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return mod(score, b + batch, h + head, q_idx, kv_idx)

    return score_mod


def _mask_from(mod: MaskMod, batch: int, head: int) -> MaskMod:
    def mask_mod(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return mod(b + batch, h + head, q_idx, kv_idx)

    return mask_mod


def _placed(whole: Tensor, part: Tensor, group: _Group, *, is_query: bool) -> Tensor:
    """The whole tensor with a part in its place, through which gradients reach the part."""
    placed = whole.detach().clone()
    group.of(placed, is_query=is_query).copy_(part)
    return placed


def _tile_difference(result: Tensor, true: Tensor) -> float:
    """The largest norm of a difference over a tile of rows, as a share of what the tile or its head holds.

    Args:
        result: `[B, H, S, D]`.
        true: The same.
    """
    differences, sizes = (_tile_norms(one) for one in (result.float() - true.float(), true.float()))
    # A tile that holds little, as one of few keys does of gradients, has the rounding of what surrounds it.
    held = torch.maximum(sizes, sizes.square().mean(dim=-1, keepdim=True).sqrt())
    # A head of zeros must be met by zeros.
    shares = torch.where(held > 0.0, differences / held, torch.where(differences > 0.0, math.inf, 0.0))
    return float(shares.max())


def _tile_norms(tensor: Tensor) -> Tensor:
    """The norm of each tile of rows, `[B, H, tiles]`."""
    squares = tensor.square().sum(dim=-1)
    rest = -squares.shape[-1] % _TILE
    padded = pad(squares, (0, rest))
    return padded.view(*squares.shape[:2], -1, _TILE).sum(dim=-1).sqrt()
