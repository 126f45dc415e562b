"""Custom `torch.autograd.Function`s: the user's backward is the derivative.

`Function.apply` looks at tensors only, so a traced value would pass through `forward` and lose its
`backward`. What it calls in turn is wrapped once, for good; calls without traced values go straight on.
`Function.apply` itself calls something else inside torch.func's transforms, so there it is wrapped too, but
only while a mod is traced: `torch.compile` knows a bound `f = MyFunction.apply` by it. With a traced value,
forward and backward are both traced into a CUSTOM node: the value, its inputs, and for each input the
gradient in terms of the variable `cotangent`.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import _SingleLevelFunction

from saccade.errors import TraceError
from saccade.ir.expr import Expr, cast, const, make, var
from saccade.ir.ops import Op
from saccade.tracing.conversion import detach
from saccade.tracing.operands import value_of
from saccade.tracing.value import Value

__all__ = ["intercept_functions"]

_PLAIN = Function.__dict__["apply"]
_lock = threading.Lock()
_done = False


def intercept_functions() -> AbstractContextManager[None]:
    """Make `Function.apply` know traced values: once in a process, and in the context that is returned."""
    global _done
    if not _done:
        with _lock:
            if not _done:
                inner = _knowing(
                    lambda cls, *args, **kwargs: super(_SingleLevelFunction, cls).apply(*args, **kwargs)
                )
                _SingleLevelFunction.apply = classmethod(inner)  # type: ignore[attr-defined]
                _done = True
    return _inside_transforms if torch._C._are_functorch_transforms_active() else _elsewhere


class _InsideTransforms:
    """Wraps `Function.apply` as long as one thread or more is in the context."""

    def __init__(self) -> None:
        self._depth = 0

    def __enter__(self) -> None:
        with _lock:
            self._depth += 1
            if self._depth == 1:
                Function.apply = classmethod(_knowing(_PLAIN.__func__))  # type: ignore[method-assign, assignment]

    def __exit__(self, *exception: object) -> None:
        with _lock:
            self._depth -= 1
            if self._depth == 0:
                Function.apply = _PLAIN  # type: ignore[method-assign]


_inside_transforms = _InsideTransforms()
_elsewhere = nullcontext()


def _knowing(original: Callable[..., Any]) -> Callable[..., Any]:
    """`Function.apply` that traces when given something traced."""

    @functools.wraps(original)
    def apply(cls: type[Function], *args: Any, **kwargs: Any) -> Any:
        for arg in args:
            if isinstance(arg, Value):
                return _apply(cls, arg, args, kwargs)
        for arg in kwargs.values():
            if isinstance(arg, Value):
                return _apply(cls, arg, args, kwargs)
        return original(cls, *args, **kwargs)

    return apply


class _Context:
    """What `forward`, `setup_context` and `backward` see as `ctx`; any attribute may be set on it."""

    def __init__(self, needs_input_grad: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs_input_grad
        self.saved_tensors: tuple[Any, ...] = ()
        self.differentiable = True

    def save_for_backward(self, *values: Any) -> None:
        """Keep values for `backward`."""
        self.saved_tensors = values

    def save_for_forward(self, *values: Any) -> None:
        """Keep values for forward-mode differentiation, which a program does not have."""

    def mark_non_differentiable(self, *values: Any) -> None:
        """Declare the output to be without a derivative."""
        self.differentiable = False

    def mark_dirty(self, *values: Any) -> None:
        """Refuse: nothing is written in a mod."""
        raise TraceError(
            "ctx.mark_dirty() announces a write, and a mod cannot write; return a new value instead"
        )

    def set_materialize_grads(self, value: bool) -> None:
        """Accept: a gradient that is asked for always exists here."""


def _apply(cls: type[Function], model: Value, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Value:
    """Trace `cls.apply(*args)`."""
    y, context, args = _trace_forward(cls, model, args, kwargs)
    if not y.stored.is_float or model.recorder.backward:
        # A derivative is never differentiated again, so inside a backward the value is all there is to say.
        return y
    if not context.differentiable:
        return detach(y)
    inputs = {
        position: value_of(arg, model)
        for position, arg in enumerate(args)
        if context.needs_input_grad[position]
    }
    shapes = [x.shape for x in (*inputs.values(), y)]
    if any(shapes):
        raise TraceError(
            f"{cls.__name__}: a custom Function in a mod works on single elements, "
            f"got shapes {', '.join(map(str, shapes))}; index first"
        )
    gradients = _trace_backward(cls, context, y, args)
    given = [
        _gradient(cls, gradients[position], x, y)
        if gradients[position] is not None
        else const(0, x.expr.dtype)
        for position, x in inputs.items()
    ]
    parts = (y.expr, *(x.expr for x in inputs.values()), *given)
    return y.derive(make(Op.CUSTOM, parts, len(inputs)), y.stored)


def _trace_forward(
    cls: type[Function], model: Value, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Value, _Context, tuple[Any, ...]]:
    """The value, the context for `backward`, and the arguments by position."""
    split = cls.setup_context is not Function.setup_context
    if split:
        bound = inspect.signature(cls.forward).bind(*args, **kwargs)
        bound.apply_defaults()
        args, kwargs = bound.args, bound.kwargs
    context = _Context(tuple(_wants_gradient(arg) for arg in args))
    if split:
        output = cls.forward(*args, **kwargs)
        cls.setup_context(context, args, output)
    else:
        output = cls.forward(context, *args, **kwargs)
    if isinstance(output, (tuple, list)):
        raise TraceError(
            f"{cls.__name__}: a custom Function in a mod has one output, got {len(output)}; "
            "split it into several Functions"
        )
    return value_of(output, model), context, args


def _wants_gradient(arg: object) -> bool:
    if isinstance(arg, Value):
        return arg.stored.is_float
    return isinstance(arg, Tensor) and arg.dim() == 0 and arg.is_floating_point()


def _gradient(cls: type[Function], gradient: Any, x: Value, y: Value) -> Expr:
    """What `backward` returned for the input `x`, in its type."""
    value = value_of(gradient, y, y.stored)
    if value.shape:
        raise TraceError(
            f"{cls.__name__}: backward must return single elements, got shape {value.shape}; reduce it"
        )
    return cast(value.expr, x.expr.dtype)


def _trace_backward(cls: type[Function], context: _Context, y: Value, args: tuple[Any, ...]) -> list[Any]:
    """The gradients that `backward` returns, one for each argument of `forward`."""
    cotangent = y.derive(var("cotangent", y.expr.dtype), y.stored)
    y.recorder.backward = True
    try:
        returned = cls.backward(context, cotangent)
    finally:
        y.recorder.backward = False
    gradients = list(returned) if isinstance(returned, (tuple, list)) else [returned]
    if len(gradients) < len(args) or any(extra is not None for extra in gradients[len(args) :]):
        raise TraceError(
            f"{cls.__name__}: backward must return one gradient for each of forward's {len(args)} arguments; "
            f"got {len(gradients)}; return None for those without"
        )
    for position, (arg, gradient) in enumerate(zip(args, gradients, strict=False)):
        if isinstance(arg, Tensor) and gradient is not None and not context.needs_input_grad[position]:
            raise TraceError(
                f"{cls.__name__}: backward gives a gradient for argument {position}, a tensor of shape "
                f"{tuple(arg.shape)}; index the tensor before the call, and pass the element"
            )
    return gradients
