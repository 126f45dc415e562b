"""A mod's operations written down while torch's compiler looks on, to be done again on traced values.

Dynamo runs a compiled function symbolically: the tensors of a closure have no value there, and it would
follow a trace line by line. So under it a mod is called with values that only write down what is done to
them. The record is a nest of tuples, which fits into Dynamo's graph: tensors and symbolic numbers in it
become inputs of the graph, the rest is guarded. `replayed` makes a mod of it, which `trace` reads as any
other.

Owns the form of a record. Invariant: nothing here knows what an operation means.

    record     (steps, result)
    step       (operation, arguments, keywords, values of the keywords); step i makes value i
    operation  "argument" of the mod, "program" for the call of one, "apply" for that of a custom autograd
               Function, ".clamp" for a method of the first argument, "@dtype" for an attribute of it, or
               the name of a torch function
    argument   "%3" for value 3, "'text" for a string, a tuple or list of arguments, anything else as it is
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from saccade.errors import TraceError, UnsupportedError
from saccade.ir.program import Program
from saccade.ir.spelling import names_in, spelled, understood
from saccade.ir.structure import Structure

__all__ = ["Record", "Replayed", "recorded"]

Step: TypeAlias = tuple[str, tuple[Any, ...], tuple[str, ...], tuple[Any, ...]]
Record: TypeAlias = tuple[tuple[Step, ...], Any]

_ARGUMENT, _PROGRAM, _APPLY, _METHOD, _ATTRIBUTE = "argument", "program", "apply", ".", "@"
_VALUE, _TEXT = "%", "'"

# A value is made of a tensor without data that is like nothing a mod could read; its first size is its place.
_DTYPE, _DEVICE, _SIZES = torch.complex64, "meta", (0, 7919)

# Where Dynamo follows `Function.apply`: module, class, method. Looked up in modules that it has loaded.
_FOLLOWER = ("torch._dynamo.variables.misc", "AutogradFunctionVariable", "call_apply")

# What `x += y` is to torch, and what it means for a value: its name stands for the sum from there on.
_IN_PLACE = {
    ".add_": ".add",
    ".sub_": ".sub",
    ".mul_": ".mul",
    ".div_": ".div",
    ".floor_divide_": ".floor_divide",
    ".remainder_": ".remainder",
    ".pow_": ".pow",
    ".__iand__": ".__and__",
    ".__ior__": ".__or__",
    ".__ixor__": ".__xor__",
    ".__ilshift__": ".__lshift__",
    ".__irshift__": ".__rshift__",
}

# The torch functions and custom Functions that records name. One is entered before its name stands in a
# record, and stays: there is no telling how long a compiled graph lives.
_functions: dict[str, Callable[..., Any]] = {}


def recorded(mod: Callable[..., Any], dtypes: Sequence[torch.dtype], device: torch.device) -> Record:
    """Write down what a mod does. To be followed by Dynamo; elsewhere, `trace` reads the mod itself.

    Args:
        mod: A mask_mod, a score_mod, or a program.
        dtypes: The dtype that each of its arguments tells.
        device: The device that they tell.
    """
    steps: list[Step] = []
    arguments = [_add(steps, (_ARGUMENT, (), (), ()), _told(dtype, device)) for dtype in dtypes]
    if isinstance(mod, Program):
        result = mod(*arguments)  # without a mode, which Dynamo refuses inside a checkpoint
    else:
        _watch_functions()
        result = _called(mod, arguments, steps)
    return tuple(steps), _written(result, steps)


def _called(mod: Callable[..., Any], arguments: list[_Recorded], steps: list[Step]) -> Any:
    """What the mod returns; its own frame, because `_steps_of` looks for it."""
    with _Recording(steps):
        return mod(*arguments)


@final
class Replayed:
    """A mod that does what a record says.

    Args:
        record: What was written down, its tensors and symbolic numbers now being values.

    Example:
        >>> causal = ((("argument", (), (), ()),) * 4 + ((".__ge__", ("%2", "%3"), (), ()),), "%4")
        >>> Replayed(causal)(0, 0, 5, 3)
        True
    """

    __slots__ = ("record",)

    def __init__(self, record: Record) -> None:
        self.record = record

    def __call__(self, *arguments: Any) -> Any:
        """Compute the mod's value."""
        steps, result = self.record
        values: list[Any] = list(arguments)
        for operation, args, keywords, given in steps[len(arguments) :]:
            operands = [_read(argument, values) for argument in args]
            options = {name: _read(one, values) for name, one in zip(keywords, given, strict=True)}
            values.append(_done(operation, operands, options))
        return _read(result, values)


