"""Whether contenders compute what they are timed for: output and gradients against float64 attention.

The oracle calls the user's own functions on index tensors. Small workloads are checked whole, large ones on
rows at the start, in the middle and at the end: the gradient of the output is zero on all other rows, so that
the gradients of keys and values are those of the sampled rows alone, on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor

from saccade.bench.contenders import Contender, Inputs, Workload, drawn_seed
from saccade.bench.oracle import dense_attention
from saccade.errors import CheckError
from saccade.masks import noop_mask
from saccade.signatures import ScoreMod

__all__ = ["GradientCheck", "OutputCheck", "require_agreement", "sampled_rows"]

_CHECKED_PAIRS = 2**22  # scores that the oracle holds, over all batches and heads
_ROUNDING = 4  # times the error of plain attention in the inputs' own dtype
# The same for gradients that are sums over up to all pairs, each contender adding in an order of its own:
# torch's embedding, one after the other, was four times as far off as a sum by halves.
_SUM_ROUNDING = 16
_SEED = 0  # of torch's generator before a call that draws dropout
_NAMES = (
    "output",
    "gradient of query",
    "gradient of key",
    "gradient of value",
    "gradient of what is learned",
)


def require_agreement(work: Workload, found: Iterable[Contender]) -> None:
    """Check every contender that runs the workload's pattern, forward and, where it has them, gradients.

    Raises:
        CheckError: One of them is further from the truth than rounding explains.
    """
    check = GradientCheck(work)
    for contender in found:
        if contender.attend is not None and contender.is_same:
            check(contender)


@final
class GradientCheck:
    """Whether outputs and gradients of a workload are right; the oracle is asked once, for all contenders.

    Dropout is checked pair by pair: the oracle drops what the library's stream drops for the seed that the
    call draws.

    Args:
        work: What is computed.
        oracle: Makes its output of query, key and value, in their dtype, on every row, for a workload that
            has a plainer meaning than its mods. Default: the mods, on as many rows as can be held.

    Example:
        >>> from saccade.bench.contenders import engine
        >>> from saccade.bench.sizes import AttentionSize
        >>> work = Workload(None, None, None, AttentionSize(1, 1, 4, 4, 8), (torch.ones(1, 1, 4, 8),) * 3)
        >>> GradientCheck(work)(engine(work, "eager"))
    """

    def __init__(
        self, work: Workload, oracle: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    ) -> None:
        self._work = work
        self._rows = sampled_rows(work) if oracle is None else (range(work.size.q_len),)
        query = work.inputs[0]
        generator = torch.Generator(query.device).manual_seed(len(self._rows))
        self._upstream = torch.randn(query.shape, generator=generator, dtype=query.dtype, device=query.device)
        self._truth, plain = (
            _oracle(work, self._rows, self._upstream, dtype, oracle) for dtype in (torch.float64, query.dtype)
        )
        rounding = [_ROUNDING] * (1 + len(work.inputs)) + [_SUM_ROUNDING] * (work.learned is not None)
        unseen = _unseen_errors(work, self._upstream, self._truth)[: len(rounding)]
        self._bounds = [_bound(*one) for one in zip(plain, self._truth, rounding, unseen, strict=True)]

    def __call__(self, contender: Contender) -> None:
        """Check the output of a contender that runs and, where it has them, its gradients.

        Raises:
            CheckError: One of them is further from the truth than rounding explains.
        """
        results = _results(contender, self._work, self._rows, self._upstream)
        for name, result, true, bound in zip(_NAMES, results, self._truth, self._bounds, strict=False):
            _require_within(bound, result, true, f"{contender.name}: the {name}")


@final
class OutputCheck:
    """Whether outputs of a workload are right; the oracle is asked once, for all contenders.

    Args:
        work: What is computed.

    Example:
        >>> from saccade.bench.sizes import AttentionSize
        >>> size = AttentionSize(1, 1, 4, 4, 8)
        >>> query = torch.zeros(1, 1, 4, 8)
        >>> check = OutputCheck(Workload(None, None, None, size, (query, query, query + 2.0)))
        >>> check("right", query + 2.0)
        >>> check("wrong", query)
        Traceback (most recent call last):
        ...
        saccade.errors.CheckError: wrong: the output must be within ... is off by 2; nothing was timed
    """

    def __init__(self, work: Workload) -> None:
        self._rows = sampled_rows(work)
        self._truth, plain = (
            _outputs(work, work.inputs, work.score_mod, self._rows, dtype)
            for dtype in (torch.float64, work.inputs[0].dtype)
        )
        self._bound = _bound(plain, self._truth, _ROUNDING, 0.0)

    def __call__(self, name: str, out: Tensor) -> None:
        """Check one output.

        Args:
            name: Whose it is.
            out: `[B, Hq, Q, Dv]`.

        Raises:
            CheckError: It is further from the truth than rounding explains.
        """
        _require_within(self._bound, _taken(out, self._rows), self._truth, f"{name}: the output")


def sampled_rows(work: Workload) -> tuple[range, ...]:
    """The query rows that are checked: all of them, or as many in three places as the oracle can hold."""
    size = work.size
    count = _CHECKED_PAIRS // (size.batch * size.heads * size.kv_len)
    if count >= size.q_len:
        return (range(size.q_len),)
    height = max(1, count // 3)
    starts = {0, (size.q_len - height) // 2, size.q_len - height}
    return tuple(range(start, start + height) for start in sorted(starts))


def _results(contender: Contender, work: Workload, rows: tuple[range, ...], upstream: Tensor) -> list[Tensor]:
    """The contender's output on the rows and, where it has them, its gradients."""
    assert contender.attend is not None, "asked of contenders that run"
    if contender.backward_refusal:
        with _seeded():
            return [_taken(contender.attend(*work.inputs), rows)]
    inputs = work.inputs_with_gradients()
    with _seeded():
        out = contender.attend(*inputs)
    sparse = torch.zeros_like(upstream)
    for part in rows:
        sparse[:, :, part.start : part.stop] = upstream[:, :, part.start : part.stop]
    return [_taken(out.detach(), rows), *torch.autograd.grad(out, work.with_learned(inputs), sparse)]


