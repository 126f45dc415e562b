"""A kernel written in numpy: what the argument block says, computed obviously and in float64.

It stands in for machine code where the host side is tested. It reads the block by names through addresses
and strides, takes items off the shared counter as threads do, keeps private what is private, and reads keys
only from what `pack` has packed: panels that were not packed hold NaN.
"""

from __future__ import annotations

import ctypes
import math
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from saccade.analysis.runs import BlockKind
from saccade.backends.cpu.kernels import LoadedKernel
from saccade.codegen.cpu.arguments import FIXED, ArgumentLayout, State, programs
from saccade.codegen.cpu.spec import KernelKind, KernelSource, KernelSpec
from saccade.codegen.program.which import Which
from saccade.ir.dropout import philox4x32
from saccade.ir.dtype import DType
from saccade.ir.interpret import evaluate

PANEL_KEYS = 8
_STORED = {
    DType.BOOL: "?",
    DType.UINT8: "u1",
    DType.INT8: "i1",
    DType.INT16: "i2",
    DType.INT32: "i4",
    DType.INT64: "i8",
    DType.FLOAT16: "f2",
    DType.BFLOAT16: "u2",
    DType.FLOAT32: "f4",
    DType.FLOAT64: "f8",
}
_LOCK = threading.Lock()  # what atomic instructions are to machine code
_ENTRY = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def view(address: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: str) -> np.ndarray:
    """An array where it lies in memory."""
    if 0 in shape:
        return np.empty(shape, dtype)
    kind = np.dtype(dtype).str
    interface = {"data": (address, False), "shape": shape, "strides": strides, "typestr": kind, "version": 3}
    return np.asarray(type("Memory", (), {"__array_interface__": interface})())


