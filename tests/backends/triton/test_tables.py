"""Tables in device memory: what they hold, that they are made once, and never during a graph's capture."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from saccade import create_block_mask
from saccade.backends.triton.graph_capture import require_no_capture
from saccade.backends.triton.ranges import ranges_of
from saccade.backends.triton.tables import Cut, Tables, longest_walk, tables_of, without_tables
from saccade.block_mask import BlockMask
from saccade.block_mask.tiles import key_tile_runs, tile_runs
from saccade.errors import UnsupportedError
from saccade.masks import causal, sliding_window

CPU = torch.device("cpu")
CUDA = torch.device("cuda", 0)


def per_head(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return kv_idx <= q_idx + 9 * h


@pytest.fixture
def mask() -> BlockMask:
    return create_block_mask(per_head, None, 4, 50, 70, device="cpu", BLOCK_SIZE=8)


@pytest.mark.parametrize("cut", [Cut(16, 32), Cut(8, 16, group=2, splits=3), Cut(32, 16, by_key=True)])
def test_they_are_the_ranges(mask: BlockMask, cut: Cut) -> None:
    runs = key_tile_runs(mask, cut.tile) if cut.by_key else tile_runs(mask, cut.tile, cut.group)
    expected = ranges_of(runs, cut.step, cut.splits)
    tables = tables_of(mask, cut, CPU)
    values = tables.lend()
    assert tables.tiles == values["tiles"] == expected.tiles
    assert (values["runs_b"], values["runs_h"]) == (expected.runs_b, expected.runs_h)
    for name, array in expected.arrays.items():
        held = values[name]
        assert isinstance(held, Tensor)
        assert held.dtype is torch.int32
        assert held.data_ptr() % 16 == 0
        np.testing.assert_array_equal(held[: len(array)], array)


def test_an_empty_table_has_an_address() -> None:
    nothing = create_block_mask(lambda b, h, q, k: q + 100 < k, None, None, 50, 70, device="cpu")
    values = tables_of(nothing, Cut(16, 32), CPU).lend()
    for name in ("full_start", "partial_whole"):
        held = values[name]
        assert isinstance(held, Tensor)
        assert held.data_ptr() != 0


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_a_stream_that_they_are_lent_to_is_told_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    device, told = torch.device(kind, 0), []
    streams = iter([7, 7, 8])
    monkeypatch.setattr(
        torch.accelerator, "current_stream", lambda device: SimpleNamespace(stream_id=next(streams))
    )
    memory = SimpleNamespace(device=device, record_stream=lambda stream: told.append(stream.stream_id))
    tables = Tables(1, {}, memory)  # type: ignore[arg-type]
    for _ in range(3):
        tables.lend()
    assert told == [7, 8]


def test_tables_of_a_trial_go_with_it(mask: BlockMask) -> None:
    tried = without_tables(mask)
    assert tried == mask
    first = tables_of(tried, Cut(16, 32), CPU)
    assert tables_of(tried, Cut(16, 32), CPU) is first
    assert tables_of(mask, Cut(16, 32), CPU) is not first
    assert without_tables(None) is None


def test_they_are_made_once(mask: BlockMask) -> None:
    first = tables_of(mask, Cut(16, 32), CPU)
    assert tables_of(mask, Cut(16, 32), CPU) is first
    assert tables_of(mask, Cut(16, 64), CPU) is not first


class TestGraphCapture:
    def test_nothing_is_copied_meanwhile(self, mask: BlockMask, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        told = "tables of the block_mask for this kernel are not on the device; make the mask with "
        with pytest.raises(UnsupportedError, match=re.escape(told)):
            tables_of(mask, Cut(16, 32), CUDA)

    def test_what_is_there_is_used(self, mask: BlockMask, monkeypatch: pytest.MonkeyPatch) -> None:
        made = tables_of(mask, Cut(16, 32), CPU)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        assert tables_of(mask, Cut(16, 32), CPU) is made

    def test_other_devices_and_times_are_free(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
        require_no_capture(CUDA, "nothing")
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        require_no_capture(CPU, "nothing")


def test_given_blocks_have_tiles_of_their_own() -> None:
    counts, columns = torch.tensor([[[1, 2, 1]]]), torch.tensor([[[[0, 1, 2], [0, 2, 1], [1, 0, 2]]]])
    given = BlockMask.from_kv_blocks(counts, columns, BLOCK_SIZE=24, mask_mod=causal)
    tables = tables_of(given, Cut(16, 16), CPU)
    first, last = (tables.values[name] for name in ("tile_first", "tile_last"))
    assert isinstance(first, Tensor)
    assert isinstance(last, Tensor)
    assert first[: tables.tiles].tolist() == [0, 16, 24, 40, 48, 64]
    assert last[: tables.tiles].tolist() == [16, 24, 40, 48, 64, 72]


def test_the_longest_walk() -> None:
    window = create_block_mask(sliding_window(9), None, None, 50, 70, device="cpu", BLOCK_SIZE=8)
    assert longest_walk(window, 16, 1) == 24  # 16 queries and 8 keys before them, in blocks
    nothing = create_block_mask(lambda b, h, q, k: q + 100 < k, None, None, 50, 70, device="cpu")
    assert longest_walk(nothing, 16, 1) == 1
