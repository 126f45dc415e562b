"""A call as the arguments of the operator `saccade::attention`, and back.

Owns the order of things in them, which `FlatCall` tells field by field.

The texts say how many captures and numbers each program has, and of which type; lengths are those of the
tensors. Invariant: `decode(*encode(...))` gives the same facts and the same operands, up to the user's own
functions, which do not travel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

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

LSE, MAX_SCORES = 1, 2
_AND = "\n&\n"
_BLOCK_FACTS = 7


class FlatCall(NamedTuple):
    """The arguments of the operator, in its schema's order.

    Attributes:
        query: As it is.
        key: As it is.
        value: As it is.
        captures: The tensors that programs read: of the score, of the block mask, of the mask_mod, each in
            the order of its slots; then those that the block mask was made from.
        runs: [] without a block mask, else the arrays of its `Runs`: offsets int64, start int32, stop int32,
            kind uint8; and how the tensors that it was made from were marked, `PackedMask.marks`. All on the
            host.
        ints: With a block mask first its B, H, BLOCK_SIZE (queries, keys), the batches and heads that its
            runs hold, and 1 where its blocks follow from its program, 0 where they were given; then every
            integer number of the programs, in the order of captures.
        floats: Their floating numbers likewise.
        score_program: The text of the score's program; "" without one.
        mask_program: The text of the block mask's program, a line "&", the text of the mask_mod's program; ""
            stands for either that is absent, and for the whole where both are. Where the block mask was made
            from tensors, another line "&" and their names, a line each.
        sinks: As given, or None.
        dropout_seed: int64 scalar on the host, or None.
        page_table: None; reserved.
        dropout_p: The probability of dropping a weight.
        scale: What q·k is multiplied by.
        outputs: 1 for lse, plus 2 for max_scores.
        backend: The engine's name.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    captures: list[Tensor]
    runs: list[Tensor]
    ints: list[int]
    floats: list[float]
    score_program: str
    mask_program: str
    sinks: Tensor | None
    dropout_seed: Tensor | None
    page_table: None
    dropout_p: float
    scale: float
    outputs: int
    backend: str

    @property
    def tensors(self) -> list[Tensor | None]:
        """The tensors of the call, but for the block mask's own: q, k, v, sinks, seed, captures."""
        return [self.query, self.key, self.value, self.sinks, self.dropout_seed, *self.captures]

    def with_tensors(self, tensors: Sequence[Tensor | None]) -> FlatCall:
        """Return the call with other tensors, in the order of `tensors`."""
        query, key, value, sinks, seed, *captures = tensors
        changed: dict[str, Any] = {"query": query, "key": key, "value": value, "captures": captures}
        return self._replace(**changed, sinks=sinks, dropout_seed=seed)

    @property
    def score_captures(self) -> int:
        """How many of the captures are the score's; they are the first ones."""
        return len(understood(self.score_program).captures) if self.score_program else 0


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
    runs: list[Tensor] = []
    score_text = block_text = mask_text = ""
    if block_mask is not None:
        block_text, runs = block_mask.text, [*block_mask.runs, block_mask.marks]
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
    texts = [block_text, mask_text] if block_text or mask_text else []
    if block_mask is not None and block_mask.watched:
        held.captures += _detached(block_mask.watched)
        texts.append("\n".join(block_mask.watched_names))
    return FlatCall(
        operands.query,
        operands.key,
        operands.value,
        held.captures,
        runs,
        held.ints,
        held.floats,
        score_text,
        _AND.join(texts),
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


def decode(call: FlatCall) -> tuple[AttentionProblem, Operands]:
    """Read the operator's arguments; see `encode`. Both the page table and the backend are for others."""
    block_text, mask_text, names = [*call.mask_program.split(_AND), "", ""][:3]
    held = _Reader(call)
    facts = [held.integer() for _ in range(_BLOCK_FACTS)] if call.runs else []
    score = held.program(call.score_program)
    block_program = held.program(block_text)
    mask = held.program(mask_text)
    block_mask = None
    if block_program is not None:
        batch, heads, q_block, kv_block, stored_batch, stored_heads, analysed = facts
        *runs, marks = call.runs
        block_mask = unpacked(
            PackedMask(
                block_text,
                block_program.numbers,
                batch,
                heads,
                call.query.shape[2],
                call.key.shape[2],
                q_block,
                kv_block,
                stored_batch,
                stored_heads,
                bool(analysed),
                call.query.device,
                watched_names=tuple(names.split("\n")) if names else (),
                watched=held.other_captures(),
                captures=block_program.captures,  # type: ignore[arg-type]
                runs=tuple(runs),
                marks=marks,
            )
        )
    operands = Operands(
        call.query,
        call.key,
        call.value,
        score=score,
        block_mask=block_mask,
        mask=mask,
        sinks=call.sinks,
        dropout_seed=call.dropout_seed,
    )
    wanted = Outputs(lse=bool(call.outputs & LSE), max_scores=bool(call.outputs & MAX_SCORES))
    return problem_of(operands, scale=call.scale, dropout_p=call.dropout_p, outputs=wanted), operands


class _Reader:
    """Reads what `_Held` wrote."""

    def __init__(self, call: FlatCall) -> None:
        self._captures, self._ints, self._floats = iter(call.captures), iter(call.ints), iter(call.floats)

    def integer(self) -> int:
        """The next integer."""
        return next(self._ints)

    def other_captures(self) -> tuple[Tensor, ...]:
        """The tensors that no program reads."""
        return tuple(self._captures)

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
