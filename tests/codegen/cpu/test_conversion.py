"""Stored elements and values: exact both ways on every instruction set, and no memory touched in vain."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from codegen.cpu.lane_kernel import HOST_ISAS, PRECISE, library_calls, run_kernel
from saccade.codegen.cpu.conversion import (
    gather_elements,
    load_element,
    load_elements,
    masked_load_elements,
    store_elements,
)
from saccade.codegen.cpu.emitter import I8, I32, I64, Emitter, Value
from saccade.codegen.cpu.isa import ISAS
from saccade.ir.dtype import DType
from saccade.ir.elementwise import NUMPY_TYPE

Array = npt.NDArray[Any]
Load = Callable[[Emitter, Value, DType], Value]

STORED = {**NUMPY_TYPE, DType.FLOAT16: np.uint16, DType.BFLOAT16: np.uint16}
TORCH = {DType.FLOAT16: torch.float16, DType.BFLOAT16: torch.bfloat16}
HALVES = tuple(TORCH)

each_isa = pytest.mark.parametrize("isa", HOST_ISAS)
each_precise = pytest.mark.parametrize("precise", PRECISE)
each_stored = pytest.mark.parametrize("stored", DType, ids=lambda stored: stored.value)


def place(e: Emitter, address: Value, first: Value, dtype: DType) -> Value:
    return e.at(address, e.binary("mul", first, e.whole(dtype.itemsize)))


def loading(load: Load, stored: DType) -> Callable[[Emitter, Sequence[Value], Value], None]:
    """The body that stores what `load` makes of a vector of elements; BOOL as bytes."""

    def body(e: Emitter, addresses: Sequence[Value], first: Value) -> None:
        out, given = addresses
        value = load(e, place(e, given, first, stored), stored)
        if stored is DType.BOOL:
            value = e.builder.zext(value, e.vector(I8))
        e.store(value, place(e, out, first, stored.value_type))

    return body


def storing(stored: DType) -> Callable[[Emitter, Sequence[Value], Value], None]:
    """The body that stores values as `stored`."""

    def body(e: Emitter, addresses: Sequence[Value], first: Value) -> None:
        out, given = addresses
        source = place(e, given, first, stored.value_type)
        if stored is DType.BOOL:
            value = e.compare("!=", e.load_vector(source, I8), e.whole(0, e.vector(I8)))
        else:
            value = e.load_vector(source, e.scalar_type(stored.value_type))
        store_elements(e, value, place(e, out, first, stored), stored)

    return body


def lane_mask(e: Emitter, lanes: int) -> Value:
    return e.compare("<", e.lane_numbers(), e.whole(lanes, e.vector(I32)))


def masked(lanes: int) -> Load:
    def load(e: Emitter, pointer: Value, stored: DType) -> Value:
        return masked_load_elements(e, pointer, lane_mask(e, lanes), stored)

    return load


def gathered(lanes: int, index: Any) -> Load:
    """Backwards from the vector's last element."""

    def load(e: Emitter, pointer: Value, stored: DType) -> Value:
        type_ = e.vector(index)
        backward = e.binary("sub", e.whole(e.lanes - 1, type_), e.lane_numbers(index))
        offsets = e.binary("mul", backward, e.whole(stored.itemsize, type_))
        return gather_elements(e, pointer, offsets, lane_mask(e, lanes), stored)

    return load


def elements(stored: DType, count: int = 64) -> Array:
    """Elements of a type: random bits, of BOOL 0 and 1."""
    random = np.random.default_rng(8)
    if stored is DType.BOOL:
        return random.integers(0, 2, count, np.uint8)
    return random.integers(0, 256, count * stored.itemsize, np.uint8).view(STORED[stored])


def values(stored: DType, raw: Array) -> Array:
    """What elements mean, by torch."""
    if stored in TORCH:
        return torch.from_numpy(raw.view(np.int16).copy()).view(TORCH[stored]).float().numpy()
    return raw.astype(np.uint8 if stored is DType.BOOL else NUMPY_TYPE[stored.value_type])


def loaded(isa: str, precise: DType, stored: DType, load: Load, raw: Array) -> Array:
    out = np.full(raw.size, 77, np.uint8 if stored is DType.BOOL else NUMPY_TYPE[stored.value_type])
    run_kernel(isa, precise, loading(load, stored), raw.size, out, raw)
    return out


@each_isa
@each_precise
@each_stored
def test_every_type_is_loaded(stored: DType, precise: DType, isa: str) -> None:
    raw = elements(stored)
    np.testing.assert_array_equal(loaded(isa, precise, stored, load_elements, raw), values(stored, raw))


@each_isa
@each_precise
@each_stored
def test_lanes_that_are_off_are_zero(stored: DType, precise: DType, isa: str) -> None:
    raw = elements(stored)
    width = ISAS[isa].lanes(precise)
    expected = values(stored, raw).reshape(-1, width)
    on = np.arange(width) < width - 1
    got = loaded(isa, precise, stored, masked(width - 1), raw).reshape(-1, width)
    np.testing.assert_array_equal(got, np.where(on, expected, 0))
    for index in (I32, I64):
        got = loaded(isa, precise, stored, gathered(width - 1, index), raw).reshape(-1, width)
        np.testing.assert_array_equal(got, np.where(on, expected[:, ::-1], 0))


