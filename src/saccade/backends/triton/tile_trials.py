"""Which tile a kernel has, where that shows only on the device: what fits there, and what is fastest.

A kernel starts with the tile that was chosen for it. Where a block of the device has not the memory for it,
the next smaller one takes its place; and where a call asks for it (`max_autotune`), a few are timed with the
call's own tensors, and the fastest is remembered for the architecture. Sizes that a call names stay as they
are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from typing import TypeAlias, final

import torch

from saccade.backends.triton.graph_capture import require_no_capture
from saccade.backends.triton.specialise import hinted_tile
from saccade.codegen.triton.spec import Tile
from saccade.errors import OutOfResourcesError
from saccade.runtime.triton import fastest, median_seconds, remember, remembered
from saccade.schedule import Schedule

__all__ = ["Attempt", "Settling", "Trial"]

Attempt: TypeAlias = Callable[[Tile], None]
"""Runs a kernel with a tile."""

_log = logging.getLogger("saccade")

_LEAST, _MOST = 16, 256  # rows or keys
_MOST_WARPS, _MOST_STAGES = 16, 8


@final
@dataclass(frozen=True)
class Trial:
    """What is tried at a kernel's first call.

    Attributes:
        question: What the speed of its tiles depends on, in words.
        tiles: The tiles worth trying.
    """

    question: str
    tiles: tuple[Tile, ...]


@final
class Settling:
    """The tile of a kernel on its device.

    Args:
        tile: The tile to begin with.
        hints: What the call says of it; what a hint of the forward names stays.
        target: The architecture's name.
        trial: What is tried first; None for nothing.
        keeps_rows: Whether rows stay, because they are all that there are or heads are packed.

    Attributes:
        tile: The tile at present.
    """

    def __init__(
        self,
        tile: Tile,
        hints: Schedule,
        target: str,
        trial: Trial | None = None,
        *,
        keeps_rows: bool = False,
    ) -> None:
        self.tile = tile
        self._hints, self._target, self._keeps_rows = hints, target, keeps_rows
        self._trial = trial

    def run(self, attempt: Attempt, device: torch.device, apart: Callable[[], Attempt] | None = None) -> None:
        """Run the kernel.

        Args:
            attempt: Runs it with a tile.
            device: Where it runs.
            apart: Makes what is tried, where `attempt` would leave a trace of each trial.

        Raises:
            OutOfResourcesError: No tile fits, or that of the hints does not.
            UnsupportedError: Tiles must be tried, and a graph is captured.
        """
        if self._trial is not None:
            self._try(self._trial, apart or (lambda: attempt), device)
        while True:
            try:
                return attempt(self.tile)
            except OutOfResourcesError:
                smaller = next(self._smaller(), None)
                if smaller is None:
                    raise
                self.tile = smaller

    def _try(self, trial: Trial, apart: Callable[[], Attempt], device: torch.device) -> None:
        question = f"{trial.question}{self._told()}"
        known = self._usable(remembered(self._target, question))
        if known is None:
            require_no_capture(device, "the tile of its kernel was not tried yet")
            attempt = apart()
            self.tile = fastest(
                self._candidates(trial), lambda tile: median_seconds(lambda: attempt(tile), device)
            )
            try:
                remember(self._target, question, astuple(self.tile))
            except OSError as fault:
                _log.debug("the choice of %s for %s cannot be kept: %s", self.tile, question, fault)
        else:
            self.tile = known
        self._trial = None

    def _told(self) -> str:
        """What the call fixes, as a part of the question: with it, other tiles were tried."""
        hints = self._hints
        rows = self.tile.rows if self._keeps_rows or hints.q_tile is not None else None
        keys = self.tile.keys if hints.kv_tile is not None else None
        fixed = {"rows": rows, "keys": keys, "warps": hints.num_warps, "stages": hints.num_stages}
        return "".join(f" {name} {size}" for name, size in fixed.items() if size is not None)

    def _usable(self, known: Sequence[int] | None) -> Tile | None:
        """What is remembered, if it is a tile that might have been tried; a file may hold anything."""
        if known is None or len(known) != len(astuple(self.tile)):
            return None
        tile = Tile(*known)
        extents = (tile.rows, tile.keys, tile.warps)
        usual = (
            all(size > 0 and size & (size - 1) == 0 for size in extents)
            and min(tile.rows, tile.keys) >= _LEAST
            and max(tile.rows, tile.keys) <= _MOST
            and tile.warps <= _MOST_WARPS
            and 1 <= tile.stages <= max(_MOST_STAGES, self._hints.num_stages or 1)
        )
        return tile if usual and self._fitted(tile) == tile else None

    def _candidates(self, trial: Trial) -> tuple[Tile, ...]:
        """The tiles to try, each once: the present one first, and none that contradicts the call."""
        return tuple(dict.fromkeys((self.tile, *map(self._fitted, trial.tiles))))

    def _fitted(self, tile: Tile) -> Tile:
        """A tile with what the call fixes in its place."""
        hinted = hinted_tile(self._hints, tile)
        return replace(hinted, rows=self.tile.rows) if self._keeps_rows else hinted

    def _smaller(self) -> Iterator[Tile]:
        """The next smaller tile: fewer stages first, then fewer keys or rows, the larger of them halved."""
        tile, hints = self.tile, self._hints
        if tile.stages > 1 and hints.num_stages is None:
            yield replace(tile, stages=tile.stages - 1)
        if tile.keys > _LEAST and hints.kv_tile is None and (tile.keys >= tile.rows or self._keeps_rows):
            yield replace(tile, keys=tile.keys // 2)
        if tile.rows > _LEAST and hints.q_tile is None and not self._keeps_rows:
            yield replace(tile, rows=tile.rows // 2)
        if tile.keys > _LEAST and hints.kv_tile is None:
            yield replace(tile, keys=tile.keys // 2)
