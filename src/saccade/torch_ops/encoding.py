"""A call as the arguments of the operator `saccade::attention`, and back.

Owns the order of things in them, field by field:

    q, k, v         query, key and value
    captures        the tensors that programs read: of the score, of the block mask, of the mask_mod, each in
                    the order of its slots
    runs            [] without a block mask, else the arrays of its `Runs`: offsets int64, start int32, stop
                    int32, kind uint8, on the host
    ints            with a block mask first its B, H, BLOCK_SIZE (queries, keys), the batches and heads that
                    its runs hold, and 1 where its blocks follow from its program, 0 where they were given;
                    then every integer number of the programs, in the order of captures
    floats          their floating numbers likewise
    score_program   the text of the score's program; "" without one
    mask_program    the text of the block mask's program, a line "&", the text of the mask_mod's program; ""
                    stands for either that is absent, and for the whole where both are
    sinks           as given, or None
    dropout_seed    int64 scalar on the host, or None
    page_table      None; reserved
    dropout_p       the probability of dropping a weight
    scale           what q·k is multiplied by
    outputs         1 for lse, plus 2 for max_scores
    backend         the engine's name

The texts say how many captures and numbers each program has, and of which type; lengths are those of the
tensors. Invariant: `decode(*encode(...))` gives the same facts and the same operands, up to the user's own
functions, which do not travel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from torch import Tensor

from saccade.backends.base import Operands
from saccade.backends.facts import problem_of
from saccade.block_mask.packed import PackedMask
from saccade.errors import UnsupportedError
from saccade.ir.dtype import DType
from saccade.ir.program import Array, Program
from saccade.ir.spelling import names_in, spelled, understood
from saccade.ir.structure import Structure
from saccade.problem import AttentionProblem, Outputs
from saccade.torch_ops.unpacking import unpacked

__all__ = ["LSE", "MAX_SCORES", "FlatCall", "decode", "encode"]

FlatCall: TypeAlias = tuple[
    Tensor,
    Tensor,
    Tensor,
    list[Tensor],
    list[Tensor],
    list[int],
    list[float],
    str,
    str,
    Tensor | None,
    Tensor | None,
    Tensor | None,
    float,
    float,
    int,
    str,
]

LSE, MAX_SCORES = 1, 2
_AND = "\n&\n"
_BLOCK_FACTS = 7


def encode(
    problem: AttentionProblem, operands: Operands, block_mask: PackedMask | None, backend: str
) -> FlatCall:
    """Write a call as the operator's arguments.

    Args:
        problem: The facts.
        operands: The tensors and programs; its block mask is not looked at.
        block_mask: The block mask in pieces, or None.
        backend: The engine that shall compute it.

    Raises:
        UnsupportedError: The attention weights are wanted, which the operator does not return.
    """
    outputs = problem.outputs
    if outputs.weights:
        raise UnsupportedError(
            "the operator saccade::attention returns no weights, and under torch.compile every engine but "
            "sdpa runs inside it; leave out AuxRequest(weights=True), or call flex_attention outside the "
            "compiled part"
        )
    score, mask = operands.score, operands.mask
    held = _Held()
    runs: tuple[Tensor, ...] = ()
    score_text = block_text = mask_text = ""
    if block_mask is not None:
        block_text, runs = block_mask.text, block_mask.runs
        held.ints += (
            *(block_mask.batch, block_mask.heads, block_mask.q_block, block_mask.kv_block),
            *(block_mask.stored_batch, block_mask.stored_heads, int(block_mask.analysed)),
        )
    if score is not None:
        score_text = spelled(score.structure, score.names)
        held.add(score.structure, score.captures, score.numbers)
    if block_mask is not None:
        held.add(understood(block_text), _detached(block_mask.captures), block_mask.numbers)
    if mask is not None:
        mask_text = spelled(mask.structure, mask.names)
        held.add(mask.structure, _detached(mask.captures), mask.numbers)
    return (
        operands.query,
        operands.key,
        operands.value,
        held.captures,
        list(runs),
        held.ints,
        held.floats,
        score_text,
        f"{block_text}{_AND}{mask_text}" if block_text or mask_text else "",
        operands.sinks,
        operands.dropout_seed,
        None,
        problem.dropout_p,
        problem.scale,
        LSE * outputs.lse + MAX_SCORES * outputs.max_scores,
        backend,
    )


class _Held:
    """What the programs of a call hold, in the order in which it travels."""

    def __init__(self) -> None:
        self.captures: list[Any] = []
        self.ints: list[Any] = []
        self.floats: list[float] = []

    def add(self, structure: Structure, captures: Sequence[Array], numbers: Sequence[int | float]) -> None:
        """Add what one program holds."""
        self.captures += captures
        for dtype, number in zip(structure.numbers, numbers, strict=True):
            if dtype is DType.INT64:
                self.ints.append(number)
            else:
                self.floats.append(float(number))


def _detached(captures: Sequence[Array]) -> list[Array]:
    """The tensors that a mask reads: through a bool flows no gradient."""
    return [one.detach() if isinstance(one, Tensor) and one.requires_grad else one for one in captures]


def decode(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    captures: Sequence[Tensor],
    runs: Sequence[Tensor],
    ints: Sequence[int],
    floats: Sequence[float],
    score_program: str,
    mask_program: str,
    sinks: Tensor | None,
    dropout_seed: Tensor | None,
    page_table: Tensor | None,
    dropout_p: float,
    scale: float,
    outputs: int,
    backend: str,
) -> tuple[AttentionProblem, Operands]:
    """Read the operator's arguments; see `encode`. Both the page table and the backend are for others."""
    block_text, _, mask_text = mask_program.partition(_AND)
    held = _Reader(captures, ints, floats)
    facts = [held.integer() for _ in range(_BLOCK_FACTS)] if runs else []
    score = held.program(score_program)
    block_mask = None
    if runs:
        program = held.program(block_text)
        assert program is not None, "runs are those of a program"
        batch, heads, q_block, kv_block, stored_batch, stored_heads, analysed = facts
        block_mask = unpacked(
            PackedMask(
                block_text,
                program.numbers,
                batch,
                heads,
                query.shape[2],
                key.shape[2],
                q_block,
                kv_block,
                stored_batch,
                stored_heads,
                bool(analysed),
                query.device,
                program.captures,  # type: ignore[arg-type]
                tuple(runs),
            )
        )
    operands = Operands(
        query,
        key,
        value,
        score=score,
        block_mask=block_mask,
        mask=held.program(mask_text),
        sinks=sinks,
        dropout_seed=dropout_seed,
    )
    wanted = Outputs(lse=bool(outputs & LSE), max_scores=bool(outputs & MAX_SCORES))
    return problem_of(operands, scale=scale, dropout_p=dropout_p, outputs=wanted), operands


class _Reader:
    """Reads what `_Held` wrote."""

    def __init__(self, captures: Sequence[Tensor], ints: Sequence[int], floats: Sequence[float]) -> None:
        self._captures, self._ints, self._floats = iter(captures), iter(ints), iter(floats)

    def integer(self) -> int:
        """The next integer."""
        return next(self._ints)

    def program(self, text: str) -> Program | None:
        """The next program; None for the text of none."""
        if not text:
            return None
        structure = understood(text)
        if not structure.captures and not structure.numbers:
            return Program(structure)
        captures = tuple([next(self._captures) for _ in structure.captures])
        numbers = tuple(
            [next(self._ints if dtype is DType.INT64 else self._floats) for dtype in structure.numbers]
        )
        return Program(structure, captures, numbers, names_in(text))
