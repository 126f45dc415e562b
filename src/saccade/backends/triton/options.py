"""The engine's own kernel options: what of a schedule it alone understands, by the names users write."""

from __future__ import annotations

from typing import NamedTuple

from saccade.schedule import Schedule

__all__ = ["Options"]


class Options(NamedTuple):
    """What a call's `kernel_options` say to this engine alone.

    Attributes:
        descriptors: `USE_TMA`: whether keys and values are reached through tensor descriptors; None leaves it
            to the engine.
        splits: `SPLIT_KV`: among how many programs the keys of a tile are shared; None likewise.
        tries: `max_autotune`: whether tiles are tried, and the fastest remembered.
    """

    descriptors: bool | None = None
    splits: int | None = None
    tries: bool = False

    @classmethod
    def of(cls, hints: Schedule, prefix: str) -> Options:
        """Read them.

        Args:
            hints: The schedule of a call.
            prefix: "fwd_" or "bwd_": a key after it says more than the key alone.

        Example:
            >>> Options.of(Schedule(engine_options=(("USE_TMA", True), ("fwd_USE_TMA", False))), "fwd_")
            Options(descriptors=False, splits=None, tries=False)
        """
        given = dict(hints.engine_options)
        descriptors, splits, tries = (
            given.get(prefix + key, given.get(key)) for key in ("USE_TMA", "SPLIT_KV", "max_autotune")
        )
        return cls(
            None if descriptors is None else bool(descriptors),
            splits if isinstance(splits, int) else None,
            bool(tries),
        )
