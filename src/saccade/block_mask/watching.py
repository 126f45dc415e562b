"""Changes of the tensors that a mask was made from: noted when it is made, looked for when it is used.

Invariant: nothing here reads or writes what a tensor holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from types import FunctionType, MethodType
from typing import final

from torch import Tensor

from saccade.errors import StaleMaskError
from saccade.ir.program import Program
from saccade.signatures import MaskMod

_NONE = -1


@final
@dataclass(frozen=True, eq=False)
class Watched:
    """A tensor that a mask was made from, and how to tell that it has changed.

    Attributes:
        tensor: The tensor.
        name: What the user calls it.
        version: Torch's count of writes; None where torch keeps none (inference tensors).
        address: Where its data begins; None where it has no memory of its own.
    """

    tensor: Tensor
    name: str
    version: int | None
    address: int | None

    @property
    def has_changed(self) -> bool:
        """Whether the tensor was written to, or given other memory, since it was watched."""
        return self.version != _version(self.tensor) or self.address != _address(self.tensor)

    @property
    def mark(self) -> tuple[int, int]:
        """Version and address as two integers, −1 for None."""
        return (
            _NONE if self.version is None else self.version,
            _NONE if self.address is None else self.address,
        )


def watched_since(tensor: Tensor, name: str, mark: Sequence[int]) -> Watched:
    """Watch a tensor that was marked before, as of then.

    A tensor at another address is not the marked one but a copy, as compilers and exporters make them, with a
    count of its own: it is watched from now on.

    Args:
        tensor: The tensor.
        name: What the user calls it.
        mark: What `Watched.mark` was.
    """
    version, address = mark
    now = Watched(tensor, name, _version(tensor), _address(tensor))
    is_marked = _NONE not in (version, address) and now.version is not None and now.address == address
    return replace(now, version=version) if is_marked else now


def watch(program: Program, mod: MaskMod) -> tuple[Watched, ...]:
    """Note the present state of every torch tensor that a mask was made from.

    They are the captures of its program; and where a capture was made on the way, as `~pads` is in
    `(~pads)[b, kv_idx]`, all tensors that the function holds too, for one of them is what it was made of.

    Args:
        program: The mask's program.
        mod: The function that it was traced from.
    """
    names = program.names or tuple(f"capture {slot}" for slot in range(len(program.captures)))
    found = {id(one): (one, name) for one, name in _held_tensors(mod)}
    captured = [
        (one, name) for one, name in zip(program.captures, names, strict=True) if isinstance(one, Tensor)
    ]
    made_on_the_way = any(id(one) not in found for one, _ in captured)
    watched = {id(one): (one, name) for one, name in captured}
    if made_on_the_way:
        watched = {**watched, **found}
    return tuple(Watched(one, name, _version(one), _address(one)) for one, name in watched.values())


def require_fresh(watched: Sequence[Watched]) -> None:
    """Check that no watched tensor has changed.

    Raises:
        StaleMaskError: One has; the message names it.
    """
    for one in watched:
        if one.has_changed:
            raise StaleMaskError(
                f"a BlockMask is a snapshot of the tensors its mask_mod read, and {one.name!r} "
                f"({_shown(one.tensor)}) has changed since; "
                "use mask.refreshed() for a mask of its present values"
            )


def _held_tensors(mod: object) -> Iterator[tuple[Tensor, str]]:
    """Every tensor that a mod holds, with the name it has there.

    Looked for in closures, globals, containers, fields, and attributes that the mod's code names.
    """
    seen: set[object] = set()
    queue = [("", mod)]
    for name, value in queue:  # grows while it is walked
        if isinstance(value, Tensor):
            yield value, name
        elif _identity(value) not in seen:
            seen.add(_identity(value))
            queue.extend(_parts(name, value))


def _identity(value: object) -> object:
    # A bound method is a new object each time it is looked up.
    return (id(value.__self__), id(value.__func__)) if isinstance(value, MethodType) else id(value)


def _parts(name: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, FunctionType):
        for variable, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            with suppress(ValueError):  # a cell that is still empty
                yield variable, cell.cell_contents
                yield from _attributes(cell.cell_contents, value)
        for variable in value.__code__.co_names:
            if isinstance(value.__globals__.get(variable), Tensor):
                yield variable, value.__globals__[variable]
    elif isinstance(value, MethodType):
        yield name, value.__func__
        yield from _attributes(value.__self__, value.__func__)
    elif isinstance(value, partial):
        for part in (value.func, *value.args, *value.keywords.values()):
            yield name, part
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield name, part
    elif isinstance(value, dict):
        for part in value.values():
            yield name, part
    elif is_dataclass(value) and not isinstance(value, (type, Program)):
        for one in fields(value):
            yield one.name, getattr(value, one.name)
    elif not name:  # the mod itself, a callable object
        yield from _attributes(value, type(value).__call__)


def _attributes(holder: object, reader: object) -> Iterator[tuple[str, object]]:
    """Attributes of an object whose names are in the code of a function that reads it."""
    if isinstance(holder, Tensor) or not isinstance(reader, FunctionType):
        return
    for name in reader.__code__.co_names:
        if not isinstance(getattr(type(holder), name, None), property):  # reading one runs code
            yield name, getattr(holder, name, None)


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def _address(tensor: Tensor) -> int | None:
    try:
        return tensor.data_ptr()
    except RuntimeError:  # torch refuses for tensors without storage
        return None


def _shown(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