@each_isa
@each_stored
def test_lanes_that_are_off_touch_no_memory(stored: DType, isa: str) -> None:
    width = ISAS[isa].lanes(DType.FLOAT32)
    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, 2 * page)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(base + page), ctypes.c_size_t(page), 0) == 0
    raw = np.frombuffer(memory, STORED[stored], page // stored.itemsize)
    raw[-1] = 1
    last = raw[-1:]  # what follows it must not be read
    for load in (masked(1), _first_lane_gathered):
        out = np.zeros(width, np.uint8 if stored is DType.BOOL else NUMPY_TYPE[stored.value_type])
        run_kernel(isa, DType.FLOAT32, loading(load, stored), width, out, last)
        np.testing.assert_array_equal(out, values(stored, np.append(last, np.zeros(width - 1, last.dtype))))


def _first_lane_gathered(e: Emitter, pointer: Value, stored: DType) -> Value:
    offsets = e.binary("mul", e.lane_numbers(I64), e.whole(stored.itemsize, e.vector(I64)))
    return gather_elements(e, pointer, offsets, lane_mask(e, 1), stored)


@each_isa
@pytest.mark.parametrize("stored", HALVES)
def test_every_half_is_widened_exactly(stored: DType, isa: str) -> None:
    raw = np.arange(1 << 16, dtype=np.uint16)
    expected = values(stored, raw)
    got = loaded(isa, DType.FLOAT32, stored, load_elements, raw)
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(got[numbers].view(np.uint32), expected[numbers].view(np.uint32))
    assert np.isnan(got[~numbers]).all()


@each_isa
@pytest.mark.parametrize("stored", HALVES)
def test_halves_are_rounded_to_the_nearest(stored: DType, isa: str) -> None:
    random = np.random.default_rng(9)
    halves = values(stored, np.arange(1 << 16, dtype=np.uint16)).view(np.uint32)
    step = 1 << (13 if stored is DType.FLOAT16 else 16)
    around = [
        halves + np.uint32(offset) for offset in (0, 1, step // 2 - 1, step // 2, step // 2 + 1, step - 1)
    ]
    bits = np.concatenate([*around, random.integers(0, 1 << 32, 1 << 18, np.uint32)]).astype(np.uint32)
    given = bits.view(np.float32)
    out = np.zeros(given.size, np.uint16)
    run_kernel(isa, DType.FLOAT32, storing(stored), given.size, out, given)
    expected = torch.from_numpy(given.copy()).to(TORCH[stored]).view(torch.int16).numpy().view(np.uint16)
    if stored is DType.BFLOAT16 and ISAS[isa].bf16_dot:
        # The instruction takes a subnormal for 0.
        subnormal = np.abs(given) < np.finfo(np.float32).tiny
        expected = np.where(subnormal, expected & 0x8000, expected)
    numbers = ~np.isnan(given)
    np.testing.assert_array_equal(out[numbers], expected[numbers])
    assert np.isnan(values(stored, out[~numbers])).all()


@each_isa
@each_precise
@pytest.mark.parametrize(
    "stored", [DType.BOOL, DType.UINT8, DType.INT16, DType.INT32, DType.INT64, DType.FLOAT64]
)
def test_values_are_stored_and_integers_wrap(stored: DType, precise: DType, isa: str) -> None:
    given = elements(stored.value_type)
    out = np.zeros(given.size, np.uint8 if stored is DType.BOOL else STORED[stored])
    run_kernel(isa, precise, storing(stored), given.size, out, given)
    np.testing.assert_array_equal(out, given.astype(out.dtype))


@each_isa
@pytest.mark.parametrize("stored", [DType.UINT8, DType.INT8, DType.INT16, DType.INT32, DType.INT64])
def test_integers_can_be_narrow(stored: DType, isa: str) -> None:
    def body(e: Emitter, addresses: Sequence[Value], first: Value) -> None:
        out, given = addresses
        value = load_elements(e, place(e, given, first, stored), stored, I32)
        e.store(value, place(e, out, first, DType.INT32))

    raw = elements(stored)
    out = np.zeros(raw.size, np.int32)
    run_kernel(isa, DType.FLOAT32, body, raw.size, out, raw)
    np.testing.assert_array_equal(out, raw.astype(np.int32))


@each_isa
@each_stored
def test_one_element_is_what_a_vector_of_it_is(stored: DType, isa: str) -> None:
    def one(e: Emitter, pointer: Value, stored: DType) -> Value:
        return e.splat(load_element(e, pointer, stored))

    raw = elements(stored)
    width = ISAS[isa].lanes(DType.FLOAT32)
    expected = np.repeat(values(stored, raw)[::width], width)
    np.testing.assert_array_equal(loaded(isa, DType.FLOAT32, stored, one, raw), expected)


@each_precise
@pytest.mark.parametrize("isa", ISAS)
def test_nothing_calls_a_library(isa: str, precise: DType) -> None:
    for stored in DType:
        for body in (
            *(loading(load, stored) for load in (load_elements, masked(1), gathered(1, I64))),
            storing(stored),
        ):
            assert library_calls(isa, precise, 2, body) == set(), stored
