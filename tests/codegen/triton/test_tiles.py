"""Default tiles, and those worth trying, fit the card they are for."""

from __future__ import annotations

import pytest

from saccade.codegen.triton.spec import KernelKind, Tile
from saccade.codegen.triton.tiles import default_tile, shared_bytes, tile_choices
from saccade.ir.dtype import DType
from saccade.problem import HeadGroups, KernelKey, Outputs

WITH_KEYS = (KernelKind.FORWARD, KernelKind.SPLIT, KernelKind.QUERY_GRADIENT, KernelKind.KEY_GRADIENT)
LIMITS = {"cuda:80": 163 << 10, "cuda:86": 99 << 10, "cuda:90": 227 << 10, "cuda:100": 227 << 10}


def key(target: str, dim: int = 64, dtype: DType = DType.BFLOAT16, *, dropout: bool = False) -> KernelKey:
    return KernelKey(
        target, dtype, dim, dim, HeadGroups.SINGLE, None, None, None, Outputs(), False, dropout, True
    )


@pytest.mark.parametrize("target", LIMITS)
@pytest.mark.parametrize("dtype", [DType.BFLOAT16, DType.FLOAT32], ids=str)
@pytest.mark.parametrize("kind", WITH_KEYS, ids=lambda kind: kind.name)
def test_defaults_fit(kind, dtype, target):
    for dim in (8, 64, 72, 128, 256):
        for dropout in (False, True):
            own = key(target, dim, dtype, dropout=dropout)
            assert shared_bytes(kind, own, default_tile(kind, own)) <= LIMITS[target]


def test_choices_begin_with_the_default_and_fit():
    own = key("cuda:90", 128)
    found = tile_choices(KernelKind.FORWARD, own, LIMITS["cuda:90"])
    assert found[0] == default_tile(KernelKind.FORWARD, own)
    assert len(set(found)) == len(found) > 4
    assert Tile(64, 64, 4, 2) in found
    assert all(shared_bytes(KernelKind.FORWARD, own, tile) <= LIMITS["cuda:90"] for tile in found)
    assert tile_choices(KernelKind.FORWARD, own, 0) == found[:1]


def test_dropout_has_more_threads():
    assert default_tile(KernelKind.FORWARD, key("cuda:90")).warps == 4
    assert default_tile(KernelKind.FORWARD, key("cuda:90", dropout=True)).warps == 8


def test_what_is_no_nvidia_card_counts_as_ampere():
    ampere = default_tile(KernelKind.FORWARD, key("cuda:80", 128))
    assert default_tile(KernelKind.FORWARD, key("interpreter:0", 128)) == ampere
    assert default_tile(KernelKind.FORWARD, key("hip:gfx942", 128)) == ampere


@pytest.mark.parametrize("kind", [KernelKind.COMBINE, KernelKind.DELTA], ids=lambda kind: kind.name)
def test_kernels_without_keys_have_one_tile(kind):
    assert tile_choices(kind, key("cuda:90"), LIMITS["cuda:90"]) == (default_tile(kind, key("cuda:90")),)
