"""The step from a Python function to a `Program`.

The mod is called once, with values that record what is done to them. It is called at every use, which takes
microseconds, so that a changed closure variable, attribute or tensor is always seen.
"""

from __future__ import annotations

import inspect
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from saccade.errors import ModError, SaccadeError, TraceError
from saccade.ir.axes import separate_axes
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr, cast, var
from saccade.ir.ops import INDEX_VARIABLES
from saccade.ir.program import Program
from saccade.ir.structure import ModKind, Structure
from saccade.mod_value import require_mod
from saccade.signatures import Mod
from saccade.tracing.custom import intercept_functions
from saccade.tracing.inline import ARGUMENTS
from saccade.tracing.names import capture_names, unnamed
from saccade.tracing.operands import value_of
from saccade.tracing.origin import definition, locate, origin
from saccade.tracing.promotion import NUMBER_DTYPE
from saccade.tracing.proxy import Proxy
from saccade.tracing.recorder import Recorder, describe, plain_number
from saccade.tracing.retype import retyped
from saccade.tracing.rules import refusal
from saccade.tracing.value import Value

__all__ = ["trace"]

_CPU = torch.device("cpu")
_INDICES = tuple(var(name) for name in INDEX_VARIABLES)
_SCORES = {dtype: var("score", dtype) for dtype in (DType.FLOAT32, DType.FLOAT64)}
_VARIADIC = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS


def trace(
    mod: Mod | Program,
    kind: ModKind | None = None,
    *,
    score_dtype: DType = DType.FLOAT32,
    device: torch.device | None = None,
) -> Program:
    """Read a mask_mod or a score_mod as a program.

    The function is called once, with values that stand for the indices of every pair, so it may hold no `if`
    on them; what it does with captured tensors alone is done by torch, now. The program can be used wherever
    a mod can, and is not traced again: trace a mod yourself to look at it, or to hold its numbers and its
    choice of tensors fixed.

    Args:
        mod: A function of `(b, h, q_idx, kv_idx)` or of `(score, b, h, q_idx, kv_idx)`; a program is returned
            as it is, for another type of score if need be.
        kind: Which of the two it is; by default, told by the number of its required arguments.
        score_dtype: Type of the score and of a score program's result: FLOAT32, or FLOAT64 for such inputs.
        device: What `.device` of the indices and the score answers; the CPU by default.

    Returns:
        The program; it holds the captured tensors themselves, not copies.

    Raises:
        ModError: `mod` is not callable, takes other arguments, or is a factory that was not called.
        ControlFlowError: It asks for the value of an index, as `if`, `and` or `float()` do.
        UnsupportedOpError: It uses an operation that has no meaning in a mod, or no rule.
        TraceError: It cannot be read for another reason; the message shows the line.

    Example:
        >>> from saccade.tracing import trace
        >>> trace(lambda b, h, q_idx, kv_idx: (q_idx >= kv_idx) & (q_idx - kv_idx < 256))
        mask(n0: i64 = 256) -> bool
        (kv_idx <= q_idx) & (q_idx - kv_idx < n0)
    """
    if isinstance(mod, Program):
        if kind is not None and mod.kind is not kind:
            raise ModError(
                f"expected a {kind.value} mod, got a {mod.kind.value} program; "
                f"pass it as {mod.kind.value}_mod="
            )
        return retyped(mod, score_dtype)
    if kind is None:
        kind = _kind_of(mod)
    with intercept_functions():
        program = _traced(mod, kind, score_dtype, device or _CPU)
        if any(capture.device.type == "meta" for capture in program.captures):  # type: ignore[attr-defined]
            # Constants that the mod made under `torch.set_default_device("meta")` have lost their values:
            # make them anew.
            with _CPU:
                program = _traced(mod, kind, score_dtype, device or _CPU)
    return program


