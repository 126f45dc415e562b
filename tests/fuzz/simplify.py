"""The simplest call that is still wrong: a table of ways to make a call simpler, tried until none helps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

from fuzz.call import Backward, Call, Mod
from fuzz.operands import LEARNED
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr, axis_bit, cast, const, substitute, var, walk
from saccade.ir.ops import Op
from saccade.ir.structure import ModKind
from saccade.ir.text import format_structure, parse_structure

__all__ = ["simplest"]


def simplest(call: Call, is_wrong: Callable[[Call], bool], tries: int = 400) -> Call:
    """Return a call that is wrong too, and that no single step simplifies.

    Args:
        call: A wrong call.
        is_wrong: Asked about each candidate; it may run it in a process of its own.
        tries: The most candidates.
    """
    asked = {call}
    simpler = True
    while simpler:
        simpler = False
        for candidate in _simpler(call):
            if candidate in asked:
                continue
            if len(asked) > tries:
                return call
            asked.add(candidate)
            if is_wrong(candidate):
                call, simpler = candidate, True
                break
    return call


def _simpler(call: Call) -> Iterator[Call]:
    """Candidates, those that take most away first."""
    for name, default in _DEFAULTS.items():
        if getattr(call, name) != default:
            yield replace(call, **{name: default})
    if call.blocks is not None:
        if call.blocks.mod is not None and call.blocks.kinds is None and call.mask is None:
            yield replace(call, mask=call.blocks.mod, blocks=None)
        if call.blocks.kinds is not None:
            yield replace(call, blocks=replace(call.blocks, kinds=None))
        if call.blocks.axes != (False, False):
            yield replace(call, blocks=replace(call.blocks, axes=(False, False)))
        if call.blocks.mod is not None:
            yield replace(call, blocks=replace(call.blocks, mod=None))
    if call.backward is not None:
        yield from (replace(call, backward=less) for less in _less(call.backward))
    yield from _smaller(call)
    for name in ("score", "mask"):
        mod = getattr(call, name)
        if mod is not None:
            yield from (replace(call, **{name: shorter}) for shorter in _shorter(mod))
    if call.blocks is not None and call.blocks.mod is not None:
        for shorter in _shorter(call.blocks.mod):
            yield replace(call, blocks=replace(call.blocks, mod=shorter))


def _less(backward: Backward) -> Iterator[Backward]:
    for name, default in (("again", None), ("grad_lse", None), ("grad_out", "dense"), ("grad_out", None)):
        if getattr(backward, name) != default:
            yield replace(backward, **{name: default})
    others = [name for name in LEARNED if name not in backward.frozen]
    if len(others) > 1:
        for kept in others:
            yield replace(backward, frozen=tuple([name for name in LEARNED if name != kept]))


def _smaller(call: Call) -> Iterator[Call]:
    q_heads, kv_heads = call.heads
    if kv_heads > 1:
        yield replace(call, heads=(q_heads // kv_heads, 1))
    if q_heads > kv_heads:
        yield replace(call, heads=(kv_heads, kv_heads))
    if call.batch > 1:
        yield replace(call, batch=call.batch - 1, kv_batch=1)
    for name, least in (("lengths", 0), ("dims", 1)):
        sizes: tuple[int, int] = getattr(call, name)
        for place in (0, 1):
            for smaller in (least, sizes[place] // 2, sizes[place] - 1):
                if least <= smaller < sizes[place]:
                    changed = (smaller, sizes[1]) if place == 0 else (sizes[0], smaller)
                    yield replace(call, **{name: changed})


def _shorter(mod: Mod) -> Iterator[Mod]:
    """The mod with a node in place of the root, or a constant or variable in place of a node."""
    kind = next((kind for kind in ModKind if mod.text.startswith(f"{kind.value}(")), None)
    if kind is None:
        yield from (replace(mod, text=part) for part in _operands(mod.text))
        return
    structure = parse_structure(mod.text)
    root = structure.root
    bound = sum(axis_bit(k) for k in {node.attr for node in walk(root) if node.op is Op.AXIS})
    nodes = [node for node in walk(root) if not node.reads & bound]
    made = [node if node.dtype is root.dtype else cast(node, root.dtype) for node in nodes]
    for node in nodes:
        if node.args:
            is_score = kind is ModKind.SCORE and node.dtype is root.dtype
            leaf = var("score", node.dtype) if is_score else const(_ONE[node.dtype], node.dtype)
            made.append(substitute(root, {node: leaf}))
            made += [substitute(root, {node: arg}) for arg in node.args if arg.dtype is node.dtype]
    for expr in sorted(made, key=_size):
        if _size(expr) < _size(root):
            yield replace(mod, text=format_structure(replace(structure, root=expr)))


def _operands(text: str) -> list[str]:
    """The operands of a library expression as `draw` writes it: `(a) & (b)`."""
    for operator in "&|^":
        first, found, second = text.partition(f") {operator} (")
        if found:
            return [first[1:], second[:-1]]
    return []


def _size(root: Expr) -> int:
    return sum(1 for _ in walk(root))


_ONE = {DType.BOOL: True, DType.INT64: 1, DType.FLOAT32: 1.0, DType.FLOAT64: 1.0}
_DEFAULTS: dict[str, Any] = {
    one.name: one.default for one in fields(Call) if one.name not in ("lengths", "heads", "dims", "batch")
}
"""What a call has where nothing in particular is asked."""
