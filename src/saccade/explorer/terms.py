"""The terms of a mask: what hides a pair, as a tree that people recognise.

A mask made by operators is split where its operators are, and its parts bear the names they were given. Below
a part, and where a mask has no more than its program, the program is split at its logic. Owns the tree;
whether a term holds at a pair is `evaluate.js`'s. Invariant: the truth of the tree is the mask's at every
pair.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, final

from saccade.analysis.runs import BlockKind
from saccade.block_mask import BlockMask
from saccade.block_mask.moves import BlocksMod, MovedMod, folded_program, mod_name, moved_program
from saccade.block_mask.snapshot import mask_program
from saccade.explorer.program_data import ProgramData, node_text
from saccade.explorer.sameness import is_same_rule
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr
from saccade.ir.ops import INDEX_VARIABLES, Op
from saccade.ir.program import Program
from saccade.masks.base import Mask
from saccade.masks.shift import shift
from saccade.mod_value import read_table
from saccade.signatures import MaskMod

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Joint", "Term", "joined", "mask_terms", "mod_terms", "terms_data"]

_MOST_TERMS = 200  # of one program; what would make more stays one term


class Joint(Enum):
    """How a term follows from its own terms. The value is its name in the page."""

    ALL = "all"
    ANY = "any"
    ODD = "odd"
    NOT = "not"
    SAME = "same"  # all of its terms hold, or none
    WHERE = "where"  # the first term says which of the other two counts
    LEAF = "leaf"


_OF_SYMBOL = {"&": Joint.ALL, "|": Joint.ANY, "^": Joint.ODD, "~": Joint.NOT}
_OF_OP = {
    Op.AND: Joint.ALL,
    Op.OR: Joint.ANY,
    Op.XOR: Joint.ODD,
    Op.NOT: Joint.NOT,
    Op.WHERE: Joint.WHERE,
}
# Logic where what they compare is itself true or false.
_OF_EQUALITY = {Op.EQ: Joint.SAME, Op.NE: Joint.ODD}
_ASSOCIATIVE = (Op.AND, Op.OR, Op.XOR)
_COMPARISONS = (Op.EQ, Op.NE, Op.LT, Op.LE)


@final
@dataclass(eq=False)
class Term:
    """A term, growing while its program is split.

    Attributes:
        joint: How it follows from its terms.
        label: What people call it.
        named: Whether the label is a name that somebody gave, of a mask or a function; else it only repeats
            what the term is made of.
        terms: Its own terms; none of a leaf.
        program: Of a leaf, the program it belongs to.
        node: Of a leaf, the BOOL node of that program whose truth it is.
    """

    joint: Joint
    label: str
    named: bool = False
    terms: list[Term] = field(default_factory=list)
    program: Program | None = None
    node: Expr | None = None


def mask_terms(mask: BlockMask) -> Term:
    """Split a mask into its terms.

    Args:
        mask: A mask whose program says everything: one that was analysed.

    Returns:
        The tree, by the operators of its mask_mod and of the programs below; by its program alone where the
        mod no longer means what the mask was made from.

    Example:
        >>> from saccade.block_mask import create_block_mask
        >>> from saccade.masks import causal, document
        >>> import torch
        >>> both = causal & ~document(torch.tensor([0, 0, 1]))
        >>> terms = mask_terms(create_block_mask(both, None, None, 3, 3, device="cpu"))
        >>> terms.joint, [term.label for term in terms.terms]
        (<Joint.ALL: 'all'>, ['causal', '~document(ids=int64[3])'])
    """
    mod = mask.mask_mod
    if isinstance(mod, Program) or not is_same_rule(mask.program, _program(mod)):
        return _of_program(mask.program)
    return mod_terms(mod)


def mod_terms(mod: MaskMod) -> Term:
    """Split a mod into its terms, as it is now."""
    return _of_mod(mod, ())


def joined(label: str, terms: Sequence[Term]) -> Term:
    """Return the term that holds where all of the given ones do."""
    return Term(Joint.ALL, label, terms=list(terms))


def terms_data(term: Term, programs: ProgramData) -> dict[str, object]:
    """Describe a tree for the page, adding the programs of its leaves."""
    data: dict[str, object] = {"kind": term.joint.value, "label": term.label, "named": term.named}
    data["terms"] = [terms_data(one, programs) for one in term.terms]
    if term.program is not None and term.node is not None:
        data["program"] = programs.add(term.program)
        data["node"] = programs.place(programs.add(term.program), term.node)
    return data


def _of_mod(mod: MaskMod, moves: tuple[MovedMod, ...]) -> Term:
    """Split a mod that is read through moves, the outermost first."""
    if isinstance(mod, MovedMod):
        return _of_mod(mod.mod, (*moves, mod))
    if isinstance(mod, BlocksMod):
        partial = [_of_mod(_InBlocks(mod, BlockKind.PARTIAL), moves), _of_mod(mod.mod, moves)]
        inside = Term(Joint.ALL, f"{mod_name(mod.mod)} in partial blocks", named=True, terms=partial)
        full = _of_mod(_InBlocks(mod, BlockKind.FULL), moves)
        return Term(Joint.ANY, mod_name(mod), named=True, terms=[full, inside])
    symbol, parts = _parts(mod)
    if parts:
        return Term(_OF_SYMBOL[symbol], mod_name(mod), terms=[_of_mod(part, moves) for part in parts])
    moved: MaskMod = mod
    for move in reversed(moves):
        moved = replace(move, mod=moved)
    program = _program(moved)
    name = mod_name(mod)
    unnamed = isinstance(mod, Program) or name == "<lambda>"
    return _of_program(program, None if unnamed else name)


def _parts(mod: MaskMod) -> tuple[str, tuple[MaskMod, ...]]:
    """The operator that a mask is made by, and its parts: shift(a & b) is shift(a) & shift(b)."""
    if isinstance(mod, shift):
        symbol, parts = _parts(mod.mask_mod)
        return symbol, tuple(replace(mod, mask_mod=part) for part in parts)
    return (mod.symbol, mod.parts) if isinstance(mod, Mask) else ("", ())


def _program(mod: MaskMod) -> Program:
    """The program of a mod as it is now, made as the masks that are derived from others make theirs."""
    if isinstance(mod, MovedMod):
        return moved_program(_program(mod.mod), {name: getattr(mod, name) for name in INDEX_VARIABLES})
    if isinstance(mod, BlocksMod):
        return folded_program(_program(mod.mod), mod.kinds, mod.q_block, mod.kv_block)
    return mask_program(mod, "mask_html()")


@final
@dataclass(frozen=True, eq=False)
class _InBlocks:
    """The mask that is True in given blocks of one kind."""

    given: BlocksMod
    kind: BlockKind

    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        row, column = q_idx // self.given.q_block, kv_idx // self.given.kv_block
        return read_table(self.given.kinds, b, h, row, column) == self.kind

    def __repr__(self) -> str:
        return f"given as a {self.kind.name.lower()} block"


def _of_program(program: Program, name: str | None = None) -> Term:
    """Split a program at its logic, from the root down, while the terms stay few."""
    root = _leaf(program, program.root)
    if name is not None:
        root.label, root.named = name, True
    waiting = deque([root])
    count = 1
    while waiting:
        term = waiting.popleft()
        assert term.node is not None, "only leaves wait"
        joint = _logic(term.node)
        if joint is None:
            continue
        parts = _operands(term.node)
        if count + len(parts) > _MOST_TERMS:
            continue
        count += len(parts)
        term.joint = joint
        term.terms = [_leaf(program, part) for part in parts]
        term.program = term.node = None
        waiting.extend(term.terms)
    return root


def _leaf(program: Program, node: Expr) -> Term:
    return Term(Joint.LEAF, node_text(node, program), program=program, node=node)


def _logic(node: Expr) -> Joint | None:
    """How a BOOL node follows from BOOL arguments; None where it does not."""
    if node.dtype is DType.BOOL and node.op in _OF_OP:
        return _OF_OP[node.op]
    # Two entries of a table are better told as the values that were compared.
    if node.op in _OF_EQUALITY and any(_logic(arg) or arg.op in _COMPARISONS for arg in node.args):
        return _OF_EQUALITY[node.op]
    return None


def _operands(node: Expr) -> list[Expr]:
    """What one operator joins, nested uses of it dissolved: a & (b & c) has three."""
    parts: list[Expr] = []
    stack = list(reversed(node.args))
    while stack and len(parts) <= _MOST_TERMS:
        part = stack.pop()
        if part.op is node.op and node.op in _ASSOCIATIVE:
            stack.extend(reversed(part.args))
        else:
            parts.append(part)
    return parts
