"""What the user calls each captured tensor: a variable of the closure, a global, an attribute.

Names serve messages and pictures only. The search walks what the mod can reach by plain attribute access, a
few steps deep, and finds nothing for tensors made inside the mod.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor
from torch.nn import Module

from saccade.ir.program import Program
from saccade.mod_value import ModValue

__all__ = ["capture_names", "unnamed"]

_LIMIT = 200  # objects looked at


def capture_names(mod: object, captures: Sequence[Tensor]) -> tuple[str, ...]:
    """A name for each captured tensor, `tensor0`, `tensor1`, ... for those that have none.

    Example:
        >>> import torch
        >>> slopes = torch.ones(8)
        >>> capture_names(lambda score, b, h, q_idx, kv_idx: score * slopes[h], [slopes])
        ('slopes',)
    """
    if not captures:
        return ()
    held = dict(_closure(mod)) if isinstance(mod, FunctionType) else {}
    direct = {id(found): name for name, found in reversed(held.items()) if isinstance(found, Tensor)}
    if all(id(tensor) in direct for tensor in captures):
        return tuple(direct[id(tensor)] for tensor in captures)
    wanted = {id(tensor): slot for slot, tensor in enumerate(captures)}
    names: dict[int, str] = {}
    seen = {id(mod)}
    queue: list[tuple[str, object]] = [("", mod)]
    for name, found in queue:  # grows while it is walked: breadth first
        if isinstance(found, Tensor):
            slot = wanted.get(id(found))
            if slot is not None and slot not in names:
                names[slot] = name
                if len(names) == len(captures):
                    break
        elif len(queue) < _LIMIT:
            for child in _parts(name, found):
                if id(child[1]) not in seen:
                    seen.add(id(child[1]))
                    queue.append(child)
    return tuple(names.get(slot, name) for slot, name in enumerate(unnamed(captures)))


def unnamed(captures: Sequence[Tensor]) -> tuple[str, ...]:
    """Names for tensors that are not looked for: Dynamo, for one, cannot follow the search."""
    return tuple(f"tensor{slot}" for slot in range(len(captures)))


def _parts(name: str, found: Any) -> Iterator[tuple[str, object]]:
    """What an object holds, with the names that lead there."""
    if isinstance(found, FunctionType):
        yield from _closure(found)
    elif isinstance(found, MethodType):
        yield name, found.__func__
        yield name, found.__self__
    elif isinstance(found, partial):
        yield name, found.func
        yield from ((f"{name}[{position}]", part) for position, part in enumerate(found.args))
        yield from found.keywords.items()
    elif isinstance(found, Program):
        yield from zip(found.names, found.captures, strict=False)
    elif isinstance(found, (tuple, list)):
        yield from ((f"{name}[{position}]", part) for position, part in enumerate(found[:_LIMIT]))
    elif isinstance(found, dict):
        yield from ((f"{name}[{key!r}]", part) for key, part in list(found.items())[:_LIMIT])
    elif isinstance(found, Module):
        yield from ((_dotted(name, key), part) for key, part in found.named_parameters(recurse=False))
        yield from ((_dotted(name, key), part) for key, part in found.named_buffers(recurse=False))
        yield from ((_dotted(name, key), part) for key, part in found.named_children())
        yield name, type(found).forward
    elif isinstance(found, ModValue):
        # By the class the user called, wherever the value stands in a combination.
        owner = type(found).__name__.lstrip("_")
        for field in fields(found):  # type: ignore[arg-type]
            yield f"{owner}.{field.name.lstrip('_')}", getattr(found, field.name)
    elif is_dataclass(found) and not isinstance(found, type):
        yield from ((_dotted(name, field.name), getattr(found, field.name)) for field in fields(found))
    elif not isinstance(found, type) and hasattr(found, "__dict__"):
        yield from ((_dotted(name, key), part) for key, part in vars(found).items())
        yield name, type(found).__call__ if callable(found) else None


def _closure(function: FunctionType) -> Iterator[tuple[str, object]]:
    """The variables of enclosing scopes, defaults and globals that a function reads."""
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # a variable that is not assigned yet
            continue
    defaults = function.__defaults__ or ()
    yield from zip(
        code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount], defaults, strict=True
    )
    for name in code.co_names:
        held = function.__globals__.get(name)
        if isinstance(held, (Tensor, FunctionType, Module, partial, tuple, list, dict)):
            yield name, held


def _dotted(name: str, attribute: str) -> str:
    return f"{name}.{attribute}" if name else attribute
