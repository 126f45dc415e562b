"""How the threads of a team share a kernel's work: each takes the next item until none is left.

The items of a slice stand in `state` (see `arguments.State`); a thread's number there is also its part of the
scratch memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from saccade.codegen.cpu.argument_reader import Arguments
from saccade.codegen.cpu.arguments import State
from saccade.codegen.cpu.emitter import I64, Emitter, Value

__all__ = ["private_memory", "work_items"]


def private_memory(e: Emitter, arguments: Arguments, size: int) -> Value:
    """Return the address of this thread's scratch memory, of `size` bytes; to be called once an entry."""
    slot = e.atomic_add(e.at(arguments.pointer("state"), 8 * State.NEXT_SLOT), 1)
    return e.nth(arguments.pointer("scratch"), slot, size)


@contextmanager
def work_items(e: Emitter, arguments: Arguments) -> Iterator[Value]:
    """Repeat the body for every item this thread takes; gives the item's number."""
    state = arguments.pointer("state")
    stop = e.load(e.at(state, 8 * State.STOP_ITEM), I64)
    head, body, after = (e.function.append_basic_block(name) for name in ("take", "item", "done"))
    e.builder.branch(head)
    e.builder.position_at_end(head)
    item = e.atomic_add(e.at(state, 8 * State.NEXT_ITEM), 1)
    e.builder.cbranch(e.builder.icmp_signed("<", item, stop), body, after)
    e.builder.position_at_end(body)
    yield item
    e.builder.branch(head)
    e.builder.position_at_end(after)
