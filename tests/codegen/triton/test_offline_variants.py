"""More kernels compiled without a GPU: other types, mods, head dimensions, alignment and tiles.

Most under --thorough. Each fits into its card; how many registers spill is told of the usual ones alone, in
`test_offline_compilation`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple
from typing import Any

import pytest
import torch
from torch import Tensor

from backends.triton.presence import require_triton
from codegen.triton.offline import record, resources_of
from codegen.triton.test_offline_compilation import LENGTH, MOST_REGISTERS, TARGETS, draw, learning
from saccade import create_block_mask
from saccade.codegen.triton.spec import KernelKind, Tile
from saccade.codegen.triton.tiles import tile_choices
from saccade.errors import OutOfResourcesError
from saccade.ir.dtype import DType
from saccade.masks import causal, document, shift, sliding_window
from saccade.problem import HeadGroups, KernelKey, Outputs
from saccade.runtime.triton import Target
from saccade.scores import alibi, softcap

KEYS = 16384


def blocks(mask: Any, q_len: int = LENGTH, kv_len: int = LENGTH) -> dict[str, Any]:
    return {"block_mask": create_block_mask(mask, None, None, q_len, kv_len, device="cpu")}


def of(dtype: torch.dtype, leaves: list[Tensor]) -> list[Tensor]:
    return [leaf.detach().to(dtype).requires_grad_() for leaf in leaves]


def unaligned(leaves: list[Tensor]) -> list[Tensor]:
    wide = [torch.zeros(*leaf.shape[:3], leaf.shape[3] + 1, dtype=leaf.dtype) for leaf in leaves]
    return [each[..., 1:].requires_grad_() for each in wide]


def gate(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return torch.tanh(score * 0.3) * torch.sigmoid(score) + (q_idx - kv_idx) // 3 % 5


CALLS: dict[str, Callable[[int], tuple[list[Tensor], dict[str, Any]]]] = {
    "float16": lambda dim: (of(torch.float16, draw(dim)), blocks(causal)),
    "float32": lambda dim: (of(torch.float32, draw(dim)), blocks(causal)),
    "everything": lambda dim: (draw(dim), {}),
    "a mask_mod asked everywhere": lambda dim: (draw(dim, q_len=512, kv_len=512), {"mask_mod": causal}),
    "documents": lambda dim: (draw(dim), blocks(document(torch.arange(LENGTH) // 300))),
    "a window and a mask_mod": lambda dim: (draw(dim), {**blocks(sliding_window(300)), "mask_mod": causal}),
    "softcap": lambda dim: (draw(dim), {"score_mod": softcap(20.0), **blocks(causal)}),
    "functions": lambda dim: (draw(dim), {"score_mod": gate, **blocks(causal)}),
    "learned slopes": lambda dim: (
        draw(dim),
        {"score_mod": alibi(slopes=torch.zeros(8, requires_grad=True)), **blocks(causal)},
    ),
    "dropout": lambda dim: (draw(dim), {"dropout_p": 0.1, **blocks(causal)}),
    "sinks": lambda dim: (draw(dim), {"sinks": torch.zeros(8, requires_grad=True), **blocks(causal)}),
    "grouped heads": lambda dim: (draw(dim, kv_heads=2), blocks(causal)),
    "odd addresses": lambda dim: (unaligned(draw(dim)), blocks(causal)),
    "few queries in a window": lambda dim: (
        draw(dim, q_len=4, kv_len=KEYS, kv_heads=1),
        blocks(shift(sliding_window(5000), q=KEYS - 4), 4, KEYS),
    ),
}


@pytest.mark.parametrize("dim", [40, 64, 128, 256])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("call", CALLS)
def test_all_kernels_of_a_call_fit(call: str, target: str, dim: int) -> None:
    require_triton()
    leaves, options = CALLS[call](dim)
    for each in record(target, leaves, **options):
        limit = Target.parse(target).shared_limit
        assert limit is not None
        assert resources_of(each).shared_bytes <= limit


@pytest.mark.parametrize("dim", [128, 256])
@pytest.mark.parametrize("target", TARGETS)
def test_kernels_with_the_gradients_of_captured_tensors_fit(target: str, dim: int) -> None:
    require_triton()
    for each in learning(target, dim):
        assert resources_of(each).registers <= MOST_REGISTERS


def tried(kind: KernelKind, target: str, dim: int) -> tuple[Tile, ...]:
    key = KernelKey(
        target, DType.BFLOAT16, dim, dim, HeadGroups.SINGLE, None, None, None, Outputs(),
        sinks=False, dropout=False, small_indices=True,
    )  # fmt: skip
    limit = Target.parse(target).shared_limit
    assert limit is not None
    return tile_choices(kind, key, limit)


NAMES = {
    KernelKind.FORWARD: ("attend", ("BLOCK_M", "BLOCK_N")),
    KernelKind.QUERY_GRADIENT: ("query_gradient", ("BLOCK_M2", "BLOCK_N2")),
    KernelKind.KEY_GRADIENT: ("key_gradient", ("BLOCK_M1", "BLOCK_N1")),
}


@pytest.mark.parametrize("place", range(12))
@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", NAMES, ids=lambda kind: kind.name)
def test_tiles_that_are_tried_compile(kind: KernelKind, target: str, dim: int, place: int) -> None:
    """One that does not fit is passed over when they are tried; the default, which is first, fits."""
    require_triton()
    choices = tried(kind, target, dim)
    name, keys = NAMES[kind]
    rows, columns, warps, stages = astuple(choices[place % len(choices)])
    options = {**dict(zip(keys, (rows, columns), strict=True)), "num_warps": warps, "num_stages": stages}
    found = record(target, draw(dim), kernel_options={"SPLIT_KV": 1, **options}, **blocks(causal))
    (source,) = [each for each in found if each.name == name]
    assert (source.options["warps"], source.options["stages"]) == (warps, stages)
    try:
        use = resources_of(source)
    except OutOfResourcesError:
        assert place % len(choices) > 0
    else:
        assert use.registers <= MOST_REGISTERS
