"""A kernel's module: its constants, the functions it calls, the kernel.

A constant or function stands in the module only where the text uses it. The kernel takes no `tl.constexpr`:
what is fixed is a constant of the module.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from math import e, log, log2

from saccade.codegen.triton.parameters import Parameter
from saccade.codegen.triton.source import CapturedSum, TritonSource
from saccade.codegen.triton.spec import TritonSpec
from saccade.codegen.triton.template import Lines

__all__ = ["padded", "write_module"]

_SMALLEST_BLOCK = 16  # of a matrix product on tensor cores


def padded(size: int) -> int:
    """Return the extent in registers of an axis of this size: a power of two from 16 on."""
    return max(_SMALLEST_BLOCK, 1 << (size - 1).bit_length())


def _constants(spec: TritonSpec) -> Mapping[str, int | float]:
    dim, value_dim = spec.key.head_dim, spec.key.value_dim
    return {
        "BLOCK_M": spec.tile.rows,
        "BLOCK_N": spec.tile.keys,
        "HEAD_DIM": dim,
        "BLOCK_D": padded(dim),
        "VALUE_DIM": value_dim,
        "BLOCK_V": padded(value_dim),
        "LOG2E": log2(e),
        "LN2": log(2.0),
    }


def write_module(
    spec: TritonSpec,
    title: str,
    name: str,
    parameters: Sequence[Parameter],
    body: Lines,
    functions: Iterable[str] = (),
    sums: tuple[CapturedSum, ...] = (),
) -> TritonSource:
    """Return a kernel's module.

    Args:
        spec: The kernel; its sizes become the constants that body and functions name.
        title: What the kernel does, a sentence.
        name: The kernel's.
        parameters: What it may read, in order; what it does not is no parameter of it.
        body: The kernel's lines.
        functions: Texts of `@triton.jit` functions that the body calls.
        sums: How captured gradients come back.
    """
    words = set(re.findall(r"\w+", "\n".join(body)))
    read = tuple(parameter for parameter in parameters if parameter.name in words)
    names = [parameter.name for parameter in read]
    assert len(set(names)) == len(names), f"parameters share a name: {names}"
    code = "\n\n".join([*(text.strip("\n") + "\n" for text in functions), _kernel(name, read, body)])
    used = set(re.findall(r"\w+", code))
    constants = [f"{key} = tl.constexpr({value!r})" for key, value in _constants(spec).items() if key in used]
    head = [f'"""{title}"""', "", "import triton", "import triton.language as tl", "", *constants, "", ""]
    return TritonSource("\n".join(head) + "\n" + code, name, read, spec.tile.warps, spec.tile.stages, sums)


def _kernel(name: str, parameters: Sequence[Parameter], body: Lines) -> str:
    signature = [f"    {parameter.name}," for parameter in parameters]
    indented = ["    " + line if line else line for line in body]
    return "\n".join(["@triton.jit", f"def {name}(", *signature, "):", *indented, ""])
