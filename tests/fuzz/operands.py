"""From a `Call` to what `flex_attention` is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fuzz.call import Blocks, Call, Mod, Table
from fuzz.guard import place
from saccade import BlockMask, create_block_mask, masks, scores
from saccade.ir.dtype import DType
from saccade.ir.program import Program
from saccade.ir.structure import ModKind
from saccade.ir.text import parse_structure
from saccade.tracing import trace
from saccade.tracing.dtypes import TORCH

__all__ = ["LAYOUTS", "LEARNED", "VALUES", "Operands", "given_kinds", "make", "upstream"]


def _dense(tensor: Tensor) -> Tensor:
    return tensor


def _by_token(tensor: Tensor) -> Tensor:
    """The second and third dimension from the end swapped in memory: [B, S, H, D]."""
    return tensor.transpose(-2, -3).contiguous().transpose(-2, -3) if tensor.dim() > 2 else tensor


def _by_feature(tensor: Tensor) -> Tensor:
    """The last dimension is not the one of neighbours."""
    return tensor.mT.contiguous().mT if tensor.dim() > 1 else tensor


def _spread(tensor: Tensor) -> Tensor:
    """Every second row of a wider, longer tensor; what lies between is as wrong as can be."""
    if tensor.dim() < 2 or tensor.numel() == 0:
        return tensor
    rows, width = tensor.shape[-2:]
    wide = tensor.new_full((*tensor.shape[:-2], 2 * rows, width + 3), _wrong(tensor.dtype))
    wide[..., ::2, 1 : 1 + width] = tensor
    return wide[..., ::2, 1 : 1 + width]


def _every_second(tensor: Tensor) -> Tensor:
    """Steps of two along the last dimension."""
    if tensor.dim() < 1 or tensor.numel() == 0:
        return tensor
    wide = tensor.new_full((*tensor.shape[:-1], 2 * tensor.shape[-1]), _wrong(tensor.dtype))
    wide[..., ::2] = tensor
    return wide[..., ::2]


def _repeated(tensor: Tensor) -> Tensor:
    """The first entry of the first dimension in place of every one, without a copy."""
    return tensor[:1].expand_as(tensor) if tensor.dim() and tensor.shape[0] else tensor


def _wrong(dtype: torch.dtype) -> float:
    return float("nan") if dtype.is_floating_point else 99


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "dense": _dense,
    "by token": _by_token,
    "by feature": _by_feature,
    "spread": _spread,
    "every second": _every_second,
    "repeated": _repeated,
}
"""Ways to lie in memory, by name; all but "repeated" keep the values."""


def _normal(generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _huge(generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    return 100.0 * _normal(generator, shape)


def _tiny(generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    return 1e-6 * _normal(generator, shape)


def _sprinkled(special: float) -> Callable[[torch.Generator, tuple[int, ...]], Tensor]:
    def values(generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
        made = _normal(generator, shape)
        made[torch.rand(shape, generator=generator) < 0.004] = special
        return made

    return values


VALUES: dict[str, Callable[[torch.Generator, tuple[int, ...]], Tensor]] = {
    "normal": _normal,
    "huge": _huge,
    "tiny": _tiny,
    "zero": lambda generator, shape: torch.zeros(shape, dtype=torch.float64),
    "infinite": _sprinkled(float("inf")),
    "nan": _sprinkled(float("nan")),
}
"""What query and key hold, by name."""

LEARNED = ("query", "key", "value", "sinks", "c0", "c1", "c2", "c3")
"""The names of what may want a gradient; captured tensors are those of the score_mod, by slot."""


@dataclass(frozen=True, eq=False)
class Operands:
    """What a call is about. A block mask is made apart, for making it may raise."""

    query: Tensor
    key: Tensor
    value: Tensor
    score: Program | None
    mask: Program | None
    block_program: Program | None
    sinks: Tensor | None

    def block_mask(self, call: Call) -> BlockMask | None:
        """The block mask, made anew."""
        return None if call.blocks is None else _block_mask(call, call.blocks, self.block_program)

    def learned(self, call: Call) -> dict[str, Tensor]:
        """What wants a gradient, by name."""
        if call.backward is None:
            return {}
        tensors = (self.query, self.key, self.value, self.sinks, *(self.score.captures if self.score else ()))
        return {
            name: one
            for name, one in zip(LEARNED, tensors, strict=False)
            if name not in call.backward.frozen and isinstance(one, Tensor) and one.is_floating_point()
        }


def make(call: Call) -> Operands:
    """Make a call's operands."""
    generator = torch.Generator().manual_seed(call.seed)
    (q_len, kv_len), (q_heads, kv_heads), (head_dim, value_dim) = call.lengths, call.heads, call.dims
    shapes = (
        (call.batch, q_heads, q_len, head_dim),
        (call.kv_batch, kv_heads, kv_len, head_dim),
        (call.kv_batch, kv_heads, kv_len, value_dim),
    )
    dtype = TORCH[DType(call.dtype)]
    # A value of NaN may spread from a hidden key by 0 · NaN, or not; so values are normal numbers.
    drawn = VALUES[call.values], VALUES[call.values], _normal
    tensors = [
        place(LAYOUTS[layout](draw(generator, shape).to(dtype)), call.guard)
        for draw, shape, layout in zip(drawn, shapes, call.layouts, strict=True)
    ]
    sinks = None
    if call.sinks is not None:
        sinks = place(_normal(generator, (q_heads,)).to(TORCH[DType(call.sinks)]), call.guard)
    blocks = None if call.blocks is None else call.blocks.mod
    return Operands(
        *tensors,
        score=_program(call, call.score, ModKind.SCORE),
        mask=_program(call, call.mask, ModKind.MASK),
        block_program=_program(call, blocks, ModKind.MASK),
        sinks=sinks,
    )


