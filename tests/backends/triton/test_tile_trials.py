"""Tiles that settle on a device: smaller ones where memory is short, the fastest where one asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from backends.triton.presence import require_triton
from saccade.backends.triton import tile_trials
from saccade.backends.triton.tile_trials import Settling, Trial
from saccade.codegen.triton.spec import Tile
from saccade.errors import OutOfResourcesError, UnsupportedError
from saccade.runtime.triton import remember
from saccade.schedule import Schedule

CPU = torch.device("cpu")
LARGE = Tile(128, 128, 8, 2)
TRIED = (LARGE, Tile(128, 64, 4, 3), Tile(64, 128, 4, 2), Tile(64, 64, 4, 3), Tile(64, 64, 4, 2))


def settling(
    tile: Tile = LARGE,
    hints: Schedule | None = None,
    question: str | None = None,
    *,
    keeps_rows: bool = False,
) -> Settling:
    trial = None if question is None else Trial(question, TRIED)
    return Settling(tile, hints or Schedule(), "test:1", trial, keeps_rows=keeps_rows)


def room_for(most: int):
    """A kernel that needs as many bytes as a tile has pairs and stages; and the tiles it was run with."""
    ran: list[Tile] = []

    def attempt(tile: Tile) -> None:
        if tile.rows * tile.keys * tile.stages > most:
            raise OutOfResourcesError("too large")
        ran.append(tile)

    return attempt, ran


class TestMemory:
    def test_a_tile_that_fits_stays(self) -> None:
        attempt, ran = room_for(2**20)
        chosen = settling()
        chosen.run(attempt, CPU)
        assert ran == [LARGE]
        assert chosen.tile is LARGE

    def test_the_next_smaller_one_takes_its_place_for_good(self) -> None:
        attempt, ran = room_for(128 * 64)
        chosen = settling()
        chosen.run(attempt, CPU)
        chosen.run(attempt, CPU)
        assert ran == [Tile(128, 64, 8, 1)] * 2
        assert chosen.tile == ran[0]

    def test_rows_stay_where_they_are_all_there_are(self) -> None:
        attempt, ran = room_for(16 * 128)
        settling(Tile(128, 128), keeps_rows=True).run(attempt, CPU)
        assert ran == [Tile(128, 16, 4, 1)]

    def test_sizes_that_a_call_names_stay(self) -> None:
        attempt, ran = room_for(128 * 64)
        settling(hints=Schedule(kv_tile=128)).run(attempt, CPU)
        assert ran == [Tile(64, 128, 8, 1)]
        with pytest.raises(OutOfResourcesError, match="too large"):
            settling(hints=Schedule(q_tile=128, kv_tile=128, num_stages=2)).run(attempt, CPU)

    def test_where_none_fits_it_is_told(self) -> None:
        attempt, ran = room_for(1)
        with pytest.raises(OutOfResourcesError, match="too large"):
            settling().run(attempt, CPU)
        assert not ran


class TestTrials:
    @pytest.fixture(autouse=True)
    def _own_memory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        require_triton()
        monkeypatch.setenv("SACCADE_CACHE_DIR", str(tmp_path))

    @pytest.fixture
    def timed(self, monkeypatch: pytest.MonkeyPatch) -> dict[Tile, float]:
        """Seconds that tiles take, to be filled in; others take 9."""
        seconds: dict[Tile, float] = {}
        present: list[Tile] = []

        def median_seconds(work, device: torch.device) -> float:
            work()
            return seconds.get(present[-1], 9.0)

        monkeypatch.setattr(tile_trials, "median_seconds", median_seconds)
        self.tried = present
        return seconds

    def test_the_fastest_is_taken_and_remembered(self, timed: dict[Tile, float]) -> None:
        best = Tile(64, 128, 4, 2)
        timed[best] = 1.0
        chosen = settling(question="which?")
        chosen.run(self.tried.append, CPU)
        assert self.tried[:-1] == list(TRIED)
        assert chosen.tile == self.tried[-1] == best
        count = len(self.tried)
        chosen.run(self.tried.append, CPU)
        another = settling(question="which?")
        another.run(self.tried.append, CPU)
        assert another.tile == best
        assert len(self.tried) == count + 2

    def test_one_that_does_not_fit_is_passed_over(self, timed: dict[Tile, float]) -> None:
        attempt, _ = room_for(64 * 64 * 2)

        def noted(tile: Tile) -> None:
            attempt(tile)
            self.tried.append(tile)

        chosen = settling(question="what fits?")
        chosen.run(noted, CPU)
        assert chosen.tile == Tile(64, 64, 4, 2)

    def test_trials_leave_no_trace(self, timed: dict[Tile, float]) -> None:
        ran: list[Tile] = []
        settling(question="apart?").run(ran.append, CPU, lambda: self.tried.append)
        assert len(ran) == 1
        assert len(self.tried) > 1

    def test_what_a_call_names_is_not_tried(self, timed: dict[Tile, float]) -> None:
        settling(hints=Schedule(q_tile=128, num_warps=8), question="named?").run(self.tried.append, CPU)
        assert {(tile.rows, tile.warps) for tile in self.tried} == {(128, 8)}

    @pytest.mark.parametrize(
        "named",
        [
            {"hints": Schedule(q_tile=128)},
            {"hints": Schedule(kv_tile=128)},
            {"hints": Schedule(num_warps=8)},
            {"hints": Schedule(num_stages=2)},
            {"keeps_rows": True},
        ],
        ids=str,
    )
    def test_what_a_call_names_is_another_question(
        self, timed: dict[Tile, float], named: dict[str, Any]
    ) -> None:
        best, fitting = Tile(64, 64, 4, 3), Tile(128, 128, 8, 2)
        timed.update({best: 1.0, fitting: 2.0})
        free = settling(question="which?")
        free.run(self.tried.append, CPU)
        assert free.tile == best
        bound = settling(question="which?", **named)
        bound.run(self.tried.append, CPU)
        assert bound.tile == fitting
        again = settling(question="which?")
        again.run(self.tried.append, CPU)
        assert again.tile == best

    @pytest.mark.parametrize(
        "held",
        [
            (64, 64, 4),
            (48, 64, 4, 2),
            (8, 64, 4, 2),
            (64, 512, 4, 2),
            (64, 64, 3, 2),
            (64, 64, 32, 2),
            (64, 64, 0, 2),
            (64, 64, 4, 0),
            (64, 64, 4, 9),
        ],
        ids=str,
    )
    def test_what_is_no_tile_is_forgotten(self, timed: dict[Tile, float], held: tuple[int, ...]) -> None:
        remember("test:1", "odd?", held)
        timed[TRIED[1]] = 1.0
        for _ in range(2):
            chosen = settling(question="odd?")
            chosen.run(self.tried.append, CPU)
            assert chosen.tile == TRIED[1]
        assert len(self.tried) == len(TRIED) + 2

    def test_a_choice_that_cannot_be_kept_is_used_all_the_same(
        self, timed: dict[Tile, float], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OSError("no space left")

        monkeypatch.setattr(tile_trials, "remember", full)
        timed[Tile(64, 64, 4, 3)] = 1.0
        chosen = settling(question="kept?")
        chosen.run(self.tried.append, CPU)
        assert chosen.tile == Tile(64, 64, 4, 3)

    def test_nothing_is_tried_while_a_graph_is_captured(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        with pytest.raises(UnsupportedError, match="the tile of its kernel was not tried yet"):
            settling(question="now?").run(lambda tile: None, torch.device("cuda", 0))
