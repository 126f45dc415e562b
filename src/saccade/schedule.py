"""How work is cut and launched: what can change the time of a call and never its meaning.

An engine chooses whatever a schedule leaves open. The hints come from `kernel_options`; an engine that cannot
use one ignores it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

__all__ = ["Schedule"]


@final
@dataclass(frozen=True)
class Schedule:
    """Hints for an engine; None leaves a choice to it.

    Attributes:
        q_tile: Queries of a tile in the forward pass.
        kv_tile: Keys of a tile in the forward pass.
        backward_q_tile: Queries of a tile where the backward pass computes the gradients of keys and values.
        backward_kv_tile: Keys of such a tile.
        backward_dq_q_tile: Queries of a tile where it computes the gradient of queries, if it does so apart.
        backward_dq_kv_tile: Keys of such a tile.
        num_warps: Warps of a GPU thread block.
        num_stages: Stages of a GPU software pipeline.
        engine_options: Options that only one engine understands, as they were given; in a schedule that an
            engine completed, also what else it chose: name, value.

    Example:
        >>> Schedule(q_tile=64)
        Schedule(q_tile=64)
    """

    q_tile: int | None = None
    kv_tile: int | None = None
    backward_q_tile: int | None = None
    backward_kv_tile: int | None = None
    backward_dq_q_tile: int | None = None
    backward_dq_kv_tile: int | None = None
    num_warps: int | None = None
    num_stages: int | None = None
    engine_options: tuple[tuple[str, object], ...] = ()

    def __repr__(self) -> str:
        given = ((name, value) for name, value in vars(self).items() if value not in (None, ()))
        return f"Schedule({', '.join(f'{name}={value!r}' for name, value in given)})"