def _traced(mod: Mod, kind: ModKind, score_dtype: DType, device: torch.device) -> Program:
    recorder = Recorder(Proxy, device)
    args = [Proxy(index, DType.INT64, (), recorder) for index in _INDICES]
    if kind is ModKind.SCORE:
        args.insert(0, Proxy(_SCORES[score_dtype], score_dtype, (), recorder))
    try:
        result = mod(*args)  # type: ignore[arg-type]
        root = _result(result, kind, score_dtype, args[0])
    except SaccadeError as error:
        locate(error, mod)
        raise
    except TypeError as error:
        if not origin(error.__traceback__)[0]:
            raise _wrong_arguments(mod, kind) from error
        raise
    except ValueError as error:
        # torch.vmap rejects what is no tensor before a traced value could refuse it.
        if not str(error).startswith("vmap("):
            raise
        refused = refusal(torch.vmap).with_traceback(error.__traceback__)
        locate(refused, mod)
        raise refused from None
    if recorder.reductions:
        root = separate_axes(root)
    structure = Structure(kind, root, recorder.capture_types(), tuple(recorder.number_types))
    captures = tuple(recorder.captures)
    names = unnamed(captures) if torch.compiler.is_compiling() else capture_names(mod, captures)
    return Program(structure, captures, tuple(recorder.numbers), names)


def _result(result: Any, kind: ModKind, score_dtype: DType, model: Value) -> Expr:
    """What a mod returned, as the root of its program."""
    result = plain_number(result)
    if not isinstance(result, (Value, Tensor)) and type(result) not in NUMBER_DTYPE:
        advice = "call the factory, and pass what it returns" if callable(result) else "return one value"
        raise TraceError(f"a {kind.value} mod must return a tensor, got {describe(result)}; {advice}")
    value = value_of(result, model, score_dtype if kind is ModKind.SCORE else None)
    if value.recorder is not model.recorder:
        raise TraceError(
            "a mod returned a value of another trace; compute it from the arguments of this call"
        )
    if value.shape:
        raise TraceError(
            f"a {kind.value} mod must return a single element, got shape {value.shape}; "
            "index or reduce the axes that are left"
        )
    if kind is ModKind.SCORE:
        return cast(value.expr, score_dtype)
    if value.stored is not DType.BOOL:
        raise TraceError(
            f"a mask mod must return a bool, True where the query may attend, got {value.stored.value}; "
            "compare it, as in `mask[q_idx, kv_idx] != 0`"
        )
    return value.expr


def _kind_of(mod: object) -> ModKind:
    """Tell a mask_mod from a score_mod by the number of required arguments, as torch does."""
    require_mod(mod, "trace()")
    required = _required_arguments(mod)
    if required == len(ARGUMENTS[ModKind.MASK]):
        return ModKind.MASK
    if required == len(ARGUMENTS[ModKind.SCORE]):
        return ModKind.SCORE
    raise ModError(
        "trace() expects a function of (b, h, q_idx, kv_idx) or of (score, b, h, q_idx, kv_idx), "
        f"got {describe(mod)} of {required} required arguments; "
        f"call it first if it is a factory, or say which it is with kind={definition(mod)}"
    )


def _required_arguments(mod: Any) -> int:
    # A signature takes longer than the trace, so the code of plain functions and library mods is asked.
    function, bound = (mod, 0) if isinstance(mod, FunctionType) else (type(mod).__call__, 1)
    if isinstance(function, FunctionType):
        code = function.__code__
        if not code.co_kwonlyargcount and not code.co_flags & _VARIADIC:
            return code.co_argcount - bound - len(function.__defaults__ or ())
    parameters = inspect.signature(mod.forward if isinstance(mod, Module) else mod).parameters.values()
    return sum(parameter.default is inspect.Parameter.empty for parameter in parameters)


def _wrong_arguments(mod: object, kind: ModKind) -> ModError:
    """The error for a mod that could not even be called."""
    require_mod(mod, f"a {kind.value} mod")
    expected = ", ".join(ARGUMENTS[kind])
    other = ModKind.SCORE if kind is ModKind.MASK else ModKind.MASK
    advice = "call it first if it is a factory"
    if _required_arguments(mod) == len(ARGUMENTS[other]):
        advice = f"pass it as {other.value}_mod="
    return ModError(
        f"a {kind.value} mod is a function of ({expected}), got {describe(mod)}, "
        f"which cannot be called so; {advice}{definition(mod)}"
    )
