"""The tile product against numpy: both orders of A, both starts, ends of sums, pairs of bfloat16."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from llvmlite import ir

from codegen.cpu.forward_call import host_isas
from saccade.codegen.cpu.emitter import I64, POINTER, Emitter
from saccade.codegen.cpu.isa import ISAS
from saccade.codegen.cpu.tile_product import TileProduct
from saccade.codegen.cpu.tiling import RegisterTile
from saccade.ir.dtype import DType
from saccade.runtime.llvm import Target, compile_kernel, host_triple

NUMPY = {DType.FLOAT32: np.float32, DType.FLOAT64: np.float64}


def run_product(
    isa_name: str,
    precise: DType,
    product: TileProduct,
    a: np.ndarray,
    b: np.ndarray,
    c: np.ndarray,
    steps: int,
    *,
    factors: np.ndarray | None = None,
    known: bool = True,
) -> None:
    """Write C in place; `known` says whether the number of steps is a constant of the code."""
    isa, module = ISAS[isa_name], ir.Module(context=ir.Context())
    e = Emitter(isa, precise, module, "product", (POINTER,) * 4 + (I64,))
    at_a, at_b, at_c, at_factors, number = e.function.args
    product.emit(e, at_a, at_b, at_c, steps if known else number, None if factors is None else at_factors)
    e.finish()
    target = Target(host_triple(), isa.cpu, isa.features)
    kernel = compile_kernel("product", str(module), ("product",), target)
    entry = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4, ctypes.c_int64)(kernel.address("product"))
    entry(a.ctypes.data, b.ctypes.data, c.ctypes.data, 0 if factors is None else factors.ctypes.data, steps)


@pytest.mark.parametrize("precise", NUMPY, ids=str)
@pytest.mark.parametrize("isa", host_isas())
@pytest.mark.parametrize("steps", [1, 7, 12])
@pytest.mark.parametrize("transposed", [False, True])
def test_product_from_zero(isa, precise, steps, transposed):
    register, width = (
        RegisterTile.of(ISAS[isa]),
        ISAS[isa].lanes(precise) * RegisterTile.of(ISAS[isa]).vectors,
    )
    rng, type_ = np.random.default_rng(0), NUMPY[precise]
    a = rng.standard_normal((register.rows, steps)).astype(type_)
    b = rng.standard_normal((steps, width)).astype(type_)
    c = np.full((register.rows, width + 3), 7, type_)
    size = a.itemsize
    stored = np.ascontiguousarray(a.T) if transposed else a
    product = TileProduct(
        rows=register.rows,
        vectors=register.vectors,
        pairs=False,
        a_row=size if transposed else steps * size,
        a_step=register.rows * size if transposed else size,
        b_step=width * size,
        c_row=c.shape[1] * size,
    )
    run_product(isa, precise, product, stored, b, c, steps)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    assert np.abs(c[:, :width] - exact).max() < 40 * np.finfo(type_).eps
    assert (c[:, width:] == 7).all()


@pytest.mark.parametrize("isa", host_isas())
def test_product_from_scaled_rows_over_steps_known_late(isa):
    lanes = ISAS[isa].lanes(DType.FLOAT32)
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((4, 8)), rng.standard_normal((8, lanes))
    c, factors = rng.standard_normal((4, lanes)), rng.standard_normal(4)
    a, b, c, factors = (x.astype(np.float32) for x in (a, b, c, factors))
    exact = factors[:, None].astype(np.float64) * c + a.astype(np.float64) @ b
    product = TileProduct(4, 1, False, a_row=32, a_step=4, b_step=4 * lanes, c_row=4 * lanes)
    run_product(isa, DType.FLOAT32, product, a, b, c, 8, factors=factors, known=False)
    assert np.abs(c - exact).max() < 40 * np.finfo(np.float32).eps


@pytest.mark.skipif("avx512_bf16" not in host_isas(), reason="this processor has no AVX512-BF16")
def test_product_of_pairs():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(6, 10, generator=generator).bfloat16()
    b = torch.randn(10, 32, generator=generator).bfloat16()
    packed = b.view(5, 2, 32).transpose(1, 2).contiguous()  # [steps][columns][2]
    c = np.zeros((6, 32), np.float32)
    product = TileProduct(6, 2, True, a_row=20, a_step=4, b_step=128, c_row=128)
    arrays = [np.ascontiguousarray(tensor.view(torch.int16).numpy()) for tensor in (a, packed)]
    run_product("avx512_bf16", DType.FLOAT32, product, *arrays, c, 5)
    assert np.abs(c - (a.double() @ b.double()).numpy()).max() < 1e-5
