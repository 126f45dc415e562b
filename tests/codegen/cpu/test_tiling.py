"""Sizes of tiles: what fits registers, where things stand, what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from codegen.cpu.forward_call import Forward
from saccade.codegen.cpu.isa import ISAS
from saccade.codegen.cpu.tiling import ForwardTiling, RegisterTile


@pytest.mark.parametrize("isa", ISAS.values(), ids=lambda isa: isa.name)
def test_a_register_tile_leaves_room_for_a_step(isa):
    tile = RegisterTile.of(isa)
    product = 0 if isa.fma else 1
    assert tile.rows * tile.vectors + tile.vectors + 1 + product <= isa.registers


@pytest.mark.parametrize("isa", ISAS)
def test_parts_of_scratch_memory_are_aligned_and_apart(isa):
    layout = ForwardTiling(spec(isa)).scratch({"a": 1, "b": 64})
    places = [*layout.offsets.values(), layout.size]
    assert all(place % 64 == 0 for place in places)
    assert places == sorted(places)
    assert layout.size - layout.offsets["b"] == 64


def test_tiles_that_do_not_divide_are_a_fault():
    for rows, keys, message in ((95, 128, "rows=95"), (96, 100, "keys=100")):
        with pytest.raises(AssertionError, match=message):
            ForwardTiling(replace(spec("avx512"), rows=rows, keys=keys))


def test_dropout_needs_whole_groups_of_keys():
    tensor = torch.zeros(1, 1, 8, 8)
    dropping = Forward(tensor, tensor, tensor, isa="avx2", dropout=(0.5, 1), tile=(96, 64)).spec
    with pytest.raises(AssertionError, match="decides for 128"):
        ForwardTiling(dropping)


def spec(isa: str):
    tensor = torch.zeros(1, 1, 8, 8)
    return Forward(tensor, tensor, tensor, isa=isa).spec
