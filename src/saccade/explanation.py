"""What would happen to a call, and why: for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from types import MappingProxyType
from typing import final

from saccade.analysis.runs import BlockKind
from saccade.backends.base import Operands
from saccade.backends.registry import candidates, load
from saccade.block_mask import BlockMask, create_block_mask
from saccade.errors import BackendError
from saccade.ir.program import Program, conjunction
from saccade.planner import AUTO, plan, reasons_against
from saccade.problem import AttentionProblem
from saccade.schedule import Schedule

__all__ = ["Explanation", "explain_problem"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """A call, read and planned. Printing it shows everything.

    Attributes:
        problem: The facts of the call.
        backend: Who would run it; None where every candidate refuses.
        schedule: How it would be run: the hints, completed by the backend.
        reasons: Every backend's reasons not to, in the order `auto` asks; empty for those that could.
        score: The traced score_mod; None where scores are unchanged.
        mask: The traced mask, block_mask and mask_mod together; None where nothing is hidden.
        blocks: The mask sorted into blocks; None likewise, and where it cannot be (given blocks and a
            mask_mod).
    """

    problem: AttentionProblem
    backend: str | None
    schedule: Schedule
    reasons: Mapping[str, tuple[str, ...]]
    score: Program | None
    mask: Program | None
    blocks: BlockMask | None

    @property
    def density(self) -> float | None:
        """The part of all pairs that is visible, in [0, 1]; None where there are no blocks to count."""
        if self.blocks is None:
            return 1.0 if self.mask is None else None
        return self.blocks.density()

    @property
    def work(self) -> float | None:
        """The part of all blocks that a block-sparse engine computes, in [0, 1]; None likewise."""
        if self.blocks is None:
            return 1.0 if self.mask is None else None
        batch, heads, rows, columns = self.blocks.runs.shape
        kinds = self.blocks.runs.counts()
        held = kinds[BlockKind.PARTIAL] + kinds[BlockKind.FULL]
        return held / max(batch * heads * rows * columns, 1)

    def __repr__(self) -> str:
        lines = [self._shapes()]
        if self.score is not None:
            lines += ["score_mod:", _indented(repr(self.score))]
        if self.mask is not None:
            lines += ["mask:", _indented(repr(self.mask))]
        if self.blocks is not None:
            lines += [f"blocks: {self.blocks!r}", _indented(self.blocks.to_string(limit=1).strip("\n"))]
        work = self._work()
        lines += [work] if work else []
        lines += [f"backend: {self.backend or 'none takes this call'}{self._settings()}", *self._candidates()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        parts = [f"<p>{escape(self._shapes())}</p>"]
        for name, program in (("score_mod", self.score), ("mask", self.mask)):
            if program is not None:
                parts.append(f"<details><summary>{name}</summary>{program._repr_html_()}</details>")
        if self.blocks is not None:
            parts.append(self.blocks._repr_html_())
        work = self._work()
        if work:
            parts.append(f"<p>{escape(work)}</p>")
        rows = "".join(
            f"<tr><td>{escape(name)}</td><td>{verdict}</td><td>{'<br>'.join(map(escape, reasons))}</td></tr>"
            for name, verdict, reasons in self._verdicts()
        )
        backend = escape(self.backend or "none takes this call")
        parts.append(f"<p>backend: <b>{backend}</b>{escape(self._settings())}</p>")
        parts.append(f'<table style="text-align:left">{rows}</table>')
        return f'<div style="font-family:sans-serif;font-size:90%">{"".join(parts)}</div>'

    def _work(self) -> str:
        density, work = self.density, self.work
        if density is None or work is None:
            return ""
        return f"visible pairs: {density:.1%}; blocks to compute: {work:.1%}, saved: {1 - work:.1%}"

    def _settings(self) -> str:
        """What is known of how the backend would run, as an apposition to its name."""
        schedule = self.schedule
        known = {name: value for name, value in vars(schedule).items() if value not in (None, ())}
        known.update(known.pop("engine_options", ()))
        return "".join(f", {name} {value}" for name, value in known.items())

    def _shapes(self) -> str:
        p = self.problem
        return (
            f"flex_attention on {p.device}, {p.dtype.name.lower()}: query "
            f"{[p.batch, p.q_heads, p.q_len, p.head_dim]}, "
            f"key {[p.kv_batch, p.kv_heads, p.kv_len, p.head_dim]}, "
            f"value {[p.kv_batch, p.kv_heads, p.kv_len, p.value_dim]}, scale {p.scale:.6g}"
            + (", with gradients" if p.needs_grad else "")
        )

    def _candidates(self) -> list[str]:
        lines = []
        for name, verdict, reasons in self._verdicts():
            lines.append(f"  {name}: {verdict}" + (":" if reasons else ""))
            lines.extend(f"    - {reason}" for reason in reasons)
        return lines

    def _verdicts(self) -> list[tuple[str, str, tuple[str, ...]]]:
        """Each backend's name, what became of it, and why."""
        return [
            (name, "taken", ())
            if name == self.backend
            else (name, "cannot take it" if reasons else "could take it", reasons)
            for name, reasons in self.reasons.items()
        ]


def explain_problem(
    problem: AttentionProblem, operands: Operands, backend: str = AUTO, schedule: Schedule | None = None
) -> Explanation:
    """Plan a call and gather what there is to say about it.

    Args:
        problem: What is asked.
        operands: The call's tensors and mods; tensors are not read, but those a mask reads are.
        backend: A backend's name, or "auto".
        schedule: Hints for the backend.

    Returns:
        The explanation; a refusal by every candidate is one too.
    """
    by_name = backend != AUTO
    hints = schedule or Schedule()
    try:
        chosen = plan(problem, backend, hints).backend
    except BackendError:
        chosen = None
    asked = candidates(problem.device)
    if by_name and backend not in asked:
        asked = (*asked, backend)
    reasons = {
        name: tuple(reasons_against(problem, name, asked_by_name=by_name and name == backend))
        for name in asked
    }
    return Explanation(
        problem=problem,
        backend=chosen,
        schedule=hints if chosen is None else load(chosen).schedule(problem, hints),
        reasons=MappingProxyType(reasons),
        score=operands.score,
        mask=_joint_mask(operands),
        blocks=_joint_blocks(problem, operands),
    )


def _joint_mask(operands: Operands) -> Program | None:
    mask, block_mask = operands.mask, operands.block_mask
    if block_mask is None:
        return mask
    return block_mask.program if mask is None else conjunction(block_mask.program, mask)


def _joint_blocks(problem: AttentionProblem, operands: Operands) -> BlockMask | None:
    mask, block_mask = operands.mask, operands.block_mask
    if mask is None or problem.scores == 0:
        return block_mask
    if block_mask is not None:
        if not block_mask.analysed:
            return None
        mask = conjunction(block_mask.program, mask)
    batch, heads = problem.batch if mask.reads("b") else None, problem.q_heads if mask.reads("h") else None
    size = 128 if block_mask is None else block_mask.BLOCK_SIZE
    return create_block_mask(
        mask, batch, heads, problem.q_len, problem.kv_len, device=operands.query.device, BLOCK_SIZE=size
    )


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())