def _read(argument: Any, values: Sequence[Any]) -> Any:
    """What an argument of a step stands for."""
    if isinstance(argument, str):
        return values[int(argument[1:])] if argument.startswith(_VALUE) else argument[1:]
    if isinstance(argument, (tuple, list)):
        parts = [_read(part, values) for part in argument]
        return tuple(parts) if isinstance(argument, tuple) else parts
    return argument


def _done(operation: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The value of one step."""
    if operation.startswith(_METHOD):
        return getattr(args[0], operation[1:])(*args[1:], **kwargs)
    if operation.startswith(_ATTRIBUTE):
        return getattr(args[0], operation[1:])
    if operation == _PROGRAM:
        text, captures, numbers, arguments = args
        return Program(understood(text), captures, numbers, names_in(text))(*arguments)
    if operation == _APPLY:
        return _functions[args[0]].apply(*args[1:], **kwargs)  # type: ignore[attr-defined]
    return _functions[operation](*args, **kwargs)


class _Recorded(Tensor):
    """A value of a record. A Tensor only because Dynamo knows what can be done to one; it is never computed.

    Attributes:
        steps: The record.
        place: Which of its values this is.
        told: What it answers when asked; other questions are written down.
    """

    steps: list[Step]
    place: int
    told: dict[str, Any]

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Answer for attributes, which are not asked of `_Recording`."""
        return _write(args[0].steps, func, args, kwargs or {})

    def __saccade_inline__(self, program: Program, args: tuple[Any, ...]) -> _Recorded:
        """Answer a program that is called as a mod."""
        steps = self.steps
        written = _written(args, steps)
        text = _text(program.structure, program.names)
        return _add(steps, (_PROGRAM, (_TEXT + text, program.captures, program.numbers, written), (), ()), {})


class _Recording(TorchFunctionMode):
    """Writes down the torch functions that are given a recorded value; others are done at once."""

    def __init__(self, steps: list[Step]) -> None:
        super().__init__()
        self.steps = steps

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not _any_recorded((*args, *kwargs.values())):
            return func(*args, **kwargs)
        return _write(self.steps, func, args, kwargs)


def _write(steps: list[Step], func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Write down what is done to recorded values, and return what comes of it."""
    name = _name(func)
    first = args[0] if args and isinstance(args[0], _Recorded) else None
    if first is not None and len(args) == 1 and name in first.told:
        return first.told[name]
    written = _written(args, steps)
    given = tuple([_written(value, steps) for value in kwargs.values()])
    value = _add(steps, (_IN_PLACE.get(name, name), written, tuple(kwargs), given), {})
    if first is not None and name in _IN_PLACE:
        first.place = value.place
        first.told = {}
        return first
    return value


def _add(steps: list[Step], step: Step, told: dict[str, Any]) -> _Recorded:
    """Write a step, and return its value."""
    place = len(steps)
    steps.append(step)
    value = torch.empty((place, *_SIZES), dtype=_DTYPE, device=_DEVICE).as_subclass(_Recorded)
    value.steps = steps
    value.place = place
    value.told = told
    return value


def _told(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """What an argument of a mod answers; of other values nothing is known."""
    return {
        "@dtype": dtype,
        "@device": device,
        "@shape": torch.Size(()),
        "@ndim": 0,
        ".dim": 0,
        ".numel": 1,
        ".size": torch.Size(()),
        ".is_floating_point": dtype.is_floating_point,
    }


def _written(argument: Any, steps: list[Step]) -> Any:
    """An argument as it stands in a record."""
    if isinstance(argument, _Recorded):
        return f"{_VALUE}{argument.place}"
    if isinstance(argument, str):
        return _TEXT + argument
    if isinstance(argument, tuple):
        return tuple([_written(part, steps) for part in argument])
    if isinstance(argument, list):
        return [_written(part, steps) for part in argument]
    if _is_absolute(argument):
        steps.append((".abs", (f"{_VALUE}{argument.shape[0]}",), (), ()))
        return f"{_VALUE}{len(steps) - 1}"
    return argument


def _is_absolute(argument: Any) -> bool:
    """Whether this is the absolute value of a recorded one.

    Python's `abs()` is the one operation that Dynamo does to a tensor without asking for a torch function.
    What comes of it is a tensor of the same shape, and real: no other operation makes that of a complex one.
    """
    if not isinstance(argument, Tensor) or isinstance(argument, _Recorded):
        return False
    return argument.device.type == _DEVICE and argument.shape[1:] == _SIZES and argument.dtype is not _DTYPE


def _any_recorded(arguments: Sequence[Any]) -> bool:
    for argument in arguments:
        if isinstance(argument, (tuple, list)):
            if _any_recorded(argument):
                return True
        elif isinstance(argument, _Recorded) or _is_absolute(argument):
            return True
    return False


def _watch_functions() -> None:
    """Have Dynamo write down a custom `autograd.Function` that is applied to recorded values.

    By itself it would follow `forward` alone, because a recorded value asks for no gradient, and the user's
    `backward` would be lost. So the method with which it follows a Function is wrapped, once and for good.
    Elsewhere than in a mod, and where gradients are switched off, the wrapped method does what it did.

    Raises:
        UnsupportedError: The compiler of this version of torch has no such method.
    """
    variable: Any = getattr(sys.modules.get(_FOLLOWER[0]), _FOLLOWER[1], None)
    follow = getattr(variable, _FOLLOWER[2], None)
    if follow is None:
        raise UnsupportedError(
            f"a mod cannot be read under the compiler of torch {torch.__version__}, where a custom autograd "
            "Function in it would lose its backward; trace it before, outside the compiled part: "
            "score_mod=saccade.trace(mod), or mask_mod="
        )
    if follow.__module__ != __name__:
        setattr(variable, _FOLLOWER[2], _watching(follow))


def _watching(follow: Callable[..., Any]) -> Callable[..., Any]:
    """Dynamo's `call_apply`, that writes the call down where an argument is a recorded value.

    The call is done when the record is replayed, by `tracing/custom`. What Dynamo does not see then, because
    neither `forward` nor an argument leads to it, is not guarded: a number that `backward` alone reads from
    elsewhere is that of the time when the graph was made.
    """

    def call_apply(self: Any, tx: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        def inline(function: Callable[..., Any], *first: Any) -> Any:
            return self.build(tx, function).call_function(tx, [*first, *args], kwargs)

        steps = _steps_of(tx) if torch.is_grad_enabled() else None
        if steps is None or not inline(_reads_recorded).as_python_constant():
            return follow(self, tx, args, kwargs)
        # It is followed all the same, so that the graph is made anew where something that `forward` reads
        # changes, and so that what Dynamo refuses is refused.
        before = self.build(tx, len).call_function(tx, [steps], {})
        with torch.no_grad():
            value = follow(self, tx, args, kwargs)
        return inline(_write_application, steps, before, self.build(tx, _name(self.fn_cls)), value)

    return call_apply


def _steps_of(frame: Any) -> Any:
    """The steps of the record that is being written, as Dynamo holds them; None outside of a mod."""
    while frame is not None and frame.f_code is not _called.__code__:
        frame = getattr(frame, "parent", None)
    return None if frame is None else frame.symbolic_locals["steps"]


def _reads_recorded(*args: Any, **kwargs: Any) -> bool:
    return _any_recorded((*args, *kwargs.values()))


def _write_application(
    steps: list[Step], before: int, name: str, value: Any, /, *args: Any, **kwargs: Any
) -> _Recorded:
    """Write `Function.apply` in place of what its `forward` wrote."""
    if isinstance(value, (tuple, list)):
        raise TraceError(
            f"{name}: a custom Function in a mod has one output, got {len(value)}; "
            "split it into several Functions"
        )
    del steps[before:]
    written = _written(args, steps)
    given = tuple([_written(one, steps) for one in kwargs.values()])
    return _add(steps, (_APPLY, (_TEXT + name, *written), tuple(kwargs), given), {})


def _name(function: Any) -> str:
    """The name that stands for a torch function, or a custom Function, in records."""
    plain: str = getattr(function, "__name__", "")
    if plain == "__get__":
        return f"{_ATTRIBUTE}{function.__self__.__name__}"  # how torch asks for an attribute
    if getattr(Tensor, plain, None) is function:
        return _METHOD + plain.replace("__rdiv__", "__rtruediv__")
    name = f"{getattr(function, '__module__', None)}.{getattr(function, '__qualname__', function)!s}"
    while _functions.setdefault(name, function) is not function:
        name += "'"  # another function of the same name
    return name


def _text(structure: Structure, names: tuple[str, ...]) -> str:
    return spelled(structure, names)


# Dynamo calls these and takes what they return for a constant, instead of following them. The mark is what
# `torch.compiler.assume_constant_result` sets, which would import Dynamo.
_name._dynamo_marked_constant = True  # type: ignore[attr-defined]
_text._dynamo_marked_constant = True  # type: ignore[attr-defined]
_watch_functions._dynamo_marked_constant = True  # type: ignore[attr-defined]
