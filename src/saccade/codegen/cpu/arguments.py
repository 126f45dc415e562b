"""The argument block of a kernel: one int64 array whose slots have names.

Pointers are addresses; strides count bytes; floating numbers are the bits of a double. What changes while a
kernel runs is in a second block, `state`, which threads share. This module says where things stand; the
engine's host side fills the blocks and the kernels read them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import final

from saccade.codegen.program.which import Which
from saccade.ir.structure import Structure
from saccade.problem import KernelKey

__all__ = ["FIXED", "ArgumentLayout", "CaptureSlots", "State", "SumSlots"]

FIXED: dict[str, str] = {
    # tensors
    "query": "address of query [B, Hq, Q, D], its last stride one element",
    "query_b": "stride of a batch",
    "query_h": "stride of a head",
    "query_q": "stride of a row",
    "key": "address of key [B or 1, Hkv, K, D]",
    "key_b": "stride of a batch, 0 where one serves all",
    "key_h": "stride of a head",
    "key_k": "stride of a row",
    "value": "address of value [B or 1, Hkv, K, Dv]",
    "value_b": "stride of a batch, 0 where one serves all",
    "value_h": "stride of a head",
    "value_k": "stride of a row",
    "out": "address of the output [B, Hq, Q, Dv]",
    "out_b": "stride of a batch",
    "out_h": "stride of a head",
    "out_q": "stride of a row",
    "lse": "address of lse [B, Hq, Q], dense, of the precise type; BACKWARD reads it, others write it",
    "max_scores": "address of max_scores, likewise",
    "sinks": "address of sinks [Hq], dense, of the precise type; read only if there are sinks",
    # gradients, of BACKWARD
    "grad_out": "address of the output's gradient [B, Hq, Q, Dv], its last stride one element",
    "grad_out_b": "stride of a batch",
    "grad_out_h": "stride of a head",
    "grad_out_q": "stride of a row",
    "grad_lse": "address of the gradient of lse, as lse stands; read only if lse is an output",
    "grad_query": "address of the gradient of query [B, Hq, Q, D], its last stride one element",
    "grad_query_b": "stride of a batch",
    "grad_query_h": "stride of a head",
    "grad_query_q": "stride of a row",
    "grad_key": "address of the gradient of key, of its shape, its last stride one element",
    "grad_key_b": "stride of a batch",
    "grad_key_h": "stride of a head",
    "grad_key_k": "stride of a row",
    "grad_value": "address of the gradient of value, likewise",
    "grad_value_b": "stride of a batch",
    "grad_value_h": "stride of a head",
    "grad_value_k": "stride of a row",
    "grad_sinks": "address of the gradient of sinks, as sinks stand; written only if there are sinks",
    # sizes
    "batch": "B",
    "q_heads": "Hq",
    "kv_heads": "Hkv",
    "group": "Hq / Hkv",
    "q_len": "Q",
    "kv_len": "K",
    # numbers
    "scale": "what q·k is multiplied by, a double",
    "keep_threshold": "dropout keeps a weight whose 16-bit half is at least this",
    "keep_factor": "1 / keep rate, a double",
    "seed": "of the dropout stream, 64 bits",
    # what is visible: ranges of keys per tile of queries, as block_mask.tiles has them
    "run_offsets": "int64[stored tiles + 1], first range of each stored tile",
    "run_start": "int32[n], first key of a range",
    "run_stop": "int32[n], key after its last",
    "run_kind": "uint8[n], BlockKind.PARTIAL or FULL",
    "runs_b": "stored tiles from one batch to the next, 0 where one serves all",
    "runs_h": "stored tiles from one head (DECODE: head group) to the next, likewise",
    "tiles": "FORWARD: tiles of queries; BACKWARD: of keys, and ranges are of queries",
    "tile_first": "FORWARD, BACKWARD: int32[tiles], first query (key) of each",
    "tile_last": "FORWARD, BACKWARD: int32[tiles], query (key) after its last",
    # work
    "items": "FORWARD attend: int64[n], (b * Hq + h) * tiles + t of each item, in the order of work; "
    "DECODE: int64[n, 3], b * Hkv + kv head, first key, key after the last; "
    "BACKWARD attend: int64[n, 6], see `backward_chunk.Chunk`",
    "item_offsets": "DECODE merge, BACKWARD merge: int64[kv heads of batches + 1], the items of each kv head",
    "pack_items": "FORWARD pack: int64[n], (b * Hkv + kv head) * panels + panel of each panel to pack",
    "panels": "FORWARD: panels of a kv head, ceil(K / panel keys)",
    "packed_keys": "FORWARD: address of packed keys, 64-byte aligned: kv heads of batches, panels",
    "packed_values": "FORWARD: address of packed values, likewise",
    "packed_b": "FORWARD: panels from one batch to the next, 0 where one serves all",
    "partials": "DECODE, BACKWARD: address of the items' partial results, 64-byte aligned",
    "group_offsets": "BACKWARD attend, if captures want gradients: int64[items + 1], first place in "
    "`group_chunks` of the chunks that an item walks, in order",
    "group_chunks": "likewise: int64[chunks], numbers of entries of `items`",
    "copies": "BACKWARD captures: the items of attend, each with a copy of the captures' sums",
    "q_tiles": "BACKWARD pack and merge: tiles of queries of a head, ceil(Q / rows)",
    "kv_share": "BACKWARD: the batches that share keys and values, 1 or B",
    "packed_queries": "BACKWARD: address of packed queries, 64-byte aligned: heads of batches, padded rows",
    "packed_grads": "BACKWARD: address of the output's packed gradient, likewise",
    "query_words": "BACKWARD: address of queries as rows of pairs of bfloat16, likewise; read only there",
    "grad_words": "BACKWARD: address of the output's gradient as rows of pairs, likewise",
    "row_lse": "BACKWARD: address of lse, of heads and rows as packed queries, of the precise type",
    "row_delta": "BACKWARD: address of delta, likewise",
    "scratch": "address of the threads' private memory, 64-byte aligned",
    "state": "address of the shared block, see State",
}
"""The slots every kernel has, and what they hold."""


class State(IntEnum):
    """The slots of the block that threads share; all 0 at first, but for STOP_ITEM."""

    NEXT_ITEM = 0  # taken by an atomic add
    STOP_ITEM = 1  # items below it may be taken
    NEXT_SLOT = 2  # a thread's number, for its private memory
    ERROR = 3  # a `Which` once poison decided something, else 0
    ERROR_B = 4  # where: batch
    ERROR_H = 5  # query head
    ERROR_Q = 6  # query
    ERROR_K = 7  # first key of the vector that holds the poisoned pair


@final
@dataclass(frozen=True)
class CaptureSlots:
    """Where a captured tensor stands: slots of its address, sizes and strides (in bytes)."""

    pointer: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]


@final
@dataclass(frozen=True)
class SumSlots:
    """Where the sums of a captured tensor's gradient stand: slots, of BACKWARD.

    Attributes:
        sums: Of the address of the first item's copy, 64-byte aligned, or of the one memory of all items.
        copy: Of the bytes from one item's copy to the next, a multiple of `backward_captures.COPY_BYTES`; 0
            where one memory serves all, which is all 0 at first.
        total: Of the address where copies are added up, of the bytes of one.
    """

    sums: int
    copy: int
    total: int


@final
@dataclass(frozen=True)
class ArgumentLayout:
    """Where the arguments of a kernel stand.

    Attributes:
        captures: For each program its captures' slots.
        numbers: For each program the slot of each of its numbers.
        size: How many slots there are.
        sums: Of each capture of the score program whose gradient is wanted, by slot.
    """

    captures: dict[Which, tuple[CaptureSlots, ...]]
    numbers: dict[Which, tuple[int, ...]]
    size: int
    sums: dict[int, SumSlots] = field(default_factory=dict)

    @staticmethod
    def slot(name: str) -> int:
        """Return the slot of one of `FIXED`."""
        return _SLOTS[name]

    @classmethod
    def of(cls, key: KernelKey) -> ArgumentLayout:
        """Return the layout of a kernel's arguments: the fixed ones, then each program's own.

        Example:
            >>> from saccade.ir.dtype import DType
            >>> from saccade.problem import AttentionProblem
            >>> problem = AttentionProblem("cpu", DType.FLOAT32, 1, 1, 2, 2, 8, 8, 16, 16, 0.25)
            >>> layout = ArgumentLayout.of(problem.kernel_key("avx2", small_indices=True))
            >>> layout.size == len(FIXED), layout.slot("query")
            (True, 0)
        """
        captures: dict[Which, tuple[CaptureSlots, ...]] = {}
        numbers: dict[Which, tuple[int, ...]] = {}
        size = len(FIXED)
        for which, structure in programs(key).items():
            slots = []
            for capture in structure.captures:
                first, rank = size, capture.rank
                sizes = tuple(range(first + 1, first + 1 + rank))
                strides = tuple(range(first + 1 + rank, first + 1 + 2 * rank))
                slots.append(CaptureSlots(first, sizes, strides))
                size += 1 + 2 * rank
            captures[which] = tuple(slots)
            numbers[which] = tuple(range(size, size + len(structure.numbers)))
            size += len(structure.numbers)
        if Which.SCORE in captures:
            captures[Which.SCORE_GRADIENT] = captures[Which.SCORE]
            numbers[Which.SCORE_GRADIENT] = numbers[Which.SCORE]
        sums = {}
        for slot, is_wanted in enumerate(() if key.wanted is None else key.wanted.captures):
            if is_wanted:
                sums[slot] = SumSlots(size, size + 1, size + 2)
                size += 3
        return cls(captures, numbers, size, sums)


def programs(key: KernelKey) -> dict[Which, Structure]:
    """Return the programs a kernel runs."""
    given = {Which.MASK: key.mask, Which.MASK_MOD: key.mask_mod, Which.SCORE: key.score}
    return {which: structure for which, structure in given.items() if structure is not None}


_SLOTS = {name: slot for slot, name in enumerate(FIXED)}
