"""Under the interpreter a kernel is launched the same way, and its numbers have the signature's types."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed: pip install 'saccade[gpu]'")

from runtime.triton.kernels import run_script

SCRIPT = """
import torch
from runtime.triton.kernels import AXPY, AXPY_SIGNATURE, DESCRIBED, DESCRIBED_SIGNATURE
from saccade.runtime.triton import (
    INTERPRETER, Device, compile_kernel, current_target, describe_device, is_available, is_interpreted,
    tensor_descriptor,
)

cpu = torch.device("cpu")
assert is_interpreted()
assert is_available("cpu") is None
assert current_target(cpu) == INTERPRETER
assert describe_device(cpu) == Device(INTERPRETER, 1, None)

kernel = compile_kernel(AXPY, "axpy", AXPY_SIGNATURE, {"x": 16}, target=INTERPRETER, warps=4, stages=1)
assert repr(kernel) == "<InterpretedKernel axpy>"
assert kernel.resources is None and kernel.target == INTERPRETER
assert kernel.source.read_text() == AXPY
torch.manual_seed(0)
x, y = torch.randn(2, 40)
out = torch.full((64,), 9.0)
kernel.launch(2, [out, x, y, 40, 0.5, 3 << 32], cpu)
torch.testing.assert_close(out[:40], x * 0.5 + y + 3)
assert out[40:].eq(9.0).all()

# `shift` is 64 bits wide however small: shifted by 32 it is 0, and of 32 bits it would be itself.
kernel.launch(2, [out, x, y, 40, 0.5, 3], cpu)
torch.testing.assert_close(out[:40], x * 0.5 + y)

kernel.launch(0, [None, None, None, 40, 0.5, 3], cpu)
# A null pointer may be passed where nothing is read.
kernel.launch(1, [out, None, None, 0, 0.5, 3], cpu)

kernel = compile_kernel(
    DESCRIBED, "described", DESCRIBED_SIGNATURE, {}, target=INTERPRETER, warps=4, stages=1
)
base = torch.randn(2, 1, 40, 16).half()
tiles = tensor_descriptor(base, base.shape, base.stride(), [1, 1, 16, 16])
out = torch.empty(16, 16)
kernel.launch(1, [out, tiles, 32], cpu)
rows = torch.zeros(16, 16)
rows[:8] = base[1, 0, 32:].float()
torch.testing.assert_close(out, rows @ rows.T, atol=1e-4, rtol=1e-4)

try:
    kernel.launch(1, [out, tiles], cpu)
except ValueError:
    print("an argument short")
"""


def test_kernels_run_on_the_cpu(tmp_path: Path) -> None:
    assert run_script(SCRIPT, tmp_path, TRITON_INTERPRET="1") == "an argument short\n"
