"""User-given rules for torch operations, and what an operation is called.

The table of rules is one of the two things in this package that outlive a trace (the other is the wrapped
`Function.apply`). A rule given here goes before the built-in one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverload, OpOverloadPacket
from torch.library import CustomOpDef  # type: ignore[attr-defined]

from saccade.errors import ArgumentTypeError

__all__ = ["canonical", "op_name", "register_rule", "user_rule"]

_rules: dict[object, Callable[..., Any]] = {}


def register_rule(torch_op: Callable[..., Any], rule: Callable[..., Any]) -> None:
    """Say what an operation means, so that mods may use it.

    Give a rule to a custom op, or to a torch function that Saccade does not know. It holds from the next
    trace on, in all threads, and replaces a rule given before.

    Args:
        torch_op: The operation as mods call it: `torch.ops.mylib.myop`, one of its overloads, the object that
            `torch.library.custom_op` returned, or any torch function.
        rule: A function of the same arguments in operations that mods may use. It computes the value; its
            derivative follows, unless it applies a `torch.autograd.Function`.

    Raises:
        ArgumentTypeError: One of the two is not callable.

    Example:
        >>> import torch, saccade
        >>> saccade.register_rule(torch.acos, lambda x: torch.pi / 2 - torch.atan(x * torch.rsqrt(1 - x * x)))
    """
    for name, given in (("torch_op", torch_op), ("rule", rule)):
        if not callable(given):
            raise ArgumentTypeError(
                f"register_rule() expects two functions, got {name}={given!r}; "
                "write register_rule(torch.ops.mylib.myop, lambda x: ...)"
            )
    _rules[canonical(torch_op)] = rule


def user_rule(torch_op: object) -> Callable[..., Any] | None:
    """The rule a user gave to an operation."""
    return _rules.get(canonical(torch_op)) if _rules else None


def canonical(torch_op: object) -> object:
    """One key for the forms of an operation: its overloads and its definition."""
    if isinstance(torch_op, CustomOpDef):
        namespace, name = torch_op._qualname.split("::")
        return getattr(getattr(torch.ops, namespace), name)
    return torch_op.overloadpacket if isinstance(torch_op, OpOverload) else torch_op


def op_name(torch_op: object) -> str:
    """What a user calls an operation."""
    torch_op = canonical(torch_op)
    if isinstance(torch_op, OpOverloadPacket):
        return f"torch.ops.{torch_op!s}"
    name = getattr(torch_op, "__name__", repr(torch_op))
    owner = getattr(torch_op, "__objclass__", None)
    if owner is not None or getattr(torch.Tensor, name, None) is torch_op:
        return f"torch.Tensor.{name}"
    for module in (torch, torch.nn.functional, torch.special, torch.linalg):
        if getattr(module, name, None) is torch_op:
            return f"{module.__name__}.{name}"
    return name