def dense(address: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """An array without gaps."""
    size = np.dtype(dtype).itemsize
    return view(
        address, shape, tuple(size * math.prod(shape[axis + 1 :]) for axis in range(len(shape))), dtype
    )


def widened(stored: np.ndarray, dtype: DType) -> np.ndarray:
    """Values of a stored array; bfloat16 comes as its bits."""
    if dtype is DType.BFLOAT16:
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored


def narrowed(values: np.ndarray, dtype: DType) -> np.ndarray:
    """What is stored of float64 values; bfloat16 by rounding to nearest, ties to even."""
    if dtype is not DType.BFLOAT16:
        return values.astype(_STORED[dtype])
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


@dataclass
class Call:
    """One call of an entry."""

    spec: KernelSpec
    layout: ArgumentLayout
    address: int

    @cached_property
    def block(self) -> np.ndarray:
        return dense(self.address, (self.layout.size,), "i8")

    def __getitem__(self, name: str) -> int:
        return int(self.block[list(FIXED).index(name)])

    def real(self, slot: int) -> float:
        return struct.unpack("d", struct.pack("q", int(self.block[slot])))[0]

    @property
    def state(self) -> np.ndarray:
        return dense(self["state"], (8,), "i8")

    def items(self) -> Iterator[int]:
        """The items this call takes, as a thread does."""
        assert self["state"] % 64 == self["scratch"] % 64 == 0
        while True:
            with _LOCK:
                item = int(self.state[State.NEXT_ITEM])
                self.state[State.NEXT_ITEM] += 1
            if item >= self.state[State.STOP_ITEM]:
                return
            yield item

    def tensor(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """[B, heads, length, features] as it lies in memory."""
        first = list(FIXED).index(name)
        dtype = _STORED[self.spec.key.dtype]
        strides = (*(int(step) for step in self.block[first + 1 : first + 4]), np.dtype(dtype).itemsize)
        return view(int(self.block[first]), shape, strides, dtype)

    def read(self, name: str, b: int, h: int, rows: Any) -> np.ndarray:
        """float64 [rows, features] of query, key or value."""
        key, is_query = self.spec.key, name == "query"
        shape = (
            self["batch"],
            self["q_heads"] if is_query else self["kv_heads"],
            self["q_len"] if is_query else self["kv_len"],
            key.value_dim if name == "value" else key.head_dim,
        )
        return widened(self.tensor(name, shape)[b, h, rows], key.dtype).astype(np.float64)

    def one(self, name: str, place: int, dtype: str) -> int:
        """A number in the table that a slot points to."""
        return int(dense(self[name], (place + 1,), dtype)[place])

    def ranges(self, b: int, h: int, t: int) -> Iterator[tuple[int, int, int]]:
        """The (start, stop, kind) of a tile."""
        tiles = self["tiles"] if self.spec.kind is KernelKind.FORWARD else 1
        number = b * self["runs_b"] + h * self["runs_h"] + t
        first, last = (self.one("run_offsets", place, "i8") for place in (number, number + 1))
        assert 0 <= first <= last, tiles
        for entry in range(first, last):
            start, stop = (self.one(name, entry, "i4") for name in ("run_start", "run_stop"))
            yield start, stop, self.one("run_kind", entry, "u1")

    def program(self, which: Which, b: int, h: int, q: np.ndarray, k: np.ndarray, **score: np.ndarray):
        """Value and poison of a program at [rows, keys] pairs."""
        structure = programs(self.spec.key)[which]
        captures = []
        facts = {Which.MASK: self.spec.mask, Which.MASK_MOD: self.spec.mask_mod, Which.SCORE: self.spec.score}
        for slots, type_, is_dense in zip(
            self.layout.captures[which], structure.captures, facts[which].dense, strict=True
        ):
            shape = tuple(int(self.block[slot]) for slot in slots.sizes)
            strides = tuple(int(self.block[slot]) for slot in slots.strides)
            stored = _STORED[type_.dtype]
            assert is_dense == (not strides or strides[-1] == np.dtype(stored).itemsize)
            array = view(int(self.block[slots.pointer]), shape, strides, stored)
            captures.append(widened(array, type_.dtype))
        numbers = [
            int(self.block[slot]) if dtype is DType.INT64 else self.real(slot)
            for slot, dtype in zip(self.layout.numbers[which], structure.numbers, strict=True)
        ]
        variables = {"b": np.array(b), "h": np.array(h), "q_idx": q[:, None], "kv_idx": k[None], **score}
        found = evaluate(structure.root, variables, captures, numbers)
        shape = (len(q), len(k))
        poison = np.zeros(shape, bool) if found.poison is None else np.broadcast_to(found.poison != 0, shape)
        return np.broadcast_to(found.value, shape), poison

    def report(self, which: Which, b: int, h: int, q: int, k: int) -> None:
        if not self.state[State.ERROR]:
            self.state[State.ERROR :] = (which, b, h, q, k)


def pack(call: Call) -> None:
    keys, values = _packed(call)
    with _LOCK:
        call.state[State.NEXT_SLOT] += 1
        if call.state[State.NEXT_SLOT] == 1 and call.state[State.NEXT_ITEM] == 0:
            keys[:], values[:] = np.nan, np.nan
    listed = dense(call["pack_items"], (int(call.state[State.STOP_ITEM]),), "i8")
    for item in call.items():
        pair, panel = divmod(int(listed[item]), call["panels"])
        b, head = divmod(pair, call["kv_heads"])
        rows = slice(panel * PANEL_KEYS, min((panel + 1) * PANEL_KEYS, call["kv_len"]))
        count = rows.stop - rows.start
        keys[pair, panel, :count] = call.read("key", b, head, rows)
        values[pair, panel, :count] = call.read("value", b, head, rows)


def attend(call: Call) -> None:
    """The forward kernel's second entry."""
    listed = dense(call["items"], (int(call.state[State.STOP_ITEM]),), "i8")
    tiles, q_heads = call["tiles"], call["q_heads"]
    packed = [part.reshape(len(part), -1, part.shape[-1]) for part in _packed(call)]
    panels = call["panels"]
    for item in call.items():
        rest, t = divmod(int(listed[item]), tiles)
        b, h = divmod(rest, q_heads)
        pair = b * (call["packed_b"] // panels) + h // call["group"]
        first, last = (int(dense(call[name], (tiles,), "i4")[t]) for name in ("tile_first", "tile_last"))
        assert last - first <= call.spec.rows
        queries = np.arange(first, last)
        scores = np.full((last - first, call["kv_len"]), -np.inf)
        for start, stop, kind in call.ranges(b, h, t):
            keys = np.arange(start, stop)
            scores[:, keys] = _scores(call, b, h, queries, keys, packed[0][pair, start:stop], kind)
        _finish(call, b, h, queries, scores, packed[1][pair, : call["kv_len"]])


def decode(call: Call) -> None:
    """The decode kernel's first entry: a partial result is the scores of an item's keys."""
    group = call["group"]
    items = dense(call["items"], (int(call.state[State.STOP_ITEM]), 3), "i8")
    partials = _partials(call)
    for item in call.items():
        pair, first, last = items[item].tolist()
        b, head = divmod(pair, call["kv_heads"])
        partials[item] = -np.inf
        queries = np.arange(call["q_len"])
        for start, stop, kind in call.ranges(b, head, 0):
            keys = np.arange(max(start, first), min(stop, last))
            for row in range(group) if len(keys) else ():
                h = head * group + row
                read = call.read("key", b, head, keys)
                partials[item, row][:, keys] = _scores(call, b, h, queries, keys, read, kind)


def merge(call: Call) -> None:
    """The decode kernel's second entry."""
    offsets = dense(call["item_offsets"], (call["batch"] * call["kv_heads"] + 1,), "i8")
    partials, group = _partials(call), call["group"]
    for pair in call.items():
        b, head = divmod(pair, call["kv_heads"])
        parts = partials[offsets[pair] : offsets[pair + 1]]
        assert (np.isfinite(parts).sum(axis=0) <= 1).all(), "an item's keys are its own"
        value = call.read("value", b, head, slice(None))
        for row in range(group):
            scores = parts[:, row].max(axis=0, initial=-np.inf)
            _finish(call, b, head * group + row, np.arange(call["q_len"]), scores, value)


def _packed(call: Call) -> tuple[np.ndarray, np.ndarray]:
    key = call.spec.key
    shape = (call["kv_heads"] * (call["batch"] if call["packed_b"] else 1), call["panels"], PANEL_KEYS)
    keys = dense(call["packed_keys"], (*shape, key.head_dim), "f8")
    return keys, dense(call["packed_values"], (*shape, key.value_dim), "f8")


def _partials(call: Call) -> np.ndarray:
    count = int(dense(call["item_offsets"], (call["batch"] * call["kv_heads"] + 1,), "i8")[-1])
    return dense(call["partials"], (count, call["group"], call["q_len"], call["kv_len"]), "f8")


def _scores(
    call: Call, b: int, h: int, queries: np.ndarray, keys: np.ndarray, packed: np.ndarray, kind: int
) -> np.ndarray:
    """[rows, keys] float64 after score_mod, −inf where hidden; poison that decides is reported."""
    present = programs(call.spec.key)
    scores = call.read("query", b, h, queries) @ packed.T * call.real(list(FIXED).index("scale"))
    visible = np.ones(scores.shape, bool)
    asked = ([Which.MASK] if kind == BlockKind.PARTIAL else []) + [Which.MASK_MOD]
    for which in asked:
        if which in present:
            value, poison = call.program(which, b, h, queries, keys)
            _report_where(call, which, poison & visible, b, h, queries, keys)
            visible = visible & value
    if Which.SCORE in present:
        given = scores.astype(np.float64 if call.spec.precise is DType.FLOAT64 else np.float32)
        value, poison = call.program(Which.SCORE, b, h, queries, keys, score=given)
        _report_where(call, Which.SCORE, poison & visible, b, h, queries, keys)
        scores = value.astype(np.float64)
    return np.where(visible, scores, -np.inf)


def _report_where(
    call: Call, which: Which, bad: np.ndarray, b: int, h: int, q: np.ndarray, k: np.ndarray
) -> None:
    if bad.any():
        row, column = np.argwhere(bad)[0]
        call.report(which, b, h, int(q[row]), int(k[column]))


def _finish(call: Call, b: int, h: int, queries: np.ndarray, scores: np.ndarray, value: np.ndarray) -> None:
    """Softmax and the product with the values, written to the outputs."""
    key, precise = call.spec.key, _STORED[call.spec.precise]
    row_max = scores.max(axis=1)
    sink = float(dense(call["sinks"], (call["q_heads"],), precise)[h]) if key.sinks else -np.inf
    top = np.maximum(row_max, sink)
    top = np.where(np.isneginf(top), 0.0, top)
    weights = np.exp(scores - top[:, None])
    row_sum = weights.sum(axis=1) + np.exp(sink - top)
    lse = np.where(row_sum == 0, -np.inf, np.log(np.where(row_sum == 0, 1.0, row_sum)) + top)
    if key.dropout:
        weights = weights * _kept(call, b, h, queries) * call.real(list(FIXED).index("keep_factor"))
    seen = weights != 0
    product = np.where(seen[:, :, None], weights[:, :, None] * value, 0.0).sum(axis=1)
    out = product / np.where(row_sum == 0, 1.0, row_sum)[:, None]
    shape = (call["batch"], call["q_heads"], call["q_len"], key.value_dim)
    call.tensor("out", shape)[b, h, queries] = narrowed(out, key.dtype)
    for name, numbers in (("lse", lse), ("max_scores", row_max)):
        if getattr(key.outputs, name):
            dense(call[name], shape[:3], precise)[b, h, queries] = numbers


def _kept(call: Call, b: int, h: int, queries: np.ndarray) -> np.ndarray:
    keys, seed = np.arange(call["kv_len"]), call["seed"]
    words = [
        np.asarray(part, np.uint64)
        for part in (queries[:, None], 16 * (keys // 128) + keys % 16, b * call["q_heads"] + h, 0)
    ]
    bits = philox4x32(words, (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF))
    half = np.broadcast_to(keys // 16 % 8, bits.shape[1:])
    word = np.take_along_axis(bits, half[None] // 2, axis=0)[0]
    return (word >> (16 * (half % 2)).astype(np.uint64)) & np.uint64(0xFFFF) >= call["keep_threshold"]


class Executor:
    """Kernels of numpy by specification, in place of `load_kernel`; remembers what was asked for."""

    def __init__(self) -> None:
        self.specs: list[KernelSpec] = []
        self.faults: list[BaseException] = []
        self._entries: list[object] = []

    def load(self, spec: KernelSpec) -> LoadedKernel:
        self.specs.append(spec)
        layout, key = ArgumentLayout.of(spec.key), spec.key
        if spec.kind is KernelKind.FORWARD:
            entries = [self._entry(spec, layout, entry) for entry in (pack, attend)]
            panels = [8 * PANEL_KEYS * dim for dim in (key.head_dim, key.value_dim)]
            source = KernelSource("", ("pack", "attend"), layout, 64, PANEL_KEYS, *panels)
        else:
            entries = [self._entry(spec, layout, entry) for entry in (decode, merge)]
            source = KernelSource("", ("attend", "merge"), layout, 64, partial_bytes=self.partial_bytes)
        addresses = tuple(ctypes.cast(entry, ctypes.c_void_p).value for entry in entries)
        return LoadedKernel(spec, source, self, addresses)

    partial_bytes = 1 << 16
    """Room for the scores of one item: 8 * group * q_len * kv_len at most."""

    def _entry(self, spec: KernelSpec, layout: ArgumentLayout, entry: Callable[[Call], None]) -> object:
        def run(address: int) -> None:
            try:
                with np.errstate(all="ignore"):
                    entry(Call(spec, layout, address))
            except BaseException as fault:  # a callback of C cannot raise
                self.faults.append(fault)

        self._entries.append(_ENTRY(run))
        return self._entries[-1]