def _oracle(
    work: Workload,
    rows: tuple[range, ...],
    upstream: Tensor,
    dtype: torch.dtype,
    attend: Callable[[Tensor, Tensor, Tensor], Tensor] | None,
) -> list[Tensor]:
    """Output on the rows and the gradients, computed in a dtype, by the mods or by a plainer function."""
    query, key, value = (tensor.detach().to(dtype).requires_grad_() for tensor in work.inputs)
    wanted: tuple[Tensor, ...] = (query, key, value)
    score_mod, learned = work.score_mod, work.learned
    if learned is not None:
        # A low precision is that of the scores; numbers that are learned keep theirs.
        numbers = learned.numbers.detach().to(torch.promote_types(learned.numbers.dtype, dtype))
        wanted += (numbers.requires_grad_(),)
        score_mod = learned.score_of(numbers)
    if attend is None:
        out = _outputs(work, (query, key, value), score_mod, rows, dtype)
    else:
        out = attend(query, key, value)
    taken = _taken(upstream, rows).to(dtype)
    return [out.detach(), *torch.autograd.grad(out, wanted, taken)]


def _outputs(
    work: Workload, inputs: Inputs, score_mod: ScoreMod | None, rows: tuple[range, ...], dtype: torch.dtype
) -> Tensor:
    """The output on the rows, computed in a dtype."""
    mask_mod = noop_mask if work.mask_mod is None else work.mask_mod
    changed = None if score_mod is None else _keeping_dtype(score_mod)
    dropout = None
    if work.dropout_p > 0.0:
        with _seeded():
            dropout = (drawn_seed(work), work.dropout_p)
    # Indices, and what the mods make of them, live where the inputs do.
    with inputs[0].device:
        parts = [
            dense_attention(
                *inputs, mask_mod=mask_mod, score_mod=changed, rows=part, dtype=dtype, dropout=dropout
            )
            for part in rows
        ]
    return torch.cat(parts, dim=2)


@contextmanager
def _seeded() -> Iterator[None]:
    """A state of torch's generator that is the same each time, for what is drawn inside."""
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(_SEED)
        yield


def _bound(plain: Tensor, truth: Tensor, rounding: int, unseen: float) -> float:
    """How far from the truth rounding may lead, judged by plain attention in the inputs' own dtype.

    Args:
        plain: Attention in the inputs' dtype.
        truth: The same in float64.
        rounding: How many times the error of `plain` is allowed.
        unseen: What to add to that error.
    """
    precision = torch.finfo(plain.dtype).eps
    return rounding * (float((plain - truth).abs().max()) + unseen) + precision * float(truth.abs().max())


def _unseen_errors(work: Workload, upstream: Tensor, truth: list[Tensor]) -> tuple[float, ...]:
    """Errors of rounding that plain attention may not show, in the order of `_NAMES`.

    Over few keys it is lucky: a softmax of one score is 1 exactly, and that score has no gradient. Who makes
    the weight from lse, and the gradient as the difference of two equal products of the upstream, with value
    and with output, is as right, and finds what the rounding of both leaves. It is that of float32 at least;
    where a row sees one key alone, also that of an output in the inputs' own dtype.
    """
    sees_one_key = bool((truth[1] == 0.0).all(dim=-1).any())
    dtype = upstream.dtype if sees_one_key else torch.promote_types(upstream.dtype, torch.float32)
    precision = 2 * torch.finfo(dtype).eps  # of two roundings
    query, key, value = (tensor.detach().double() for tensor in work.inputs)
    product = upstream.double().norm(dim=-1).max() * value.square().mean().sqrt()
    score = precision * float(product)
    scale = 1 / math.sqrt(work.size.head_dim)
    of_query, of_key = (score * scale * float(other.abs().max()) for other in (key, query))
    return 0.0, of_query, of_key, precision * float(upstream.abs().max()), score


def _require_within(bound: float, result: Tensor, truth: Tensor, what: str) -> None:
    error = float((result - truth).abs().max())
    if not error <= bound:
        raise CheckError(
            f"{what} must be within {bound:.2g} of float64 attention, but is off by {error:.2g}; nothing was "
            "timed"
        )


def _keeping_dtype(mod: ScoreMod) -> ScoreMod:
    """A score_mod whose tensors do not change the precision of what it is given."""

    def score_mod(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return mod(score, b, h, q_idx, kv_idx).to(score.dtype)

    return score_mod


def _taken(out: Tensor, rows: tuple[range, ...]) -> Tensor:
    return torch.cat([out[:, :, part.start : part.stop] for part in rows], dim=2)
