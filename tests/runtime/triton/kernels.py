"""Small kernels, and a way to run a script where triton interprets, or is not there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import saccade

AXPY = '''"""A sum of two arrays, one scaled."""
import triton
import triton.language as tl


@triton.jit
def axpy(out, x, y, count, factor, shift):
    i = tl.program_id(0).to(tl.int64) * 32 + tl.arange(0, 32)
    inside = i < count
    a = tl.load(x + i, mask=inside, other=0.0)
    b = tl.load(y + i, mask=inside, other=0.0)
    tl.store(out + i, a * factor + b + (shift >> 32).to(tl.float32), mask=inside)
'''
AXPY_SIGNATURE = {
    "out": "*fp32",
    "x": "*fp32",
    "y": "*fp32",
    "count": "i32",
    "factor": "fp32",
    "shift": "i64",
}

# One product of 64 x 64, so that there is shared memory, and tensor memory where there is such a thing.
GRAM = '''"""The product of a tile with its transpose."""
import triton
import triton.language as tl


@triton.jit
def gram(out, source, row):
    i = tl.arange(0, 64)
    a = tl.load(source + i[:, None] * row + i[None, :])
    tl.store(out + i[:, None] * 64 + i[None, :], tl.dot(a, tl.trans(a)))
'''
GRAM_SIGNATURE = {"out": "*fp32", "source": "*bf16", "row": "i64"}

# The same, its tile loaded through a descriptor of batch, head, row and column.
DESCRIBED = '''"""The product of a described tile with its transpose."""
import triton
import triton.language as tl


@triton.jit
def described(out, tiles, first):
    i = tl.arange(0, 16)
    a = tiles.load([1, 0, first, 0]).reshape(16, 16).to(tl.float32)
    tl.store(out + i[:, None] * 16 + i[None, :], tl.dot(a, tl.trans(a), input_precision="ieee"))
'''
DESCRIBED_SIGNATURE = {"out": "*fp32", "tiles": "tensordesc<fp16[1, 1, 16, 16]>", "first": "i32"}

# A product along many tiles of 64 x 64, 16 KiB of operands for each stage of the loop.
STAGED = '''"""The product of rows with themselves."""
import triton
import triton.language as tl


@triton.jit
def staged(out, left, right, tiles):
    i = tl.arange(0, 64)
    sum = tl.zeros([64, 64], tl.float32)
    for tile in tl.range(0, tiles):
        a = tl.load(left + tile * 4096 + i[:, None] * 64 + i[None, :])
        b = tl.load(right + tile * 4096 + i[:, None] * 64 + i[None, :])
        sum = tl.dot(a, b, sum)
    tl.store(out + i[:, None] * 64 + i[None, :], sum)
'''
STAGED_SIGNATURE = {"out": "*fp32", "left": "*bf16", "right": "*bf16", "tiles": "i32"}


def run_script(script: str, directory: Path, **environment: str) -> str:
    """What a script prints in a process of its own, whose caches are in a directory."""
    roots = [str(Path(saccade.__file__).parents[1]), str(Path(__file__).parents[2])]
    roots += filter(None, [os.environ.get("PYTHONPATH")])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(roots),
            "SACCADE_CACHE_DIR": str(directory / "saccade"),
            "TRITON_CACHE_DIR": str(directory / "triton"),
        }
        | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
