"""Interpreted kernels compute with bfloat16 as torch does, and leave triton as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed: pip install 'saccade[gpu]'")

from runtime.triton.kernels import run_script

PRODUCTS = '''"""Products of tiles, conversions both ways."""
import triton
import triton.language as tl


@triton.jit
def products(dots, widened, narrowed, left, right, wide):
    i = tl.arange(0, 16)[:, None] * 16 + tl.arange(0, 16)[None, :]
    a, b = tl.load(left + i), tl.load(right + i)
    tl.store(dots + i, tl.dot(a, tl.trans(b)))
    tl.store(widened + i, a.to(tl.float32))
    tl.store(narrowed + i, tl.load(wide + i).to(tl.bfloat16))
'''

SCRIPT = f"""
import torch
import triton
from saccade.runtime.triton import INTERPRETER, compile_kernel

text = {PRODUCTS!r}
signature = {{"dots": "*fp32", "widened": "*fp32", "narrowed": "*bf16", "left": "*bf16", "right": "*bf16"}}
signature["wide"] = "*fp32"
kernel = compile_kernel(text, "products", signature, {{}}, target=INTERPRETER, warps=4, stages=1)

torch.manual_seed(0)
left, right = torch.randn(2, 16, 16).bfloat16()
# Subnormal numbers, zeros, infinities, NaN.
left[0] = torch.arange(16, dtype=torch.int16).view(torch.bfloat16)
wide = torch.randn(16, 16)
# Halfway between two numbers of bfloat16, and just beside; past the largest one.
wide[0] = torch.arange(0x3F800000, 0x3F800000 + 16 * 0x4000, 0x4000, dtype=torch.int32).view(torch.float32)
wide[1] = wide[0].view(torch.int32).add(1).view(torch.float32)
wide[2, :6] = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 3.4e38])
wide[3] = torch.arange(1, 17) * 2.0**-133

own = dict(vars(triton.runtime.interpreter.InterpreterBuilder))
dots, widened, narrowed = torch.empty(16, 16), torch.empty(16, 16), torch.empty(16, 16).bfloat16()
kernel.launch(1, [dots, widened, narrowed, left, right, wide], torch.device("cpu"))
torch.testing.assert_close(dots, left.float() @ right.float().T, atol=1e-5, rtol=1e-5)
assert torch.equal(widened, left.float())
torch.testing.assert_close(narrowed, wide.bfloat16(), atol=0, rtol=0, equal_nan=True)
assert torch.equal(narrowed.signbit() | wide.isnan(), wide.signbit() | wide.isnan())
assert dict(vars(triton.runtime.interpreter.InterpreterBuilder)) == own
print("as torch")
"""


def test_bfloat16_is_that_of_torch(tmp_path: Path) -> None:
    assert run_script(SCRIPT, tmp_path, TRITON_INTERPRET="1") == "as torch\n"
