"""Where a CPU kernel met poison, read off the state it leaves."""

from __future__ import annotations

from collections.abc import Sequence

from saccade.backends.poison import Place
from saccade.codegen.cpu.arguments import State
from saccade.codegen.program.which import Which

__all__ = ["noted_place"]


def noted_place(state: Sequence[int], lanes: int, kv_len: int) -> Place:
    """Return the place in a state block that has an error.

    Args:
        state: The block; see `codegen.cpu.arguments.State`.
        lanes: Keys of a vector.
        kv_len: K.
    """
    which, b, h, q, k = state[State.ERROR : State.ERROR_K + 1]
    return Place(Which(which), b, h, range(q, q + 1), range(k, min(k + lanes, kv_len)))
