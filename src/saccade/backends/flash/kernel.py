"""A call of a flash-attn library: layouts, windows, sequences, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from saccade.backends.base import Operands, Results
from saccade.backends.flash.library import Library
from saccade.backends.flash.sequences import sequences_of
from saccade.backends.layout import like_query
from saccade.backends.patterns import Aligned, Documents
from saccade.errors import UnsupportedError
from saccade.problem import AttentionProblem

__all__ = ["FlashKernel"]


@final
@dataclass(frozen=True)
class FlashKernel:
    """The callable of a problem. Its gradients are those of the library's own autograd function.

    Attributes:
        library: Who computes.
        problem: What is asked.
        band: Which keys a query sees, by position.
        documents: The tensors that tell documents apart; () for none.
        ordered: Whether gradients are summed in a fixed order.
    """

    library: Library
    problem: AttentionProblem
    band: Aligned
    documents: tuple[Documents, ...]
    ordered: bool = False

    def __call__(self, operands: Operands) -> Results:
        """Compute attention; see `Backend` for the equations.

        Raises:
            UnsupportedError: The library's lse is not laid out as it is documented.
        """
        problem, band = self.problem, self.band
        query = operands.query.transpose(1, 2)  # [B, Q, Hq, D]
        key, value = (
            one[:, :, band.start : band.stop].expand(problem.batch, -1, -1, -1).transpose(1, 2)
            for one in (operands.key, operands.value)
        )
        if not self.documents:
            out, lse = self._called(False, query, key, value)
            self._check(lse, (problem.batch, problem.q_heads, problem.q_len))
        else:
            sequences = sequences_of(problem, operands, self.documents)
            out, lse = self._called(
                True,
                *(one.reshape(-1, *one.shape[2:]) for one in (query, key, value)),
                cu_seqlens_q=sequences.starts,
                cu_seqlens_k=sequences.starts,
                max_seqlen_q=sequences.longest,
                max_seqlen_k=sequences.longest,
            )
            out = out.view(problem.batch, problem.q_len, *out.shape[1:])
            self._check(lse, (problem.q_heads, problem.batch * problem.q_len))
            if lse is not None:
                lse = lse.view(problem.q_heads, problem.batch, problem.q_len).transpose(0, 1)
        return Results(
            like_query(out.transpose(1, 2), operands.query),
            None if lse is None else lse.detach().contiguous(),
        )

    def _called(self, packed: bool, *tensors: Tensor, **lengths: Any) -> tuple[Tensor, Tensor | None]:
        library, band = self.library, self.band
        wants_lse = self.problem.outputs.lse
        limits = (None, None) if band.is_causal else (band.left, band.right)
        found = library.function(packed=packed)(
            *tensors,
            softmax_scale=self.problem.scale,
            causal=band.is_causal,
            window_size=tuple([library.no_limit if limit is None else limit for limit in limits]),
            **lengths,
            **{library.lse_flag: wants_lse},
            **({"deterministic": True} if self.ordered else {}),
        )
        out, *rest = found if isinstance(found, tuple) else (found,)
        return out, rest[0] if wants_lse else None

    def _check(self, lse: Tensor | None, shape: tuple[int, ...]) -> None:
        """Refuse an lse of another version's layout, which might have as many elements."""
        if lse is not None and lse.shape != shape:
            raise UnsupportedError(
                f"the installed {self.library.package} should return lse of shape {shape}, as it documents, "
                f"got shape={tuple(lse.shape)}; install a newer one ({self.library.install}), or call "
                "without lse."
            )