def upstream(call: Call, out: Tensor, lse: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of a call's output and lse; None where one plays no part.

    Every row has a gradient of its lse, also one that sees nothing.
    """
    assert call.backward is not None
    generator = torch.Generator().manual_seed(call.seed + 2)
    layouts = call.backward.grad_out, None if lse is None else call.backward.grad_lse
    made: list[Tensor | None] = []
    for layout, result in zip(layouts, (out, lse), strict=True):
        if layout is None or result is None:
            made.append(None)
            continue
        shape = tuple(result.shape)
        drawn = _normal(generator, () if layout == "expanded" else shape).to(result.dtype)
        laid = drawn.expand(shape) if layout == "expanded" else LAYOUTS[layout](drawn)
        made.append(place(laid, call.guard))
    return made[0], made[1]


def given_kinds(call: Call, program: Program | None) -> Tensor:
    """[B or 1, Hq or 1, rows, columns]: 0 EMPTY, 1 PARTIAL, 2 FULL, as the call's blocks seed them."""
    blocks = call.blocks
    assert blocks is not None
    assert blocks.kinds is not None
    shape = (
        *(1 if size is None else size for size in _axes(call, blocks, program)),
        *(-(-length // size) for length, size in zip(call.lengths, blocks.size, strict=True)),
    )
    return torch.randint(3, shape, generator=torch.Generator().manual_seed(blocks.kinds))


def _block_mask(call: Call, blocks: Blocks, program: Program | None) -> BlockMask:
    if blocks.kinds is None:
        axes = _axes(call, blocks, program)
        mod = masks.noop_mask if program is None else program
        return create_block_mask(mod, *axes, *call.lengths, device="cpu", BLOCK_SIZE=blocks.size)
    kinds = given_kinds(call, program)
    lists = [
        part
        for listed in (kinds == 1, kinds == 2)
        for part in (listed.sum(-1), listed.int().argsort(dim=-1, descending=True, stable=True))
    ]
    return BlockMask.from_kv_blocks(
        *lists, BLOCK_SIZE=blocks.size, mask_mod=program, seq_lengths=call.lengths
    )


def _axes(call: Call, blocks: Blocks, program: Program | None) -> tuple[int | None, int | None]:
    """B and H of the block mask; a mod that reads one of them needs it."""
    reads = (False, False) if program is None else (program.reads("b"), program.reads("h"))
    sizes = (call.batch, call.heads[0])
    batch, heads = (
        size if asked or read else None for size, asked, read in zip(sizes, blocks.axes, reads, strict=True)
    )
    return batch, heads


def _program(call: Call, mod: Mod | None, kind: ModKind) -> Program | None:
    if mod is None:
        return None
    if not mod.text.startswith(f"{kind.value}("):
        return trace(_from_expression(call, mod.text), kind, score_dtype=_precise(call))
    captures = tuple(_captured(table, call.guard) for table in mod.tables)
    program = Program(parse_structure(mod.text), captures, mod.numbers)
    return trace(program, kind, score_dtype=_precise(call))


def _precise(call: Call) -> DType:
    return DType.FLOAT64 if call.dtype == "f64" else DType.FLOAT32


def _from_expression(call: Call, text: str) -> Any:
    generator = torch.Generator().manual_seed(call.seed + 1)

    def ids(length: int, most: int = 3) -> Tensor:
        """[length] int64, ascending: tokens of documents of one to `most` times four tokens."""
        starts = torch.rand(length, generator=generator) < 1 / (2 * most)
        return place(starts.cumsum(0), call.guard)

    def normal(*shape: int) -> Tensor:
        return place(_normal(generator, shape).to(TORCH[_precise(call)]), call.guard)

    (q_len, kv_len), heads = call.lengths, call.heads[0]
    names = {"Q": q_len, "K": kv_len, "H": heads, "B": call.batch, "L": max(q_len, kv_len, 1)}
    library = {name: getattr(module, name) for module in (masks, scores) for name in module.__all__}
    return eval(text, {**library, **names, "ids": ids, "normal": normal, "torch": torch})


def _captured(table: Table, guard: str) -> Any:
    dtype = DType(table.dtype)
    generator = np.random.default_rng(table.seed)
    low = 0 if dtype in (DType.UINT8, DType.BOOL) else -4
    values = generator.integers(low, 2 if dtype is DType.BOOL else 7, table.shape)
    tensor = torch.as_tensor(values / 2 if dtype.is_float else values).to(TORCH[dtype])
    return place(LAYOUTS[table.layout](tensor), guard)
